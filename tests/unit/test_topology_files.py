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
        ("0 1\n1 ->2\n", 2, "edges and arcs (->) are mixed"),
        ("-1 0\n0 1\n", 1, "unknown node '-1': the others are numbers; a number from 0"),
        ("0 1\n1 02\n", 2, "unknown node 02; a number from 0, such as 7 (not 07)"),
        ("0 1\n1 " + "9" * 5000 + "\n", 2, "unknown node 99"),
        ("0 1\n1 \u0662\n", 2, "unknown node \u0662; a number from 0"),
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
        ('<edge source="a"/>', "<edge> without target"),
        ("<node/>", "<node> without id"),
        ('<node id="a"/>', "node 'a' is there twice; each node once"),
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
        ([LINK, '{"source": "b", "target": "c", "weight": NaN}'], 10, "weight nan is negative or not finite"),
        ([LINK, '{"source": "b", "target": "c", "weight": 1e999}'], 10, "not finite"),
        ([LINK, '{"source": "b", "target": "c", "weight": 1' + "0" * 400 + "}"], 10, "not finite"),
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
        (np.array([["a", "b"], ["c", "d"]]), "a square matrix of real numbers"),
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


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    (tmp_path / "a.edges").write_text("0 1\n1 2\n2 0\n", encoding="utf-8-sig")
    (tmp_path / "a.json").write_text(
        '{"nodes": [{"id": "a"}, {"id": "b"}], "links": [{"source": "a", "target": "b"}]}', "utf-8-sig"
    )

    assert build(tmp_path / "a.edges", None) == build("ring", 3)
    assert build(tmp_path / "a.json", None).labels == ("a", "b")


def test_an_arrow_needs_no_space_around_it(tmp_path: Path) -> None:
    assert build(written(tmp_path, "a.edges", "0->1\n1 ->2\n2-> 0\n"), 3) == build("directed-ring", 3)


@pytest.mark.parametrize(
    "text",
    [
        '{"graph": {"nodes": [1], "links": [1, 2]},\n"nodes": [%s],\n"links": [\n%s]}',
        '{"title": "nodes [",\n"n\\u006fdes": [%s],\n"links": [\n%s]}',
        '{"nodes": [7], "links": [],\n"nodes": [%s],\n"links": [\n%s]}',
    ],
)
def test_lines_of_json_are_those_of_its_own_arrays(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, "a.json", text % ('{"id": 1}', '{"source": 1, "target": 1}'))

    with pytest.raises(ConfigError, match=r"a.json:4: self-loop at node 1"):
        build(path, None)


PLACED = b"""<graphml><key id="k" for="node" attr.name="x" attr.type="double"/>
<graph edgedefault="undirected">
<node id="a"><data key="k">1.5</data></node></graph></graphml>"""


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'{"nodes": [], "links": []}', "it has no nodes; 1 or more"),
        ("a.json", b"[" * 100_000, "not JSON"),
        ("a.json", b'{"nodes": [{"id": 1' + b"0" * 5000 + b"}]}", "not JSON"),
        ("a.graphml", b"<graphml><graph edgedefault='undirected'/></graphml>", "it has no nodes"),
        ("a.graphml", b"<?xml version='1.0' encoding='foo'?><graphml/>", "not XML"),
        (
            "a.graphml",
            PLACED.replace(b"1.5", b"abc"),
            "not GraphML (could not convert string to float: 'abc'); a GraphML file",
        ),
        ("a.npy", b"", "not a numpy matrix"),
        ("a.npy", b"PK\x05\x06" + bytes(18), "not a numpy matrix"),
        ("a.edges", b"0 1\n1 \xff\n", "cannot be read: not UTF-8 (byte 7); a text file in UTF-8"),
    ],
)
def test_a_file_that_holds_no_graph_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(ConfigError) as caught:
        build(tmp_path / name, None)

    (problem,) = caught.value.problems
    assert problem.key in (str(tmp_path / name), f"{tmp_path / name}:1")
    assert message in str(problem)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.zeros((0, 0)), "it has no nodes"),
        (1j * np.ones((2, 2)), "complex128; a square matrix of real numbers"),
        (np.full((2, 2), 1e308), "it holds NaN or infinity"),
    ],
)
def test_a_matrix_file_holds_real_numbers(tmp_path: Path, matrix: np.ndarray, message: str) -> None:
    np.save(tmp_path / "a.npy", matrix)

    with pytest.raises(ConfigError, match=message):
        build(tmp_path / "a.npy", None)


def test_a_matrix_file_of_truth_values_is_an_adjacency(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ~np.eye(4, dtype=bool))

    assert build(tmp_path / "a.npy", 4) == build("complete", 4)


def test_a_file_that_links_to_itself_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.edges").symlink_to("a.edges")

    with pytest.raises(ConfigError, match=r"a.edges: cannot be read: too many levels"):
        build(tmp_path / "a.edges", None)


def test_places_past_all_bounds_are_left_out(tmp_path: Path) -> None:
    nodes = ['{"id": 1, "x": 1e308, "y": 0}', '{"id": 2, "x": -1e308, "y": 0}']

    assert build(node_link(tmp_path, nodes, ['{"source": 1, "target": 2}']), 2).positions is None


def test_what_graphml_has_beside_a_graph_is_passed_over(tmp_path: Path) -> None:
    text = (
        "<graphml><key id='k' for='node' attr.name='x'/><graph edgedefault='undirected'>"
        "<node id='a'><port name='p'/></node><node id='b'/><edge source='a' target='b'/></graph></graphml>"
    )

    assert build(written(tmp_path, "a.graphml", text), 2).labels == ("a", "b")
