"""Laws of the edges around the dead: over random graphs, every family, and any set of deaths."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csgraph

from gossipfl.topology import FAMILIES, Graph, build
from gossipfl.topology.graph import from_pairs
from gossipfl.topology.mixing import Mixing
from gossipfl.topology.rewire import Rewiring
from gossipfl.topology.weights import weigh

#: The families that are directed, or not connected.
OTHERS = {"none", "directed-ring", "exponential"}
WEIGHTS = ("metropolis", "max-degree", "lazy", "constant:0.01")
UNTIMED = settings(deadline=None, max_examples=60)
"""A law is no less true on a busy machine."""
SIZES = {"grid": 21, "torus": 32, "petersen": 10, "karate": 34, "davis": 32}
STATIC = [name for name, family in FAMILIES.items() if family.make is not None and name not in OTHERS]


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """A connected graph: a random tree, and random edges."""
    n = draw(st.integers(2, 16))
    pairs = [(i, draw(st.integers(0, i - 1))) for i in range(1, n)]
    nodes = st.integers(0, n - 1)
    return from_pairs("drawn", n, pairs + draw(st.lists(st.tuples(nodes, nodes), max_size=2 * n)))


def require_law(base: Mixing, dead: set[int]) -> None:
    """The living are connected, and W is symmetric, doubly stochastic and nonnegative."""
    w = Rewiring(base).mixing(dead).dense()
    living = [i for i in range(base.n) if i not in dead]

    np.testing.assert_array_equal(w, w.T)
    assert np.abs(w.sum(axis=1) - 1).max() < 1e-12
    assert w.min() >= 0
    among = w[np.ix_(living, living)]
    assert not living or csgraph.connected_components(among != 0)[0] == 1
    # and a node keeps at least half of what it kept, so that no edge is tight
    assert (np.diag(w)[living] >= np.diag(base.dense())[living] / 2 - 1e-12).all()


@UNTIMED
@given(graphs(), st.sampled_from(WEIGHTS), st.data())
def test_the_living_of_a_connected_graph_stay_connected(
    graph: Graph, weights: str, data: st.DataObject
) -> None:
    dead = data.draw(st.sets(st.integers(0, graph.n - 1)))

    require_law(weigh(graph, weights), dead)


@pytest.mark.parametrize("name", STATIC)
def test_in_every_family_whoever_dies(name: str) -> None:
    family = FAMILIES[name]
    graph = build(family.example, SIZES.get(name, 16), seed=3)
    draw = np.random.default_rng(5)

    for share in (0.1, 0.3, 0.6, 0.9):
        dead = set(np.flatnonzero(draw.random(graph.n) < share).tolist())
        require_law(weigh(graph, "metropolis"), dead)


@UNTIMED
@given(graphs(), st.data())
def test_each_node_finds_the_edges_that_the_others_find(graph: Graph, data: st.DataObject) -> None:
    dead = data.draw(st.sets(st.integers(0, graph.n - 1)))
    rules = [Rewiring(weigh(graph, "metropolis")) for _ in range(graph.n)]

    found = {(i, j) for i, rule in enumerate(rules) for j in rule.peers(i, dead)}

    assert found == {(j, i) for i, j in found}
    assert all(rules[i].weight(i, j) == rules[j].weight(j, i) > 0 for i, j in found)
    assert not {i for i, _ in found} & dead
    assert not any(j in graph.neighbors(i) for i, j in found)


@UNTIMED
@given(graphs(), st.data())
def test_whatever_each_believes_nobody_gives_away_more_than_it_has(graph: Graph, data: st.DataObject) -> None:
    base = weigh(graph, "metropolis")
    rule, some = Rewiring(base), st.sets(st.integers(0, graph.n - 1))
    believed = [data.draw(some) - {i} for i in range(graph.n)]
    wanted = [set(rule.peers(i, believed[i])) for i in range(graph.n)]

    # an edge counts where both ends want it, an edge of the graph where neither end believes the other dead
    w = base.dense()
    np.fill_diagonal(w, 0.0)
    for i in range(graph.n):
        for j in believed[i]:
            w[i, j] = w[j, i] = 0.0
        for j in wanted[i]:
            if i in wanted[j]:
                w[i, j] = rule.weight(i, j)

    np.testing.assert_array_equal(w, w.T)
    assert w.sum(axis=1).max() <= 1 + 1e-12


def test_a_star_without_its_centre_is_a_ring_and_a_path_is_bridged() -> None:
    star, path = (Rewiring(weigh(build(name, 6), "metropolis")) for name in ("star", "path"))

    assert star.edges({0}) == [(1, 2), (1, 5), (2, 3), (3, 4), (4, 5)]
    assert path.edges({2, 3}) == [(1, 4)] and path.edges({0}) == []
