"""Schedules: which graph in which round, the same at every node, and how fast they mix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gossipfl.errors import ConfigError
from gossipfl.topology import describe, schedule
from gossipfl.topology.base_graph import factors
from gossipfl.topology.describing import rounds_to_consensus
from gossipfl.topology.schedules import local_moments, targets

RANDOM = ["epidemic:2", "epidemic:3,local", "matching", "matching:torus:4x4"]


def test_a_graph_is_a_schedule_of_length_one() -> None:
    made = schedule("ring", 8)

    assert (made.n, made.length) == (8, 1)
    assert made.graph(0) is made.graph(99)
    assert made.mixing(0) is made.mixing(99)


def test_one_peer_exponential_reaches_twice_as_far_each_round() -> None:
    made = schedule("one-peer-exponential", 12)

    assert made.length == 4
    assert [made.graph(t).neighbors(10).tolist() for t in range(6)] == [[11], [0], [2], [6], [11], [0]]
    assert made.mixing(1).row(0)[0].tolist() == [0, 10]
    assert made.mixing(1).row(0)[1].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("spec", RANDOM)
def test_every_node_derives_the_same_random_round_by_itself(spec: str) -> None:
    one, other = schedule(spec, 16, seed=7), schedule(spec, 16, seed=7)
    late = other.graph(40)  # the other node asks in another order

    assert one.length is None
    assert [one.graph(t) == other.graph(t) for t in range(5)] == [True] * 5
    assert one.graph(40) == late
    assert one.mixing(3).dense().tobytes() == other.mixing(3).dense().tobytes()


@pytest.mark.parametrize("spec", RANDOM)
def test_random_rounds_and_seeds_differ(spec: str) -> None:
    made, other = schedule(spec, 16, seed=7), schedule(spec, 16, seed=8)

    assert len({made.graph(t) for t in range(20)}) > 15
    assert any(made.graph(t) != other.graph(t) for t in range(3))


def test_epidemic_oracle_is_regular_and_local_has_its_out_degree() -> None:
    for t in range(20):
        assert set(schedule("epidemic:3", 16).graph(t).out_degrees.tolist()) == {3}
        assert set(schedule("epidemic:3,local", 16).graph(t).out_degrees.tolist()) == {3}


def test_local_targets_are_uniform_over_the_others() -> None:
    # given 2,000 rounds of 6 nodes with 2 targets each
    counts = np.zeros((6, 6))
    for round in range(2000):
        pairs = targets(6, 2, round, 1)
        np.add.at(counts, (pairs[:, 0], pairs[:, 1]), 1)
    # then nobody sends to itself, and everyone to each other in 2 of 5 rounds
    assert np.diag(counts).tolist() == [0.0] * 6
    off = counts[~np.eye(6, dtype=bool)] / 2000
    assert np.abs(off - 0.4).max() < 5 * np.sqrt(0.24 / 2000)


@pytest.mark.parametrize(("spec", "edges"), [("matching", 8), ("matching:ring", None)])
def test_in_a_matching_everyone_meets_at_most_one(spec: str, edges: int | None) -> None:
    made = schedule(spec, 16)
    for t in range(20):
        graph = made.graph(t)
        assert graph.out_degrees.max() <= 1
        assert edges is None or len(graph.edges()) == edges
        if spec == "matching:ring":  # maximal: no two neighbors on the ring are both free
            free = graph.out_degrees == 0
            assert not (free & np.roll(free, 1)).any()
            gaps = np.abs(np.diff(graph.edges(), axis=1)).ravel()
            assert set(gaps.tolist()) <= {1, 15}


def test_a_list_of_files_is_a_cycle(tmp_path: Path) -> None:
    (tmp_path / "a.edges").write_text("0 1\n2 3\n")
    (tmp_path / "b.edges").write_text("1 2\n3 0\n")
    files = [tmp_path / "a.edges", tmp_path / "b.edges"]

    made = schedule(files, 4)
    figures = describe(files, 4)

    assert made.length == 2
    assert made.graph(2) == made.graph(0) != made.graph(1)
    assert (figures["rounds_to_exact"], figures["edges"], figures["messages_per_round"]) == (2, 4, 4)
    assert (figures["connected"], figures["diameter"], figures["rho"]) == (True, 2, 0.0)


def test_a_cycle_that_never_connects_or_disagrees_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.edges").write_text("0 1\n2 3\n")
    (tmp_path / "b.edges").write_text("a b\nb c\n")
    (tmp_path / "c.edges").write_text("b a\nb c\n")
    a, b, c = (tmp_path / f"{name}.edges" for name in "abc")

    with pytest.raises(ConfigError, match=r"topology.graph: a is not connected|a \+ a"):
        schedule([a, a], 4)
    with pytest.raises(ConfigError, match=r"a has 4 nodes, b has 3"):
        schedule([a, b], None)
    with pytest.raises(ConfigError, match=r"b and c name their nodes in different orders"):
        schedule([b, c], None)
    with pytest.raises(ConfigError, match=r"an empty list of graphs"):
        schedule([], 4)


@pytest.mark.parametrize(
    ("spec", "n", "message"),
    [
        ("base:0", 8, "0 is less than 1"),
        ("base:x", 8, "cannot read 'x'; base:2"),
        ("epidemic:9", 8, "needs at least 10 nodes, not 8"),
        ("epidemic:3", 9, "8 or 10 nodes, or degree 2 or 4"),
        ("epidemic:3,remote", 10, "cannot read 'remote'"),
        ("epidemic:8,local", 8, "epidemic:7,local"),
        ("matching:exponential", 8, "needs an undirected graph"),
        ("matching:torus:3x3", 8, "9 nodes, or torus:2x4"),
        ("one-peer-exponential:2", 8, "takes no arguments"),
    ],
)
def test_an_impossible_schedule_names_what_works(spec: str, n: int, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        schedule(spec, n)

    assert caught.value.problems[0].key == "topology.graph"
    assert message in str(caught.value)


@pytest.mark.parametrize("spec", ["base:2", "epidemic:2,local"])
def test_a_schedule_with_a_matrix_of_its_own_takes_no_weights(spec: str) -> None:
    with pytest.raises(ConfigError, match=r"topology.weights: lazy on .* has a mixing matrix of its own"):
        schedule(spec, 8, weights="lazy")


def test_other_schedules_take_weights() -> None:
    assert schedule("one-peer-exponential", 8, weights="column-stochastic").mixing(0).column_stochastic
    assert schedule("matching", 8, weights="lazy").mixing(0).dense()[0, 0] == 0.75


@pytest.mark.parametrize("spec", ["epidemic:2", "epidemic:2,local", "matching"])
def test_closed_forms_of_random_schedules_are_what_rounds_show(spec: str) -> None:
    # given 4,000 rounds on 7 nodes (of even degree, so that the oracle exists)
    n, gamma, rounds = 7, 0.9, 4000
    made, figures = schedule(spec, n, seed=5), describe(spec, n)
    z = np.random.default_rng(0).normal(size=n)
    z -= z.mean()
    shrunk, variance, c = [], [], np.zeros((n, n))
    for t in range(rounds):
        w = made.mixing(t).dense()
        shrunk.append(np.sum((w @ z) ** 2) / np.sum(z**2))
        c = w @ (np.eye(n) + gamma * c) @ w.T
        variance.append(np.trace(c) / n)
    # then the mean contraction and the steady variance are those of the closed forms
    error = 5 * np.std(shrunk) / np.sqrt(rounds)
    assert figures["contraction"] == pytest.approx(np.mean(shrunk), abs=error)
    neighbors = figures["effective_neighbours"]
    assert isinstance(neighbors, dict)
    assert neighbors["0.9"] == pytest.approx(10 / np.mean(variance[200:]), rel=0.02)


def test_local_moments_of_two_nodes_are_those_of_complete() -> None:
    assert local_moments(2, 1) == pytest.approx((0.5, 0.5), abs=1e-14)


def test_a_random_matching_of_a_graph_is_averaged_over_rounds() -> None:
    figures = describe("matching:ring", 12)
    made = schedule("matching:ring", 12)
    mean = sum(made.mixing(t).dense() for t in range(400)) / 400  # W W = W for a matching

    assert figures["contraction"] == pytest.approx(np.linalg.eigvalsh(mean - 1 / 12)[-1], abs=1e-10)
    assert figures["effective_neighbours"] == {"0.9": None, "0.99": None}
    assert figures["edges"] == 12


@pytest.mark.parametrize(("n", "largest", "count"), [(24, 6, 2), (8, 2, 3), (36, 9, 2), (7, 7, 1), (1, 3, 0)])
def test_factors_are_the_fewest(n: int, largest: int, count: int) -> None:
    found = factors(n, largest)

    assert found is not None
    assert (len(found), int(np.prod(found))) == (count, n)
    assert all(2 <= factor <= largest for factor in found)


def test_a_large_prime_has_no_factors() -> None:
    assert factors(7, 6) is None


def test_base_graphs_are_large_and_quick() -> None:
    figures = describe("base:1", 1000)

    assert figures["rounds_to_exact"] == figures["schedule_length"]
    assert figures["rho"] == 0.0


@pytest.mark.parametrize(
    ("rate", "exact", "rounds"),
    [(0.5, None, 10), (0.0, None, 1), (1.0, None, None), (0.0, 5, 5), (0.1, None, 3)],
)
def test_rounds_to_consensus_follow_the_rate(rate: float, exact: int | None, rounds: int | None) -> None:
    assert rounds_to_consensus(rate, exact) == rounds


def test_predicted_rounds_are_enough_and_not_too_many() -> None:
    made, figures = schedule("ring", 16), describe("ring", 16)
    needed = figures["rounds_to_consensus"]
    assert isinstance(needed, int)
    power = np.linalg.matrix_power(made.mixing(0).dense(), needed) - 1 / 16
    before = np.linalg.matrix_power(made.mixing(0).dense(), needed - 1) - 1 / 16

    assert np.linalg.norm(power, 2) <= 1e-3 < np.linalg.norm(before, 2)


@pytest.mark.parametrize(("spec", "n"), [("epidemic:2,local", 3), ("epidemic:1,local", 2), ("matching", 2)])
def test_a_random_schedule_that_is_exact_by_its_size_contracts_to_nothing(spec: str, n: int) -> None:
    figures = describe(spec, n)

    assert figures["contraction"] == pytest.approx(0, abs=1e-12)
    assert figures["rounds_to_consensus"] == 1


def test_weights_that_blow_up_have_no_effective_neighbors() -> None:
    for n in (16, 600):
        figures = describe("ring", n, weights="constant:5")
        assert figures["effective_neighbours"] == {"0.9": None, "0.99": None}
        assert figures["rounds_to_consensus"] is None
