"""A sweep's figures: intervals, paired differences, decay, the page, the files for papers, tidy data."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from gossipfl.cli import main
from gossipfl.drivers.sweep.grid import load_sweep
from gossipfl.drivers.sweep.store import opened
from gossipfl.observe.report import write_page, write_sweep_report
from gossipfl.observe.sweep_figures import write_figures
from gossipfl.observe.sweep_page import sweep_page
from gossipfl.observe.sweep_reading import Setting, Study, read_sweep
from gossipfl.observe.sweep_result import SweepResult, results
from gossipfl.observe.sweep_stats import band, decay, effects, exact_after, interval, paired

RATES = {0.1: 0.8, 0.2: 0.7}
GRAPHS = {"ring": 0.0, "complete": 0.1}


def fill(folder: Path, seeds: int = 3, engine: str = "vector", label: str = "") -> Study:
    """A sweep of two graphs and two rates without running it; the run of complete, 0.2, seed 0 failed."""
    cases = [{"label": f"{label}{rate}", "train.lr": rate} for rate in RATES]
    found = load_sweep(
        {
            "name": "made",
            "engine": engine,
            "seeds": seeds,
            "case": cases,
            "grid": {"topology.graph": [*GRAPHS]},
        }
    )
    cells = found.cells()
    with opened(folder) as store:
        store.begin(found, cells)
        for k, cell in enumerate(cells):
            graph, rate = str(cell.settings["topology.graph"]), float(str(cell.settings["train.lr"]))
            final = RATES[rate] + GRAPHS[graph] + 0.01 * cell.seed
            summary = {
                "metric": "accuracy", "mean": final, "min": final - 0.1, "max": final, "mean_model": final,
                "nodes": 8, "graph": graph, "higher_is_better": True, "version": "9.8.7",
                "sent_bytes_per_node": 1000.0, "consensus_distance": 0.5, "seconds": 2.0,
            }  # fmt: skip
            evals = [
                [r, "accuracy", 0.1 * r, 10.0 * r, final * r / 20, final * r / 40, final, 0.1]
                for r in (10, 20)
            ]
            done = {"error": "", "summary": summary, "evals": evals, "machine": "a big machine", "wall": 1.0}
            failed = (graph, rate, cell.seed) == ("complete", 0.2, 0)
            store.add(k, cell, {"error": "it <b>broke</b>"} if failed else done)
    return read_sweep(folder)


def page_of(study: Study, folder: Path) -> str:
    return write_page(sweep_page(study), folder / "report.html").read_text()


def averaging(folder: Path, distances: list[float]) -> Setting:
    """A run that only averages, with these consensus distances after rounds 1, 2, ..."""
    found = load_sweep({"seeds": 1, "base": {"train": {"task": "consensus"}}})
    (cell,) = found.cells()
    evals = [
        [k, "consensus_distance", 0.0, 0.0, value, None, None, None]
        for k, value in enumerate(distances, start=1)
    ]
    with opened(folder) as store:
        store.begin(found, [cell])
        store.add(0, cell, {"error": "", "summary": {"metric": "error", "mean": 0.1}, "evals": evals})
    return read_sweep(folder).settings[0]


def test_an_interval_is_students() -> None:
    # given three values with mean 2 and standard error 1 / sqrt 3, and t(.975, 2) = 4.302653
    mean, half, n = interval([1.0, 2.0, 3.0])
    # then
    assert (mean, n) == (2.0, 3)
    assert half == pytest.approx(4.302652729911275 / math.sqrt(3))


def test_one_value_has_no_interval_and_what_is_not_finite_does_not_count() -> None:
    assert interval([5.0, math.nan])[0::2] == (5.0, 1)
    assert math.isnan(interval([5.0]).half)
    assert math.isnan(interval([]).mean)


def test_settings_are_ranked_and_failed_runs_left_out(tmp_path: Path) -> None:
    study = fill(tmp_path)
    assert [setting.key for setting in study.ranked()] == [
        ("0.1", "complete"), ("0.2", "complete"), ("0.1", "ring"), ("0.2", "ring"),
    ]  # fmt: skip
    assert [len(setting.trials) for setting in study.ranked()] == [3, 2, 3, 3]


def test_differences_are_paired_by_seed(tmp_path: Path) -> None:
    # given two settings whose seeds differ as much as they do, one of them without seed 0
    study = fill(tmp_path)
    at = {setting.key: setting for setting in study.settings}
    # when they are compared
    found = paired(at["0.1", "complete"], at["0.2", "complete"])
    # then only the seeds count that both have, and what the seeds share cancels
    assert found.n == 2
    assert found.mean == pytest.approx(0.1)
    assert found.half == pytest.approx(0.0, abs=1e-12)


def test_one_thing_changed_is_averaged_over_the_settings_that_share_the_rest(tmp_path: Path) -> None:
    found = {(effect.axis, effect.value): effect for effect in effects(fill(tmp_path))}
    graph = found["topology.graph", "complete"]
    assert graph.difference.mean == pytest.approx(0.1)
    assert (graph.better, graph.settings, graph.reference) == (2, 2, "ring")
    rate = found["case", "0.2"]
    assert (rate.better, rate.settings) == (0, 2)
    assert graph.difference.n == rate.difference.n == 2  # seed 0 is not whole


def test_curves_are_averaged_over_seeds_with_an_interval(tmp_path: Path) -> None:
    setting = next(s for s in fill(tmp_path).settings if s.key == ("0.1", "ring"))
    found = band(setting, "accuracy")
    assert found.x.tolist() == [[10.0, 1.0, 100.0], [20.0, 2.0, 200.0]]
    assert found.mean == pytest.approx([0.405, 0.81])
    assert found.high - found.mean == pytest.approx(
        [interval([0.4, 0.405, 0.41]).half, interval([0.8, 0.81, 0.82]).half]
    )


def test_a_band_of_positive_values_stays_positive(tmp_path: Path) -> None:
    # given distances of one run; then its band is its line
    setting = averaging(tmp_path, [4.0, 2.0, 1.0])
    assert band(setting, "consensus_distance").low.tolist() == [4.0, 2.0, 1.0]


def test_decay_is_the_factor_a_round_of_the_late_slope(tmp_path: Path) -> None:
    # given a distance that falls faster at first, then by .9 a round, then is rounding
    late = [0.9**k for k in range(60)]
    found = averaging(tmp_path, [50.0, 9.0, *late, 1e-15, 2e-15])
    assert decay(found.trials[0]) == pytest.approx(0.9, rel=1e-9)


def test_exact_agreement_is_seen_in_the_first_round_that_is_nothing_but_rounding(tmp_path: Path) -> None:
    assert exact_after(averaging(tmp_path, [3.0, 1.0, 1e-15, 3e-16]).trials[0]) == 3.0


def test_the_page_tells_of_settings_failures_versions_and_machine(tmp_path: Path) -> None:
    study = fill(tmp_path)
    page = page_of(study, tmp_path)
    for said in (
        "ranking",
        "complete",
        "9.8.7",
        "a big machine",
        "1 runs failed",
        study.digest,
        "heat",
        "± ",
    ):
        assert said in page or said == "heat"
    assert "it &lt;b&gt;broke&lt;/b&gt;" in page
    assert "accuracy by graph and case" in page  # the heat map
    assert "curves against bytes" in page
    assert "curves against simulated time" not in page  # the vector engine's clock says nothing


def test_simulated_seconds_are_shown_where_there_are_some(tmp_path: Path) -> None:
    assert "curves against simulated time" in page_of(fill(tmp_path, engine="events"), tmp_path)


def test_the_page_asks_nothing_of_the_network_and_escapes_what_people_wrote(tmp_path: Path) -> None:
    page = page_of(fill(tmp_path, label="<script>alert(1)</script>"), tmp_path)
    assert "<script>alert" not in page
    assert not re.search(r"""(src|href)\s*=|https?://|@import|url\(""", page)


def test_with_one_seed_there_are_no_intervals(tmp_path: Path) -> None:
    page = page_of(fill(tmp_path, seeds=1), tmp_path)
    assert "One seed: there are no intervals" in page
    assert "nan" not in page


def test_a_sweep_in_which_nothing_ran_yet_has_a_page(tmp_path: Path) -> None:
    found = load_sweep({"seeds": 4})
    with opened(tmp_path) as store:
        store.begin(found, found.cells())
    page = write_sweep_report(tmp_path, tmp_path / "report.html").read_text()
    assert "4 of 4 runs are still to come" in page
    assert not (tmp_path / "figures").exists()


def test_figures_are_svg_and_pdf_and_always_the_same_bytes(tmp_path: Path) -> None:
    study = fill(tmp_path / "sweep")
    first, second = (write_figures(study, tmp_path / name) for name in ("a", "b"))
    assert {path.name for path in first} == {
        f"{name}.{ending}"
        for name in ("ranking", "curves-rounds", "curves-bytes", "heatmap")
        for ending in ("svg", "pdf")
    }
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(first, second, strict=True))


def test_the_report_command_knows_a_sweeps_folder(tmp_path: Path) -> None:
    fill(tmp_path)
    done = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert done.output.strip() == str(tmp_path / "report.html")
    assert CliRunner().invoke(main, ["report", str(tmp_path), str(tmp_path)]).exit_code == 2


def test_results_are_columns_of_one_kind_each(tmp_path: Path) -> None:
    found = SweepResult(fill(tmp_path))
    runs = found.runs
    assert {len(column) for column in runs.values()} == {12}
    assert runs["mean"].dtype == np.float64
    assert runs["status"].tolist().count("failed") == found.failed == 1
    assert found.ranking()["mean"].tolist() == pytest.approx([0.91, 0.815, 0.81, 0.71])
    assert "12 runs, 1 failed" in repr(found)


def test_results_are_a_data_frame_where_pandas_is_installed(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    fill(tmp_path)
    frame = results(tmp_path)
    assert isinstance(frame, pandas.DataFrame)
    assert frame.groupby("topology.graph")["mean"].mean()["complete"] > 0.8
