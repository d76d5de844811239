"""Graph files: what they say, and how their mistakes are named."""

from __future__ import annotations

import json
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from gossipfl.errors import ConfigError
from gossipfl.topology import build, describe, mixing_matrix, schedule


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_an_edge_list_has_numbers_comments_and_blank_lines(tmp_path: Path) -> None:
    path = written(tmp_path, "a.edges", "# a square\n0 1\n\n1 2  # with a remark\n3 2\n0 3\n")

    graph = build(path, 4)

    assert graph == build("ring", 4)
    assert (graph.name, graph.labels) == ("a", ())


def test_an_edge_list_has_names_in_order_of_appearance(tmp_path: Path) -> None:
    graph = build(written(tmp_path, "a.edges", "bob alice\nalice carol\n"), None)

    assert graph.labels == ("bob", "alice", "carol")
    assert graph.edges().tolist() == [[0, 1], [1, 2]]


def test_arrows_make_a_directed_graph(tmp_path: Path) -> None:
    graph = build(written(tmp_path, "a.edges", "0 -> 1\n1 -> 2\n2 -> 0\n"), 3)

    assert graph == build("directed-ring", 3)
    assert graph.directed


def test_weights_in_an_edge_list_are_the_mixing_matrix(tmp_path: Path) -> None:
    path = written(tmp_path, "a.edges", "0 1 0.5\n1 2 0.25\n")

    np.testing.assert_array_equal(
        mixing_matrix(path), [[0.5, 0.5, 0.0], [0.5, 0.25, 0.25], [0.0, 0.25, 0.75]]
    )
    assert describe(path)["weights"] == "file"
    np.testing.assert_array_equal(mixing_matrix(path, weights="uniform")[0], [0.5, 0.5, 0.0])


def test_an_arcs_weight_is_what_the_receiver_gives(tmp_path: Path) -> None:
    path = written(tmp_path, "a.edges", "0 -> 1 0.25\n1 -> 0 0.5\n")

    np.testing.assert_array_equal(mixing_matrix(path), [[0.5, 0.5], [0.25, 0.75]])


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("0 1\n1 1\n", 2, "self-loop at node 1"),
        ("0 1\n1 2\n2 1\n", 3, "edge 2 1 is there twice (line 2)"),
        ("0 1\n1 x\n", 2, "unknown node 'x': the others are numbers"),
        ("0 1\n1 2\n2 7\n", 3, "unknown node 7: there are 4 nodes; numbers from 0 to 3"),
        ("0 1\n1\n", 2, "'1' is no edge; two nodes"),
        ("0 1\n1 2 3 4\n", 2, "is no edge"),
        ("0 1 0.5\n1 2 -0.5\n", 2, "weight -0.5 is negative"),
        ("0 1 0.5\n1 2 half\n", 2, "weight 'half' is not a number"),
        ("0 1 0.5\n1 2\n", 2, "this edge has no weight"),
        ("0 1 0.75\n1 2 0.75\n2 3 0.1\n", 2, "the weights at node 1 sum to 1.5"),
        ("0 1\n1 -> 2\n", 2, "edges and arcs (->) are mixed"),
    ],
)
def test_a_mistake_in_an_edge_list_names_file_and_line(
    tmp_path: Path, text: str, line: int, message: str
) -> None:
    path = written(tmp_path, "a.edges", text)

    with pytest.raises(ConfigError) as caught:
        build(path, 4)

    (problem,) = caught.value.problems
    assert problem.key == f"{path}:{line}"
    assert message in str(problem)


def test_a_number_far_off_is_a_typo_also_without_a_number_of_nodes(tmp_path: Path) -> None:
    path = written(tmp_path, "a.edges", "0 1\n1 2\n2 100000\n")

    with pytest.raises(ConfigError, match=r"a.edges:3: node 100000, but no node 3"):
        build(path, None)


def test_a_file_of_another_size_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "a.edges", "0 1\n1 2\n")

    with pytest.raises(ConfigError, match=r"a.edges: it has 3 nodes, not 8; 3 nodes"):
        build(path, 8)


def test_a_file_that_is_not_there_or_empty_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone.edges: there is no such file"):
        build(tmp_path / "gone.edges", 8)
    with pytest.raises(ConfigError, match=r"a.edges: it has no edges"):
        build(written(tmp_path, "a.edges", "# nothing\n"), 8)
    (tmp_path / "folder.edges").mkdir()
    with pytest.raises(ConfigError, match=r"folder.edges: cannot be read"):
        build(tmp_path / "folder.edges", 8)
    (tmp_path / "bytes.edges").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"bytes.edges: cannot be read"):
        build(tmp_path / "bytes.edges", 8)


def test_graphml_keeps_names_places_and_addresses(tmp_path: Path) -> None:
    given = nx.Graph()
    given.add_node("a", x=0.0, y=0.0, address="10.0.0.1:7700")
    given.add_node("b", x=4.0, y=0.0, address="")
    given.add_node("c", x=4.0, y=2.0, address="")
    given.add_edges_from([("a", "b"), ("b", "c")])
    nx.write_graphml_xml(given, tmp_path / "a.graphml")

    graph = build(tmp_path / "a.graphml", 3)

    assert graph.labels == ("a", "b", "c")
    assert graph.addresses == ("10.0.0.1:7700", "", "")
    assert graph.positions is not None
    assert graph.positions.tolist() == [[-1.0, -0.5], [1.0, -0.5], [1.0, 0.5]]


@pytest.mark.parametrize(
    ("edge", "message"),
    [
        ('<edge source="a" target="a"/>', "self-loop at node a"),
        ('<edge source="b" target="a"/>', "edge b a is there twice (line 3)"),
        ('<edge source="a" target="z"/>', "unknown node 'z'"),
        ("<edge source=", "not XML"),
    ],
)
def test_a_mistake_in_graphml_names_file_and_line(tmp_path: Path, edge: str, message: str) -> None:
    head = '<graphml xmlns="http://graphml.graphdrawing.org/xmlns"><graph edgedefault="undirected">'
    text = (
        f'{head}\n<node id="a"/><node id="b"/>\n<edge source="a" target="b"/>\n{edge}\n</graph></graphml>\n'
    )
    path = written(tmp_path, "a.graphml", text)

    with pytest.raises(ConfigError) as caught:
        build(path, None)

    (problem,) = caught.value.problems
    assert problem.key in (f"{path}:4", f"{path}:5")
    assert message in str(problem)


def node_link(folder: Path, nodes: list[str], links: list[str], key: str = "links") -> Path:
    text = (
        '{\n"directed": false,\n"nodes": [\n' + ",\n".join(nodes) + f'\n],\n"{key}": [\n' + ",\n".join(links)
    )
    return written(folder, "a.json", text + "\n]\n}\n")


NODES = ['{"id": "a", "address": "10.0.0.1:7700"}', '{"id": "b"}', '{"id": "c"}']
LINK = '{"source": "a", "target": "b"}'


@pytest.mark.parametrize("key", ["links", "edges"])
def test_json_keeps_names_and_addresses(tmp_path: Path, key: str) -> None:
    path = node_link(tmp_path, NODES, [LINK, '{"source": "b", "target": "c"}'], key)

    graph = build(path, 3)

    assert graph.labels == ("a", "b", "c")
    assert graph.addresses == ("10.0.0.1:7700", "", "")
    assert graph.edges().tolist() == [[0, 1], [1, 2]]


def test_json_of_networkx_is_read(tmp_path: Path) -> None:
    given = nx.karate_club_graph()
    path = written(tmp_path, "a.json", json.dumps(nx.node_link_data(given, edges="links")))

    graph = build(path, None)

    assert graph == build("karate", None)
    assert graph.matrix is None  # its weights are counts of meetings, no mixing matrix


@pytest.mark.parametrize(
    ("links", "line", "message"),
    [
        ([LINK, '{"source": "a", "target": "z"}'], 10, "unknown node 'z'"),
        ([LINK, '{"source": "c", "target": "c"}'], 10, "self-loop at node c"),
        ([LINK, '{"source": "b", "target": "a"}'], 10, "edge b a is there twice (line 9)"),
        ([LINK, '{"source": "b", "target": "c", "weight": -1}'], 10, "weight -1 is negative"),
        ([LINK, '{"source": "b"}'], 10, "is no link"),
    ],
)
def test_a_mistake_in_json_names_file_and_line(
    tmp_path: Path, links: list[str], line: int, message: str
) -> None:
    path = node_link(tmp_path, NODES, links)

    with pytest.raises(ConfigError) as caught:
        build(path, None)

    (problem,) = caught.value.problems
    assert problem.key == f"{path}:{line}"
    assert message in str(problem)


def test_json_nodes_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a.json:5: node 'a' is there twice"):
        build(node_link(tmp_path, [NODES[0], '{"id": "a"}'], [LINK]), None)
    with pytest.raises(ConfigError, match=r"a.json:5: .* is no node"):
        build(node_link(tmp_path, [NODES[0], '{"name": "b"}'], [LINK]), None)
    with pytest.raises(ConfigError, match=r"a.json:1: not JSON"):
        build(written(tmp_path, "a.json", "nodes: a b"), None)
    with pytest.raises(ConfigError, match=r"a.json: it has no nodes and links"):
        build(written(tmp_path, "a.json", "[1, 2]"), None)


def test_a_matrix_of_zeros_and_ones_is_an_adjacency(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]]))

    graph = build(tmp_path / "a.npy", 3)

    assert graph.directed
    assert graph.arcs.tolist() == [[0, 2], [1, 0], [2, 1]]  # row i receives from column j


def test_a_matrix_with_rows_that_sum_to_one_is_the_mixing_matrix(tmp_path: Path) -> None:
    w = mixing_matrix("star", 5, "best-constant")
    np.save(tmp_path / "w.npy", w)

    np.testing.assert_array_equal(schedule(tmp_path / "w.npy", 5).mixing(0).dense(), w)
    np.testing.assert_array_equal(
        mixing_matrix(tmp_path / "w.npy", weights="lazy"), mixing_matrix("star", 5, "lazy")
    )


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.full((3, 3), 0.5), "row 0 sums to 1.5"),
        (np.zeros((2, 3)), r"shape \(2, 3\)"),
        (np.array([[0.0, np.nan], [1.0, 0.0]]), "NaN"),
        (np.array([[1, 1], [1, 0]]), "self-loop at node 0"),
        (np.array([["a", "b"], ["c", "d"]]), "a square matrix of numbers"),
    ],
)
def test_a_matrix_that_is_neither_is_named(tmp_path: Path, matrix: np.ndarray, message: str) -> None:
    np.save(tmp_path / "a.npy", matrix)

    with pytest.raises(ConfigError, match=message) as caught:
        build(tmp_path / "a.npy", None)
    assert caught.value.problems[0].key == str(tmp_path / "a.npy")


def test_a_file_that_is_no_numpy_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a.npy: not a numpy matrix"):
        build(written(tmp_path, "a.npy", "1 2 3"), None)
