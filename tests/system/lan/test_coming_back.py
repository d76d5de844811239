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


@pytest.mark.parametrize(
    ("every", "exact", "how"),
    [(1, True, signal.SIGKILL), (1, True, signal.SIGTERM), (100, False, signal.SIGKILL)],
    ids=["exact", "terminated", "stale"],
)
def test_a_node_that_was_killed_comes_back_to_the_round_of_the_others(
    every: int, exact: bool, how: signal.Signals, start: Start, until: Until, tmp_path: Path
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
    bob.signal(how)
    code = bob.process.wait()
    assert code == (130 if how == signal.SIGTERM else -how)  # a service manager's end is Ctrl-C
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


def test_a_node_that_was_killed_comes_back_without_a_checkpoint_and_takes_a_neighbors_model(
    start: Start, until: Until, tmp_path: Path
) -> None:
    # given three nodes on a ring, with a rule that remembers, and no checkpoints
    from tests.system.conftest import GOSSIPFL

    nodes = [{"name": n, "address": f"127.0.0.1:{p}"} for n, p in zip(NAMES, ports(3), strict=True)]
    tables = {
        "swarm": {"rounds": 1_000_000, "eval_every": 1_000_000},
        "algorithm": {"rule": "d2"},
        "train": {"lr": 0.03},
    }
    (tmp_path / "swarm.toml").write_text(toml_document(tables, node=nodes))

    def node(name: str, out: str) -> Running:
        line = [GOSSIPFL, "node", "swarm.toml", "--name", name, "--out", str(tmp_path / out)]
        return start(command=line, out=tmp_path / out, cwd=tmp_path)

    def rounds(name: str) -> list[dict[str, object]]:
        records = read(tmp_path / name / "records" / f"{name.partition('-')[0]}.jsonl")
        return [r for r in records if r["kind"] == "round"]

    alice, bob, carol = (node(name, name) for name in NAMES)
    until(lambda: bob.reached(150) or bob.over(), "they train")
    # when one is killed, and started again in another folder, as if for the first time
    bob.process.kill()
    bob.process.wait()
    until(lambda: rounds("alice")[-1]["neighbors"] == 1, "alice goes on without it")
    again = node("bob", "bob-again")
    # then it takes a neighbor's model, and is where they are, and they count it
    until(lambda: again.reached(150) or again.over(), "bob is back")
    said = again.text()[0]
    assert "it has no checkpoint, and its neighbors know it: it goes on with a model of theirs" in said, said
    assert "takes the model that alice has after round" in said, said
    until(lambda: rounds("alice")[-1]["neighbors"] == 2, "alice counts it")
    until(lambda: any(r["kind"] == "reset" for r in carol.records()), "all begin the rule anew")
    first = rounds("bob-again")[0]
    assert int(str(first["round"])) > 150 and float(str(first["loss"])) < 1.5
    for one in (alice, again, carol):
        one.signal(signal.SIGINT)
    assert [one.end().code for one in (alice, again, carol)] == [130, 130, 130]
