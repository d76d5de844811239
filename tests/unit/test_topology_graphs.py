"""Graphs by name: their shape, their size, their mistakes."""

from __future__ import annotations

import sys
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from gossipfl.errors import ConfigError
from gossipfl.topology import FAMILIES, Graph, build, describe, schedule
from gossipfl.topology.graph import from_pairs

STATIC = [name for name, family in FAMILIES.items() if family.make is not None]


def as_networkx(graph: Graph) -> nx.Graph:
    found = nx.DiGraph() if graph.directed else nx.Graph()
    found.add_nodes_from(range(graph.n))
    found.add_edges_from(map(tuple, graph.arcs.tolist()))
    return found


@pytest.mark.parametrize(
    ("spec", "n", "same"),
    [
        ("ring", 9, nx.cycle_graph(9)),
        ("path", 7, nx.path_graph(7)),
        ("star", 6, nx.star_graph(5)),
        ("complete", 8, nx.complete_graph(8)),
        ("tree:3", 13, nx.balanced_tree(3, 2)),
        ("barbell:5", 13, nx.barbell_graph(5, 3)),
        ("barbell", 12, nx.barbell_graph(6, 0)),
        ("barbell", 13, nx.barbell_graph(6, 1)),
        ("hypercube", 16, nx.hypercube_graph(4)),
        ("grid:3x7", 21, nx.grid_2d_graph(3, 7)),
        ("torus:3x5", 15, nx.grid_2d_graph(3, 5, periodic=True)),
        ("petersen", 10, nx.petersen_graph()),
        ("karate", 34, nx.karate_club_graph()),
        ("davis", 32, nx.davis_southern_women_graph()),
    ],
)
def test_a_named_graph_is_the_one_of_that_name(spec: str, n: int, same: nx.Graph) -> None:
    assert nx.is_isomorphic(as_networkx(build(spec, n)), same)


@pytest.mark.parametrize(("n", "shape"), [(16, "4x4"), (32, "4x8"), (12, "3x4"), (10, "2x5"), (36, "6x6")])
def test_a_torus_and_a_grid_are_as_square_as_they_can_be(n: int, shape: str) -> None:
    assert build("torus", n).name == f"torus:{shape}"
    assert build("grid", n).name == f"grid:{shape}"


def test_exponential_sends_one_two_four_on() -> None:
    graph = build("exponential", 12)

    assert graph.directed
    assert graph.neighbors(11).tolist() == [0, 1, 3, 7]
    assert set(graph.in_degrees.tolist()) == set(graph.out_degrees.tolist()) == {4}


def test_a_directed_ring_has_one_direction() -> None:
    graph = build("directed-ring", 5)

    assert graph.arcs.tolist() == [[0, 1], [1, 2], [2, 3], [3, 4], [4, 0]]
    assert graph.connected()
    assert graph.diameter() == 4


@pytest.mark.parametrize("spec", ["regular:4", "erdos-renyi:0.3", "small-world:4,0.3", "geometric:0.5"])
def test_a_random_graph_is_its_seeds_and_connected(spec: str) -> None:
    first, again, other = (build(spec, 20, seed=seed) for seed in (3, 3, 4))

    assert first == again
    assert first != other
    assert first.connected()


@pytest.mark.parametrize(("n", "k"), [(5, 2), (6, 3), (8, 7), (9, 4), (9, 6), (16, 13), (30, 3), (200, 8)])
def test_a_regular_graph_has_its_degree_everywhere(n: int, k: int) -> None:
    for seed in range(10):
        assert set(build(f"regular:{k}", n, seed=seed).out_degrees.tolist()) == {k}


def test_random_graphs_follow_their_law() -> None:
    # given 400 draws of a random edge's presence, when it is there with probability .3
    edges = [len(build("erdos-renyi:0.3", 20, seed=seed).edges()) for seed in range(400)]
    # then the mean number of edges is 57 within four standard errors (sd of one draw: 6.3)
    assert abs(np.mean(edges) - 57) < 4 * 6.3 / 20
    # and every pair of a random 2-regular graph is as likely as any other
    counts = np.zeros((6, 6))
    for seed in range(1500):
        counts += build("regular:2", 6, seed=seed).adjacency.toarray()
    pairs = counts[np.triu_indices(6, 1)] / 1500
    assert np.abs(pairs - 0.4).max() < 5 * np.sqrt(0.24 / 1500)


def test_small_world_without_rewiring_is_a_ring_of_nearest() -> None:
    assert nx.is_isomorphic(as_networkx(build("small-world:4,0", 12)), nx.circulant_graph(12, [1, 2]))
    assert len(build("small-world:4,1", 30).edges()) == 60


def test_geometric_joins_those_within_the_distance() -> None:
    graph = build("geometric:0.5", 25)
    assert graph.positions is not None
    at = (graph.positions + 1) / 2
    near = np.linalg.norm(at[:, None] - at[None], axis=2) <= 0.5

    np.testing.assert_array_equal(graph.adjacency.toarray() == 1, near & ~np.eye(25, dtype=bool))


@pytest.mark.parametrize("name", STATIC)
def test_the_example_of_every_family_can_be_made(name: str) -> None:
    family = FAMILIES[name]

    figures = describe(family.example, {"grid": 21, "torus": 32, "hypercube": 16}.get(name) or _nodes(name))

    assert figures["family"] == name
    assert figures["connected"] == (name != "none")


def _nodes(name: str) -> int:
    return {"petersen": 10, "karate": 34, "davis": 32}.get(name, 16)


@pytest.mark.parametrize("spec", ["petersen", "karate", "davis", "torus:4x8", "grid:3x7"])
def test_a_graph_that_says_its_size_needs_no_number_of_nodes(spec: str) -> None:
    assert (
        build(spec, None).n
        == {"petersen": 10, "karate": 34, "davis": 32, "torus:4x8": 32, "grid:3x7": 21}[spec]
    )


@pytest.mark.parametrize(
    ("spec", "n", "message"),
    [
        ("torus:3x3", 8, "torus:3x3 has 9 nodes, not 8; 9 nodes, or torus:2x4"),
        ("grid:3x3", 7, "grid:3x3 has 9 nodes, not 7; 9 nodes"),
        ("torus", 7, "7 nodes make no rectangle; 6 or 8 nodes"),
        ("torus:1x8", 8, "rows and columns are at least 2"),
        ("torus:axb", 8, "cannot read 'axb'; torus:4x8"),
        ("hypercube", 12, "12 is not a power of two; 8 or 16 nodes"),
        ("petersen", 8, "petersen has 10 nodes, not 8; 10 nodes"),
        ("regular:9", 8, "needs at least 10 nodes, not 8; degree 7 at most"),
        ("regular:3", 9, "9 nodes of odd degree 3 do not exist; 8 or 10 nodes, or degree 2 or 4"),
        ("regular:1", 8, "never connected"),
        ("barbell:5", 8, "needs at least 10 nodes, not 8; barbell:4"),
        ("small-world:3,0.1", 8, "an even number"),
        ("small-world:8,0.1", 8, "needs at least 9 nodes"),
        ("small-world:4,2", 8, "a probability"),
        ("small-world:nan,0.1", 8, "an even number"),
        ("small-world:inf", 8, "an even number"),
        ("erdos-renyi:0", 8, "a probability above 0"),
        ("erdos-renyi:0.001", 50, "none of 200 draws was connected; a probability nearer to 0.16"),
        ("geometric:0.001", 50, "none of 200 draws was connected; a distance nearer to 0.22"),
        ("geometric:-1", 8, "a distance above 0"),
        ("tree:0", 8, "0 is less than 1"),
        ("ring:4", 8, "ring takes no arguments"),
        ("rnig", 8, "did you mean ring?"),
        ("no-such-thing-at-all", 8, "gossipfl topology list"),
        ("base:2", 8, "changes from round to round"),
    ],
)
def test_an_impossible_graph_names_the_nearest_that_works(spec: str, n: int, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(spec, n)

    (problem,) = caught.value.problems
    assert problem.key == "topology.graph"
    assert message in str(problem)


def test_zero_nodes_and_no_number_of_nodes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"swarm.nodes: 0 nodes are no swarm"):
        build("ring", 0)
    with pytest.raises(ConfigError, match=r"--nodes: ring can have any number of nodes"):
        build("ring", None)


def test_a_graph_in_pieces_is_refused_unless_asked_for() -> None:
    pieces = from_pairs("pieces", 5, [(0, 1), (2, 3), (3, 4)])

    with pytest.raises(ConfigError, match=r"pieces is not connected: 2 parts, one of them \{0, 1\}"):
        build(pieces, 5)
    assert build(pieces, 5, allow_disconnected=True).diameter() is None
    assert not build("none", 5).connected()


def test_a_directed_graph_without_a_way_back_is_refused() -> None:
    one_way = from_pairs("one-way", 3, [(0, 1), (1, 2)], directed=True)

    with pytest.raises(ConfigError, match="not strongly connected"):
        build(one_way, 3)


@pytest.mark.parametrize("spec", STATIC)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_smallest_swarms_have_a_graph_or_a_clear_error(spec: str, n: int) -> None:
    try:
        graph = build(spec, n)
    except ConfigError:
        return
    assert graph.n == n
    assert graph.connected() or spec == "none"


@pytest.mark.parametrize(
    "spec", ["ring", "path", "torus", "star", "tree:2", "regular:4", "geometric:0.3", "barbell:5"]
)
def test_the_diameter_of_a_large_graph_is_found_by_bounds_too(
    spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = build(spec, 48)
    expected = nx.diameter(as_networkx(graph))

    assert graph.diameter() == expected
    monkeypatch.setattr("gossipfl.topology.graph.BITSET_WORK", -1)
    assert graph.diameter() == expected


def test_the_diameter_of_a_directed_graph_follows_the_arcs() -> None:
    graph = build("exponential", 23)

    assert graph.diameter() == nx.diameter(as_networkx(graph)) == 4


def test_a_networkx_graph_and_an_adjacency_stand_for_a_graph() -> None:
    given = nx.Graph([("alice", "bob"), ("bob", "carol")])

    graph = build(given, None)

    assert graph.labels == ("alice", "bob", "carol")
    assert graph == build(nx.to_numpy_array(given), 3)
    with pytest.raises(ConfigError, match="3 nodes, not 4"):
        build(given, 4)
    with pytest.raises(ConfigError, match="self-loop at node 0"):
        build(nx.Graph([(0, 0), (0, 1)]), 2)
    with pytest.raises(ConfigError, match="int is no graph"):
        build(7, 2)
    with pytest.raises(ConfigError, match=r"shape \(2, 3\)"):
        build(np.zeros((2, 3)), 2)


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_graphs.py").write_text(
        "import networkx as nx, numpy as np\n"
        "def wheel(n, seed): return nx.wheel_graph(n)\n"
        "def pairs(n, seed): return np.ones((n, n)) - np.eye(n)\n"
        "def small(n, seed): return nx.path_graph(n - 1)\n"
        "def text(n, seed): return 'ring'\n"
        "def raises(n, seed): return {}[n]\n"
        "def nobody(n, seed): return nx.Graph()\n"
        "def words(n, seed): return np.full((n, n), 'a')\n"
        "from gossipfl.topology import Graph\n"
        "def far(n, seed): return Graph('far', n, np.array([[0, n]]), directed=True)\n"
        "def flat(n, seed): return Graph('flat', n, np.arange(n))\n"
        "def once(n, seed): return Graph('once', n, np.array([[i, (i + 1) % n] for i in range(n)][::-1]))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_graphs", raising=False)
    return "own_graphs"


def test_a_function_of_ones_own_makes_a_graph(plugin: str) -> None:
    assert nx.is_isomorphic(as_networkx(build(f"{plugin}:wheel", 8)), nx.wheel_graph(8))
    assert build(f"{plugin}:pairs", 5) == build("complete", 5)
    assert build(f"{plugin}:once", 5) == build("ring", 5)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("small", "7 nodes, not 8"),
        ("text", "returned str; a Graph, a networkx graph"),
        ("missing", "has no function missing"),
        ("raises", r"own_graphs:raises: KeyError: 8; it is called with \(n, seed\)"),
        ("nobody", "has no nodes; 1 or more"),
        ("words", "a matrix of <U1; a matrix of real numbers"),
        ("far", "far: an edge of node 8, of 8 nodes; nodes from 0 to 7"),
        ("flat", r"arcs of shape \(8,\)"),
    ],
)
def test_a_function_that_returns_no_such_graph_is_named(plugin: str, function: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(f"{plugin}:{function}", 8)


def test_a_module_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"topology.graph: no_such_module:f: the module does not import"):
        build("no_such_module:f", 8)


@pytest.mark.parametrize("spec", ["ring", "torus:99999x99999", "base:1", "matching"])
def test_more_nodes_than_a_machine_holds_are_refused(spec: str) -> None:
    with pytest.raises(ConfigError, match=r"swarm.nodes: \d+ nodes are too many; up to 1000000"):
        schedule(spec, None if ":9" in spec else 10**20)


def test_a_graph_that_does_not_fit_into_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise MemoryError

    monkeypatch.setattr("gossipfl.topology.families.classic.np.triu_indices", full)

    with pytest.raises(ConfigError, match="complete of 100 nodes does not fit into memory"):
        build("complete", 100)


def test_a_tree_of_more_children_than_nodes_is_a_star() -> None:
    assert build(f"tree:{10**20}", 9) == build("star", 9)


def test_a_matching_within_a_graph_has_that_graphs_size() -> None:
    assert schedule("matching:torus:4x4", None).n == 16
