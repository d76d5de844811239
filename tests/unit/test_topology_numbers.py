"""Published numbers of graphs, weights and schedules, through `gossipfl topology show --json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from gossipfl.cli import main
from gossipfl.topology import mixing_matrix, schedule

EIGHT = "1-2 2-3 3-4 1-5 2-8 2-4 5-6 5-7 3-7 4-8 6-7 7-8 2-7"
"""Xiao & Boyd 2004, "Fast linear iterations for distributed averaging", figure 1."""

RHO = [
    ("ring", 8, 0.804737854),
    ("ring", 16, 0.949253022),
    ("ring", 32, 0.987190187),
    ("path", 16, 0.987190187),
    ("star", 16, 1 - 1 / 16),
    ("star", 32, 1 - 1 / 32),
    ("torus:4x4", 16, 0.6),
    ("torus:4x8", 32, 0.882842712),
    *[("hypercube", 2**d, (d - 1) / (d + 1)) for d in range(1, 8)],
    ("grid:4x4", 16, 0.868640618),
    ("petersen", 10, 0.5),
    ("karate", 34, 0.968763582),
    ("davis", 32, 0.917902497),
    ("exponential", 16, 0.6),
    ("exponential", 32, 2 / 3),
    ("exponential", 25, 0.510860871),
]

ROUNDS = {
    5: (5, 3, 3, 1),
    6: (4, 2, 2, 2),
    7: (5, 4, 3, 3),
    10: (6, 4, 4, 2),
    12: (5, 3, 2, 2),
    16: (4, 4, 2, 2),
    22: (8, 6, 5, 4),
    24: (6, 4, 3, 3),
    25: (9, 6, 5, 2),
    32: (5, 5, 3, 3),
    48: (7, 5, 3, 3),
    50: (10, 7, 6, 3),
    60: (9, 6, 5, 3),
    64: (6, 6, 3, 3),
}
"""Rounds to exact consensus of Base-2, -3, -4, -5 (degree at most 1, 2, 3, 4)."""


def show(*arguments: str | int | Path) -> dict[str, Any]:
    result = CliRunner().invoke(main, ["topology", "show", *map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture
def eight(tmp_path: Path) -> Path:
    pairs = (edge.split("-") for edge in EIGHT.split())
    path = tmp_path / "eight.edges"
    path.write_text("".join(f"{int(a) - 1} {int(b) - 1}\n" for a, b in pairs))
    return path


@pytest.mark.parametrize(("graph", "nodes", "rho"), RHO)
def test_metropolis_has_the_published_rho(graph: str, nodes: int, rho: float) -> None:
    figures = show(graph, "--nodes", nodes)

    assert figures["rho"] == pytest.approx(rho, abs=1e-9)
    assert figures["spectral_gap"] == pytest.approx(1 - rho, abs=1e-9)
    assert figures["rounds_to_exact"] == (1 if rho == 0 else None)


@pytest.mark.parametrize(
    ("weights", "rho"),
    [
        ("fdla", 0.643331),
        ("fmmc", 0.680961),
        ("best-constant", 0.711858),
        ("constant:0.2", 0.779254),
        ("metropolis", 0.812555),
    ],
)
def test_xiao_and_boyds_eight_nodes_have_their_rho(eight: Path, weights: str, rho: float) -> None:
    if weights in ("fdla", "fmmc"):
        pytest.importorskip("cvxpy")

    assert show(eight, "--weights", weights)["rho"] == pytest.approx(rho, abs=1e-6)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("nodes", ROUNDS)
def test_base_graphs_are_exact_after_the_published_rounds(nodes: int, k: int) -> None:
    figures = show(f"base:{k}", "--nodes", nodes)

    assert figures["rounds_to_exact"] == figures["schedule_length"] == ROUNDS[nodes][k - 1]
    assert figures["degree_max"] <= k


@pytest.mark.parametrize("nodes", [2, 4, 8, 16, 32, 64])
def test_one_peer_exponential_is_exact_on_powers_of_two(nodes: int) -> None:
    figures = show("one-peer-exponential", "--nodes", nodes)

    assert figures["rounds_to_exact"] == figures["schedule_length"] == nodes.bit_length() - 1


@pytest.mark.parametrize(
    ("nodes", "once", "twice"),
    [(6, 0.216506351, 0.046875), (12, 0.209129076, 0.04373497), (25, 0.192116154, 0.036908617)],
)
def test_one_peer_exponential_leaves_the_published_residual_elsewhere(
    nodes: int, once: float, twice: float
) -> None:
    figures = show("one-peer-exponential", "--nodes", nodes)
    made = schedule("one-peer-exponential", nodes)
    product = np.eye(nodes)
    for round in range(2 * figures["schedule_length"]):
        product = made.mixing(round).matrix @ product

    assert figures["rounds_to_exact"] is None
    assert figures["residual"] == pytest.approx(once, abs=1e-9)
    assert np.linalg.norm(product - 1 / nodes, 2) == pytest.approx(twice, abs=1e-8)


@pytest.mark.parametrize(
    ("graph", "near", "far"),
    [
        ("ring", 6.632115, 17.075527),
        ("torus:4x8", 15.738563, 28.540294),
        ("hypercube", 19.636364, 30.009032),
        ("star", 1.673581, 6.437949),
    ],
)
def test_effective_neighbors_are_the_published_ones(graph: str, near: float, far: float) -> None:
    found = show(graph, "--nodes", 32)["effective_neighbours"]

    assert found == {"0.9": pytest.approx(near, abs=1e-6), "0.99": pytest.approx(far, abs=1e-6)}


@pytest.mark.parametrize(
    ("graph", "contraction"),
    [
        ("epidemic:1", 0.466666667),
        ("epidemic:4,oracle", 0.146666667),
        ("epidemic:1,local", 0.601753258),
        ("epidemic:4,local", 0.181584442),
    ],
)
def test_epidemic_contracts_as_published(graph: str, contraction: float) -> None:
    figures = show(graph, "--nodes", 16)

    assert figures["contraction"] == pytest.approx(contraction, abs=1e-9)
    assert figures["rho"] == pytest.approx(contraction**0.5, abs=1e-9)


def test_push_sum_weights_of_the_four_node_example(tmp_path: Path) -> None:
    path = tmp_path / "four.edges"
    path.write_text("0 -> 1\n1 -> 2\n2 -> 0\n2 -> 3\n3 -> 0\n")
    a = mixing_matrix(path, weights="column-stochastic")
    x, omega = np.array([1.0, 2.0, 3.0, 10.0]), np.ones(4)
    rows = mixing_matrix(path, weights="uniform")
    plain = x
    for _ in range(100):
        x, omega, plain = a @ x, a @ omega, rows @ plain

    third = 1 / 3
    expected = [[0.5, 0, third, 0.5], [0.5, 0.5, 0, 0], [0, 0.5, third, 0], [0, 0, third, 0.5]]
    np.testing.assert_allclose(a, expected, atol=1e-15)
    np.testing.assert_allclose(x / omega, 4.0, atol=1e-12)
    np.testing.assert_allclose(plain, 43 / 13, atol=1e-12)
    assert show(path, "--weights", "column-stochastic")["rho"] == pytest.approx(0.5715213298614653, abs=1e-11)


def test_data_weights_agree_on_the_weighted_mean_of_a_path() -> None:
    w = mixing_matrix("path", 4, "data", pi=[1, 2, 3, 4])
    x = np.array([1.0, 2.0, 3.0, 10.0])

    after = np.linalg.matrix_power(w, 3) @ x

    np.testing.assert_allclose(
        after, [2.1635802469135803, 3.853395061728395, 5.820987654320987, 6.666666666666668], rtol=1e-14
    )
    np.testing.assert_allclose(np.linalg.matrix_power(w, 400) @ x, 5.4, rtol=1e-12)
    figures = show("path", "--nodes", 4, "--weights", "data", "--pi", "1,2,3,4")
    assert figures["rho"] == pytest.approx(0.8002979541040378, abs=1e-11)


def test_data_weights_on_complete_are_fedavgs_row() -> None:
    sizes = np.array([10.0, 30.0, 5.0, 55.0])

    w = mixing_matrix("complete", 4, "data", pi=sizes)

    np.testing.assert_allclose(w, np.tile(sizes / 100, (4, 1)), atol=1e-15)


@pytest.mark.parametrize(
    ("file", "rho"),
    [
        ("ring-8.edges", 0.804737854),
        ("torus-4x4.edges", 0.6),
        ("hypercube-4.edges", 0.6),
        ("karate.graphml", 0.968763582),
        ("davis.json", 0.917902497),
        ("nsfnet.graphml", 0.840630892),
        ("abilene.json", 0.918453690),
        ("two-sites.json", 0.929150262),
        ("hospital.edges", 0.967535536),
    ],
)
def test_the_ready_files_have_the_rho_that_their_readme_says(file: str, rho: float) -> None:
    folder = Path(__file__).parents[2] / "topologies"
    readme = (folder / "README.md").read_text(encoding="utf-8")

    figures = show(folder / file)

    assert figures["rho"] == pytest.approx(rho, abs=1e-9)
    line = next(line for line in readme.splitlines() if line.startswith(f"| `{file}`"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert [int(cell) for cell in cells[2:5]] == [figures["n"], figures["edges"], figures["diameter"]]
    assert float(cells[5]) == pytest.approx(rho, abs=1e-6)
