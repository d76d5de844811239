"""What a rule sends that knows it before the local phase moves while the node trains: then nobody waits for a
line that is quicker than the training."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.system.conftest import Running
    from tests.system.lan.conftest import Swarm

pytestmark = pytest.mark.system

#: Seconds of a step, and those that a model takes on a line of 16 Mbit/s.
STEP, LINE = 1.0, 0.5
TASK = f"""
import time

import torch
from torch.utils.data import TensorDataset

from gossipfl import Task


def loss(output, target):
    time.sleep({STEP})
    return torch.nn.functional.mse_loss(output, target)


def task():
    data = TensorDataset(torch.zeros(8, 500), torch.zeros(8, 500))
    return Task("slow", lambda: torch.nn.Linear(500, 500), data, data, loss, {{}})
"""


def test_who_sends_before_it_trains_waits_for_nobody(swarm: Callable[..., Swarm], tmp_path: Path) -> None:
    # given two machines on a line that takes half as long for a model as they train
    lan = swarm("alice", "bob")
    for name in ("alice", "bob"):
        lan.box.rate(name, "16mbit")
    (tmp_path / "slow.py").write_text(TASK)
    lan.write(
        swarm={"rounds": 6, "eval_every": 6},
        topology={"graph": "complete"},
        train={"task": "slow:task", "batch": 4, "lr": 0.01},
        data={"partition": "iid"},
    )

    # when they train with a rule that sends what was trained, and one that sends what training begins with
    waited = {}
    for rule in ("dpsgd", "dpsgd-cta"):
        running = [
            lan.node(
                name,
                *("--set", f"algorithm.rule={rule}"),
                run=f"{rule}-{name}",
                environment={"PYTHONPATH": str(tmp_path)},
            )
            for name in ("alice", "bob")
        ]
        ended = [r.end() for r in running]
        assert [e.code for e in ended] == [0, 0], ended
        waited[rule] = [_waits(r) for r in running]

    # then the first waits for the line in every round, and the other for next to nothing
    print(f"a round waits {waited} s where it trains {STEP} s and a model is {LINE} s under way")
    assert min(waited["dpsgd"]) > 0.7 * LINE
    assert max(waited["dpsgd-cta"]) < 0.3 * LINE


def _waits(running: Running) -> float:
    """Seconds a node waits in a round, the first and the last apart."""
    return statistics.median(float(r["wait_s"]) for r in running.records("round")[1:-1])
