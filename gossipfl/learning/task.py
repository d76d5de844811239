"""What a swarm learns: a model, data, a loss and metrics; or vectors with an exact local step and no data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

Metric = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Task:
    """A supervised task on a PyTorch module; what a user's `module:function` returns.

    `train` and `test` are map-style datasets of (input, target) pairs; a `TensorDataset` of two tensors takes
    the fast path. Inputs and targets of floating type are cast to `train.dtype`.
    """

    name: str
    model: Callable[[], nn.Module]
    train: Dataset[Any]
    test: Dataset[Any]
    loss: Callable[[Tensor, Tensor], Tensor]  # (output, target) -> scalar, the mean over the batch
    metrics: Mapping[str, Metric]  # (outputs, targets) -> scalar; the first is the headline
    labels: NDArray[np.int64] | None = None  # [samples of train]
    groups: NDArray[Any] | Mapping[str, NDArray[Any]] | None = None  # id column(s)
    higher_is_better: bool = True  # of the headline metric


@dataclass(frozen=True)
class VectorTask:
    """Nodes hold bare vectors; the local phase is a formula (exact gradient descent) or nothing.

    f_i(x) = ½ Σ_k a_ik (x_k − b_ik)², or ½ xᵀa_i x − b_iᵀx when `a` is `[n, d, d]`; with `a` None there is
    no local phase. The metric `error` is ‖x_i − target‖², where `target` is the minimiser of the mean f
    (the mean of the starting vectors where nodes only average).
    """

    name: str
    start: NDArray[np.float64]  # [n, d]
    target: NDArray[np.float64]  # [d]
    a: NDArray[np.float64] | None = None  # [n, d] or [n, d, d], symmetric
    b: NDArray[np.float64] | None = None  # [n, d]


class Point(nn.Module):
    """A module that is one vector: what vector tasks save, for any tool that reads modules."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = nn.Parameter(x)

    def forward(self) -> Tensor:
        return self.x


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of rows whose largest output `[m, classes]` is at the target `[m]`."""
    wide = outputs.dtype if outputs.dtype.itemsize >= 4 else torch.float32
    return (outputs.argmax(-1) == targets).to(wide).mean()


def torch_dtype(name: Literal["float32", "float64"] | str) -> torch.dtype:
    """`"float32"` -> `torch.float32`."""
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype
