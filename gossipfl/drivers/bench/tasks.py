"""The task that `gossipfl bench` trains: digits, with as many parameters as asked for."""

from __future__ import annotations

import time
from dataclasses import replace

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gossipfl.learning.task import Task
from gossipfl.learning.tasks.digits import digits

UNITS = 75  # parameters a hidden unit has: 64 weights in, a bias, 10 weights out


def hidden(parameters: int) -> int:
    """Hidden units of the perceptron whose size comes nearest to so many parameters, at least one."""
    return max(1, round((parameters - 10) / UNITS))


def perceptron(units: int, pause: float = 0.0) -> Task:
    """digits with 64-`units`-10; 64 units: the task as it comes. A step takes `pause` seconds longer, without
    the processor: somebody else computes, or another device does."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(64, units), nn.ReLU(), nn.Linear(units, 10))

    def loss(output: Tensor, target: Tensor) -> Tensor:
        time.sleep(pause)
        return cross_entropy(output, target)

    return replace(digits(), model=model, loss=loss if pause else cross_entropy)
