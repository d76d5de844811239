"""How far a model is from a stationary point of what all nodes minimise together: its gradient's norm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from gossipfl.learning.batches import Index
from gossipfl.learning.flat import Flat
from gossipfl.learning.models import CHUNK, set_mode
from gossipfl.learning.training import Lesson

SAMPLES = 2**14  # of all nodes together that are looked at, about


def norm(flat: Flat, lesson: Lesson, parts: Sequence[Index]) -> float:
    """‖(1/n) Σ_i ∇f_i‖₂ over the shared parameters at what `flat` holds; f_i the mean loss of node i's part.

    Of parts that are large together, every node's samples are taken at even distances. The model is in
    evaluation mode: nothing is drawn, running statistics stand.
    """
    set_mode(flat.module, training=False)
    shared = [tensor for segment in flat.parameters for tensor in segment.tensors[:1]]
    total = [torch.zeros_like(tensor) for tensor in shared]
    for index, weight in _chunks(parts):
        inputs, targets = lesson.train.batch(index)
        loss = lesson.task.loss(flat.module(inputs), targets)
        found = torch.autograd.grad(loss, shared, allow_unused=True)
        for sum_, gradient in zip(total, found, strict=True):
            if gradient is not None:
                sum_ += weight * gradient
    squares: Tensor = torch.stack([(gradient.to(torch.float64) ** 2).sum() for gradient in total]).sum()
    return float(squares.sqrt())


def _chunks(parts: Sequence[Index]) -> Iterator[tuple[Index, float]]:
    """Samples and what their mean counts for, so that every node's mean counts alike.

    Nodes with equally many samples share a forward: the mean over all is the mean of their means.
    """
    most = max(1, SAMPLES // len(parts))
    taken = [part[:: -(-len(part) // most)] for part in parts]
    sizes = np.array([len(part) for part in taken])
    for size in np.unique(sizes):
        alike = np.concatenate([taken[node] for node in np.flatnonzero(sizes == size)])
        for chunk in np.split(alike, range(CHUNK, len(alike), CHUNK)):
            yield chunk, len(chunk) / int(size) / len(parts)
