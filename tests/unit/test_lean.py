"""Optimizers come without PyTorch's compiler and take the same steps; a model made ahead is that model."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from gossipfl.config import load_config
from gossipfl.learning.lean import stepper, uncompiled
from gossipfl.learning.supervised import ModuleWorkload
from gossipfl.learning.training import ModuleLearner
from gossipfl.learning.workload import workload


@pytest.mark.parametrize(
    ("name", "keywords"),
    [
        ("SGD", {"momentum": 0.9, "nesterov": True}),
        ("AdamW", {}),
        ("RMSprop", {"centered": True}),
        ("Rprop", {}),
    ],
)
def test_steps_are_those_that_the_optimizer_takes(name: str, keywords: dict[str, object]) -> None:
    def walked(lean: bool) -> Tensor:
        x = nn.Parameter(torch.linspace(-1, 1, 37))
        optimizer = getattr(torch.optim, name)([x], lr=0.03, **keywords)
        step = stepper(optimizer) if lean else optimizer.step
        for k in range(1, 6):
            x.grad = torch.sin(x.detach() * k)
            step()
        return x.detach()

    assert torch.equal(walked(lean=True), walked(lean=False))


def test_an_optimizer_of_somebody_else_is_stepped_as_it_is() -> None:
    class Mine(torch.optim.SGD):
        pass

    mine = Mine([nn.Parameter(torch.zeros(2))], lr=0.1)
    wanted = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.1, differentiable=True)

    assert stepper(mine) == mine.step
    assert stepper(wanted) == wanted.step


def test_the_compiler_finds_optimizers_as_they_were() -> None:
    before = dict(vars(torch.optim.Optimizer.add_param_group.__wrapped__))  # type: ignore[attr-defined]

    with uncompiled():
        torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.1)

    assert vars(torch.optim.Optimizer.add_param_group.__wrapped__) == before  # type: ignore[attr-defined]


def test_training_a_node_loads_no_compiler() -> None:
    code = (
        "import sys\n"
        "from gossipfl.config import load_config\n"
        "from gossipfl.learning.workload import workload\n"
        "load = workload(load_config(None, {'train.momentum': 0.9, 'swarm.nodes': 2}))\n"
        "learner = load.learner(0)\n"
        "learner.phase(0), learner.evaluate()\n"
        "print([name for name in ('torch._dynamo', 'sympy') if name in sys.modules])\n"
    )

    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )

    assert told.stdout == "[]\n"


@pytest.mark.parametrize("same_start", [True, False])
def test_a_model_made_ahead_is_the_one_that_would_be_made(same_start: bool) -> None:
    def made() -> ModuleWorkload:
        load = workload(load_config(None, {"swarm.nodes": 3, "swarm.same_start": same_start}))
        assert isinstance(load, ModuleWorkload)
        return load

    fresh, ahead = made(), made()

    for node in (2, 1):
        ahead.prepare()
        one, other = fresh.learner(node), ahead.learner(node)
        assert isinstance(other, ModuleLearner) and other is not ahead.learner(node)
        assert (one.phase(0), one.phase(1)) == (other.phase(0), other.phase(1))
        assert torch.equal(one.x, other.x)
