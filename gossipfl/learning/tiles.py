"""Nodes that are trained together: as many as fit the cache, each with its own row and optimiser state."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gossipfl.learning.batches import Index, Stream, take
from gossipfl.learning.flat import Flat, Segment
from gossipfl.learning.lean import stepper
from gossipfl.learning.tracing import Values
from gossipfl.learning.training import Regimen

BYTES = 2**21  # parameters of a tile's nodes, about
HALVED = 64  # nodes from which on there are at least two tiles, for two threads
AHEAD = 2**16  # batch indices a node draws at a time, at most


class Tile:
    """Nodes `[t]` that make the same number of steps, and what they do not share, `own` `[t, l]`.

    Between `begin` and `end` each of `values` is a node's parameter by node, `[t, *shape]`: the optimiser's
    parameters, in place in the matrix that the phase fills where that matrix has them side by side.
    """

    def __init__(
        self, nodes: Index, streams: Sequence[Stream], flat: Flat, own: Tensor, regimen: Regimen
    ) -> None:
        together = int(nodes[-1] - nodes[0]) == len(nodes) - 1
        self.rows = slice(int(nodes[0]), int(nodes[-1]) + 1) if together else torch.from_numpy(nodes)
        self.streams = [streams[node] for node in nodes]
        self.steps = regimen.steps(len(self.streams[0].part))
        self._shared = flat.parameters[-1].stop
        self._buffers = flat.buffers
        shift = flat.size - self._shared
        local = [s._replace(start=s.start - shift, stop=s.stop - shift) for s in flat.local]
        self._segments = [*flat.parameters, *local]
        # rows of their own for nodes that keep something to themselves: [t, p + l]
        kept = own.shape[1] > 0
        self._theta = torch.cat([own.new_empty(len(nodes), self._shared), own], dim=1) if kept else None
        self.values = {s.name: own.new_empty(0) for s in self._segments}
        self._point(own.new_empty(len(nodes), self._shared + own.shape[1]))
        self.optimizer = regimen.make(list(self.values.values()))
        self._advance = stepper(self.optimizer)
        self._first, self._drawn = 0, np.empty((len(nodes), 0, self.steps, 0), dtype=np.int64)

    @property
    def own(self) -> Tensor | None:
        """What the nodes keep to themselves, `[t, l]`; None when they share everything."""
        return None if self._theta is None else self._theta[:, self._shared :]

    def batches(self, round: int, batch: int) -> list[Index]:
        """The dataset indices of each step of a round, `[t, batch]`; drawn for several rounds at a time."""
        if not self._first <= round < self._first + self._drawn.shape[1]:
            count = self.steps * batch
            rounds = max(1, min(64, AHEAD // count))
            drawn = take(self.streams, round * count, rounds * count)
            self._first = round
            self._drawn = drawn.reshape(len(drawn), rounds, self.steps, batch)
        return list(self._drawn[:, round - self._first].swapaxes(0, 1))

    def begin(self, x: Tensor, after: Tensor, rate: float) -> Values:
        """Puts the nodes' rows of x `[n, d]` where they are trained, in `after` if it fits; their buffers."""
        after[self.rows, self._shared :] = x[self.rows, self._shared :]
        if self._theta is not None:
            theta = self._theta
            theta[:, : self._shared] = x[self.rows, : self._shared]
        elif isinstance(self.rows, slice):
            theta = after[self.rows, : self._shared]
            theta.copy_(x[self.rows, : self._shared])
        else:
            theta = x[self.rows, : self._shared]
        self._point(theta)
        self._place = theta
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return views(self._buffers, x[self.rows])

    def end(self, after: Tensor) -> None:
        """Puts the nodes' rows into `after` `[n, d]`, and lets go of it."""
        if self._theta is not None or not isinstance(self.rows, slice):
            after[self.rows, : self._shared] = self._place[:, : self._shared]
        del self._place
        for value in self.values.values():
            value.data, value.grad = value.new_empty(0), None

    def step(self, gradients: Values, clip: float) -> None:
        """One optimiser step of every node; `clip` bounds the 2-norm of each node's gradient (0: off)."""
        if clip:
            norms = [torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients.values()]
            norm = torch.linalg.vector_norm(torch.stack(norms), dim=0)
            scale = (clip / (norm + 1e-6)).clamp(max=1.0)
            gradients = {k: g * scale.view(-1, *[1] * (g.dim() - 1)) for k, g in gradients.items()}
        for name, gradient in gradients.items():
            self.values[name].grad = gradient
        self._advance()

    def _point(self, theta: Tensor) -> None:
        for name, view in views(self._segments, theta).items():
            self.values[name].data = view


def tiles(flat: Flat, starts: Tensor, streams: Sequence[Stream], regimen: Regimen) -> list[Tile]:
    """Nodes of equal numbers of steps, cut evenly so that a tile's parameters are about `BYTES`.

    `starts` `[n, total]` are the nodes' buffers at their start. The cut depends on the sizes alone.
    """
    own = starts[:, flat.size :]
    width = (flat.parameters[-1].stop + own.shape[1]) * starts.element_size()
    most = max(1, BYTES // width)
    steps = np.array([regimen.steps(len(stream.part)) for stream in streams])
    made = []
    for count in np.unique(steps):
        group = np.flatnonzero(steps == count)
        pieces = max(-(-len(group) // most), 2 if len(group) >= HALVED else 1)
        for nodes in np.array_split(group, pieces):
            made.append(Tile(nodes, streams, flat, own[torch.from_numpy(nodes)], regimen))
    return made


def views(segments: Sequence[Segment], rows: Tensor) -> dict[str, Tensor]:
    """name -> the segment's columns of `[t, ...]` as `[t, *shape]`."""
    return {s.name: rows[:, s.start : s.stop].view(len(rows), *s.shape) for s in segments}
