"""What a sweep gives back to a program: its runs and curves as tidy data, its page, its figures."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from gossipfl.errors import ConfigError, Problem
from gossipfl.observe.sweep_reading import CURVE, Study, Trial, read_sweep
from gossipfl.observe.sweep_stats import interval

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

Columns = dict[str, NDArray[np.generic]]
Tables = Literal["runs", "evals"]


class SweepResult:
    """The end of a sweep, or what there is of it.

    name, axes, metric. path: its folder, or None if nothing was kept. runs: a column an entry, one value a
    run: the varied keys, `seed`, `status`, `error` and the summary's figures. evals: the same with one value
    a run, evaluation and metric: the varied keys, `seed`, `metric`, `round`, `seconds`, `sent_bytes`, and
    `mean`, `min`, `max`, `std` over nodes.
    """

    def __init__(self, study: Study, path: Path | None = None) -> None:
        self._study, self.path = study, path
        self.name, self.axes, self.metric = study.name, study.axes, study.metric

    @property
    def runs(self) -> Columns:
        """Column -> [runs]."""
        return _columns([_head(t) | _tail(t) for t in self._study.trials])

    @property
    def evals(self) -> Columns:
        """Column -> [runs × evaluations × metrics]."""
        rows: list[Mapping[str, object]] = []
        for trial in self._study.trials:
            for metric, curve in trial.curves.items():
                for values in curve.tolist():
                    figures = dict(zip(CURVE, values, strict=True))
                    rows.append(_head(trial) | {"metric": metric, **figures, "round": int(figures["round"])})
        return _columns(rows)

    @property
    def failed(self) -> int:
        """How many runs failed."""
        return len(self._study.failed)

    def ranking(self) -> Columns:
        """Settings from the best to the worst: the axes, `mean` of the metric over seeds and nodes, `half`
        width of its 95 % interval (NaN for one seed), `seeds`."""
        rows = []
        for setting in self._study.ranked():
            mean, half, seeds = interval(setting.values())
            axes = dict(zip(self.axes, setting.key, strict=True))
            rows.append(axes | {"mean": mean, "half": half, "seeds": seeds})
        return _columns(rows)

    def to_frame(self, table: Tables = "runs") -> pandas.DataFrame:
        """`runs` or `evals` as a data frame. Raises ImportError naming the install command."""
        try:
            import pandas
        except ImportError as error:
            raise ImportError("SweepResult.to_frame needs pandas: pip install pandas") from error
        return pandas.DataFrame(dict(self._table(table)))

    def plot(self) -> Figure:
        """The ranking with its intervals, as a matplotlib figure. Raises ConfigError if no run finished."""
        if not self._study.settings:
            raise ConfigError(Problem(self.name, "no run has finished", "see the errors in runs"))
        from gossipfl.observe.sweep_figures import ranking_figure

        return ranking_figure(self._study)

    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Write the page, self-contained. Returns its path. Raises OSError."""
        from gossipfl.observe.report import write_page
        from gossipfl.observe.sweep_page import sweep_page

        return write_page(sweep_page(self._study), Path(path))

    def _table(self, name: Tables) -> Columns:
        if name not in ("runs", "evals"):
            raise ConfigError(Problem("table", f"no table {name!r}", "runs or evals"))
        return self.runs if name == "runs" else self.evals

    def __repr__(self) -> str:
        where = f", {self.path}" if self.path else ""
        failed = f", {self.failed} failed" if self.failed else ""
        return f"<SweepResult {self.name}: {len(self._study.trials)} runs{failed}{where}>"


def results(folder: str | os.PathLike[str], table: Tables = "runs") -> pandas.DataFrame | Columns:
    """A sweep's tidy data from its folder, running or finished: a pandas data frame where there is pandas,
    else column -> array. `table`: "runs", a row a run, or "evals", a row a run, evaluation and metric.

    Raises ConfigError where the folder is no sweep's, or of another version.
    """
    found = SweepResult(read_sweep(Path(folder)), Path(folder))
    columns = found._table(table)
    try:
        return found.to_frame(table)
    except ImportError:
        return columns


def _head(trial: Trial) -> dict[str, object]:
    case = {"case": trial.axes["case"]} if "case" in trial.axes else {}
    return {**case, **trial.columns, "seed": trial.seed}


def _tail(trial: Trial) -> dict[str, object]:
    status = {"status": "ok" if trial.ok else "failed", "error": trial.error}
    return {**status, **trial.texts, **trial.figures, "wall": trial.wall, "model_hash": trial.model_hash}


def _columns(rows: list[Mapping[str, object]] | list[dict[str, object]]) -> Columns:
    """Column -> values; a column of mixed kinds holds texts."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    found: Columns = {}
    for name in names:
        values = [row.get(name, "") for row in rows]
        kinds = {type(value) for value in values}
        mixed = len(kinds) > 1 and not kinds <= {int, float}
        found[name] = np.array(
            [v if isinstance(v, str) else json.dumps(v) for v in values] if mixed else values
        )
    return found
