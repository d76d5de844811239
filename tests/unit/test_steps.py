"""A local phase one step at a time: the same bits, and room for others in between."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

from gossipfl.config import load_config
from gossipfl.learning.learner import Learner, Phase
from gossipfl.learning.task import Task
from gossipfl.learning.workload import Workload, workload

torch.set_num_threads(1)


def stochastic() -> Workload:
    """Four nodes with dropout: their phases draw from torch's generator."""
    generator = torch.Generator().manual_seed(1)
    data = TensorDataset(torch.randn(80, 5, generator=generator), torch.arange(80) % 3)

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(5, 16), nn.Dropout(0.5), nn.Linear(16, 3))

    task = Task("dropout", model, data, data, nn.functional.cross_entropy, {})
    sections = {
        "swarm": {"nodes": 4, "rounds": 5},
        "algorithm": {"local_steps": 4},
        "train": {"batch": 8, "momentum": 0.9},
        "data": {"partition": "iid"},
    }
    return workload(load_config(sections), task)


def walk(learner: Learner, round: int) -> Phase:
    """All steps of a phase by hand."""
    steps = learner.steps(round)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


class TestSteps:
    def test_step_by_step_gives_the_bits_of_the_whole_phase(self) -> None:
        load = stochastic()
        whole, stepped = load.learner(0), load.learner(0)
        for round in range(3):
            assert whole.phase(round) == walk(stepped, round)
        assert torch.equal(whole.vector, stepped.vector)

    def test_phases_of_several_nodes_take_turns_without_touching_each_others_draws(self) -> None:
        load = stochastic()
        alone = [load.learner(node) for node in range(4)]
        for learner in alone:
            learner.phase(0)
        together = [load.learner(node) for node in range(4)]
        phases = {node: learner.steps(0) for node, learner in enumerate(together)}
        while phases:
            for node, steps in list(phases.items()):
                if next(steps, "over") == "over":
                    del phases[node]
        for a, b in zip(alone, together, strict=True):
            assert torch.equal(a.vector, b.vector)

    def test_it_pauses_between_steps_and_goes_on_from_what_was_written_there(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "q.npz", a=np.full((2, 1), 0.5), b=np.zeros((2, 1)))
        task = {"file": str(tmp_path / "q.npz")}
        train = {"task": "quadratic", "lr": 0.5, "dtype": "float64"}
        config = load_config(
            {"swarm": {"nodes": 2}, "algorithm": {"local_steps": 2}, "train": train, "task": task}
        )
        learner, undisturbed = (workload(config).learner(0) for _ in range(2))
        undisturbed.phase(0)

        steps = learner.steps(0)
        next(steps)
        learner.vector.add_(1.0)
        assert next(steps, "over") == "over"

        gap = learner.vector - undisturbed.vector  # a shift of 1 shrinks by 1 - lr * a in the second step
        assert gap.tolist() == [1.0 - 0.5 * 0.5]
