"""Two half-moons that a line cannot part: a task of one's own, in one file."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from gossipfl import Task


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))


def accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs.argmax(dim=1) == targets).float().mean()


def moons(samples: int = 600, noise: float = 0.15) -> Task:
    """The keywords are the keys of [task] in swarm.toml."""
    draw = np.random.default_rng(0)
    labels = np.arange(samples) % 2
    angle = draw.uniform(0, np.pi, samples)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    lower = np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], axis=1)
    points = np.where(labels[:, None] == 0, upper, lower) + noise * draw.normal(size=(samples, 2))
    x, y = torch.tensor(points, dtype=torch.float32), torch.tensor(labels)
    cut = samples * 4 // 5
    return Task(
        name="moons",
        model=model,
        train=TensorDataset(x[:cut], y[:cut]),
        test=TensorDataset(x[cut:], y[cut:]),
        loss=cross_entropy,
        metrics={"accuracy": accuracy},
        labels=labels[:cut],
    )
