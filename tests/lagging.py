"""A task for tests: digits whose optimiser steps sleep, so that time passes also where cores are few.

From the environment: `LAGGING_STEP`, the seconds that a step takes at least, and `LAGGING_FACTOR`, how many
times as long the steps of node 3 take.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from dataclasses import replace

from torch import Tensor, nn

from gossipfl import Task
from gossipfl.learning.tasks.digits import digits as prompt


class Lagging(nn.Sequential):
    """The perceptron, later."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            slow = multiprocessing.current_process().name == "node-3"
            factor = float(os.environ.get("LAGGING_FACTOR", "1")) if slow else 1.0
            time.sleep(float(os.environ["LAGGING_STEP"]) * factor)
        output: Tensor = super().forward(input)  # type: ignore[no-untyped-call]
        return output


def digits() -> Task:
    return replace(prompt(), model=lambda: Lagging(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)))
