"""Where nodes are drawn: positions float64 [n, 2], in about the unit square around the origin."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gossipfl.topology.graph import Graph

Positions = NDArray[np.float64]
STRESS_NODES = 400
"""Above so many nodes distances are not laid out in full: the nodes stand on a circle."""


def circle(n: int, radius: float = 1.0, phase: float = 0.0) -> Positions:
    """n nodes on a circle, clockwise from the top."""
    angle = phase + np.pi / 2 - 2 * np.pi * np.arange(n) / max(n, 1)
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def line(n: int) -> Positions:
    """n nodes in a row, bent to a horseshoe so that the picture is not a thread."""
    angle = np.linspace(1.25, -0.25, n) * np.pi if n > 1 else np.full(1, np.pi / 2)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def lattice(rows: int, columns: int) -> Positions:
    """rows x columns in reading order."""
    row, column = np.divmod(np.arange(rows * columns), columns)
    scale = 2.0 / max(rows - 1, columns - 1, 1)
    return np.stack([(column - (columns - 1) / 2) * scale, ((rows - 1) / 2 - row) * scale], axis=1)


def star(n: int) -> Positions:
    """Node 0 in the middle, the others around it."""
    return np.concatenate([np.zeros((1, 2)), circle(n - 1)])


def tree(n: int, branching: int) -> Positions:
    """A tree in heap order, drawn outwards from its root: each child within its parent's slice."""
    spans = np.zeros((n, 2))
    spans[0] = (0.0, 2 * np.pi)
    depth = np.zeros(n, dtype=np.int64)
    for node in range(1, n):
        parent, slot = divmod(node - 1, branching)
        width = (spans[parent, 1] - spans[parent, 0]) / branching
        spans[node] = spans[parent, 0] + width * np.array([slot, slot + 1])
        depth[node] = depth[parent] + 1
    angle = np.pi / 2 - spans.mean(axis=1)
    radius = depth / max(int(depth.max()), 1)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def hypercube(dimension: int) -> Positions:
    """Each dimension is a shift in a direction of its own: parallel edges stay parallel."""
    order = np.arange(dimension)
    if dimension <= 4:
        angles = np.pi * (order + 0.5) / max(dimension, 1) + 0.12
        reach = 0.55 ** (order // 2)
    else:
        angles = np.pi / 2 * (order % 2) + 0.35 * (order // 2) + 0.1
        reach = 0.43 ** (order // 2)
    shift = np.stack([np.cos(angles), np.sin(angles)], axis=1) * reach[:, None]
    bit = (np.arange(2**dimension)[:, None] >> order) & 1
    return np.asarray((bit - 0.5) @ shift)


def by_distance(graph: Graph) -> Positions:
    """Nodes as far apart as their hops say: stress majorisation (Gansner, Koren & North 2005) from a spectral
    start.
    """
    n = graph.n
    if n <= 2 or n > STRESS_NODES:
        return circle(n)
    from scipy.sparse import csgraph

    hops = np.asarray(csgraph.shortest_path(graph.adjacency, directed=False, unweighted=True))
    finite = hops[np.isfinite(hops)]
    hops = np.where(np.isfinite(hops), hops, finite.max() + 1.0)
    centred = -0.5 * (hops**2 - (hops**2).mean(0) - (hops**2).mean(1)[:, None] + (hops**2).mean())
    values, vectors = np.linalg.eigh(centred)
    at = vectors[:, -2:] * np.sqrt(np.maximum(values[-2:], 1e-9))
    at = at + 1e-3 * circle(n)
    np.fill_diagonal(hops, 1.0)
    weight = hops**-2.0
    np.fill_diagonal(weight, 0.0)
    laplacian = np.diag(weight.sum(1)) - weight
    inverse = np.linalg.pinv(laplacian)
    for _ in range(200):
        apart = np.linalg.norm(at[:, None] - at[None], axis=2)
        pull = np.where(apart > 1e-9, weight * hops / np.maximum(apart, 1e-9), 0.0)
        at = inverse @ ((np.diag(pull.sum(1)) - pull) @ at)
    at = at - at.mean(0)
    return np.asarray(at / np.abs(at).max())


def positions(graph: Graph) -> Positions:
    """The graph's own layout, or one made of its distances."""
    return graph.positions if graph.positions is not None else by_distance(graph)
