"""Where a sweep's results are: what is kept, who may write, which files are refused."""

from __future__ import annotations

import csv
import sqlite3
from pathlib import Path

import pytest

from gossipfl.drivers.sweep.grid import Sweep, load_sweep
from gossipfl.drivers.sweep.store import FILE, opened, reading, write_csv
from gossipfl.errors import ConfigError
from gossipfl.observe.sweep_result import results

DONE: dict[str, object] = {
    "error": "",
    "summary": {
        "metric": "accuracy",
        "mean": 0.5,
        "nodes": 8,
        "higher_is_better": True,
        "graph": "ring",
        "fairness": 0.75,
    },
    "evals": [
        [10, "accuracy", 0.1, 64.0, 0.5, 0.4, 0.6, 0.1],
        [10, "consensus_distance", 0.1, 64.0, 2.0, None, None, None],
    ],
    "wall": 0.2,
    "machine": "a machine",
    "model_hash": "abc",
}


def sweep(*rates: float) -> Sweep:
    return load_sweep({"name": "rates", "grid": {"train.lr": [*rates]}})


def fill(folder: Path, found: Sweep) -> None:
    cells = found.cells()
    with opened(folder) as store:
        store.begin(found, cells)
        for k, cell in enumerate(cells):
            store.add(k, cell, DONE if k else {"error": "it broke", "wall": 0.1})


def count(folder: Path, table: str) -> int:
    with reading(folder) as connection:
        (rows,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(rows)


def test_what_is_finished_is_known_again_by_its_config(tmp_path: Path) -> None:
    # given a sweep of two cells that is finished
    fill(tmp_path, sweep(0.1, 0.2))
    # when a third joins it
    larger = sweep(0.3, 0.1, 0.2)
    cells = larger.cells()
    with opened(tmp_path) as store:
        known = store.begin(larger, cells)
    # then two are known, wherever they stand now
    assert known == {cells[1].hash: "failed", cells[2].hash: "ok"}


def test_a_cell_that_is_written_again_is_still_one_row_with_its_own_curve(tmp_path: Path) -> None:
    found = sweep(0.1, 0.2)
    fill(tmp_path, found)
    fill(tmp_path, found)
    assert count(tmp_path, "runs") == 2
    assert count(tmp_path, "evals") == 2


def test_cells_that_are_no_longer_part_of_the_sweep_are_kept_but_not_shown(tmp_path: Path) -> None:
    fill(tmp_path, sweep(0.1, 0.2))
    smaller = sweep(0.2)
    with opened(tmp_path) as store:
        store.begin(smaller, smaller.cells())
    assert count(tmp_path, "runs") == 2
    assert list(results(tmp_path)["seed"]) == [0]


def test_the_table_has_a_row_a_run_and_a_column_a_varied_key(tmp_path: Path) -> None:
    fill(tmp_path, sweep(0.1, 0.2))
    with write_csv(tmp_path).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["train.lr"], r["seed"], r["status"], r["error"], r["mean"]) for r in rows] == [
        ("0.1", "0", "failed", "it broke", ""), ("0.2", "0", "ok", "", "0.5"),
    ]  # fmt: skip
    assert (rows[1]["nodes"], rows[1]["fairness"], rows[1]["virtual_seconds"]) == ("8", "0.75", "")


def test_tidy_data_has_the_metrics_of_the_field(tmp_path: Path) -> None:
    fill(tmp_path, sweep(0.2, 0.1))
    runs = results(tmp_path)
    assert list(runs["fairness"])[1] == 0.75
    fields = {"gradient_norm", "effective_neighbors", "sent_messages_per_node", "virtual_seconds"}
    assert fields <= set(runs)


def test_tidy_data_has_a_row_a_run_evaluation_and_metric(tmp_path: Path) -> None:
    fill(tmp_path, sweep(0.1, 0.2))
    evals = results(tmp_path, "evals")
    assert list(evals["metric"]) == ["accuracy", "consensus_distance"]
    assert list(evals["mean"]) == [0.5, 2.0]
    assert list(evals["train.lr"]) == [0.2, 0.2]


def test_two_sweeps_cannot_run_in_one_folder(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(ConfigError, match="another sweep runs in"), opened(tmp_path):
        pass
    with opened(tmp_path):  # and when the first has ended, the next may
        pass


def test_results_are_readable_while_the_sweep_runs(tmp_path: Path) -> None:
    found = sweep(0.1)
    with opened(tmp_path) as store:
        store.begin(found, found.cells())
        store.add(0, found.cells()[0], DONE)
        assert list(results(tmp_path)["mean"]) == [0.5]


def test_another_sweeps_folder_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, sweep(0.1))
    with pytest.raises(ConfigError, match=r"another sweep \(rates\)"), opened(tmp_path) as store:
        store.begin(sweep(0.7), sweep(0.7).cells())


def test_a_folder_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="not empty"), opened(tmp_path):
        pass
    with pytest.raises(ConfigError, match="is a file"), opened(tmp_path / "thesis.tex"):
        pass


def test_results_of_another_version_are_refused_by_name(tmp_path: Path) -> None:
    # given results of a later version
    fill(tmp_path, sweep(0.1))
    connection = sqlite3.connect(tmp_path / FILE)
    with connection:
        connection.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
    connection.close()
    # then neither a sweep nor a reader takes them
    with pytest.raises(ConfigError, match=r"results\.sqlite: is of version 99"), opened(tmp_path):
        pass
    with pytest.raises(ConfigError, match="is of version 99"):
        results(tmp_path)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"something else entirely" * 100)
    with pytest.raises(ConfigError, match="does not hold a sweep's results"), opened(tmp_path):
        pass


def test_a_folder_without_results_is_no_sweeps(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no sweep's folder"):
        results(tmp_path)
