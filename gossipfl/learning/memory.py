"""Memory that is used again: a new matrix a round costs as much as filling it, since the system hands it out
page by page."""

from __future__ import annotations

import sys
from math import prod
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SMALL: Final = 2**18  # bytes; below, PyTorch's own allocation is as good
ALIGNED: Final = 64  # bytes
FREE: Final = 3  # references to an array that only the shelf has: its list, the loop over it, the question


class Shelf:
    """Tensors whose memory comes back by itself as soon as no tensor and no view uses it. For one thread."""

    def __init__(self) -> None:
        self._arrays: list[NDArray[np.uint8]] = []

    def empty_like(self, x: Tensor) -> Tensor:
        """A tensor of x's shape and type, filled with anything."""
        size = prod(x.shape) * x.element_size()
        if x.device.type != "cpu" or size < SMALL:
            return torch.empty_like(x)
        return torch.from_numpy(self._array(size)).view(x.dtype).view(x.shape)

    def _array(self, size: int) -> NDArray[np.uint8]:
        for array in self._arrays:
            # a tensor made of an array holds it, and views hold the tensor's memory
            if array.size == size and sys.getrefcount(array) == FREE:
                return array
        self._arrays = [array for array in self._arrays if array.size == size]
        raw = np.empty(size + ALIGNED, np.uint8)
        first = -raw.ctypes.data % ALIGNED
        self._arrays.append(raw[first : first + size])
        return self._arrays[-1]
