"""Mixing matrices: their formulas, their laws, their mistakes, and the bits of a product with them."""

from __future__ import annotations

import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import DTypeLike

from gossipfl.errors import ConfigError
from gossipfl.topology import WEIGHTS, build, convex, mixing, mixing_matrix, schedule, spectrum
from gossipfl.topology.graph import from_pairs
from gossipfl.topology.weights import SCHEMES, weigh


def test_metropolis_of_a_star_by_hand() -> None:
    expected = np.array(
        [[0.25, 0.25, 0.25, 0.25], [0.25, 0.75, 0, 0], [0.25, 0, 0.75, 0], [0.25, 0, 0, 0.75]]
    )

    np.testing.assert_allclose(mixing_matrix("star", 4), expected, atol=1e-16)


def test_lazy_is_half_way_to_the_identity() -> None:
    np.testing.assert_array_equal(
        mixing_matrix("ring", 7, "lazy"), (np.eye(7) + mixing_matrix("ring", 7)) / 2
    )


def test_max_degree_and_constant_are_laplacian_weights() -> None:
    adjacency = build("karate", None).adjacency.toarray().astype(float)
    laplacian = np.diag(adjacency.sum(0)) - adjacency

    np.testing.assert_allclose(
        mixing_matrix("karate", weights="max-degree"), np.eye(34) - laplacian / 18, atol=1e-15
    )
    np.testing.assert_allclose(
        mixing_matrix("karate", weights="constant:0.05"), np.eye(34) - 0.05 * laplacian, atol=1e-15
    )


def test_best_constant_is_the_best_of_constants() -> None:
    graph = build("karate", None)
    best = spectrum.rho(weigh(graph, "best-constant"))
    alpha = -weigh(graph, "best-constant").dense()[0, 1]

    for other in (0.9, 0.99, 1.01, 1.1):
        assert spectrum.rho(weigh(graph, f"constant:{-alpha * other}")) > best


def test_uniform_takes_the_mean_of_what_comes_in() -> None:
    graph = from_pairs("fan", 3, [(0, 1), (0, 2), (1, 2), (2, 0)], directed=True)

    expected = [[1 / 2, 0, 1 / 2], [1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3]]
    np.testing.assert_allclose(weigh(graph, "uniform").dense(), expected, atol=1e-16)


@pytest.mark.parametrize("weights", ["fdla", "fmmc"])
def test_no_weights_found_by_hand_beat_the_convex_program(weights: str) -> None:
    pytest.importorskip("cvxpy")
    graph = build("topologies/nsfnet.graphml" if Path("topologies").is_dir() else "grid:3x4", None)
    w = weigh(graph, weights)

    assert w.symmetric
    assert w.row_stochastic
    assert (w.matrix.data.min() >= 0.0) or weights == "fdla"
    for other in ("metropolis", "max-degree", "best-constant", "lazy"):
        rival = weigh(graph, other)
        if weights == "fdla" or rival.matrix.data.min() >= 0:
            assert spectrum.rho(w) <= spectrum.rho(rival) + 1e-8


def test_the_convex_program_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cvxpy", None)
    with pytest.raises(
        ConfigError, match=r"topology.weights: fdla needs cvxpy.*pip install 'gossipfl\[weights\]'"
    ):
        mixing_matrix("ring", 8, "fdla")
    with pytest.raises(ConfigError, match=r"101 nodes are too many"):
        mixing_matrix("ring", convex.LARGEST + 1, "fmmc")


def test_the_convex_program_of_no_edges_is_the_identity() -> None:
    assert mixing_matrix("none", 3, "fdla").tolist() == np.eye(3).tolist()
    assert mixing_matrix("none", 3, "best-constant").tolist() == np.eye(3).tolist()


@pytest.mark.parametrize("weights", ["fdla", "fmmc", "max-degree", "best-constant", "data", "constant:0.1"])
def test_symmetric_weights_refuse_a_directed_graph(weights: str) -> None:
    with pytest.raises(ConfigError, match=r"topology.weights: .* the graph is directed; column-stochastic"):
        mixing_matrix("directed-ring", 4, weights, pi=[1, 1, 1, 1])


def test_metropolis_takes_a_directed_graph_only_where_all_degrees_are_the_same() -> None:
    uneven = from_pairs("uneven", 3, [(0, 1), (1, 2), (2, 0), (0, 2)], directed=True)

    assert mixing_matrix("directed-ring", 3).tolist() == [[0.5, 0.0, 0.5], [0.5, 0.5, 0.0], [0.0, 0.5, 0.5]]
    with pytest.raises(ConfigError, match=r"metropolis on uneven: a directed graph with unequal degrees"):
        weigh(uneven)


@pytest.mark.parametrize(
    ("weights", "pi", "key", "message"),
    [
        ("metropolys", None, "topology.weights", "no weights 'metropolys'; one of metropolis, max-degree"),
        ("constant:x", None, "topology.weights", "'x' is no positive number"),
        ("constant:-1", None, "topology.weights", "'-1' is no positive number"),
        ("data", None, "topology.pi", "the nodes' data sizes; 4 positive numbers"),
        ("data", [1, 2, 3], "topology.pi", "3 numbers for 4 nodes"),
        ("data", [1, 2, 3, 0], "topology.pi", "a size is not positive"),
        ("no_such_module:f", None, "topology.weights", "does not import"),
    ],
)
def test_wrong_weights_are_named(weights: str, pi: list[float] | None, key: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        mixing_matrix("ring", 4, weights, pi=pi)

    assert caught.value.problems[0].key == key
    assert message in str(caught.value)


def test_every_name_of_weights_is_known() -> None:
    assert set(WEIGHTS) == {*SCHEMES, "constant:ALPHA", "data"}


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_weights.py").write_text(
        "import numpy as np\n"
        "def third(graph): return (np.eye(graph.n) + graph.adjacency.toarray()) / 3\n"
        "def rows(graph): return np.eye(graph.n) * 0.5\n"
        "def everyone(graph): return np.full((graph.n, graph.n), 1 / graph.n)\n"
        "def shape(graph): return np.eye(2)\n"
        "def raises(graph): return graph.nothing\n"
        "def nothing(graph): return None\n"
        "def ragged(graph): return [[1], [1, 2]]\n"
        "def turned(graph): return 1j * np.eye(graph.n)\n"
        "def kept(graph): return sp.eye_array(graph.n) * 0.5 + graph.adjacency * 0.25\n"
        "import scipy.sparse as sp\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_weights", raising=False)
    return "own_weights"


def test_a_function_of_ones_own_makes_the_matrix(plugin: str) -> None:
    np.testing.assert_allclose(mixing_matrix("ring", 6, f"{plugin}:third"), mixing_matrix("ring", 6))
    np.testing.assert_array_equal(mixing_matrix("ring", 6, f"{plugin}:kept")[0, :3], [0.5, 0.25, 0])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("rows", "row 0 sums to 0.5; every row must sum to 1"),
        ("everyone", "w[0, 2] is not 0, but 2 does not send to 0"),
        ("shape", "returned shape (2, 2); a matrix of shape (6, 6)"),
        ("missing", "has no function missing"),
        ("raises", "own_weights:raises: AttributeError: "),
        ("nothing", "returned object; a matrix of real numbers"),
        ("ragged", "own_weights:ragged: ValueError: "),
        ("turned", "returned complex128; a matrix of real numbers"),
    ],
)
def test_a_function_that_returns_no_mixing_matrix_is_named(plugin: str, function: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        mixing_matrix("ring", 6, f"{plugin}:{function}")
    assert message in str(caught.value)


def test_a_row_lists_a_node_and_its_neighbors_in_order() -> None:
    w = schedule("star", 4).mixing(0)

    columns, values = w.row(2)

    assert (columns.tolist(), values.tolist()) == ([0, 2], [0.25, 0.75])
    assert columns.dtype == np.int64


def test_the_diagonal_is_stored_also_where_it_is_zero() -> None:
    w = mixing.from_matrix(np.array([[0.0, 1.0], [1.0, 0.0]]))

    assert w.row(0)[0].tolist() == [0, 1]
    assert w.matrix.nnz == 4


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("spec", ["ring", "torus:8x8", "star", "exponential", "regular:6", "complete"])
def test_a_sparse_product_is_the_ordered_sum_bit_for_bit(spec: str, dtype: DTypeLike) -> None:
    # given W in the type of X, and X with values of very different sizes
    w = schedule(spec, 64).mixing(0)
    rng = np.random.default_rng(5)
    x = (rng.normal(size=(64, 33)) * 10.0 ** rng.integers(-6, 7, size=(64, 33))).astype(dtype)
    matrix = w.matrix.astype(dtype)
    # when summed by hand: from +0.0, by ascending column, a product and then a sum
    expected = np.zeros_like(x)
    for i in range(64):
        columns, values = w.row(i)
        for j, value in zip(columns, values.astype(dtype), strict=True):
            product = value * x[j]
            expected[i] = expected[i] + product
    # then scipy's product has the same bits, signs of zero included
    product_by_scipy = np.asarray(matrix @ x)
    assert product_by_scipy.dtype == dtype
    assert product_by_scipy.tobytes() == expected.tobytes()


def test_ten_thousand_nodes_of_degree_eight_take_two_seconds_and_a_hundred_megabytes() -> None:
    tracemalloc.start()
    before = time.process_time()
    try:
        w = schedule("regular:8", 10_000).mixing(0)
        rho = spectrum.rho(w)
        seconds = time.process_time() - before
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert w.matrix.nnz == 90_000
    assert 0.69 < rho < 0.71
    assert seconds < 2.0
    assert peak < 100e6


@pytest.mark.parametrize(
    ("spec", "n", "weights"),
    [
        ("torus", 600, "metropolis"),
        ("regular:6", 600, "metropolis"),
        ("ring", 700, "metropolis"),
        ("erdos-renyi:0.05", 600, "best-constant"),
        ("star", 600, "metropolis"),
        ("grid", 600, "uniform"),
        ("exponential", 600, "metropolis"),
        ("small-world:6,0.2", 600, "lazy"),
        ("directed-ring", 600, "lazy"),
        ("regular:6", 600, "constant:0.19"),
    ],
)
def test_sparse_and_dense_eigenvalues_agree(
    spec: str, n: int, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sparse = spectrum.rho(schedule(spec, n, weights=weights).mixing(0))
    monkeypatch.setattr(spectrum, "DENSE", 1000)
    dense = spectrum.rho(schedule(spec, n, weights=weights).mixing(0))

    assert sparse == pytest.approx(dense, abs=1e-9)


@pytest.mark.parametrize("spec", ["torus:20x30", "one-peer-exponential", "base:2", "exponential"])
def test_estimated_effective_neighbors_are_near_the_exact_ones(
    spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = schedule(spec, 600)
    cycle = [made.mixing(round) for round in range(made.length or 0)]
    estimated = [spectrum.effective_neighbors(cycle, gamma) for gamma in (0.9, 0.99)]
    monkeypatch.setattr(spectrum, "DENSE", 1000)
    exact = [spectrum.effective_neighbors(cycle, gamma) for gamma in (0.9, 0.99)]

    assert estimated == pytest.approx(exact, rel=0.01)


def test_the_rate_of_a_large_cycle_is_that_of_its_dense_product(monkeypatch: pytest.MonkeyPatch) -> None:
    cycle = [schedule("one-peer-exponential", 600).mixing(round) for round in range(10)]
    sparse = spectrum.product(cycle)
    monkeypatch.setattr(spectrum, "DENSE", 1000)

    assert sparse == pytest.approx(spectrum.product(cycle), rel=1e-6)
