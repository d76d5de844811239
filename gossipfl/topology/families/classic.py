"""Graphs that every textbook has: none, ring, path, star, complete, tree, barbell, and the directed ring."""

from __future__ import annotations

import numpy as np

from gossipfl.topology import layout
from gossipfl.topology.families.base import Arguments, Family, wrong
from gossipfl.topology.graph import Graph, from_pairs


def none(n: int, arguments: Arguments, seed: int) -> Graph:
    """No edges: everyone alone."""
    return from_pairs("none", n, [], positions=layout.circle(n))


def ring(n: int, arguments: Arguments, seed: int) -> Graph:
    """i and i + 1, and the last with the first."""
    nodes = np.arange(n)
    return from_pairs("ring", n, np.stack([nodes, (nodes + 1) % n], axis=1), positions=layout.circle(n))


def directed_ring(n: int, arguments: Arguments, seed: int) -> Graph:
    """i sends to i + 1, the last to the first."""
    nodes = np.arange(n)
    pairs = np.stack([nodes, (nodes + 1) % n], axis=1)
    return from_pairs("directed-ring", n, pairs, directed=True, positions=layout.circle(n))


def path(n: int, arguments: Arguments, seed: int) -> Graph:
    """i and i + 1."""
    nodes = np.arange(n - 1)
    return from_pairs("path", n, np.stack([nodes, nodes + 1], axis=1), positions=layout.line(n))


def star(n: int, arguments: Arguments, seed: int) -> Graph:
    """Node 0 with every other."""
    leaves = np.arange(1, n)
    return from_pairs("star", n, np.stack([np.zeros_like(leaves), leaves], axis=1), positions=layout.star(n))


def complete(n: int, arguments: Arguments, seed: int) -> Graph:
    """Everyone with everyone."""
    i, j = np.triu_indices(n, 1)
    return from_pairs("complete", n, np.stack([i, j], axis=1), positions=layout.circle(n))


def tree(n: int, arguments: Arguments, seed: int) -> Graph:
    """A balanced tree in heap order: the parent of i is (i - 1) // B; B = 2 unless given."""
    branching = min(arguments.whole(2, 1, "tree:2, the children of a node"), n)
    children = np.arange(1, n)
    pairs = np.stack([(children - 1) // branching, children], axis=1)
    return from_pairs(arguments.spec, n, pairs, positions=layout.tree(n, branching))


def barbell(n: int, arguments: Arguments, seed: int) -> Graph:
    """Two complete graphs of M nodes, joined by a path of the n - 2M others; M = n // 2 unless given."""
    if n < 2:
        raise wrong(f"{arguments.spec}: a barbell has two ends, not {n} node", "2 nodes or more")
    bell = arguments.whole(n // 2, 1, "barbell:5, the nodes of each end")
    between = n - 2 * bell
    if between < 0:
        raise wrong(
            f"{arguments.spec} needs at least {2 * bell} nodes, not {n}", f"barbell:{n // 2}, or more nodes"
        )
    i, j = np.triu_indices(bell, 1)
    chain = np.arange(bell - 1, bell + between)
    pairs = np.concatenate(
        [
            np.stack([i, j], axis=1),
            np.stack([chain, chain + 1], axis=1),
            np.stack([i, j], axis=1) + bell + between,
        ]
    )
    apart = 0.25 * (between + 1) / 2 + 0.35
    left = layout.circle(bell, 0.35, -np.pi / 2) - np.array([apart, 0.0])
    right = layout.circle(bell, 0.35, np.pi / 2) + np.array([apart, 0.0])
    order = np.argsort(left[:, 0], kind="stable"), np.argsort(right[:, 0], kind="stable")
    middle = np.stack([0.25 * (np.arange(between) - (between - 1) / 2), np.zeros(between)], axis=1)
    at = np.concatenate([left[order[0]], middle, right[order[1]]])
    return from_pairs(arguments.spec, n, pairs, positions=at)


FAMILIES = (
    Family("none", "no edges: every node alone, the baseline", "none", none),
    Family("ring", "a cycle: two neighbours each", "ring", ring),
    Family("directed-ring", "a cycle with one direction, for push-sum", "directed-ring", directed_ring),
    Family("path", "a line", "path", path),
    Family("star", "node 0 in the middle: the shape of a server", "star", star),
    Family("complete", "everyone with everyone", "complete", complete),
    Family("tree", "a balanced tree, B children a node (2)", "tree:2", tree, "B"),
    Family("barbell", "two cliques of M nodes (n // 2) with a path between them", "barbell:5", barbell, "M"),
)
