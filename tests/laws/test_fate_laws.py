"""Laws of what nodes among machines believe of each other: whoever dies and comes back, the living end up
connected, and believe what is so."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csgraph

from gossipfl.core.fates import Fates
from gossipfl.core.messages import Fate
from gossipfl.topology import Graph, build
from gossipfl.topology.rewire import Rewiring
from gossipfl.topology.weights import weigh
from tests.laws.test_rewire_laws import SIZES, STATIC, graphs

GONE, LOOK = 10.0, 4.0
UNTIMED = settings(deadline=None, max_examples=40)


class World:
    """Nodes that come and go. Their words take their time: which arrives next is drawn. Those who are wanted
    as neighbors are dialled, and found if they live."""

    def __init__(self, graph: Graph, seed: int, cut: Collection[tuple[int, int]] = ()) -> None:
        """cut: pairs of nodes that never have a line, although both may live."""
        self.n, self.graph, self.cut = graph.n, graph, {frozenset(pair) for pair in cut}
        self.rule = Rewiring(weigh(graph, "metropolis"))
        self.edges: dict[frozenset[int], list[tuple[int, int]]] = {}
        self.draw = np.random.default_rng(seed)
        self.alive = [True] * graph.n
        self.fates = [Fates(i) for i in range(graph.n)]
        self.wanted: list[set[int]] = [set() for _ in range(graph.n)]
        self.lines: set[frozenset[int]] = set()
        self.mail: dict[tuple[int, int], deque[Fate]] = {}

    def up(self, i: int) -> list[int]:
        return sorted(j for line in self.lines if i in line for j in line - {i})

    def send(self, i: int, words: Collection[Fate], peers: Collection[int]) -> None:
        for j in peers:
            self.mail.setdefault((i, j), deque()).extend(words)

    def connect(self) -> None:
        """The lines that can stand do, and those of the dead do not."""
        there = {
            frozenset((i, j))
            for i in range(self.n)
            for j in {*self.graph.neighbors(i), *self.wanted[i]}
            if self.alive[i] and self.alive[j]
        } - self.cut
        kept = {line for line in self.lines if all(self.alive[i] for i in line)}
        new, self.lines = there - self.lines, there | kept
        self.mail = {pair: words for pair, words in self.mail.items() if frozenset(pair) in self.lines}
        for i, j in sorted(tuple(sorted(line)) for line in new):
            self.send(i, self.fates[i].told(), [j])
            self.send(j, self.fates[j].told(), [i])

    def deliver(self) -> None:
        while pending := sorted(pair for pair, words in self.mail.items() if words):
            i, j = pending[self.draw.integers(len(pending))]
            word = self.mail[i, j].popleft()
            words = self.fates[j].hear(word, self.up(j))
            self.send(j, words, [k for k in self.up(j) if k != i or words != [word]])

    def run(self, seconds: float) -> None:
        for _ in range(int(seconds / LOOK)):
            self.connect()
            for i in self.draw.permutation(self.n).tolist():
                if self.alive[i]:
                    up = self.up(i)
                    near = {*self.graph.neighbors(i), *self.wanted[i]} - {*up}
                    self.send(i, self.fates[i].look(up, dict.fromkeys(near, GONE), LOOK), up)
            self.deliver()
            for i in range(self.n):
                if self.alive[i]:
                    self.wanted[i] = self.peers(i, self.fates[i].gone - {*self.up(i)})

    def peers(self, i: int, gone: frozenset[int]) -> set[int]:
        edges = self.edges.get(gone)
        if edges is None:
            edges = self.edges[gone] = self.rule.edges(gone)
        return {a + b - i for a, b in edges if i in (a, b)}

    def begin_again(self, i: int) -> None:
        """A node is back, and has forgotten all."""
        self.alive[i], self.fates[i], self.wanted[i] = True, Fates(i), set()

    def parts(self) -> int:
        """How many parts the living are in, by edges that count: both ends want them, and live."""
        w = np.zeros((self.n, self.n))
        for i in range(self.n):
            for j in {*self.graph.neighbors(i), *(k for k in self.wanted[i] if i in self.wanted[k])}:
                w[i, j] = self.alive[i] and self.alive[j] and frozenset((i, j)) not in self.cut
        living = [i for i in range(self.n) if self.alive[i]]
        return int(csgraph.connected_components(w[np.ix_(living, living)], directed=False)[0])


def require_around(graph: Graph, dead: Collection[int], back: Collection[int], seed: int) -> None:
    world = World(graph, seed)
    world.run(LOOK)
    for i in dead:
        world.alive[i] = False
    # a part of k dead is found out rim by rim: no more times than there are dead
    world.run((GONE + 2 * LOOK) * (len(dead) + 1))
    assert world.alive.count(True) < 2 or world.parts() == 1

    for i in back:
        world.begin_again(i)
    world.run((GONE + 2 * LOOK) * (len(dead) + 1))
    assert world.alive.count(True) < 2 or world.parts() == 1
    living = [i for i in range(world.n) if world.alive[i]]
    assert all(not (world.fates[i].gone & {*living}) for i in living)
    if set(back) == set(dead):
        assert not any(world.wanted)


@pytest.mark.parametrize("name", STATIC)
def test_the_living_of_every_family_find_each_other_and_make_way_for_who_is_back(name: str) -> None:
    from gossipfl.topology import FAMILIES

    graph = build(FAMILIES[name].example, SIZES.get(name, 16), seed=3)
    draw = np.random.default_rng(7)

    for share in (0.2, 0.5, 0.8):
        dead = np.flatnonzero(draw.random(graph.n) < share).tolist()
        require_around(graph, dead, dead if share < 0.6 else dead[::2], seed=int(10 * share))


@UNTIMED
@given(graphs(), st.data())
def test_whoever_dies_and_whoever_comes_back_of_them(graph: Graph, data: st.DataObject) -> None:
    dead = data.draw(st.sets(st.integers(0, graph.n - 1), max_size=graph.n - 1))
    back = data.draw(st.sets(st.sampled_from(sorted(dead)))) if dead else set()

    require_around(graph, sorted(dead), sorted(back), data.draw(st.integers(0, 99)))


def test_parts_that_are_cut_off_from_each_other_go_on_alone_and_heal() -> None:
    graph = build("ring", 8)
    halves = [(i, j) for i in range(4) for j in range(4, 8)]
    world = World(graph, 1, halves)
    world.run(100)
    # each half is its own, whatever it believes of the other
    assert world.parts() == 2
    assert all(world.fates[i].gone == frozenset(range(4, 8) if i < 4 else range(4)) for i in range(8))

    world.cut = set()
    world.run(LOOK)

    assert world.parts() == 1
    assert not any(fates.gone for fates in world.fates) and not any(world.wanted)


def test_a_node_that_some_cannot_reach_is_not_gone_and_they_say_so_more_and_more_seldom() -> None:
    world = World(build("complete", 4), 1, [(0, 1)])

    world.run(GONE + LOOK)
    assert [fates.told() for fates in world.fates] == [[Fate(0, 2), Fate(1, 2)]] * 4
    world.run(1000)

    turns = {word.turns for fates in world.fates for word in fates.told()}
    assert len(turns) == 1 and turns.pop() <= 2 * 8  # after 10 s, 20, 40, …
    assert not any(fates.gone for fates in world.fates)


def test_who_is_said_to_be_gone_and_hears_of_it_is_not() -> None:
    fates = Fates(3)

    assert fates.hear(Fate(3, 5), up=()) == [Fate(3, 6)]
    assert fates.hear(Fate(2, 1), up=(2,)) == [Fate(2, 2)]
    assert fates.hear(Fate(1, 1), up=(2,)) == [Fate(1, 1)] and fates.gone == {1}
    assert fates.hear(Fate(1, 1), up=(2,)) == []
