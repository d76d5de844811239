"""A graph: who may talk to whom. Nodes are 0..n-1; an arc (sender, receiver) carries one message a round."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gossipfl.errors import ConfigError, Problem

if TYPE_CHECKING:
    import scipy.sparse as sp

BITSET_WORK = 2_000_000_000
"""Words that a search from all nodes at once may touch; the diameter of a larger, longer graph is found by
bounds.
"""


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes and arcs.

    arcs: int64 [m, 2] of (sender, receiver), sorted, unique, no self-loops; an undirected edge is two arcs.
    labels, addresses: node names and network addresses of a file, in node order, or empty.
    positions: float64 [n, 2] where the nodes are drawn, if the graph has a layout of its own.
    matrix: float64 CSR [n, n], the mixing matrix that came with the graph (a weighted file), or None.

    scipy, 10 MB, is loaded where it is asked for alone: a node needs none of it.
    """

    name: str
    n: int
    arcs: NDArray[np.int64]
    directed: bool = False
    labels: tuple[str, ...] = ()
    positions: NDArray[np.float64] | None = None
    addresses: tuple[str, ...] = ()
    matrix: sp.csr_array | None = None

    def __eq__(self, other: object) -> bool:
        """Same nodes and arcs; names, labels and layout are not compared."""
        if not isinstance(other, Graph):
            return NotImplemented
        return self.n == other.n and np.array_equal(self.arcs, other.arcs)

    def __hash__(self) -> int:
        return hash((self.n, self.arcs.tobytes()))

    @cached_property
    def adjacency(self) -> sp.csr_array:
        """int8 CSR [n, n]: a_ij = 1 where i receives from j (as w_ij)."""
        import scipy.sparse as sp

        ones = np.ones(len(self.arcs), dtype=np.int8)
        return sp.csr_array((ones, (self.arcs[:, 1], self.arcs[:, 0])), shape=(self.n, self.n))

    @cached_property
    def in_degrees(self) -> NDArray[np.int64]:
        """int64 [n]: from how many each node receives."""
        return np.bincount(self.arcs[:, 1], minlength=self.n).astype(np.int64)

    @cached_property
    def out_degrees(self) -> NDArray[np.int64]:
        """int64 [n]: to how many each node sends."""
        return np.bincount(self.arcs[:, 0], minlength=self.n).astype(np.int64)

    def edges(self) -> NDArray[np.int64]:
        """int64 [m, 2]: the edges i < j of an undirected graph, the arcs of a directed one."""
        return self.arcs if self.directed else self.arcs[self.arcs[:, 0] < self.arcs[:, 1]]

    def neighbors(self, node: int) -> NDArray[np.int64]:
        """int64, ascending: to whom `node` sends (from whom it receives too, where the graph is
        undirected).
        """
        first, last = np.searchsorted(self.arcs[:, 0], (node, node + 1))
        return self.arcs[first:last, 1]

    @cached_property
    def _components(self) -> tuple[int, NDArray[np.int32]]:
        from scipy.sparse import csgraph

        count, of = csgraph.connected_components(self.adjacency, directed=self.directed, connection="strong")
        return int(count), of

    def components(self) -> list[NDArray[np.int64]]:
        """The (strongly) connected components, each an ascending int64 array of nodes, by their first
        node.
        """
        count, of = self._components
        parts = [np.flatnonzero(of == c).astype(np.int64) for c in range(count)]
        return sorted(parts, key=lambda part: int(part[0]))

    def connected(self) -> bool:
        """Does a path lead from every node to every other (along the arcs)?"""
        return _reaches_all(self.arcs, self.n) and (
            not self.directed or _reaches_all(self.arcs[np.lexsort(self.arcs.T), ::-1], self.n)
        )

    def diameter(self) -> int | None:
        """The longest shortest path, in hops; None where the graph is not connected."""
        if not self.connected():
            return None
        if self.n == 1:
            return 0
        first = _distances(self.adjacency, 0).max()
        if self.directed or first * len(self.arcs) * self.n // 64 <= BITSET_WORK:
            return _diameter_by_bitsets(self.arcs, self.n)
        return _diameter_by_bounds(self.adjacency)


def _reaches_all(arcs: NDArray[np.int64], n: int) -> bool:
    """Does a path lead from node 0 to every other? arcs: sorted by where they begin."""
    begins = np.searchsorted(arcs[:, 0], np.arange(n + 1)).tolist()
    reached = np.zeros(n, dtype=bool)
    reached[:1] = True
    ahead = [0] if n else []
    while ahead:
        node = ahead.pop()
        near = arcs[begins[node] : begins[node + 1], 1]
        new = near[~reached[near]]
        reached[new] = True
        ahead += new.tolist()
    return bool(reached.all())


def _distances(adjacency: sp.csr_array, source: int) -> NDArray[np.int64]:
    """int64 [n]: hops between `source` and every node of a connected graph."""
    from scipy.sparse import csgraph

    return np.asarray(csgraph.dijkstra(adjacency, unweighted=True, indices=np.array([source]))[0]).astype(
        np.int64
    )


def _diameter_by_bitsets(arcs: NDArray[np.int64], n: int) -> int:
    """Breadth-first from all nodes at once: bit s of node i's row says that i has been reached from s."""
    order = np.lexsort((arcs[:, 0], arcs[:, 1]))
    senders = arcs[order, 0]
    starts = np.searchsorted(arcs[order, 1], np.arange(n))
    longest = 0
    for block in range(0, n, 1024):
        sources = np.arange(block, min(block + 1024, n))
        reached = np.zeros((n, 16), dtype=np.uint64)
        reached[sources, (sources - block) // 64] = np.uint64(1) << ((sources - block) % 64).astype(np.uint64)
        full = np.bitwise_or.reduce(reached, axis=0)
        hops = 0
        while not np.array_equal(np.bitwise_and.reduce(reached, axis=0), full):
            reached |= np.bitwise_or.reduceat(reached[senders], starts, axis=0)
            hops += 1
        longest = max(longest, hops)
    return longest


def _diameter_by_bounds(adjacency: sp.csr_array) -> int:
    """iFUB (Crescenzi et al. 2013, "On computing the diameter of real-world undirected graphs"): search from
    the fringe of a middle node inwards, until what is left is too near to it to be farther apart than what
    was found."""
    end = int(_distances(adjacency, 0).argmax())
    from_end = _distances(adjacency, end)
    low = int(from_end.max())
    from_other = _distances(adjacency, int(from_end.argmax()))
    between = np.flatnonzero(from_end + from_other == low)
    middle = int(between[np.abs(from_end[between] - low // 2).argmin()])
    depth = _distances(adjacency, middle)
    for level in range(int(depth.max()), 0, -1):
        for node in np.flatnonzero(depth == level).tolist():
            if low >= 2 * level:
                return low
            low = max(low, int(_distances(adjacency, node).max()))
    return low


def from_pairs(
    name: str,
    n: int,
    pairs: NDArray[np.int64] | Iterable[tuple[int, int]],
    *,
    directed: bool = False,
    labels: tuple[str, ...] = (),
    positions: NDArray[np.float64] | None = None,
    addresses: tuple[str, ...] = (),
    matrix: sp.csr_array | None = None,
) -> Graph:
    """A graph from its edges, each once in either direction (undirected), or from its arcs (directed).

    Duplicates are merged and self-loops dropped: what a file may not hold is refused where it is read.
    Raises ConfigError for a node outside 0..n-1.
    """
    array = np.asarray(pairs if isinstance(pairs, np.ndarray) else list(pairs), dtype=np.int64).reshape(-1, 2)
    outside = array[(array < 0) | (array >= n)]
    if len(outside):
        wrong = f"{name}: an edge of node {outside[0]}, of {n} nodes"
        raise ConfigError(Problem("topology.graph", wrong, f"nodes from 0 to {n - 1}"))
    if not directed:
        array = np.concatenate([array, array[:, ::-1]])
    array = array[array[:, 0] != array[:, 1]]
    keys = np.unique(array[:, 0] * n + array[:, 1])
    arcs = np.stack([keys // max(n, 1), keys % max(n, 1)], axis=1)
    return Graph(name, n, arcs, directed, labels, positions, addresses, matrix)
