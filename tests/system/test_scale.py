"""More nodes, more swarms, longer paths, and nodes that stand still for a while."""

from __future__ import annotations

import json
import os
import random
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import gossipfl

if TYPE_CHECKING:
    from tests.system.conftest import Start, Until

pytestmark = pytest.mark.system


@pytest.mark.parametrize(("graph", "nodes", "transport"), [("ring", 64, "ipc"), ("star", 40, "tcp")])
def test_many_nodes_start_and_finish(graph: str, nodes: int, transport: str, start: Start) -> None:
    running = start(
        "swarm",
        *("--nodes", str(nodes), "--topology", graph, "--rounds", "10", "--json"),
        *("--set", "data.partition=iid", "--set", f"wire.transport={transport}"),
    )
    ended = running.end()

    assert (ended.code, ended.stderr) == (0, "")
    summary = json.loads(ended.stdout)
    assert summary["finished"] is True and summary["nodes_finished"] == nodes
    print(f"{nodes} nodes, {graph}, {transport}: all in round 1 after {summary['start_seconds']:.2f} s")
    assert 0 < summary["start_seconds"] < 60


def test_two_swarms_run_beside_each_other(tmp_path: Path, start: Start) -> None:
    common = ("swarm", "--rounds", "60", "--json", "--save-models")

    both = [start(*common, out=tmp_path / name) for name in ("one", "two")]
    ends = [running.end() for running in both]

    assert [ended.code for ended in ends] == [0, 0]
    assert [json.loads(ended.stdout)["finished"] for ended in ends] == [True, True]
    one, two = (np.load(running.out / "models.npz")["x"] for running in both)
    assert one.tobytes() == two.tobytes()


def test_a_very_long_path_is_no_obstacle(tmp_path: Path, start: Start) -> None:
    deep = tmp_path.joinpath(*["a folder with a rather long name"] * 6)
    deep.mkdir(parents=True)
    assert len(str(deep)) > 200

    running = start(
        *("swarm", "--rounds", "10", "--json"),
        out=deep / "run",
        cwd=deep,
        environment={"TMPDIR": str(deep)},
    )
    ended = running.end()

    assert (ended.code, ended.stderr) == (0, "")
    assert running.summary()["finished"] is True
    assert [path.name for path in deep.iterdir() if path.name.startswith("gossipfl-")] == []


@pytest.mark.parametrize("graph", ["ring", "star"])
def test_nodes_that_stand_still_for_a_while_change_no_bits(graph: str, start: Start, until: Until) -> None:
    # given
    rounds = 240
    running = start("swarm", "--rounds", str(rounds), "--topology", graph, "--save-models")
    draw = random.Random(graph)
    until(lambda: len(running.nodes()) == 8, "all nodes")
    nodes = running.nodes()

    # when: one after the other is stopped until its neighbours have nothing left to do
    for stop_at in range(20, rounds - 20, 20):
        pid = draw.choice(nodes)
        until(lambda at=stop_at: running.over() or running.reached(at), f"round {stop_at}")
        if running.over():
            break
        with suppress(ProcessLookupError):  # it may have come to its end by now
            os.kill(pid, signal.SIGSTOP)
            until(lambda p=pid: asleep(p, nodes), "its neighbors wait")
            os.kill(pid, signal.SIGCONT)
    ended = running.end()

    # then
    assert ended.code == 0
    simulated = gossipfl.simulate(running.out / "config.toml", engine="events")
    assert simulated.models is not None
    assert np.load(running.out / "models.npz")["x"].tobytes() == simulated.models.tobytes()


def asleep(stopped: int, nodes: list[int]) -> bool:
    """Does no node run, the stopped one apart?"""
    states = []
    for pid in nodes:
        try:
            states.append((pid, Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]))
        except OSError:
            continue
    return all(state in ("S", "Z") or pid == stopped for pid, state in states)
