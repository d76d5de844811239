"""Laws of graphs, mixing matrices and schedules, over random graphs, sizes and seeds."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gossipfl.errors import ConfigError
from gossipfl.topology import Graph, build, describe, mixing_matrix, schedule
from gossipfl.topology.graph import from_pairs
from gossipfl.topology.weights import weigh

DOUBLY = ("metropolis", "max-degree", "best-constant", "lazy", "constant:0.01")
UNTIMED = settings(deadline=None)
"""A law is no less true on a busy machine."""
sizes = st.integers(2, 40)
seeds = st.integers(0, 2**63)


@st.composite
def graphs(draw: st.DrawFn, *, directed: bool = False, largest: int = 16) -> Graph:
    """A connected graph: a random tree (a ring, if directed), and random edges."""
    n = draw(st.integers(2, largest))
    order = draw(st.permutations(range(n)))
    if directed:
        pairs = [(order[i], order[(i + 1) % n]) for i in range(n)]
    else:
        pairs = [(order[i], order[draw(st.integers(0, i - 1))]) for i in range(1, n)]
    nodes = st.integers(0, n - 1)
    return from_pairs(
        "drawn", n, pairs + draw(st.lists(st.tuples(nodes, nodes), max_size=2 * n)), directed=directed
    )


def supported(w: NDArray[np.float64], graph: Graph) -> bool:
    """Is w zero wherever j does not send to i?"""
    off = (graph.adjacency.toarray() == 0) & ~np.eye(graph.n, dtype=bool)
    return bool((w[off] == 0).all())


@UNTIMED
@given(graphs(), st.sampled_from(DOUBLY))
def test_symmetric_weights_are_doubly_stochastic_on_the_graph(graph: Graph, weights: str) -> None:
    w = weigh(graph, weights).dense()

    assert np.abs(w.sum(axis=1) - 1).max() < 1e-12
    np.testing.assert_array_equal(w, w.T)
    assert supported(w, graph)
    assert graph.adjacency.nnz == np.count_nonzero(w - np.diag(np.diag(w)))


@UNTIMED
@given(graphs(), st.data())
def test_data_weights_are_reversible_to_the_sizes(graph: Graph, data: st.DataObject) -> None:
    pi = np.array(
        data.draw(st.lists(st.integers(1, 10_000), min_size=graph.n, max_size=graph.n)), dtype=float
    )

    w = weigh(graph, "data", pi).dense()

    assert np.abs(w.sum(axis=1) - 1).max() < 1e-12
    assert w.min() >= 0
    np.testing.assert_allclose(pi[:, None] * w, (pi[:, None] * w).T, rtol=1e-12)
    assert supported(w, graph)


@UNTIMED
@given(graphs(), st.integers(1, 1000))
def test_data_weights_of_equal_sizes_are_metropolis(graph: Graph, size: int) -> None:
    same = weigh(graph, "data", np.full(graph.n, float(size))).dense()

    np.testing.assert_allclose(same, weigh(graph).dense(), atol=1e-12)


@UNTIMED
@given(graphs(directed=True))
def test_directed_weights_sum_to_one_by_rows_or_by_columns(graph: Graph) -> None:
    rows, columns = weigh(graph, "uniform").dense(), weigh(graph, "column-stochastic").dense()

    assert np.abs(rows.sum(axis=1) - 1).max() < 1e-12
    assert np.abs(columns.sum(axis=0) - 1).max() < 1e-12
    assert min(rows.min(), columns.min()) >= 0
    assert supported(rows, graph)
    assert supported(columns, graph)


@UNTIMED
@given(graphs(), st.sampled_from((*DOUBLY, "uniform", "column-stochastic")))
def test_relabelling_nodes_relabels_w(graph: Graph, weights: str) -> None:
    order = np.random.default_rng(graph.n).permutation(graph.n)
    renamed = from_pairs("renamed", graph.n, order[graph.arcs], directed=graph.directed)

    w, other = weigh(graph, weights).dense(), weigh(renamed, weights).dense()

    np.testing.assert_allclose(other[np.ix_(order, order)], w, atol=1e-12)


@UNTIMED
@given(graphs(), st.sampled_from(("metropolis", "max-degree", "uniform")))
def test_rho_is_below_one_exactly_where_everyone_is_reached(graph: Graph, weights: str) -> None:
    figures = describe(graph, weights=weights)
    power = np.linalg.matrix_power(weigh(graph, weights).dense(), 20_000)

    assert figures["connected"] is True
    assert float(str(figures["rho"])) < 1
    assert np.ptp(power, axis=0).max() < 1e-6


SPECS = (
    "ring",
    "path",
    "star",
    "complete",
    "tree:2",
    "tree:3",
    "regular:4",
    "erdos-renyi",
    "small-world",
    "geometric",
)


@UNTIMED
@given(st.sampled_from(SPECS), sizes, seeds)
def test_every_static_graph_is_connected_simple_and_its_seeds_own(spec: str, n: int, seed: int) -> None:
    try:
        graph = build(spec, n, seed=seed)
    except ConfigError:
        return
    assert graph == build(spec, n, seed=seed)
    assert graph.connected()
    assert (graph.arcs[:, 0] != graph.arcs[:, 1]).all()
    assert np.array_equal(graph.arcs, np.unique(graph.arcs, axis=0))
    assert np.array_equal(graph.adjacency.toarray(), graph.adjacency.toarray().T)


@UNTIMED
@given(st.integers(1, 130), st.integers(1, 6))
def test_base_graphs_are_exact_doubly_stochastic_and_of_their_degree(n: int, k: int) -> None:
    made = schedule(f"base:{k}", n)
    product = np.eye(n)
    for round in range(made.length or 0):
        w = made.mixing(round).dense()
        assert np.abs(w.sum(axis=1) - 1).max() < 1e-12
        np.testing.assert_array_equal(w, w.T)
        assert w.min() >= 0
        assert supported(w, made.graph(round))
        assert made.graph(round).out_degrees.max() <= k
        product = w @ product

    assert np.abs(product - 1 / n).max() < 1e-12


@UNTIMED
@given(st.integers(2, 8))
def test_one_peer_exponential_is_exact_on_powers_of_two(power: int) -> None:
    n = 2**power
    product = np.eye(n)
    for round in range(power):
        product = schedule("one-peer-exponential", n).mixing(round).matrix @ product

    assert np.abs(product - 1 / n).max() < 1e-12


@UNTIMED
@given(
    st.sampled_from(("epidemic:1", "epidemic:4", "epidemic:2,local", "matching", "matching:ring")),
    sizes,
    seeds,
    st.integers(0, 2**31),
)
def test_random_schedules_agree_between_nodes_and_keep_their_laws(
    spec: str, n: int, seed: int, round: int
) -> None:
    try:
        mine, yours = schedule(spec, n, seed=seed), schedule(spec, n, seed=seed)
    except ConfigError:
        return
    yours.mixing(round + 1)

    w = mine.mixing(round).dense()

    assert w.tobytes() == yours.mixing(round).dense().tobytes()
    assert mine.graph(round) == yours.graph(round)
    assert np.abs(w.sum(axis=1) - 1).max() < 1e-12
    assert supported(w, mine.graph(round))
    if "local" not in spec:
        assert np.abs(w.sum(axis=0) - 1).max() < 1e-12


@UNTIMED
@given(
    st.sampled_from(("ring", "torus", "exponential", "star", "one-peer-exponential", "base:2")),
    st.integers(4, 24),
)
def test_effective_neighbors_lie_between_one_and_all(spec: str, n: int) -> None:
    try:
        found = describe(spec, n)["effective_neighbours"]
    except ConfigError:
        return
    assert isinstance(found, dict)
    assert 1 - 1e-9 <= found["0.9"] <= found["0.99"] <= n + 1e-9


@UNTIMED
@given(graphs(largest=10))
def test_mixing_matrix_of_an_adjacency_is_that_of_the_graph(graph: Graph) -> None:
    np.testing.assert_array_equal(
        mixing_matrix(graph.adjacency.toarray().astype(float)), weigh(graph).dense()
    )
