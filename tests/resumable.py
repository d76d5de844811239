"""A task whose model has all that a checkpoint could forget: dropout, running statistics, a counter, a buffer
that is not saved, a tied weight, a frozen one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from gossipfl.learning.task import Task


class Counting(nn.Module):
    """Scales by something that moves with each training step, in a buffer that a state_dict leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        seen: Tensor = self.seen
        if self.training:
            seen += 1
        return x * (1 + 0.1 / (1 + seen))


def moving() -> Task:
    """Classify 4 gaussians."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(160) % 4
    inputs = torch.randn(160, 6, generator=generator) + labels[:, None] * 0.5
    data = TensorDataset(inputs, labels)

    def model() -> nn.Module:
        tied = nn.Linear(8, 8, bias=False)
        frozen = nn.Linear(8, 8)
        frozen.requires_grad_(False)
        return nn.Sequential(
            nn.Linear(6, 8),
            nn.BatchNorm1d(8, momentum=None),
            tied,
            nn.Dropout(0.3),
            tied,
            Counting(),
            frozen,
            nn.Linear(8, 4),
        )

    return Task(
        "moving", model, data, data, nn.functional.cross_entropy, {"accuracy": accuracy}, labels.numpy()
    )


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) == targets).float().mean()
