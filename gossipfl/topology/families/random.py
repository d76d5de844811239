"""Random graphs, drawn from the seed and connected: a draw that is not is drawn again, a bounded number of
times.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gossipfl.draw import Purpose, generator
from gossipfl.topology import layout
from gossipfl.topology.families.base import Arguments, Family, either, wrong
from gossipfl.topology.graph import Graph, from_pairs

DRAWS = 200
"""How often a graph is drawn before it is given up as practically never connected."""


def redrawn(draw: Callable[[np.random.Generator], Graph], seed: int, spec: str, right: str) -> Graph:
    """The first connected of DRAWS graphs. Raises ConfigError if none is."""
    for attempt in range(DRAWS):
        graph = draw(generator(seed, Purpose.GRAPH, attempt))
        if graph.connected():
            return graph
    raise wrong(f"{spec}: none of {DRAWS} draws was connected", right)


def regular_pairs(n: int, degree: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """The edges of a random graph in which every node has this degree, int64 [n * degree / 2, 2].

    Stubs are paired at random; self-loops and double edges are then switched with edges drawn at random
    (McKay & Wormald 1990). Dense graphs are complements of sparse ones. No node is distinguished: the law of
    the graph does not change when nodes are relabelled.
    """
    if degree > (n - 1) // 2 and degree < n - 1 and n > 2:
        i, j = np.triu_indices(n, 1)
        less = regular_pairs(n, n - 1 - degree, rng)
        keep = ~np.isin(i * n + j, less.min(1) * n + less.max(1))
        return np.stack([i[keep], j[keep]], axis=1)
    if degree == n - 1:
        return np.stack(np.triu_indices(n, 1), axis=1)
    pairs = rng.permutation(np.repeat(np.arange(n), degree)).reshape(-1, 2)
    while True:
        keys = pairs.min(1) * n + pairs.max(1)
        _, first = np.unique(keys, return_index=True)
        bad = np.ones(len(pairs), dtype=bool)
        bad[first] = False
        bad |= pairs[:, 0] == pairs[:, 1]
        if not bad.any():
            return np.asarray(rng.permutation(n)[pairs])
        _switch(pairs, np.flatnonzero(bad), set(keys.tolist()), n, rng)


def _switch(
    pairs: NDArray[np.int64], bad: NDArray[np.int64], present: set[int], n: int, rng: np.random.Generator
) -> None:
    """Exchange an end of each bad pair with that of a pair drawn at random, in place, where no new one turns
    bad.
    """
    for index in bad.tolist():
        other = int(rng.integers(len(pairs)))
        a, b = pairs[index].tolist()
        c, d = pairs[other].tolist()
        first, second = min(a, d) * n + max(a, d), min(c, b) * n + max(c, b)
        if a == d or c == b or first == second or first in present or second in present:
            continue
        pairs[index, 1], pairs[other, 1] = d, b
        present.add(first)
        present.add(second)


def check_regular(n: int, degree: int, spec: str) -> None:
    """Raise ConfigError where no graph of n nodes has this degree everywhere."""
    if degree >= n:
        raise wrong(f"{spec} needs at least {degree + 1} nodes, not {n}", f"degree {max(n - 1, 0)} at most")
    if n * degree % 2:
        degrees = [k for k in (degree - 1, degree + 1) if 0 < k < n]
        right = f"{n - 1} or {n + 1} nodes" + (f", or degree {either(degrees)}" if degrees else "")
        raise wrong(f"{spec}: {n} nodes of odd degree {degree} do not exist", right)


def regular(n: int, arguments: Arguments, seed: int) -> Graph:
    """A random graph in which every node has degree K (4)."""
    degree = arguments.whole(4, 1, "regular:4, the degree of every node")
    check_regular(n, degree, arguments.spec)
    if degree == 1 and n > 2:
        raise wrong("regular:1 is never connected past 2 nodes", "regular:2, or matching")

    def draw(rng: np.random.Generator) -> Graph:
        return from_pairs(f"regular:{degree}", n, regular_pairs(n, degree, rng))

    return redrawn(draw, seed, arguments.spec, "a higher degree")


def erdos_renyi(n: int, arguments: Arguments, seed: int) -> Graph:
    """Every edge is there with probability P, by itself; P = 2 ln(n) / n unless given."""
    form = "erdos-renyi:0.3, a probability above 0 and up to 1"
    given = arguments.numbers(float, ",", 1, form)
    p = given[0] if given else min(1.0, 2 * math.log(max(n, 2)) / n)
    if not 0 < p <= 1:
        raise wrong(f"{arguments.spec}: {p:g} is no such probability", form)
    starts = np.arange(n) * n - np.arange(n) * (np.arange(n) + 1) // 2

    def draw(rng: np.random.Generator) -> Graph:
        possible = n * (n - 1) // 2
        chosen = rng.choice(possible, int(rng.binomial(possible, p)), replace=False, shuffle=False)
        i = np.searchsorted(starts, chosen, side="right") - 1
        return from_pairs(arguments.spec, n, np.stack([i, chosen - starts[i] + i + 1], axis=1))

    return redrawn(
        draw, seed, arguments.spec, f"a probability nearer to {min(1.0, 2 * math.log(max(n, 2)) / n):.2g}"
    )


def small_world(n: int, arguments: Arguments, seed: int) -> Graph:
    """A ring where each node knows its K nearest (4), and each edge is sent elsewhere with probability P
    (0.1).
    """
    form = "small-world:4,0.1, an even number of nearest nodes and a probability"
    given = [
        *arguments.numbers(float, ",", 2, form),
        *(4.0, 0.1)[len(arguments.numbers(float, ",", 2, form)) :],
    ]
    if not 2 <= given[0] < 1e18 or given[0] % 2 or not 0 <= given[1] <= 1:
        raise wrong(f"{arguments.spec}: cannot be", form)
    nearest, p = int(given[0]), given[1]
    if nearest >= n:
        raise wrong(
            f"{arguments.spec} needs at least {nearest + 1} nodes, not {n}", "complete, or more nodes"
        )

    def draw(rng: np.random.Generator) -> Graph:
        near: list[set[int]] = [set() for _ in range(n)]
        for i in range(n):
            for hop in range(1, nearest // 2 + 1):
                near[i].add((i + hop) % n)
                near[(i + hop) % n].add(i)
        for hop in range(1, nearest // 2 + 1):
            for i in np.flatnonzero(rng.random(n) < p).tolist():
                old = (i + hop) % n
                if old not in near[i] or len(near[i]) >= n - 1:
                    continue
                new = int(rng.integers(n))
                while new == i or new in near[i]:
                    new = int(rng.integers(n))
                near[i].remove(old)
                near[old].remove(i)
                near[i].add(new)
                near[new].add(i)
        pairs = [(i, j) for i in range(n) for j in near[i] if i < j]
        return from_pairs(arguments.spec, n, pairs, positions=layout.circle(n))

    return redrawn(draw, seed, arguments.spec, "more nearest nodes, or a smaller probability")


def geometric(n: int, arguments: Arguments, seed: int) -> Graph:
    """Nodes at random in the unit square, an edge where two are within R; R = sqrt(2 ln(n) / (pi n)) unless
    given.
    """
    form = "geometric:0.4, a distance above 0"
    given = arguments.numbers(float, ",", 1, form)
    usual = math.sqrt(2 * math.log(max(n, 2)) / (math.pi * n))
    radius = given[0] if given else usual
    if not radius > 0:
        raise wrong(f"{arguments.spec}: {radius:g} is no such distance", form)

    from scipy.spatial import cKDTree  # 6 MB, for this graph alone

    def draw(rng: np.random.Generator) -> Graph:
        at = rng.random((n, 2))
        pairs = cKDTree(at).query_pairs(radius, output_type="ndarray").astype(np.int64)
        return from_pairs(arguments.spec, n, pairs, positions=2 * at - 1)

    return redrawn(draw, seed, arguments.spec, f"a distance nearer to {usual:.2g}")


FAMILIES = (
    Family("regular", "random, every node of degree K (4)", "regular:4", regular, "K"),
    Family(
        "erdos-renyi",
        "random, every edge with probability P (2 ln n / n)",
        "erdos-renyi:0.3",
        erdos_renyi,
        "P",
        source="Gilbert 1959",
    ),
    Family(
        "small-world",
        "a ring of K nearest (4), edges rewired with probability P (0.1)",
        "small-world:4,0.1",
        small_world,
        "K,P",
        source="Watts & Strogatz 1998",
    ),
    Family(
        "geometric",
        "random places in a square, edges within distance R",
        "geometric:0.4",
        geometric,
        "R",
        source="Gilbert 1961",
    ),
)
