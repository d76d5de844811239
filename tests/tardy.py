"""A task for tests: digits on a model that takes its time, another time in every process and every step."""

from __future__ import annotations

import os
import random
import time
from dataclasses import replace
from itertools import count

from torch import Tensor, nn

from gossipfl import Task
from gossipfl.learning.tasks.digits import digits as prompt

_calls = count()


class Tardy(nn.Sequential):
    """Ends up where the perceptron does, up to four milliseconds later."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            time.sleep(random.Random(f"{os.getpid()} {next(_calls)}").random() * 0.004)
        output: Tensor = super().forward(input)  # type: ignore[no-untyped-call]
        return output


def digits() -> Task:
    return replace(prompt(), model=lambda: Tardy(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)))


def wide() -> Task:
    """As many parameters as make it worth to send them from where they are (1.2 MB)."""
    return replace(prompt(), model=lambda: Tardy(nn.Linear(64, 4096), nn.ReLU(), nn.Linear(4096, 10)))
