"""A swarm with one node many times slower than the others: with a deadline they go on, and lose nothing."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.system.conftest import Start

pytestmark = pytest.mark.system

#: A task in which a step takes 10 ms, and at node 3, whose rows are marked in the first pixel, until both of
#: its neighbors have made five rounds more, and a beat at least: however fast the machine is, if only they do
#: not wait for it.
TASK = """
import json
import time
from dataclasses import replace
from pathlib import Path

from torch import nn
from torch.utils.data import TensorDataset

from gossipfl import Task
from gossipfl.learning.tasks.digits import digits


def made(node):
    path = Path(f"run/records/node-{node}.jsonl")
    lines = path.read_text().splitlines(True) if path.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("\\n")]
    return max((r["round"] for r in records if r["kind"] == "round"), default=0)


class Sleepy(nn.Sequential):
    def forward(self, images):
        if self.training:
            slow = (images[:, 0] == 77).any()
            time.sleep(0.3 if slow else 0.01)
            if slow:
                goal = {node: min(made(node) + 5, 60) for node in (2, 4)}
                while any(made(node) < goal[node] for node in goal):
                    time.sleep(0.01)
        return super().forward(images)


def sleepy() -> Task:
    task = digits()
    images, labels = task.train.tensors
    images = images.clone()
    images[1000:1010, 0] = 77.0
    model = lambda: Sleepy(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    return replace(task, name="sleepy", train=TensorDataset(images, labels), model=model)
"""


def test_a_slow_node_is_told_as_slow_and_nobody_waits_for_it(tmp_path: Path, start: Start) -> None:
    (tmp_path / "mine.py").write_text(TASK)
    parts = [list(range(node, 1000, 8)) for node in range(8)]
    parts[3], parts[4] = list(range(1000, 1010)), [*parts[3], *parts[4], *range(1010, 1438)]
    (tmp_path / "parts.json").write_text(json.dumps(parts))
    keys = {
        "data.partition": "file",
        "data.file": "parts.json",
        "topology.graph": "ring",
        "wire.deadline": "0.1",
        "wire.hang": "100",
        "swarm.eval_every": "10",
    }
    options = [word for key, value in keys.items() for word in ("--set", f"{key}={value}")]

    running = start("swarm", "--task", "mine:sleepy", *options, "--rounds", "60", "--json", cwd=tmp_path)
    ended = running.end()

    assert ended.code == 0, ended.stderr
    said = json.loads(ended.stdout)
    assert said["lost"] == [] and said["finished"]
    records = running.records()
    told = {(r["node"], r["peer"]) for r in records if r["kind"] == "slow"}
    assert {(2, 3), (4, 3)} <= told
    assert not [r for r in records if r["kind"] == "peer_down" and r["peer"] == 3]
    made = Counter(r["node"] for r in records if r["kind"] == "round")
    assert 1 < made[3] <= 60 / 4
    assert [r for r in records if r["kind"] == "correction" and r["node"] in (2, 4) and r["peer"] == 3]
    evaluated = {(r["node"], r["round"]) for r in records if r["kind"] == "eval"}
    assert len(evaluated) == 8 * 6  # node 3's too, where it left out the round
