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

from gossipfl.topology.mixing import Mixing, from_matrix


class Rewiring:
    """The rule on a symmetric, doubly stochastic, nonnegative W. The same at every node."""

    def __init__(self, mixing: Mixing) -> None:
        off = (mixing.owners != mixing.indices) & (mixing.data != 0.0)
        rows, columns, weights = mixing.owners[off], mixing.indices[off], mixing.data[off]
        self.n = n = mixing.n
        self._mixing = mixing
        # both ways, for push on a directed graph: what comes in at one border goes out at another
        self._near: list[set[int]] = [set() for _ in range(n)]
        for i, j in zip(rows.tolist(), columns.tolist(), strict=True):
            self._near[i].add(j)
            self._near[j].add(i)
        degrees = np.bincount(rows, minlength=n)
        smallest = np.full(n, np.inf)
        np.minimum.at(smallest, rows, weights)
        lonely = degrees == 0
        smallest[lonely] = 0.0
        self._budgets = smallest + mixing.diagonal() / (2 * np.maximum(degrees, 1))

    def weight(self, i: int, j: int) -> float:
        """c_ij: what an extra edge between two nodes weighs."""
        return float(min(self._budgets[i], self._budgets[j])) / 2

    def edges(self, dead: Collection[int]) -> list[tuple[int, int]]:
        """The extra edges i < j among the living, sorted, when these nodes are dead."""
        left, found = set(dead), set[tuple[int, int]]()
        while left:
            border = self._border(left, dead)
            ring = [*border, *border[:1]]
            found |= {(min(i, j), max(i, j)) for i, j in pairwise(ring) if i != j}
        return sorted((i, j) for i, j in found if j not in self._near[i])

    def _border(self, left: set[int], dead: Collection[int]) -> list[int]:
        """Who of the living borders, ascending, on one connected part of the dead; it is taken out of
        `left`."""
        ahead, seen = [left.pop()], set[int]()
        while ahead:
            near = self._near[ahead.pop()]
            part = near & left
            left -= part
            ahead += part
            seen |= near
        return sorted(seen.difference(dead))

    def peers(self, node: int, dead: Collection[int]) -> tuple[int, ...]:
        """The other ends of a node's extra edges, ascending."""
        return tuple(sorted(i + j - node for i, j in self.edges(dead) if node in (i, j)))

    def mixing(self, dead: Collection[int]) -> Mixing:
        """W when these nodes are dead and all know it: a dead node keeps its own, and what it was given stays
        with whoever gave it."""
        gone = np.array(sorted(dead), dtype=np.int64)
        w = self._mixing.dense()
        w[gone, :] = w[:, gone] = 0.0
        for i, j in self.edges(dead):
            w[i, j] = w[j, i] = self.weight(i, j)
        np.fill_diagonal(w, 0.0)
        np.fill_diagonal(w, 1.0 - w.sum(axis=1))
        return from_matrix(w)
