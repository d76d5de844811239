"""A sweep's file: which cells come of it, and what is told of its mistakes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from gossipfl.config import load_config
from gossipfl.drivers.sweep.grid import MANY, Sweep, load_sweep
from gossipfl.drivers.sweep.run import check_count
from gossipfl.errors import ConfigError

GRAPHS: Mapping[str, object] = {"topology.graph": ["ring", "complete"]}


def sweep(**tables: object) -> Sweep:
    return load_sweep({"grid": GRAPHS, **tables})


def problems(**tables: object) -> dict[str, str]:
    """Key -> the rest of the line, of a sweep that must be refused."""
    with pytest.raises(ConfigError) as caught:
        load_sweep(tables).cells()
    return {p.key: f"{p.wrong}; {p.right}" for p in caught.value.problems}


def test_cells_are_the_product_of_the_grid_and_the_cases_for_every_seed() -> None:
    # given two graphs, one case of one setting and one of two, and three seeds
    cases = [{"train.lr": 0.1}, {"algorithm.rule": "d2", "train.lr": [0.1, 0.2]}]
    found = sweep(seeds=3, case=cases)
    # when it is expanded
    cells = found.cells()
    # then each combination is there once, and the count was right before
    assert found.count == len(cells) == 2 * 3 * 3
    assert [cell.seed for cell in cells] == [0] * 6 + [1] * 6 + [2] * 6
    assert len({cell.hash for cell in cells}) == 18


def test_every_key_that_varies_is_a_column_with_its_resolved_value() -> None:
    cells = sweep(case=[{"train.momentum": 0.9}, {"algorithm.rule": "qg"}]).cells()
    assert [(c.columns["train.momentum"], c.columns["algorithm.rule"]) for c in cells] == [
        (0.9, "dpsgd"), (0.9, "dpsgd"), (0.0, "qg"), (0.0, "qg"),
    ]  # fmt: skip


def test_cases_are_one_axis_named_by_their_labels_or_by_what_they_set() -> None:
    found = sweep(case=[{"label": "heavy ball", "train.momentum": [0.5, 0.9]}, {"train.lr": 0.2}])
    assert found.axes == ("case", "topology.graph")
    assert list(dict.fromkeys(cell.axes["case"] for cell in found.cells())) == [
        "heavy ball · momentum 0.5", "heavy ball · momentum 0.9", "lr 0.2",
    ]  # fmt: skip


def test_a_key_with_one_value_is_set_but_is_no_axis() -> None:
    found = sweep(grid={**GRAPHS, "swarm.nodes": 5})
    assert found.axes == ("topology.graph",)
    assert {found.config(cell).swarm.nodes for cell in found.cells()} == {5}


def test_combinations_that_come_to_the_same_config_are_one_cell() -> None:
    assert len(load_sweep({"grid": {"train.lr": [0.1, 0.1, 0.2]}, "seeds": [4, 4]}).cells()) == 2


def test_keys_may_stand_without_quotes(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text('[grid]\ntopology.graph = ["ring", "complete"]\ntrain.lr = [0.1, 0.2]\n')
    assert load_sweep(file).axes == ("topology.graph", "train.lr")


def test_a_base_file_is_looked_for_beside_the_sweeps(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text("[swarm]\nnodes = 5\nseed = 7\n")
    file = tmp_path / "sweep.toml"
    file.write_text('base = "base.toml"\n[grid]\n"train.lr" = [0.1, 0.2]\n')
    found = load_sweep(file)
    assert [(found.config(c).swarm.nodes, c.seed) for c in found.cells()] == [(5, 7), (5, 7)]
    assert found.name == "sweep"


def test_a_config_can_be_the_base() -> None:
    base = load_config({"swarm": {"nodes": 5}})
    assert (
        load_sweep({"base": base, "grid": GRAPHS}).cells()[0].hash
        == sweep(base={"swarm": {"nodes": 5}}).cells()[0].hash
    )


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"base": {"swarm": {"name": "other"}}}, True),
        ({"base": {"swarm": {"tensorboard": True}}}, True),
        ({"base": {"train": {"batch": 7}}}, False),
        ({"engine": "events"}, False),
        ({"seeds": [1]}, False),
    ],
)
def test_a_cell_is_known_by_what_can_change_its_result(change: dict[str, object], same: bool) -> None:
    assert (sweep().cells()[0].hash == sweep(**change).cells()[0].hash) is same


def test_an_unknown_key_of_the_grid_is_told_with_the_nearest_that_exists() -> None:
    assert "did you mean topology.graph" in problems(grid={"topology.grpah": ["ring"]})["topology.grpah"]


def test_a_value_that_is_wrong_in_every_cell_is_told_before_anything_runs() -> None:
    found = problems(grid={"topology.graph": ["ring", "rign"], "train.lr": [0.1, -1.0]})
    assert found.keys() == {"topology.graph", "train.lr"}
    assert "rign" in found["topology.graph"]


def test_a_mistake_in_the_base_is_told_once() -> None:
    assert problems(base={"train": {"lr": "x"}}, grid=GRAPHS).keys() == {"train.lr"}


def test_a_cell_that_only_its_combination_makes_wrong_is_a_cell_with_its_reason() -> None:
    # given a graph that eight nodes can have and ten cannot
    cells = load_sweep({"grid": {"topology.graph": ["ring", "hypercube"], "swarm.nodes": [8, 10]}}).cells()
    # then only that cell is wrong
    wrong = [(cell.axes, cell.wrong) for cell in cells if cell.wrong]
    assert [axes for axes, _ in wrong] == [{"topology.graph": "hypercube", "swarm.nodes": 10}]
    assert "hypercube" in wrong[0][1]


def test_all_mistakes_of_the_tables_are_told_at_once() -> None:
    found = problems(
        gird={}, engine="fast", seeds=0, grid={"lr": [1], "swarm.seed": [1], "train.lr": []},
        case=[{"train.lr": 1}, {"label": 3}], base=7,
    )  # fmt: skip
    assert found.keys() == {
        "gird", "engine", "seeds", "grid.lr", "grid.swarm.seed", "grid.train.lr", "case 1.train.lr",
        "case 2.label", "base",
    }  # fmt: skip
    assert "did you mean grid" in found["gird"]


def test_an_empty_sweep_is_refused() -> None:
    assert "is empty" in problems(base={"swarm": {"nodes": 5}})["grid"]


def test_seeds_alone_are_a_sweep() -> None:
    assert [cell.seed for cell in load_sweep({"seeds": [3, 5]}).cells()] == [3, 5]


def test_a_million_cells_run_only_if_they_are_meant() -> None:
    # given more than a million combinations
    many = load_sweep({"grid": {"train.lr": [k / MANY for k in range(1, MANY // 1000 + 1)]}, "seeds": 1001})
    # then they are refused, and with --yes not
    with pytest.raises(ConfigError, match=r"1,001,000 cells.*--yes"):
        check_count(many, False)
    check_count(many, True)


@pytest.mark.parametrize("text", ["[grid", '\xff"'])
def test_a_file_that_is_not_toml_is_named_with_its_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "sweep.toml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"sweep\.toml:1"):
        load_sweep(file)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: no such file"):
        load_sweep(tmp_path / "none.toml")
    (tmp_path / "s.toml").write_text('base = "gone.toml"\nseeds = 2\n')
    with pytest.raises(ConfigError, match=r"base: .*gone\.toml: no such file"):
        load_sweep(tmp_path / "s.toml")
