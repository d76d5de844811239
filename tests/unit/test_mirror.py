"""Models that are elsewhere than their vector, as on a GPU: here both are in the CPU's memory, so that bits
can be compared with nodes that have one of them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import gossipfl
from gossipfl.config import load_config
from gossipfl.learning.mirror import Mirrored
from gossipfl.learning.models import WORTH, device
from gossipfl.learning.supervised import ModuleWorkload
from gossipfl.learning.workload import workload

Keys = dict[str, object]

KEYS: Keys = {
    "swarm.nodes": 4,
    "swarm.rounds": 9,
    "swarm.eval_every": 3,
    "train.momentum": 0.5,
    "train.batch": 16,
    "algorithm.local_steps": 3,
}
WAYS: dict[str, Keys] = {
    "rounds": {},
    "early": {"algorithm.rule": "dpsgd-cta"},
    "by-link": {"algorithm.rule": "choco", "wire.codec": "topk:0.2"},
    "carrying": {"algorithm.average_optimizer": True},
    "by-loss": {"algorithm.aggregate": "by-loss"},
    "pairwise": {"algorithm.exchange": "pairwise"},
    "push": {"algorithm.exchange": "push", "algorithm.rule": "gossip-learning"},
    "restart": {
        "train.optimizer": "adam",
        "train.momentum": 0.0,
        "swarm.checkpoint_every": 2,
        "fault": [{"kind": "kill", "node": "node-1", "round": 4, "for": 0.5}],
    },
}


def run(keys: Keys) -> NDArray[np.floating]:
    x = gossipfl.simulate(KEYS | keys, engine="events").models
    assert x is not None and np.isfinite(x).all()
    return x


@pytest.mark.parametrize("way", WAYS)
def test_a_model_elsewhere_learns_what_one_in_place_does(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    here, made = run(WAYS[way]), list[Mirrored]()

    def mirrored(self: ModuleWorkload, node: int) -> Mirrored:
        made.append(Mirrored(self._own(node)))
        return made[-1]

    monkeypatch.setattr(ModuleWorkload, "learner", mirrored)
    there = run(WAYS[way])

    assert len(made) >= 4
    assert there.tobytes() == here.tobytes()


def test_a_vector_is_the_same_memory_and_as_new_as_the_model() -> None:
    own = workload(load_config(KEYS))._own(0)  # type: ignore[attr-defined]
    learner = Mirrored(own)
    held = learner.vector
    before = held.clone()

    for _ in learner.steps(0):
        assert torch.equal(learner.vector, own.vector) and learner.vector is held
    assert not torch.equal(learner.vector, before)

    learner.load(before)
    assert torch.equal(held, before) and torch.equal(own.vector, before)


def test_what_is_kept_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    load = workload(load_config(KEYS))
    one, other = (Mirrored(load._own(0)) for _ in range(2))  # type: ignore[attr-defined]
    one.phase(0)
    other.restore(copy.deepcopy(one.kept()))
    one.phase(1)
    other.phase(1)
    assert torch.equal(one.vector, other.vector)


def test_a_gpu_is_taken_by_itself_only_where_steps_are_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device("auto", lambda: WORTH).type == "cuda"
    assert device("auto", lambda: WORTH / 2).type == "cpu"
    assert workload(load_config(KEYS)).device.type == "cpu"  # digits: a million operations
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device("auto", lambda: WORTH).type == "cpu"
