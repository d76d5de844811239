"""Shared memory: nodes that one process has forked read each other's payloads where they lie.

One anonymous mapping, made before the fork, holds a few slots for each node. It has no name, so nothing is
left of it however the nodes end. A node writes its own slots alone, and tells its neighbors which one holds
the payload: in their boxes in the same memory (`mail.py`), or in a small message on their line. That word is
also what orders the memory.

A slot is written again only when nothing in its owner's process refers to what it holds. The owner's machine
refers to a payload until every neighbor that it went to has counted it, or has said that it never will
(`gossipfl/core/exchange/edge.py`), and a neighbor says so only when it has done with it. So a slow neighbor,
a line that breaks, a payload that waits for several rounds all keep their slot; when no slot is free, the
next payload goes over the socket.
"""

from __future__ import annotations

import math
import mmap
import weakref
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from gossipfl.core.messages import Vectors
from gossipfl.errors import RemoteProtocolError
from gossipfl.transport.mail import Boxes, possible
from gossipfl.transport.wire import Layout

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

#: Slots a node: one that is trained in, one that neighbors read, and two that slow or dead ones keep. What is
#: never used costs nothing.
SLOTS: Final = 4
#: Tensors begin at multiples of so many bytes, slots at those of a page.
ALIGNMENT: Final = 64


class Commons:
    """The mapping, the same in every node. It holds `nodes` times `SLOTS` payloads of one layout."""

    def __init__(self, nodes: int, layout: Layout, edges: Sequence[tuple[int, int]] = ()) -> None:
        """edges: between which word of payloads passes through this memory too, where that can be.

        Raises OSError, ValueError: there is not so much memory, or not so many files may be open.
        """
        self.layout, self._nodes = layout, nodes
        widths = [_whole(size * dtype.itemsize, ALIGNMENT) for size, dtype in layout.parts]
        *self.offsets, size = accumulate(widths, initial=0)
        self.bytes = sum(size * dtype.itemsize for size, dtype in layout.parts)
        self._stride = _whole(max(size, 1), mmap.PAGESIZE)
        self._memory = mmap.mmap(-1, nodes * SLOTS * self._stride)
        self._views: dict[tuple[int, int], Vectors] = {}
        self.boxes = Boxes(nodes, edges) if edges and possible() else None

    def slot(self, node: int, slot: int) -> NDArray[np.uint8]:
        """The bytes of a slot, a new object each time."""
        at = (node * SLOTS + slot) * self._stride
        return np.frombuffer(self._memory, np.uint8, self._stride, at)

    def tensors(self, raw: NDArray[np.uint8]) -> Vectors:
        """The payload's tensors in the bytes of a slot; while one of them is there, `raw` is."""
        return tuple(
            torch.frombuffer(raw, dtype=dtype, count=size, offset=at) if size else torch.empty(0, dtype=dtype)
            for at, (size, dtype) in zip(self.offsets, self.layout.parts, strict=True)
        )

    def read(self, node: int, slot: int) -> Vectors:
        """What lies in a slot: not to be written. Raises RemoteProtocolError: there is no such slot."""
        views = self._views.get((node, slot))
        if views is None:
            if not (0 <= node < self._nodes and 0 <= slot < SLOTS):
                raise RemoteProtocolError(f"slot {slot} of node {node}, they have {SLOTS} from 0 on")
            views = self._views[node, slot] = self.tensors(self.slot(node, slot))
        return views


class Shelf:
    """A node's own slots."""

    def __init__(self, commons: Commons, node: int) -> None:
        self._commons, self._node = commons, node
        # What a slot is kept for: its memory, while a tensor lies there, or the payload that it is a copy of.
        self._kept: list[Callable[[], object]] = [_nothing] * SLOTS
        parts = commons.layout.parts
        self._one = parts[0] if len(parts) == 1 else None  # what a payload is, where it is one tensor
        self._begins = {int(commons.slot(node, k).ctypes.data): k for k in range(SLOTS)}

    def room(self, like: Tensor) -> Tensor:
        """Memory for a tensor like this one: in a slot, if it is as large as a payload and one is free."""
        one, free = self._one, None
        if one is not None and like.dim() == 1 and like.is_cpu and (like.numel(), like.dtype) == one:
            free = self._free()
        if one is None or free is None:
            return torch.empty_like(like)
        raw = self._commons.slot(self._node, free)
        self._kept[free] = weakref.ref(raw)
        return torch.frombuffer(raw, dtype=one[1], count=one[0])

    def place(self, payload: Vectors) -> int | None:
        """The slot in which a payload lies, copied there if it does not yet; None: it has to go over the
        socket, since no slot is free, or it is not what a neighbor would take."""
        first = payload[0]
        lies = self._begins.get(first.data_ptr())
        if lies is not None and (first.numel(), first.dtype) == self._one:
            return lies
        for k, kept in enumerate(self._kept):
            if kept() is first:
                return k
        free = self._free()
        if free is None or not self._fits(payload):
            return None
        for target, value in zip(self._commons.read(self._node, free), payload, strict=True):
            target.copy_(value)
        self._kept[free] = weakref.ref(first)
        return free

    def _free(self) -> int | None:
        for k, kept in enumerate(self._kept):
            if kept() is None:
                return k
        return None

    def _fits(self, payload: Vectors) -> bool:
        shapes = tuple((value.numel(), value.dtype) for value in payload)
        return shapes == self._commons.layout.parts and all(_finite(value) for value in payload)


def _finite(value: Tensor) -> bool:
    return not value.is_floating_point() or math.isfinite(value.sum().item()) or bool(value.isfinite().all())


def _whole(size: int, unit: int) -> int:
    """The next multiple of `unit`."""
    return -(-size // unit) * unit


def _nothing() -> None:
    return None
