"""What a sweep left, as arrays: the one reader that its tables, pictures and results are made of."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gossipfl.drivers.sweep.store import FIELD, NUMBERS, TEXTS, reading
from gossipfl.records import number

Array = NDArray[np.float64]
Key = tuple[object, ...]

CURVE: Final = ("round", "seconds", "sent_bytes", "mean", "min", "max", "std")
"""Columns of a run's curve."""


@dataclass(frozen=True, eq=False)
class Trial:
    """One run of a sweep.

    axes: axis -> value; columns: varied key -> value; figures: the summary's; curves: metric -> [E, 7] in the
    columns of `CURVE`, NaN where there is nothing.
    """

    hash: str
    axes: Mapping[str, object]
    columns: Mapping[str, object]
    seed: int
    error: str  # "" where it ran
    wall: float
    machine: str
    model_hash: str
    figures: Mapping[str, float]
    texts: Mapping[str, str]
    curves: Mapping[str, Array]

    @property
    def ok(self) -> bool:
        return not self.error


@dataclass(frozen=True, eq=False)
class Setting:
    """Runs that differ in nothing but the seed; those that failed are left out."""

    key: Key  # the values on the axes
    label: str
    trials: Sequence[Trial]

    def values(self, figure: str = "mean") -> Array:
        """[seeds], a figure of the summary."""
        return np.array([trial.figures[figure] for trial in self.trials])

    def by_seed(self) -> dict[int, float]:
        """Seed -> the headline metric, mean over nodes."""
        return {trial.seed: trial.figures["mean"] for trial in self.trials}


@dataclass(frozen=True, eq=False)
class Study:
    """A sweep, finished or not."""

    name: str
    engine: str
    axes: tuple[str, ...]
    text: str  # the sweep's file
    base: Mapping[str, object]
    cells: int
    trials: tuple[Trial, ...]
    metric: str
    higher: bool  # is a higher metric better?
    settings: tuple[Setting, ...] = field(default=())

    @property
    def failed(self) -> tuple[Trial, ...]:
        return tuple(trial for trial in self.trials if not trial.ok)

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({trial.seed for trial in self.trials}))

    @property
    def timed(self) -> bool:
        """Do the records' seconds mean something beyond this machine's load?"""
        return self.engine != "vector"

    @property
    def digest(self) -> str:
        """16 hexadecimal digits for all the configs together."""
        hashes = "\n".join(sorted(trial.hash for trial in self.trials))
        return hashlib.sha256(hashes.encode()).hexdigest()[:16]

    def values_on(self, axis: str) -> list[object]:
        """The values on an axis, in the sweep's order."""
        return list(dict.fromkeys(trial.axes[axis] for trial in self.trials if axis in trial.axes))

    def ranked(self) -> list[Setting]:
        """Settings from the best mean of the headline metric to the worst."""
        sign = -1.0 if self.higher else 1.0

        def place(setting: Setting) -> float:
            mean = float(setting.values().mean()) if setting.trials else np.nan
            return sign * mean if np.isfinite(mean) else np.inf

        return sorted(self.settings, key=place)

    def setting(self, section: str, key: str) -> object:
        """A key of the base config; None where the sweep's file does not set it."""
        table = self.base.get(section)
        return table.get(key) if isinstance(table, Mapping) else None


def read_sweep(folder: Path) -> Study:
    """A sweep from its folder, running or not. Raises ConfigError where it is no sweep's."""
    with reading(folder) as connection:
        meta = {row["key"]: row["value"] for row in connection.execute("SELECT * FROM meta")}
        rows = connection.execute(
            "SELECT * FROM runs WHERE position IS NOT NULL ORDER BY position"
        ).fetchall()
        curves = _curves(connection)
    trials = tuple(_trial(row, curves.get(row["id"], {})) for row in rows)
    axes = tuple(json.loads(meta.get("axes", "[]")))
    fine = [trial for trial in trials if trial.ok]
    metric = next((trial.texts["metric"] for trial in fine), "metric")
    higher = next((bool(row["higher_is_better"]) for row in rows if row["status"] == "ok"), True)
    grouped: dict[Key, list[Trial]] = {}
    for trial in trials:
        grouped.setdefault(tuple(trial.axes.get(axis) for axis in axes), []).append(trial)
    settings = tuple(
        Setting(key, label(axes, key) or meta["name"], tuple(t for t in found if t.ok))
        for key, found in grouped.items()
    )
    return Study(
        name=meta.get("name", folder.name),
        engine=meta.get("engine", ""),
        axes=axes,
        text=meta.get("text", ""),
        base=json.loads(meta.get("base", "{}")),
        cells=int(meta.get("cells", "0")),
        trials=trials,
        metric=metric,
        higher=higher,
        settings=tuple(s for s in settings if s.trials),
    )


def label(axes: Sequence[str], key: Sequence[object]) -> str:
    """A few words for a place on the axes: texts speak for themselves, numbers need their key."""
    return ", ".join(word(axis, value) for axis, value in zip(axes, key, strict=True))


def word(axis: str, value: object) -> str:
    """One value on one axis in words."""
    if isinstance(value, str) and value not in ("", "true", "false"):
        return value
    return f"{axis.rpartition('.')[2]} {value}"


def _curves(connection: sqlite3.Connection) -> dict[int, dict[str, Array]]:
    found: dict[int, dict[str, list[list[float]]]] = {}
    columns = ", ".join(f"e.{name}" for name in ("run", "metric", *CURVE))
    query = (
        f"SELECT {columns} FROM evals AS e JOIN runs ON runs.id = e.run"
        " WHERE runs.position IS NOT NULL ORDER BY e.run, e.metric, e.round"
    )
    for run, metric, *values in connection.execute(query):
        found.setdefault(run, {}).setdefault(metric, []).append([number(value) for value in values])
    return {run: {m: np.array(rows) for m, rows in metrics.items()} for run, metrics in found.items()}


def _trial(row: sqlite3.Row, curves: Mapping[str, Array]) -> Trial:
    summary = json.loads(row["summary"])
    figures = {name: number(row[name]) for name in NUMBERS}
    return Trial(
        hash=row["hash"],
        axes=json.loads(row["axes"]),
        columns=json.loads(row["columns"]),
        seed=row["seed"],
        error=row["error"] if row["status"] == "failed" else "",
        wall=row["wall"],
        machine=row["machine"],
        model_hash=row["model_hash"],
        figures=figures | {name: number(summary.get(name)) for name in FIELD},
        texts={name: row[name] or "" for name in TEXTS},
        curves=curves,
    )
