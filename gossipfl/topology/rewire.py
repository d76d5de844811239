"""Extra edges that keep the living connected when nodes are gone for good, by a rule that every node derives
alone.

For each connected part of the dead (in the graph as it was), the living nodes that border on it, in ascending
order, are joined in a ring. A path that led through the part then leads along its ring, so the living of a
connected graph are connected, whoever has died.

The weight of an extra edge depends on the graph alone, never on who is dead: with m_i the smallest weight
that node i gives a neighbor, D_i the number of its neighbors and w_ii what it keeps,

    c_ij = min(b_i, b_j) / 2,    b_i = m_i + w_ii / (2 D_i).

A node borders on at most as many parts as it has lost neighbors, k, and has at most two edges of each ring,
so they take k b_i at most: what its lost neighbors leave, k m_i or more, and half of what it keeps. So W
stays symmetric, doubly stochastic and nonnegative whatever two nodes believe of a third, as long as an edge
counts at both ends or at neither.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise

import numpy as np
import scipy.sparse as sp

from gossipfl.topology.mixing import Mixing, from_matrix


class Rewiring:
    """The rule on a symmetric, doubly stochastic, nonnegative W. The same at every node."""

    def __init__(self, mixing: Mixing) -> None:
        coo = mixing.matrix.tocoo()
        off = (coo.row != coo.col) & (coo.data != 0.0)
        rows, columns, weights = coo.row[off], coo.col[off], coo.data[off]
        self.n = n = int(mixing.n)
        self._matrix = mixing.matrix
        # both ways, for push on a directed graph: what comes in at one border goes out at another
        both = np.concatenate([rows, columns]), np.concatenate([columns, rows])
        self._graph = sp.csr_array((np.ones(2 * len(rows), dtype=np.int8), both), shape=(n, n))
        self._graph.sort_indices()
        degrees = np.bincount(rows, minlength=n)
        smallest = np.full(n, np.inf)
        np.minimum.at(smallest, rows, weights)
        kept = mixing.matrix.diagonal()
        lonely = degrees == 0
        smallest[lonely] = 0.0
        self._budgets = smallest + kept / (2 * np.maximum(degrees, 1))

    def weight(self, i: int, j: int) -> float:
        """c_ij: what an extra edge between two nodes weighs."""
        return float(min(self._budgets[i], self._budgets[j])) / 2

    def edges(self, dead: Collection[int]) -> list[tuple[int, int]]:
        """The extra edges i < j among the living, sorted, when these nodes are dead."""
        gone = np.array(sorted(dead), dtype=np.int64)
        if not len(gone):
            return []
        from scipy.sparse import csgraph

        near = self._graph[gone]
        count, of = csgraph.connected_components(near[:, gone], directed=False)
        found: set[tuple[int, int]] = set()
        for part in range(count):
            border = np.setdiff1d(near[np.flatnonzero(of == part)].indices, gone).tolist()
            ring = [*border, *border[:1]]
            found |= {(min(i, j), max(i, j)) for i, j in pairwise(ring) if i != j}
        return sorted((i, j) for i, j in found if j not in self._neighbors(i))

    def peers(self, node: int, dead: Collection[int]) -> tuple[int, ...]:
        """The other ends of a node's extra edges, ascending."""
        return tuple(sorted(i + j - node for i, j in self.edges(dead) if node in (i, j)))

    def mixing(self, dead: Collection[int]) -> Mixing:
        """W when these nodes are dead and all know it: a dead node keeps its own, and what it was given stays
        with whoever gave it."""
        gone = np.array(sorted(dead), dtype=np.int64)
        w = self._matrix.toarray()
        w[gone, :] = w[:, gone] = 0.0
        for i, j in self.edges(dead):
            w[i, j] = w[j, i] = self.weight(i, j)
        np.fill_diagonal(w, 0.0)
        np.fill_diagonal(w, 1.0 - w.sum(axis=1))
        return from_matrix(w)

    def _neighbors(self, node: int) -> frozenset[int]:
        first, last = self._graph.indptr[node : node + 2]
        return frozenset(self._graph.indices[first:last].tolist())
