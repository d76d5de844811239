"""Which samples a node trains on, and when: an endless stream of shuffled epochs, a pure function of its key.

Sample position p of node i holds `part[permutation(seed, BATCH, i, p // m)[p % m]]`, m the part's size. Every
batch is full: the stream runs on over the end of an epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset, default_collate

from gossipfl.draw import Purpose, permutation
from gossipfl.errors import ConfigError, Problem

Index = NDArray[np.int64]

_CHUNK = 4096  # samples fetched at a time from a dataset that is not made of tensors


#: No samples.
NOTHING: Index = np.empty(0, dtype=np.int64)


class Stream:
    """One node's stream of dataset indices; `part` `[m]` is what the node trains on, m ≥ 1; `held`: the
    samples that it keeps from training to judge models by."""

    def __init__(self, seed: int, node: int, part: Index, held: Index = NOTHING) -> None:
        self.seed, self.node, self.part, self.held = seed, node, part, held
        self._epoch = -1
        self._order = part

    def take(self, start: int, count: int) -> Index:
        """The indices at positions start … start + count − 1, int64 `[count]`."""
        size = len(self.part)
        epoch, offset = divmod(start, size)
        if offset + count <= size:
            return self._shuffled(epoch)[offset : offset + count]
        pieces = []
        while count > 0:
            pieces.append(self._shuffled(epoch)[offset : offset + count])
            count -= len(pieces[-1])
            epoch, offset = epoch + 1, 0
        return np.concatenate(pieces)

    def _shuffled(self, epoch: int) -> Index:
        if epoch != self._epoch:
            order = permutation(self.seed, Purpose.BATCH, self.node, epoch, size=len(self.part))
            self._epoch, self._order = epoch, self.part[order]
        return self._order


def take(streams: Sequence[Stream], start: int, count: int) -> Index:
    """What each stream's `take` gives, int64 `[streams, count]`.

    Nodes whose parts are small and of one size are shuffled in one call: with a sample or two a node, an
    epoch at a time costs more than the training.
    """
    found = np.empty((len(streams), count), dtype=np.int64)
    alike: dict[tuple[int, int], list[int]] = {}
    for row, stream in enumerate(streams):
        if len(stream.part) <= count:
            alike.setdefault((stream.seed, len(stream.part)), []).append(row)
        else:
            found[row] = stream.take(start, count)
    for (seed, size), rows in alike.items():
        first, offset = divmod(start, size)
        epochs = np.arange(first, (start + count - 1) // size + 1)
        nodes = np.array([streams[row].node for row in rows])[:, np.newaxis]
        parts = np.stack([streams[row].part for row in rows])[:, np.newaxis, :]
        order = permutation(seed, Purpose.BATCH, nodes, epochs, size=size)
        shuffled = np.take_along_axis(parts, order, axis=2).reshape(len(rows), -1)
        found[rows] = shuffled[:, offset : offset + count]
    return found


class Samples:
    """A dataset of (input, target) pairs, by index, as tensors of one dtype on one device.

    A `TensorDataset` is moved once; any other map-style dataset is asked sample by sample, each time anew (it
    may augment). Raises ConfigError when its samples are not pairs.
    """

    def __init__(self, dataset: Dataset[Any], dtype: torch.dtype, device: torch.device, where: str) -> None:
        self.dataset, self.dtype, self.device, self.where = dataset, dtype, device, where
        try:
            self.size = len(dataset)  # type: ignore[arg-type]
            sample = dataset[0] if self.size else None
        except Exception as error:  # the user's dataset: whatever it raises is theirs to read
            wrong = f"{where} cannot be read ({type(error).__name__}: {error})"
            raise ConfigError(Problem("train.task", wrong, "a map-style dataset, with a length")) from error
        if not (isinstance(sample, tuple | list) and len(sample) == 2):
            wrong = (
                f"{where} is empty" if sample is None else f"a sample of {where} is no (input, target) pair"
            )
            raise ConfigError(Problem("train.task", wrong, "a dataset of (input, target) pairs"))
        self.tensors: tuple[Tensor, Tensor] | None = None
        if type(dataset) is TensorDataset:
            inputs, targets = dataset.tensors
            self.tensors = (self._cast(inputs), self._cast(targets))
        self._all = self.tensors

    def __len__(self) -> int:
        return self.size

    def batch(self, index: Index) -> tuple[Tensor, Tensor]:
        """Inputs and targets `[count, ...]` at the given dataset indices `[count]`."""
        if self.tensors is not None:
            rows = torch.from_numpy(index).to(self.device)
            return self.tensors[0].index_select(0, rows), self.tensors[1].index_select(0, rows)
        inputs, targets = default_collate([tuple(self.dataset[int(i)]) for i in index])
        return self._cast(inputs), self._cast(targets)

    def all(self) -> tuple[Tensor, Tensor]:
        """All inputs and targets, in order; read once."""
        if self._all is None:
            chunks = np.split(np.arange(self.size), range(_CHUNK, self.size, _CHUNK))
            inputs, targets = zip(*map(self.batch, chunks), strict=True)
            self._all = torch.cat(inputs), torch.cat(targets)
        return self._all

    def _cast(self, value: object) -> Tensor:
        if not isinstance(value, Tensor):
            wrong = f"{self.where} holds a {type(value).__name__} where a tensor is needed"
            raise ConfigError(Problem("train.task", wrong, "tensors, arrays or numbers"))
        return value.to(self.device, self.dtype if value.is_floating_point() else None)
