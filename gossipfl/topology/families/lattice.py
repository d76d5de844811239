"""Lattices: grid, torus, hypercube."""

from __future__ import annotations

import numpy as np

from gossipfl.topology import layout
from gossipfl.topology.families.base import Arguments, Family, either, wrong
from gossipfl.topology.graph import Graph, from_pairs


def _shape(arguments: Arguments) -> tuple[int, int] | None:
    """ROWSxCOLUMNS, if given."""
    sides = arguments.numbers(int, "x", 2, f"{arguments.spec.partition(':')[0]}:4x8, rows and columns")
    if not sides:
        return None
    if len(sides) == 1 or min(sides) < 2:
        name = arguments.spec.partition(":")[0]
        raise wrong(f"{arguments.spec}: rows and columns are at least 2 each", f"{name}:4x8")
    return sides[0], sides[1]


def _size(arguments: Arguments) -> int | None:
    shape = _shape(arguments)
    return shape[0] * shape[1] if shape else None


def squarest(n: int) -> tuple[int, int] | None:
    """The factors of n, at least 2 each, that are nearest to each other; None for a prime."""
    for rows in range(int(n**0.5), 1, -1):
        if n % rows == 0:
            return rows, n // rows
    return None


def _fit(n: int, arguments: Arguments) -> tuple[int, int]:
    """The shape for n nodes: as given, or the squarest."""
    name = arguments.spec.partition(":")[0]
    shape, best = _shape(arguments), squarest(n)
    if shape and shape[0] * shape[1] != n:
        other = f", or {name}:{best[0]}x{best[1]}" if best else ""
        raise wrong(
            f"{arguments.spec} has {shape[0] * shape[1]} nodes, not {n}",
            f"{shape[0] * shape[1]} nodes{other}",
        )
    found = shape or best
    if found is None:
        near = sorted(m for m in (n - 1, n + 1) if m >= 4 and squarest(m)) or [4]
        raise wrong(f"{name}: {n} nodes make no rectangle", f"{either(near)} nodes, or ring")
    return found


def grid(n: int, arguments: Arguments, seed: int) -> Graph:
    """Rows and columns, node = row * columns + column, each with those beside it."""
    rows, columns = _fit(n, arguments)
    nodes = np.arange(n).reshape(rows, columns)
    across = np.stack([nodes[:, :-1].ravel(), nodes[:, 1:].ravel()], axis=1)
    down = np.stack([nodes[:-1].ravel(), nodes[1:].ravel()], axis=1)
    pairs = np.concatenate([across, down])
    return from_pairs(f"grid:{rows}x{columns}", n, pairs, positions=layout.lattice(rows, columns))


def torus(n: int, arguments: Arguments, seed: int) -> Graph:
    """A grid whose rows and columns close to rings."""
    rows, columns = _fit(n, arguments)
    nodes = np.arange(n).reshape(rows, columns)
    across = np.stack([nodes.ravel(), np.roll(nodes, -1, axis=1).ravel()], axis=1)
    down = np.stack([nodes.ravel(), np.roll(nodes, -1, axis=0).ravel()], axis=1)
    pairs = np.concatenate([across, down])
    return from_pairs(f"torus:{rows}x{columns}", n, pairs, positions=layout.lattice(rows, columns))


def hypercube(n: int, arguments: Arguments, seed: int) -> Graph:
    """Nodes whose numbers differ in one bit; n is a power of two."""
    dimension = n.bit_length() - 1
    if n != 2**dimension:
        raise wrong(
            f"hypercube: {n} is not a power of two", f"{either([2**dimension, 2 ** (dimension + 1)])} nodes"
        )
    nodes = np.arange(n)
    pairs = np.concatenate(
        [np.empty((0, 2), np.int64)] + [np.stack([nodes, nodes ^ (1 << b)], axis=1) for b in range(dimension)]
    )
    return from_pairs("hypercube", n, pairs, positions=layout.hypercube(dimension))


FAMILIES = (
    Family("grid", "rows and columns (the squarest unless given)", "grid:3x7", grid, "RxC", _size),
    Family("torus", "a grid that closes at its borders", "torus:4x8", torus, "RxC", _size),
    Family("hypercube", "numbers that differ in one bit; n a power of two", "hypercube", hypercube),
)
