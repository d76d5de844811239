"""A node among machines that is killed and started again, here all of them on the loopback."""

from __future__ import annotations

import signal
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gossipfl.config.toml import toml_document
from gossipfl.records import read

if TYPE_CHECKING:
    from tests.system.conftest import Running, Start, Until

pytestmark = pytest.mark.system

NAMES = ("alice", "bob", "carol")
ROUNDS = 900


def ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.mark.parametrize(("every", "exact"), [(1, True), (100, False)], ids=["exact", "stale"])
def test_a_node_that_was_killed_comes_back_to_the_round_of_the_others(
    every: int, exact: bool, start: Start, until: Until, tmp_path: Path
) -> None:
    # given three nodes on a ring, with a rule that remembers
    from tests.system.conftest import GOSSIPFL

    nodes = [{"name": n, "address": f"127.0.0.1:{p}"} for n, p in zip(NAMES, ports(3), strict=True)]
    tables = {
        "swarm": {"rounds": ROUNDS, "eval_every": ROUNDS, "checkpoint_every": every},
        "algorithm": {"rule": "d2"},
        "train": {"lr": 0.03},
    }
    (tmp_path / "swarm.toml").write_text(toml_document(tables, node=nodes))

    def node(name: str, *more: str) -> Running:
        line = [GOSSIPFL, "node", "swarm.toml", "--name", name, "--out", str(tmp_path / name), *more]
        return start(command=line, out=tmp_path / name, cwd=tmp_path)

    alice, bob, carol = (node(name) for name in NAMES)
    until(lambda: bob.reached(150) or bob.over(), "they train")
    # when one is killed, and started again (the others stand still meanwhile: they would be done before)
    bob.process.kill()
    bob.process.wait()
    alice.signal(signal.SIGSTOP)
    carol.signal(signal.SIGSTOP)
    again = node("bob", "--resume")
    until(lambda: "waits for" in again.text()[0] or again.over(), "bob is back")
    alice.signal(signal.SIGCONT)
    carol.signal(signal.SIGCONT)
    ended = [one.end() for one in (alice, again, carol)]
    # then all end well, bob where the others were
    assert [e.code for e in ended] == [0, 0, 0], [e.stdout + e.stderr for e in ended]
    assert "goes on from its checkpoint of round" in ended[1].stdout
    assert ("older than what its neighbors know" in ended[1].stdout) is not exact
    for name in NAMES:
        records = list(read(tmp_path / name / "records" / f"{name}.jsonl"))
        rounds = [int(str(r["round"])) for r in records if r["kind"] == "round"]
        assert rounds == sorted(set(rounds)) and rounds[-1] == ROUNDS
        assert any(r["kind"] == "reset" for r in records) is not exact
        assert float(str(next(r for r in records if r["kind"] == "eval")["accuracy"])) > 0.9
    lines = [r for r in read(tmp_path / "alice" / "records" / "alice.jsonl") if r["kind"] == "peer_up"]
    assert len([r for r in lines if r["peer"] == 1]) == 2
