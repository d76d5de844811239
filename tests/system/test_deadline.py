"""A swarm with one node ten times slower than the others: with a deadline they go on, and lose nothing."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.system.conftest import Start

pytestmark = pytest.mark.system

#: A task in which a step takes a second at node 3, whose rows are marked in the first pixel, else 40 ms.
TASK = """
import time
from dataclasses import replace

from torch import nn
from torch.utils.data import TensorDataset

from gossipfl import Task
from gossipfl.learning.tasks.digits import digits


class Sleepy(nn.Sequential):
    def forward(self, images):
        if self.training:
            time.sleep(1.0 if (images[:, 0] == 77).any() else 0.04)
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
        "wire.deadline": "0.3",
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
    assert 1 < made[3] < 30
    waits = [r["wait_s"] for r in records if r["kind"] == "round" and r["node"] in (2, 4)]
    assert max(waits) < 0.9  # a round of node 3 takes a second
    assert [r for r in records if r["kind"] == "correction" and r["node"] in (2, 4) and r["peer"] == 3]
    evaluated = {(r["node"], r["round"]) for r in records if r["kind"] == "eval"}
    assert len(evaluated) == 8 * 6  # node 3's too, where it left out the round
