"""Machines that are gone for good, or seem to be: the others go around them, and make way for who is back."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from gossipfl.config import load_config
from gossipfl.config.toml import toml_document
from gossipfl.learning.workload import workload
from gossipfl.records import read
from tests.system.conftest import GOSSIPFL

if TYPE_CHECKING:
    from tests.system.conftest import Running, Start, Until
    from tests.system.lan.conftest import Swarm

pytestmark = pytest.mark.system

#: Far more rounds than are made: the nodes are stopped when it is seen what was to be seen.
ROUNDS = 5_000_000
NEAR = 1e-9
#: A task whose steps take 10 ms; with no learning rate to speak of, all that happens to models is averaging.
TASK = """
import time
from dataclasses import replace

from torch import nn

from gossipfl.learning.tasks.digits import digits


class Slow(nn.Sequential):
    def forward(self, images):
        time.sleep(0.01)
        return super().forward(images)


def slow():
    return replace(digits(), name="slow", model=lambda: Slow(nn.Linear(64, 2), nn.ReLU(), nn.Linear(2, 10)))
"""
SLOW: Mapping[str, object] = {"task": "mine:slow", "dtype": "float64", "lr": 1e-300}


def tables(graph: str) -> dict[str, dict[str, Any]]:
    return {
        "swarm": {"rounds": ROUNDS, "eval_every": ROUNDS, "seed": 3, "same_start": False},
        "topology": {"graph": graph},
        "algorithm": {"on_death": "rewire"},
        "train": {"task": "consensus", "dtype": "float64"},
        "task": {"dimension": 4},
        "data": {"partition": "iid"},
        "wire": {"gone": 1.0},
    }


def last(node: Running) -> Mapping[str, Any] | None:
    """The last round that it has recorded, of some thousands."""
    path = next(iter((node.out / "records").glob("*.jsonl")), None)
    if path is None:
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 16_384))
        lines = file.read().split(b"\n")[1:-1]
    return next((r for r in map(json.loads, reversed(lines)) if r["kind"] == "round"), None)


def agrees(node: Running, neighbors: int) -> bool:
    """Has it averaged with so many neighbors, and found that all have the same?"""
    found = last(node)
    return found is not None and found["neighbors"] == neighbors and found["disagreement"] < NEAR


def stop(nodes: list[Running]) -> np.ndarray:
    """End them; their models."""
    for node in nodes:
        node.signal(signal.SIGINT)
    for node in nodes:
        assert node.end().code == 130, node.text()
    models = [load_file(next((node.out / "models").iterdir())) for node in nodes]
    return np.stack([np.concatenate([part.ravel() for part in model.values()]) for model in models])


def met(node: Running) -> set[int]:
    path = next((node.out / "records").glob("*.jsonl"))
    return {int(str(r["peer"])) for r in read(path) if r["kind"] == "peer_up"}


@pytest.mark.parametrize(
    ("graph", "count", "dead", "new"),
    [
        ("star", 4, [0], {1: {2, 3}, 2: {1, 3}, 3: {1, 2}}),
        # of the two that die, each of the living knows but one
        ("path", 5, [1, 2], {0: {3}, 3: {0, 4}, 4: {3}}),
    ],
)
def test_nodes_that_are_killed_are_gone_around(
    graph: str,
    count: int,
    dead: list[int],
    new: dict[int, set[int]],
    start: Start,
    until: Until,
    ports: Callable[[int], list[int]],
    tmp_path: Path,
) -> None:
    # given a swarm that trains
    places = [f"127.0.0.1:{port}" for port in ports(count)]
    peers = [{"name": f"n{i}", "address": place} for i, place in enumerate(places)]
    sections = {key: table for key, table in tables(graph).items() if key != "task"} | {"train": {**SLOW}}
    (tmp_path / "swarm.toml").write_text(toml_document(sections, node=peers))
    (tmp_path / "mine.py").write_text(TASK)

    def node(i: int, run: str = "") -> Running:
        out = tmp_path / f"{run}n{i}"
        line = [GOSSIPFL, "node", "swarm.toml", "--name", f"n{i}", "--out", str(out)]
        return start(command=line, out=out, cwd=tmp_path)

    nodes = [node(i) for i in range(count)]
    for one in nodes:
        until(lambda one=one: last(one) or one.over(), "they train")
    # when those die who hold it together
    for i in dead:
        nodes[i].process.kill()
        nodes[i].process.wait()
    living = [one for i, one in enumerate(nodes) if i not in dead]
    # then the living find each other, and agree
    for i, ends in new.items():
        until(lambda i=i, ends=ends: agrees(nodes[i], len(ends)) or nodes[i].over(), f"{i} has {ends}")
        assert met(nodes[i]) >= ends, nodes[i].text()
    # and when one of the dead is there again, its neighbors have it back, and nobody else goes around it
    again = node(dead[0], "again-")
    until(lambda: again.over() or "is back" in living[0].text()[0], "it is back")
    if graph == "star":
        for one in living:
            until(lambda one=one: agrees(one, 1) or one.over(), "they have it alone")
        living.append(again)
    else:
        again.signal(signal.SIGINT)
        again.end()
    models = stop(living)
    assert np.ptp(models, axis=0).max() < 1e-6


def test_who_is_done_does_not_stay_for_one_that_is_taken_to_be_gone(
    start: Start, until: Until, ports: Callable[[int], list[int]], tmp_path: Path
) -> None:
    # given three in a row, of which the middle one is killed
    peers = [{"name": f"n{i}", "address": f"127.0.0.1:{port}"} for i, port in enumerate(ports(3))]
    sections = {key: table for key, table in tables("path").items() if key != "task"} | {"train": {**SLOW}}
    sections["swarm"] = {**sections["swarm"], "rounds": 100}
    (tmp_path / "swarm.toml").write_text(toml_document(sections, node=peers))
    (tmp_path / "mine.py").write_text(TASK)
    nodes = [
        start(
            command=[GOSSIPFL, "node", "swarm.toml", "--name", f"n{i}", "--out", str(tmp_path / f"n{i}")],
            out=tmp_path / f"n{i}",
            cwd=tmp_path,
        )
        for i in range(3)
    ]
    for one in nodes:
        until(lambda one=one: last(one) or one.over(), "they train")
    nodes[1].process.kill()
    # when the others are done
    ended = [nodes[i].end() for i in (0, 2)]
    # then they have gone around it, and do not stay for it
    assert [one.code for one in ended] == [0, 0], ended
    assert all("n1 is taken to be gone for good" in one.stdout for one in ended), ended
    assert not any("stays up to" in one.stdout for one in ended), ended


def test_a_machine_whose_cable_was_out_comes_back_and_nothing_is_lost(
    swarm: Callable[..., Swarm], until: Until
) -> None:
    # given three machines in a row, each with its own numbers
    made = swarm("alice", "bob", "carol")
    file = made.write(**tables("path"))
    load = workload(load_config(file))
    mean = np.stack([load.learner(i).x.numpy() for i in range(3)]).mean(0)
    alice, bob, carol = (made.node(name) for name in ("alice", "bob", "carol"))
    for one in (alice, bob, carol):
        until(lambda one=one: last(one) or one.over(), "they train")
    # when the cable of the one in the middle is out for longer than it takes to be believed dead
    made.box.line("bob", "down")
    for one in (alice, carol):
        until(lambda one=one: "bob is taken to be gone for good" in one.text()[0] or one.over(), "so it is")
        until(lambda one=one: agrees(one, 1) or one.over(), "the two go on together")
    assert 2 in met(alice) and 0 in met(carol), (alice.text(), carol.text())
    until(lambda: "are taken to be gone for good" in bob.text()[0] or bob.over(), "it believes so of them")
    # and in again
    made.box.line("bob", "up")
    until(lambda: agrees(bob, 2) or bob.over(), "bob has both again")
    for one in (alice, carol):
        until(lambda one=one: agrees(one, 1) or one.over(), "and they have bob alone")
    # then all agree, on what their mean was
    models = stop([alice, bob, carol])
    assert np.abs(models - mean).max() < NEAR
