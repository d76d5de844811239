"""A node that is stopped, and one that hangs: the others go on without it, and it comes back to where they
are."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gossipfl.config.toml import toml_document
from gossipfl.records import read

if TYPE_CHECKING:
    from tests.system.conftest import Running, Start, Until

pytestmark = pytest.mark.system

NAMES = ("alice", "bob", "carol")
#: A task that hangs at bob's, in a step, while a file is there; beats are sent meanwhile.
HANGING = """
import sys
import time
from dataclasses import replace
from pathlib import Path

from torch.nn.functional import cross_entropy

from gossipfl.learning.tasks.digits import digits

HERE = Path(__file__).parent if "bob" in sys.argv else Path("nowhere")


def loss(output, target):
    while (HERE / "hang").exists():
        time.sleep(0.02)
    return cross_entropy(output, target)


def task():
    return replace(digits(), loss=loss)
"""


def test_who_is_stopped_or_hangs_is_done_without_until_it_goes_on(
    start: Start, until: Until, ports: Callable[[int], list[int]], tmp_path: Path
) -> None:
    # given three nodes, each the others' neighbor
    from tests.system.conftest import GOSSIPFL

    nodes = [{"name": n, "address": f"127.0.0.1:{p}"} for n, p in zip(NAMES, ports(3), strict=True)]
    tables: dict[str, dict[str, Any]] = {
        "swarm": {"rounds": 1_000_000, "eval_every": 1_000_000},
        "train": {"task": "own:task"},
        "wire": {"hang": 2.0},
    }
    (tmp_path / "swarm.toml").write_text(toml_document(tables, node=nodes))
    (tmp_path / "own.py").write_text(HANGING)

    def node(name: str) -> Running:
        line = [GOSSIPFL, "node", "swarm.toml", "--name", name, "--out", str(tmp_path / name)]
        return start(command=line, out=tmp_path / name, cwd=tmp_path)

    def lines(name: str, kind: str) -> list[dict[str, object]]:
        found = read(tmp_path / name / "records" / f"{name}.jsonl")
        return [r for r in found if r["kind"] == kind and r.get("peer", 1) == 1]

    def reached(name: str) -> int:
        return int(str(lines(name, "round")[-1]["round"]))

    def has(name: str, kind: str, times: int) -> None:
        until(lambda: len(lines(name, kind)) == times, f"{name} has {kind}")

    def goes_on(name: str) -> None:
        now = reached(name)
        until(lambda: reached(name) > now + 5, f"{name} goes on")

    alice, bob, carol = running = [node(name) for name in NAMES]
    until(lambda: all(r.reached(10) or r.over() for r in running), "they train")
    for times, (why, down, up) in enumerate(
        [
            # when bob's process is stopped, and goes on; and when a step of his hangs, and goes on
            ("silence", lambda: bob.signal(signal.SIGSTOP), lambda: bob.signal(signal.SIGCONT)),
            ("hang", (tmp_path / "hang").touch, (tmp_path / "hang").unlink),
        ],
        1,
    ):
        down()
        # then the others find it out, and go on without him
        for name in ("alice", "carol"):
            has(name, "peer_down", times)
            found = lines(name, "peer_down")[-1]
            assert found["found"] == why and float(str(found["after"])) > 1.0
            goes_on(name)
        # and he is with them again, where they are, and has taken nobody for dead
        up()
        for name in ("alice", "carol"):
            has(name, "peer_up", times + 1)
        goes_on("bob")
        until(lambda: lines("alice", "round")[-1]["neighbors"] == 2, "he counts again")
    own = [r for r in read(tmp_path / "bob" / "records" / "bob.jsonl") if r["kind"] == "peer_down"]
    assert own and all(r["found"] == "closed" for r in own)
    for one in running:
        one.signal(signal.SIGINT)
    assert [one.end().code for one in running] == [130, 130, 130], [one.text() for one in (alice, carol)]
