"""`gossipfl topology`: tables, JSON, pictures and mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gossipfl.cli import main
from gossipfl.topology import FAMILIES, WEIGHTS

KEYS = {
    "name",
    "family",
    "n",
    "edges",
    "degree_min",
    "degree_mean",
    "degree_max",
    "diameter",
    "connected",
    "directed",
    "weights",
    "rho",
    "spectral_gap",
    "effective_neighbours",
    "rounds_to_exact",
    "rounds_to_consensus",
    "schedule_length",
    "messages_per_round",
    "parameters",
    "bytes_per_round",
    "residual",
    "contraction",
}


def topology(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["topology", *map(str, arguments)])


def test_list_names_every_graph_and_weight() -> None:
    table, found = topology("list"), json.loads(topology("list", "--json").stdout)

    assert [graph["name"] for graph in found["graphs"]] == list(FAMILIES)
    assert [weights["name"] for weights in found["weights"]] == list(WEIGHTS)
    assert table.exit_code == 0
    for family in FAMILIES.values():
        assert family.example in table.stdout


def test_show_prints_one_json_object_with_every_figure() -> None:
    figures = json.loads(topology("show", "ring", "--nodes", "8", "--parameters", "1000", "--json").stdout)

    assert set(figures) == KEYS
    assert (figures["n"], figures["edges"], figures["diameter"]) == (8, 8, 4)
    assert (figures["degree_min"], figures["degree_mean"], figures["degree_max"]) == (2, 2, 2)
    assert (figures["connected"], figures["directed"], figures["weights"]) == (True, False, "metropolis")
    assert (figures["messages_per_round"], figures["bytes_per_round"]) == (16, 64000)
    assert (figures["rounds_to_exact"], figures["rounds_to_consensus"], figures["schedule_length"]) == (
        None,
        32,
        1,
    )


def test_show_prints_a_table() -> None:
    result = topology("show", "torus:4x4")

    assert result.exit_code == 0
    rows = {line[:33].strip(): line[33:].strip() for line in result.stdout.splitlines()}
    assert rows["nodes"] == "16"
    assert rows["rho"] == "0.6"
    assert rows["degree: min, mean, max"] == "4, 4, 4"
    assert rows["rounds to exact consensus"] == "never"
    assert rows["bytes a round"] == "1,231,360"


@pytest.mark.parametrize(
    "graph", ["none", "star", "exponential", "base:1", "epidemic:2,local", "matching:ring"]
)
def test_show_speaks_of_schedules_and_of_graphs_alike(graph: str) -> None:
    assert topology("show", graph, "--nodes", "6").exit_code == 0
    assert set(json.loads(topology("show", graph, "--nodes", "6", "--json").stdout)) == KEYS


@pytest.mark.parametrize("ending", ["svg", "png", "pdf"])
@pytest.mark.parametrize("graph", ["ring", "base:2", "topologies/two-sites.json"])
def test_show_draws_a_picture(tmp_path: Path, graph: str, ending: str) -> None:
    path = tmp_path / f"picture.{ending}"
    root = Path(__file__).parents[2]
    given = str(root / graph) if "/" in graph else graph

    result = topology("show", given, "--nodes", "8", "--plot", path)

    assert result.exit_code == 0, result.output
    assert path.read_bytes().startswith({"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}[ending])
    assert str(path) in result.stdout


def test_the_same_picture_has_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        topology("show", "regular:3", "--nodes", "10", "--plot", tmp_path / name)

    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_compare_ranks_by_rounds_then_messages(tmp_path: Path) -> None:
    arguments = ("compare", "ring", "torus", "exponential", "base:1", "complete", "--nodes", "32")
    path = tmp_path / "compare.svg"

    rows = json.loads(topology(*arguments, "--json").stdout)
    table = topology(*arguments, "--plot", path)

    order = ["complete", "base:1", "exponential", "torus:4x8", "ring"]
    assert [row["name"] for row in rows] == order
    places = [table.stdout.index(f" {name} ") for name in order]
    assert places == sorted(places)
    assert path.read_bytes().startswith(b"<?xml")


def test_compare_reports_all_mistakes_at_once() -> None:
    result = topology("compare", "ring", "hypercube", "rnig", "--nodes", "12")

    assert result.exit_code == 2
    assert "hypercube: 12 is not a power of two; 8 or 16 nodes" in result.stderr
    assert "no graph 'rnig'; did you mean ring?" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ("show", "torus:3x3", "--nodes", "8"),
            "topology.graph: torus:3x3 has 9 nodes, not 8; 9 nodes, or torus:2x4",
        ),
        (("show", "ring", "--nodes", "0"), "swarm.nodes: 0 nodes are no swarm; 1 or more"),
        (("show", "ring"), "--nodes: ring can have any number of nodes; say how many: ring --nodes 16"),
        (("show", "gone.edges"), "gone.edges: there is no such file; a path from the working directory"),
        (
            ("show", "ring", "--nodes", "4", "--weights", "data", "--pi", "a"),
            "--pi: 'a' is no list of numbers",
        ),
        (
            ("show", "ring", "--nodes", "4", "--plot", "a.txt"),
            "--plot: a.txt: not a picture; a file ending in .svg",
        ),
        (
            ("show", "ring", "--nodes", "4", "--plot", "no/such/a.svg"),
            "--plot: no/such/a.svg: its folder is not there",
        ),
        (
            ("show", "exponential", "--nodes", "6", "--weights", "fdla"),
            "topology.weights: fdla on exponential:",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(arguments: tuple[str, ...], line: str) -> None:
    result = topology(*arguments)

    assert result.exit_code == 2
    assert result.stderr.startswith(f"gossipfl: error: {line}")
    assert result.stderr.count("\n") == 1


def test_a_disconnected_file_is_shown_on_request(tmp_path: Path) -> None:
    (tmp_path / "a.edges").write_text("0 1\n2 3\n")

    refused = topology("show", tmp_path / "a.edges", "--json")
    shown = json.loads(topology("show", tmp_path / "a.edges", "--allow-disconnected", "--json").stdout)

    assert refused.exit_code == 2
    assert "a is not connected: 2 parts" in refused.stderr
    assert (shown["connected"], shown["diameter"], shown["rho"]) == (False, None, 1.0)
    assert shown["rounds_to_consensus"] is None


def test_topology_imports_no_torch_and_its_help_nothing_heavy() -> None:
    code = (
        "import sys; from gossipfl.cli import main\n"
        "try: main({arguments})\n"
        "except SystemExit: pass\n"
        "print([name for name in {names} if name in sys.modules])"
    )
    heavy = ("torch", "numpy", "scipy", "pydantic", "matplotlib", "networkx", "rich")

    def loaded(arguments: list[str], names: tuple[str, ...]) -> str:
        text = code.format(arguments=arguments, names=names)
        found = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
        return found.stdout.splitlines()[-1]

    assert loaded(["topology", "show", "--help"], heavy) == "[]"
    assert (
        loaded(["topology", "show", "ring", "--nodes", "8"], ("torch", "matplotlib", "networkx", "zmq"))
        == "[]"
    )


def test_names_that_look_like_formulas_are_drawn_as_they_are(tmp_path: Path) -> None:
    graph = tmp_path / "$a^$.json"
    nodes = [{"id": "$_$"}, {"id": "$x^"}]
    graph.write_text(json.dumps({"nodes": nodes, "links": [{"source": "$_$", "target": "$x^"}]}))

    shown = topology("show", graph, "--plot", tmp_path / "a.svg")
    compared = topology("compare", graph, "ring", "--nodes", "2", "--plot", tmp_path / "b.PNG")

    assert (shown.exit_code, compared.exit_code) == (0, 0)
    assert (tmp_path / "b.PNG").read_bytes().startswith(b"\x89PNG")
