"""The static exponential graph: directed, log2(n) out-neighbors, doubly stochastic."""

from __future__ import annotations

import numpy as np

from gossipfl.topology import layout
from gossipfl.topology.families.base import Arguments, Family
from gossipfl.topology.graph import Graph, from_pairs


def hops(n: int) -> list[int]:
    """1, 2, 4, ... below n: ceil(log2 n) of them."""
    return [1 << b for b in range((n - 1).bit_length())]


def exponential(n: int, arguments: Arguments, seed: int) -> Graph:
    """i sends to i + 1, i + 2, i + 4, ... modulo n (Ying et al. 2021)."""
    nodes = np.arange(n)
    pairs = np.concatenate(
        [np.empty((0, 2), np.int64)] + [np.stack([nodes, (nodes + hop) % n], axis=1) for hop in hops(n)]
    )
    return from_pairs("exponential", n, pairs, directed=True, positions=layout.circle(n))


FAMILIES = (
    Family(
        "exponential",
        "i sends to i + 1, i + 2, i + 4, ...: directed, doubly stochastic",
        "exponential",
        exponential,
        source="Ying et al. 2021",
    ),
)
