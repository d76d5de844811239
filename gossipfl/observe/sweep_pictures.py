"""The pictures of a sweep's page: means with intervals, heat maps, small graphs, decay against theory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gossipfl.errors import ConfigError
from gossipfl.observe.metrics import text
from gossipfl.observe.svg import (
    WIDTH,
    Array,
    Scale,
    colour,
    element,
    escape,
    label,
    picture,
    scale,
    tick_text,
)
from gossipfl.observe.sweep_reading import Study, Trial, word
from gossipfl.observe.sweep_stats import Interval, decay, exact_after, interval
from gossipfl.records import number

DRAWN: Final = 2048
"""Nodes up to which a graph is drawn."""
_EDGES: Final = 3000
_BAR, _TALL = 150, 18  # a bar in the ranking, canvas units
_SMALL = 132  # side of a small graph


def whisker(interval: Interval, low: float, high: float) -> str:
    """A mean and its interval between two ends, small enough for a table's cell."""
    if not math.isfinite(interval.mean):
        return ""
    ends = Scale(low, high if high > low else low + 1.0, 6, _BAR - 6)
    at, half = ends.at(interval.mean), interval.half if math.isfinite(interval.half) else 0.0
    left, right = (min(max(ends.at(interval.mean + s * half), 1), _BAR - 1) for s in (-1, 1))
    middle = _TALL / 2
    drawn = element("path", class_="axis", d=f"M0 {middle}H{_BAR}") + element(
        "g",
        element("path", class_="line", d=f"M{left:.1f} {middle}H{right:.1f}")
        + element("circle", class_="dot", cx=at, cy=middle, r=4),
        class_="s0",
    )
    return element("svg", drawn, viewBox=f"0 0 {_BAR} {_TALL}", width=_BAR, height=_TALL, aria_hidden="true")


class Grid(NamedTuple):
    """A table of numbers to be coloured: values [rows, columns] with their half widths."""

    rows: Sequence[str]
    columns: Sequence[str]
    values: Array
    halves: Array


def heat_map(grid: Grid, metric: str, *, higher: bool, ends: tuple[float, float] | None = None) -> str:
    """The SVG: a cell a pair of values, the better the brighter, its figure in it; `ends` of the colours."""
    left = min(170, 16 + 7 * max(map(len, grid.rows), default=0))
    step, top = (WIDTH - left) / max(len(grid.columns), 1), 26
    tall = 34 if len(grid.rows) <= 12 else 24
    fine = grid.values[np.isfinite(grid.values)]
    low, high = ends or ((float(fine.min()), float(fine.max())) if len(fine) else (0.0, 1.0))
    parts = []
    for j, name in enumerate(grid.columns):
        shown = _cut(name, int(step / 6.5))
        parts.append(label(left + (j + 0.5) * step, 16, shown, "", "middle"))
    for i, name in enumerate(grid.rows):
        y = top + i * tall
        parts.append(label(left - 8, y + tall / 2 + 4, _cut(name, 23), "", "end"))
        for j, column in enumerate(grid.columns):
            value, half = float(grid.values[i, j]), float(grid.halves[i, j])
            if not math.isfinite(value):
                continue
            share = 0.5 if high <= low else (value - low) / (high - low)
            share = share if higher else 1 - share
            tip = f"{name}\n{column}\n{metric}: {text(value)}{f' ± {text(half, 2)}' if half >= 0 else ''}"
            box = element(
                "rect", x=left + j * step + 1, y=y + 1, width=step - 2, height=tall - 2, rx=3,
                fill=colour(0.08 + 0.9 * share), data_tip=tip,
            )  # fmt: skip
            tone = "index on-dark" if share < 0.55 else "index on-light"
            written = label(left + (j + 0.5) * step, y + tall / 2 + 4, text(value), tone, "middle")
            parts.append(box + (written if step > 40 else ""))
    height = top + len(grid.rows) * tall + 4
    return picture(height, "".join(parts), f"{metric} for {len(grid.rows)} by {len(grid.columns)} values")


def _cut(name: str, longest: int) -> str:
    return name if len(name) <= max(longest, 3) else f"{name[: max(longest, 3) - 1]}…"


def graphs(study: Study) -> list[str]:
    """A small picture of each graph of the sweep, with its figures below; markup, one a graph."""
    seen: dict[tuple[str, int], list[Trial]] = {}
    for trial in study.trials:
        if trial.ok:
            seen.setdefault((trial.texts["graph"], int(trial.figures["nodes"])), []).append(trial)
    several = len({n for _, n in seen}) > 1
    return [_small_graph(study, spec, n, trials, several) for (spec, n), trials in seen.items()]


def facts_of(trial: Trial, study: Study) -> dict[str, object]:
    """What `topology show` says of the graph a run had; empty where it cannot be made again."""
    from gossipfl import topology

    stated = trial.columns.get("topology.weights") or study.setting("topology", "weights") or "metropolis"
    try:
        return topology.describe(
            trial.texts["graph"], int(trial.figures["nodes"]), weights=str(stated), seed=trial.seed
        )
    except (ConfigError, ValueError, OSError):
        return {}


class Decay(NamedTuple):
    """How fast a graph's nodes agree. theory and measured: the factor a round; where `exact`, the round after
    which they agree. largest: the largest difference between the two in any one run."""

    name: str
    theory: Interval
    measured: Interval
    largest: float
    exact: bool


def decays(study: Study) -> list[Decay]:
    """Of runs that only average; nothing of others. Each run against the graph it had."""
    if study.setting("train", "task") != "consensus":
        return []
    found = []
    for setting in study.settings:
        facts = [facts_of(trial, study) for trial in setting.trials]
        ends = [number(fact.get("rounds_to_exact")) for fact in facts]
        exact = all(map(math.isfinite, ends))
        theory = np.array(ends if exact else [number(fact.get("rho")) for fact in facts])
        measure = exact_after if exact else decay
        measured = np.array([measure(trial) for trial in setting.trials])
        gaps = np.abs(measured - theory)
        if np.isfinite(gaps).any():
            largest = float(np.nanmax(gaps))
            found.append(Decay(setting.label, interval(theory), interval(measured), largest, exact))
    return found


def _small_graph(study: Study, spec: str, n: int, trials: Sequence[Trial], several: bool) -> str:
    from gossipfl import topology
    from gossipfl.topology.layout import positions

    facts = facts_of(trials[0], study)
    drawn = ""
    try:
        graph = topology.schedule(spec, n, seed=trials[0].seed, allow_disconnected=True).graph(0)
    except (ConfigError, ValueError, OSError):
        graph = None
    if graph is not None and n <= DRAWN:
        at = positions(graph)
        middle = (at.max(axis=0) + at.min(axis=0)) / 2
        at = (at - middle) / max(float(np.abs(at - middle).max()), 1e-9) * (_SMALL / 2 - 10)
        drawn = _dots(at, graph.edges())
    shown = element("svg", drawn, viewBox=f"{-_SMALL / 2:g} {-_SMALL / 2:g} {_SMALL} {_SMALL}",
                    width=_SMALL, height=_SMALL, role="img", aria_label=f"the graph {spec}")  # fmt: skip
    said = [f"{spec}, {n:,} nodes" if several else spec]
    rho = facts.get("rho")
    if isinstance(rho, int | float):
        said.append(f"ρ {text(float(rho))}")
    degree = facts.get("degree_mean")
    if isinstance(degree, int | float):
        said.append(f"degree {degree:.3g}" + ("" if facts.get("schedule_length") == 1 else " a round"))
    best = [trial.figures["mean"] for trial in trials if math.isfinite(trial.figures["mean"])]
    if best:
        said.append(f"best {study.metric} {text(max(best) if study.higher else min(best))}")
    caption = element("br").join(escape(line) for line in said)
    return element("figure", shown + element("figcaption", caption))


def _dots(at: Array, edges: NDArray[np.int64]) -> str:
    radius = float(np.clip(26 / math.sqrt(max(len(at), 1)), 0.8, 6))
    if len(edges) > _EDGES:
        edges = edges[np.linspace(0, len(edges) - 1, _EDGES).round().astype(int)]
    d = "".join(f"M{at[i, 0]:.1f} {-at[i, 1]:.1f}L{at[j, 0]:.1f} {-at[j, 1]:.1f}" for i, j in edges.tolist())
    lines = element("path", class_="edges many" if len(edges) > 100 else "edges", d=d)
    dots = "".join(element("circle", class_="dot", cx=float(x), cy=-float(y), r=radius) for x, y in at)
    return lines + element("g", dots, class_="s0")


class Mark(NamedTuple):
    """A point of a scatter, with what is written under the pointer."""

    x: float
    y: float
    tip: str


def against(marks: Sequence[Mark], x_name: str, y_name: str) -> str:
    """The SVG of points on square axes with the line on which both are equal."""
    left, right, top, bottom, height = 66, 14, 14, 46, 330
    both = [np.array([m.x for m in marks]), np.array([m.y for m in marks])]
    x_scale = scale(both, left, WIDTH - right)
    y_scale = scale(both, height - bottom, top)
    parts = []
    for value in y_scale.ticks():
        y = y_scale.at(value)
        parts.append(element("path", class_="grid", d=f"M{left} {y:.1f}H{WIDTH - right}"))
        parts.append(label(left - 7, y + 4, tick_text(value, y_scale.ticks()), "", "end"))
    for value in x_scale.ticks():
        x = x_scale.at(value)
        parts.append(element("path", class_="tick", d=f"M{x:.1f} {height - bottom}v5"))
        parts.append(label(x, height - bottom + 19, tick_text(value, x_scale.ticks()), "", "middle"))
    low, high = x_scale.low, x_scale.high
    line = f"M{x_scale.at(low):.1f} {y_scale.at(low):.1f}L{x_scale.at(high):.1f} {y_scale.at(high):.1f}"
    parts.append(element("path", class_="axis", d=line))
    dots = (
        element("circle", class_="dot", cx=x_scale.at(m.x), cy=y_scale.at(m.y), r=5, data_tip=m.tip)
        for m in marks
    )
    parts.append(element("g", "".join(dots), class_="s0"))
    parts.append(label((left + WIDTH - right) / 2, height - 6, x_name, "name", "middle"))
    parts.append(
        element(
            "text", escape(y_name), class_="name y", text_anchor="middle",
            transform=f"translate(13 {(top + height - bottom) / 2:g}) rotate(-90)",
        )
    )  # fmt: skip
    return picture(height, "".join(parts), f"{y_name} against {x_name}, {len(marks)} points")


def grid_of(study: Study, rows: str, columns: str, at: Callable[[object, object], Interval | None]) -> Grid:
    """The grid of two axes; `at` gives the interval for a pair of values."""
    row_values, column_values = study.values_on(rows), study.values_on(columns)
    values = np.full((len(row_values), len(column_values)), np.nan)
    halves = values.copy()
    for i, row in enumerate(row_values):
        for j, column in enumerate(column_values):
            found = at(row, column)
            if found is not None:
                values[i, j], halves[i, j] = found.mean, found.half
    return Grid(
        [word(rows, v) for v in row_values], [word(columns, v) for v in column_values], values, halves
    )
