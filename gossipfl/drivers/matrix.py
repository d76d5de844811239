"""What all nodes' machines do with their payloads in a round, as operations on matrices.

Mixing is one sparse product, bitwise the nodes' ordered sums (`drivers.mixer`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from gossipfl.core.aggregate import Reweigh
from gossipfl.core.messages import Vectors
from gossipfl.core.recipe import Recipe
from gossipfl.core.rules.base import Inbox, Links
from gossipfl.drivers.mixer import Mixer
from gossipfl.learning.crew import ALONE, Crew
from gossipfl.topology import Mixing

Validate = Callable[[Tensor, NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]
"""models [n, d], nodes [e], whose models [e] -> the loss of each model on its node's validation data [e]."""


class Exchange:
    """The exchange `rounds` of n nodes that never fail. `x` is any [n, d] of the run; `crew` mixes."""

    def __init__(self, recipe: Recipe, x: Tensor, validate: Validate, crew: Crew = ALONE) -> None:
        self._recipe, self._mix, self._validate = recipe, Mixer(crew), validate
        self.bytes = recipe.packing.bytes(x.shape[-1], x.element_size())  # of a payload over one arc
        self.links: Links | None = None
        if recipe.rule.per_link:
            self.links, self._other = _links(recipe.schedule.mixing(0), x)

    def inbox(self, round: int, payload: Vectors) -> Inbox:
        """What a round's payloads `[n, ...]` (`[e, ...]` per link) come to at every node."""
        packing = self._recipe.packing
        sent = packing.unpack(packing.pack(payload), payload)
        if self.links is not None:
            return Inbox((), sent, tuple(z.index_select(0, self._other) for z in sent))
        mixing = self._recipe.schedule.mixing(round)
        if self._recipe.reweigh is not None and payload:
            mixing = self._reweighed(mixing, sent[0], self._recipe.reweigh)
        mixed = tuple(self._mix(mixing, z) for z in sent)
        return Inbox(packing.settle(payload, sent, mixed), sent)

    def _reweighed(self, mixing: Mixing, models: Tensor, reweigh: Reweigh) -> Mixing:
        """W with the weights that each node makes of the models' losses on its own validation data."""
        losses = self._validate(models, mixing.owners, mixing.indices.astype(np.int64)).tolist()
        data = mixing.data.copy()
        for first, last in zip(mixing.indptr[:-1].tolist(), mixing.indptr[1:].tolist(), strict=True):
            data[first:last] = reweigh(mixing.data[first:last].tolist(), losses[first:last])
        return Mixing(mixing.indptr, mixing.indices, data)


def _links(mixing: Mixing, x: Tensor) -> tuple[Links, Tensor]:
    """All nodes' links, and for each the place of the one in the other direction."""
    off = mixing.owners != mixing.indices
    owner, other = mixing.owners[off], mixing.indices[off].astype(np.int64)
    back = np.searchsorted(owner * mixing.n + other, other * mixing.n + owner)
    wide = x.dtype if x.element_size() >= 4 else torch.float32
    one = np.ones(len(owner), dtype=x[:0].cpu().to(wide).numpy().dtype)
    ones = sp.csr_array((one, (owner, np.arange(len(owner)))), shape=(mixing.n, len(owner)))
    owners = torch.from_numpy(owner).to(x.device)

    def gather(z: Tensor) -> Tensor:
        return torch.from_numpy(ones @ z.detach().cpu().to(wide).numpy()).to(z)

    weight = torch.from_numpy(mixing.data[off]).to(x).unsqueeze(-1)
    links = Links(lambda z: z.index_select(0, owners), gather, weight, mixing.n)
    return links, torch.from_numpy(back).to(x.device)
