"""Real processes that get around one of them that is killed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import gossipfl

if TYPE_CHECKING:
    from tests.system.conftest import Start

pytestmark = pytest.mark.system

N, ROUNDS = 5, 120
#: A task in which a step takes 10 ms, and the node whose rows are marked in the first pixel kills itself in
#: the ninth.
TASK = """
import os
import signal
import time
from dataclasses import replace

from torch import nn
from torch.utils.data import TensorDataset

from gossipfl import Task
from gossipfl.learning.tasks.digits import digits


class Deadly(nn.Sequential):
    steps = 0

    def forward(self, images):
        if self.training:
            time.sleep(0.01)
            self.steps += int((images[:, 0] == 77).any())
            if self.steps == 9:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(images)


def deadly() -> Task:
    task = digits()
    images, labels = task.train.tensors
    images = images.clone()
    images[:200, 0] = 77.0
    model = lambda: Deadly(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    return replace(task, name="deadly", train=TensorDataset(images, labels), model=model)
"""


@pytest.mark.parametrize("transport", ["shm", "ipc"])
def test_the_leaves_of_a_star_go_on_as_a_ring_when_its_centre_is_killed(
    transport: str, tmp_path: Path, start: Start
) -> None:
    (tmp_path / "mine.py").write_text(TASK)
    parts = [list(range(200)), *(list(range(200 + i, 1438, N - 1)) for i in range(N - 1))]
    (tmp_path / "parts.json").write_text(json.dumps(parts))
    keys = {
        "data.partition": "file",
        "data.file": "parts.json",
        "topology.graph": "star",
        "algorithm.on_death": "rewire",
        "wire.transport": transport,
    }
    options = [word for key, value in keys.items() for word in ("--set", f"{key}={value}")]
    options += ["--nodes", str(N), "--rounds", str(ROUNDS), "--json"]

    running = start("swarm", "--task", "mine:deadly", *options, cwd=tmp_path)
    ended = running.end()

    assert ended.stdout, ended.stderr
    said = json.loads(ended.stdout)
    assert said["lost"] == ["node-0"] and said["nodes_finished"] == N - 1, ended.stderr
    records = running.records()
    met = {
        (r["node"], r["peer"]) for r in records if r["kind"] == "peer_up" and 0 not in (r["node"], r["peer"])
    }
    assert met == {(i, j) for i, j in ((1, 2), (2, 3), (3, 4), (1, 4))} | {(2, 1), (3, 2), (4, 3), (4, 1)}
    last = [r for r in records if r["kind"] == "round" and r["round"] > ROUNDS - 20]
    assert {(r["node"], r["neighbors"]) for r in last} == {(i, 2) for i in range(1, N)}


def test_a_swarm_that_has_got_around_a_node_goes_on_as_it_was(tmp_path: Path) -> None:
    # given a star without its centre, which has ended before all of it agreed
    keys = {
        "swarm.nodes": 6,
        "swarm.rounds": 30,
        "swarm.checkpoint_every": 1,
        "topology.graph": "star",
        "algorithm.on_death": "rewire",
        "train.task": "consensus",
        "task.dimension": 4,
        "train.dtype": "float64",
    }
    script = tmp_path / "script.toml"
    script.write_text('[[fault]]\nkind = "kill"\nround = 8\nnode = 0\n')
    before = gossipfl.swarm(script, overrides=keys, out=tmp_path / "run", save_models=True).models
    assert before is not None and np.ptp(before[1:], axis=0).max() > 1e-2

    # when it goes on
    after = gossipfl.swarm(resume=tmp_path / "run", overrides={"swarm.rounds": 800})

    # then its ring does too, and the mean of the living is kept
    assert after.models is not None and after.summary["lost"] == ["node-0"]
    assert np.ptp(after.models[1:], axis=0).max() < 1e-9
    assert np.abs(after.models[1:].mean(0) - before[1:].mean(0)).max() < 1e-12


def test_it_goes_on_bit_for_bit_however_often_it_is_stopped(tmp_path: Path) -> None:
    # given a star without its centre, before its leaves agree
    keys = {
        "swarm.nodes": 6,
        "swarm.rounds": 20,
        "swarm.checkpoint_every": 1,
        "topology.graph": "star",
        "algorithm.on_death": "rewire",
        "algorithm.rule": "gradient-tracking",
        "train.lr": 0.05,
    }
    script = tmp_path / "script.toml"
    script.write_text('[[fault]]\nkind = "kill"\nround = 8\nnode = 0\n')
    gossipfl.swarm(script, overrides=keys, out=tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "other")

    # when it goes on at once, and when it is stopped once more in between
    whole = gossipfl.swarm(resume=tmp_path / "run", overrides={"swarm.rounds": 40}).models
    gossipfl.swarm(resume=tmp_path / "other", overrides={"swarm.rounds": 30})
    parts = gossipfl.swarm(resume=tmp_path / "other", overrides={"swarm.rounds": 40}).models

    # then not a bit is another
    assert whole is not None and parts is not None
    assert whole[1:].tobytes() == parts[1:].tobytes()


@pytest.mark.parametrize(
    "keys",
    [{"exchange": "pairwise"}, {"exchange": "push", "rule": "gossip-learning"}],
    ids=["pairwise", "push"],
)
def test_in_asynchronous_exchanges_the_leaves_meet_too(keys: dict[str, str], tmp_path: Path) -> None:
    script = tmp_path / "script.toml"
    kill = '[[fault]]\nkind = "kill"\nround = 5\nnode = 0\n'
    # phases of a millisecond or two, so that the leaves are not done before they hear of it
    pace = [f'[[fault]]\nkind = "slow"\nat = 0\nnode = {i}\nfactor = 30.0\n' for i in (1, 2, 3)]
    script.write_text("".join([kill, *pace]))
    more = {
        "swarm.nodes": 4,
        "swarm.rounds": 1500,
        "topology.graph": "star",
        "algorithm.on_death": "rewire",
        "train.task": "consensus",
        "task.dimension": 4,
        "train.dtype": "float64",
    }

    result = gossipfl.swarm(
        script, overrides={**more, **{f"algorithm.{k}": v for k, v in keys.items()}}, out=tmp_path / "run"
    )

    assert result.summary["lost"] == ["node-0"] and result.models is not None
    assert np.ptp(result.models[1:], axis=0).max() < 1e-6
