"""Schedules: round -> graph and mixing matrix. Every node derives a round's graph by itself, from the
seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gossipfl.draw import Purpose, bits, generator, permutation
from gossipfl.errors import ConfigError, Problem
from gossipfl.topology import base_graph, layout
from gossipfl.topology import weights as schemes
from gossipfl.topology.families import Arguments
from gossipfl.topology.families.base import wrong
from gossipfl.topology.families.exponential import hops
from gossipfl.topology.families.random import check_regular, regular_pairs
from gossipfl.topology.graph import Graph, from_pairs
from gossipfl.topology.mixing import Mixing
from gossipfl.topology.spec import GraphSpec, build, check_connected, family_of, size_of

ScheduleSpec: TypeAlias = GraphSpec | Sequence[str | PathLike[str]]


class Schedule(Protocol):
    """Who mixes with whom in which round."""

    @property
    def n(self) -> int:
        """How many nodes."""
        ...

    @property
    def length(self) -> int | None:
        """1: the same in every round; k: again after k rounds; None: never the same."""
        ...

    def graph(self, round: int) -> Graph:
        """Who talks to whom in this round."""
        ...

    def mixing(self, round: int) -> Mixing:
        """How much of whom each node takes in this round."""
        ...


@dataclass(frozen=True, eq=False)
class Cyclic:
    """A cycle of graphs with their matrices; of one, it is static."""

    turns: tuple[tuple[Graph, Mixing], ...]

    @property
    def n(self) -> int:
        return self.turns[0][0].n

    @property
    def length(self) -> int:
        return len(self.turns)

    def graph(self, round: int) -> Graph:
        return self.turns[round % len(self.turns)][0]

    def mixing(self, round: int) -> Mixing:
        return self.turns[round % len(self.turns)][1]


class Moments(NamedTuple):
    """Second moments of a random W whose law does not change when nodes are relabelled: E W W' has `own` on
    its diagonal and `cross` off it."""

    own: float
    cross: float


class Drawn:
    """A fresh draw every round.

    draw(round) -> graph; weigh(graph) -> W. support: the edges that can come up, None for all. moments: where
    they have a closed form, else None.
    """

    length: None = None

    def __init__(
        self,
        n: int,
        draw: Callable[[int], Graph],
        weigh: Callable[[Graph], Mixing],
        *,
        support: Graph | None = None,
        moments: Moments | None = None,
    ) -> None:
        self.n, self.support, self.moments = n, support, moments
        self._draw, self._weigh = draw, weigh
        self._last: tuple[int, Graph, Mixing] | None = None

    def _turn(self, round: int) -> tuple[Graph, Mixing]:
        last = self._last
        if last is None or last[0] != round:
            graph = self._draw(round)
            last = self._last = (round, graph, self._weigh(graph))
        return last[1], last[2]

    def graph(self, round: int) -> Graph:
        return self._turn(round)[0]

    def mixing(self, round: int) -> Mixing:
        return self._turn(round)[1]


def schedule(
    spec: ScheduleSpec,
    n: int | None,
    *,
    weights: str = schemes.DEFAULT,
    seed: int = 0,
    allow_disconnected: bool = False,
    pi: Sequence[float] | NDArray[np.float64] | None = None,
) -> Cyclic | Drawn:
    """The schedule that a spec names: a graph (static), a family of schedules, or a list of graphs (a cycle).

    n: how many nodes; None: as many as the spec says. weights: a name of weights.py, or `module:function`.
    pi: the nodes' data sizes for `data`. Raises ConfigError: keys `topology.graph`, `topology.weights`,
    `topology.pi`, or a file and line.
    """

    weigh = _weigher(weights, pi)
    if not isinstance(spec, str) and isinstance(spec, Sequence):
        return _cycle(spec, n, weigh, seed, allow_disconnected)
    found = family_of(spec)
    if found is None or found[0].make is not None:
        graph = build(spec, n, seed=seed, allow_disconnected=allow_disconnected)
        return Cyclic(((graph, weigh(graph)),))
    nodes = size_of(spec, n)
    family, arguments = found
    match family.name:
        case "one-peer-exponential":
            if arguments.text:
                raise wrong(f"{arguments.spec}: {family.name} takes no arguments", family.name)
            return _one_peer(nodes, weigh)
        case "base":
            return _base(nodes, arguments, weights)
        case "epidemic":
            return _epidemic(nodes, arguments, weights, weigh, seed)
        case _:
            if arguments.text:
                return _matching_of(nodes, arguments, weigh, seed, allow_disconnected)
            return _matching(nodes, weights, weigh, seed)


def _weigher(name: str, pi: Sequence[float] | NDArray[np.float64] | None) -> Callable[[Graph], Mixing]:
    """graph -> W with these weights."""
    schemes.check_name(name)
    return lambda graph: schemes.weigh(graph, name, pi)


def _cycle(
    specs: Sequence[str | PathLike[str]],
    n: int | None,
    weigh: Callable[[Graph], Mixing],
    seed: int,
    allow_disconnected: bool,
) -> Cyclic:
    """One graph after the other, over again; together they must be connected."""
    if not specs:
        raise wrong("an empty list of graphs", 'one or more: ["a.edges", "b.edges"]')
    graphs = [build(one, n, seed=seed, allow_disconnected=True) for one in specs]
    for graph in graphs:
        if graph.n != graphs[0].n:
            raise wrong(
                f"{graphs[0].name} has {graphs[0].n} nodes, {graph.name} has {graph.n}", "the same nodes"
            )
        if graph.labels and graphs[0].labels and graph.labels != graphs[0].labels:
            raise wrong(
                f"{graphs[0].name} and {graph.name} name their nodes in different orders", "one order"
            )
    check_connected(union(graphs), allow_disconnected)
    return Cyclic(tuple((graph, weigh(graph)) for graph in graphs))


def union(graphs: Sequence[Graph]) -> Graph:
    """All arcs of these graphs of the same nodes."""
    if len(graphs) == 1:
        return graphs[0]
    return from_pairs(
        " + ".join(dict.fromkeys(graph.name for graph in graphs)),
        graphs[0].n,
        np.concatenate([graph.arcs for graph in graphs]),
        directed=any(graph.directed for graph in graphs),
        labels=graphs[0].labels,
        positions=graphs[0].positions,
    )


def _own_weights(name: str, spec: str) -> None:
    """Raise ConfigError where a schedule that has its own W is asked for another."""
    if name != schemes.DEFAULT:
        wrong_ = f"{name} on {spec}: this schedule has a mixing matrix of its own"
        raise ConfigError(Problem("topology.weights", wrong_, "leave topology.weights at its default"))


def _one_peer(n: int, weigh: Callable[[Graph], Mixing]) -> Cyclic:
    """Round t: i sends to i + 2^(t mod ceil(log2 n)); W = (I + shift) / 2 (Assran et al. 2019; Ying et al.
    2021).
    """
    nodes = np.arange(n)
    at = layout.circle(n)
    turns = []
    for hop in hops(n) or [0]:
        pairs = np.stack([nodes, (nodes + hop) % n], axis=1)
        turns.append(from_pairs("one-peer-exponential", n, pairs, directed=True, positions=at))
    return Cyclic(tuple((graph, weigh(graph)) for graph in turns))


def _base(n: int, arguments: Arguments, weights: str) -> Cyclic:
    """Base-(k+1), k = 1 unless given."""
    _own_weights(weights, arguments.spec)
    k = arguments.whole(1, 1, "base:2, the largest degree")
    at = layout.circle(n)
    turns = []
    for links in base_graph.base_graph(n, k) or [[]]:
        pairs = [(i, j) for i, j, _ in links]
        turns.append((from_pairs(f"base:{k}", n, pairs, positions=at), base_graph.mixing_of(links, n)))
    return Cyclic(tuple(turns))


def _epidemic(
    n: int, arguments: Arguments, weights: str, weigh: Callable[[Graph], Mixing], seed: int
) -> Drawn:
    """De Vos et al. 2023, "Epidemic learning": `oracle` a random s-regular graph a round; `local` every node
    sends to s others of its own choice, and takes the mean of its own and of what it got."""
    form = "epidemic:4, epidemic:4,oracle or epidemic:4,local"
    number, _, kind = arguments.text.partition(",")
    s = Arguments(arguments.spec, number).whole(1, 1, form)
    if kind not in ("", "oracle", "local"):
        raise wrong(f"{arguments.spec}: cannot read {kind!r}", form)
    at = layout.circle(n)
    if kind == "local":
        if s >= n:
            raise wrong(
                f"{arguments.spec} needs at least {s + 1} nodes, not {n}", f"epidemic:{max(n - 1, 1)},local"
            )
        _own_weights(weights, arguments.spec)

        def push(round: int) -> Graph:
            pairs = targets(n, s, round, seed)
            return from_pairs(f"epidemic:{s},local", n, pairs, directed=True, positions=at)

        return Drawn(n, push, schemes.uniform, moments=local_moments(n, s))
    check_regular(n, s, arguments.spec)

    def oracle(round: int) -> Graph:
        pairs = regular_pairs(n, s, generator(seed, Purpose.GRAPH, round))
        return from_pairs(f"epidemic:{s}", n, pairs, positions=at)

    return Drawn(n, oracle, weigh, moments=_moments_of(weigh(oracle(0)), weights))


def targets(n: int, s: int, round: int, seed: int) -> NDArray[np.int64]:
    """To whom every node sends: int64 [n * s, 2] of (sender, receiver), s different receivers each, drawn by
    Floyd's method (Bentley & Floyd 1987), all nodes at once."""
    nodes = np.arange(n)
    chosen = np.full((n, s), -1, dtype=np.int64)
    for slot, top in enumerate(range(n - 1 - s, n - 1)):
        drawn = (bits(seed, Purpose.GRAPH, round, nodes, slot) % np.uint64(top + 1)).astype(np.int64)
        taken = (chosen[:, :slot] == drawn[:, None]).any(axis=1)
        chosen[:, slot] = np.where(taken, top, drawn)
    receivers = chosen + (chosen >= nodes[:, None])
    return np.stack([np.repeat(nodes, s), receivers.ravel()], axis=1)


def local_moments(n: int, s: int) -> Moments:
    """Of W where every node takes the mean of its own value and of those of the R others that chose it.

    own = E 1/(1+R). cross = E |common senders| / ((1+R_i)(1+R_j)), by 1/(1+R) = int_0^1 x^R dx and the
    generating function of (R_i, R_j).
    """
    p = s / (n - 1)
    own = (1.0 - (1.0 - p) ** n) / (n * p)
    both = s * (s - 1) / ((n - 1) * (n - 2)) if n > 2 else 0.0
    points, share = np.polynomial.legendre.leggauss(96)
    x, y = np.meshgrid((points + 1) / 2, (points + 1) / 2)
    area = np.outer(share, share) / 4
    other = 1.0 - 2.0 * p + both + (p - both) * (x + y) + both * x * y
    common = (n - 2) * both * x * y * other ** max(n - 3, 0) * (1 - p + p * x) * (1 - p + p * y)
    direct = 2.0 * p * y * other ** (n - 2) * (1 - p + p * x)
    return Moments(own, float((area * (common + direct)).sum()))


def _moments_of(w: Mixing, weights: str) -> Moments | None:
    """Where every draw has the same degrees, and weights that see only them: rows have the same squares in
    each."""
    if weights not in schemes.SCHEMES or w.n == 1:
        return None
    own = float((w.data**2).sum()) / w.n
    return Moments(own, (1.0 - own) / (w.n - 1))


def _matching(n: int, weights: str, weigh: Callable[[Graph], Mixing], seed: int) -> Drawn:
    """A random pairing of everyone (of all but one, where n is odd)."""
    at = layout.circle(n)

    def pair(round: int) -> Graph:
        order = permutation(seed, Purpose.GRAPH, round, size=n)
        return from_pairs("matching", n, order[: n // 2 * 2].reshape(-1, 2), positions=at)

    return Drawn(n, pair, weigh, moments=_moments_of(weigh(pair(0)), weights))


def _matching_of(
    n: int, arguments: Arguments, weigh: Callable[[Graph], Mixing], seed: int, allow_disconnected: bool
) -> Drawn:
    """A random maximal matching of a graph's edges: greedy, in random order (Boyd et al. 2006, synchronous
    gossip).
    """
    within = build(arguments.text, n, seed=seed, allow_disconnected=allow_disconnected)
    if within.directed:
        raise wrong(f"{arguments.spec}: a matching needs an undirected graph", "matching:ring")
    edges = within.edges()

    def match(round: int) -> Graph:
        free = np.ones(n, dtype=bool)
        kept = []
        for index in np.argsort(
            bits(seed, Purpose.GRAPH, round, edges[:, 0], edges[:, 1]), kind="stable"
        ).tolist():
            i, j = edges[index].tolist()
            if free[i] and free[j]:
                free[i] = free[j] = False
                kept.append((i, j))
        return from_pairs(arguments.spec, n, kept, labels=within.labels, positions=within.positions)

    return Drawn(n, match, weigh, support=within)
