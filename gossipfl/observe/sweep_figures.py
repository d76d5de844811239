"""A sweep's figures as SVG and PDF files, for papers: small, in colours that print, always the same bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gossipfl.observe.sweep_page import FACETS, colour_axis, curves_of, facets
from gossipfl.observe.sweep_pictures import decays, grid_of
from gossipfl.observe.sweep_reading import Study, label
from gossipfl.observe.sweep_stats import Interval, interval

COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6a4cc2", "#6f7680")
_MARKS: Final = "osD^vPX*"
_STYLE: Final[dict[Any, Any]] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "svg.hashsalt": "gossipfl",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
}
_X: Final = {"round": "round", "sent_bytes": "bytes sent by a node", "seconds": "seconds"}
_LOG_FROM: Final = 30.0  # positive values that span more than this factor are drawn on a logarithmic axis
_RANKED: Final = 40


def write_figures(study: Study, folder: Path) -> list[Path]:
    """Write every figure of a sweep as SVG and PDF into a folder, made if need be. Returns their paths.

    Raises OSError.
    """
    if not study.settings:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with matplotlib.rc_context(_STYLE):
        for name, figure in _figures(study).items():
            for ending, undated in (("svg", "Date"), ("pdf", "CreationDate")):
                path = folder / f"{name}.{ending}"
                figure.savefig(path, metadata={undated: None}, bbox_inches="tight")
                written.append(path)
    return written


def _figures(study: Study) -> Mapping[str, Figure]:
    drawn: dict[str, Figure] = {"ranking": ranking_figure(study)}
    kinds = {"round": "curves-rounds", "sent_bytes": "curves-bytes", "seconds": "curves-seconds"}
    for against, name in kinds.items():
        figure = _curves(study, against) if against != "seconds" or study.timed else None
        if figure is not None:
            drawn[name] = figure
    if len(study.axes) > 1:
        drawn["heatmap"] = _heat_maps(study)
    if (figure := _decay(study)) is not None:
        drawn["decay"] = figure
    return drawn


def _panels(count: int, wide: float = 2.3, tall: float = 1.9) -> tuple[Figure, list[Axes]]:
    columns = min(count, 3)
    rows = -(-count // columns)
    wide = wide if count > 1 else 3.4
    tall = tall if count > 1 else 2.5
    figure = Figure(figsize=(wide * columns, tall * rows), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, k + 1) for k in range(count)]


def ranking_figure(study: Study) -> Figure:
    """The best settings with their intervals over seeds."""
    ranked = study.ranked()[:_RANKED]
    means = [interval(setting.values()) for setting in ranked]
    figure = Figure(figsize=(4.5, 0.6 + 0.19 * len(ranked)), layout="constrained")
    axes = figure.add_subplot()
    at = np.arange(len(ranked))[::-1]
    halves = [m.half if math.isfinite(m.half) else 0.0 for m in means]
    axes.errorbar(
        [m.mean for m in means], at, xerr=halves, fmt="o", color=COLOURS[0], markersize=4, capsize=2
    )
    axes.set_yticks(at, [_plain(setting.label) for setting in ranked])
    axes.set_xlabel(f"{_plain(study.metric)} (mean, 95 % interval over seeds)")
    axes.set_ylim(-0.7, len(ranked) - 0.3)
    return figure


def _curves(study: Study, against: str) -> Figure | None:
    metric = "consensus_distance" if study.setting("train", "task") == "consensus" else study.metric
    found = [(facet, curves_of(facet, metric, against)) for facet in facets(study)]
    found = [(facet, drawn) for facet, drawn in found if drawn][:FACETS]
    if not found:
        return None
    figure, panels = _panels(len(found))
    handles: dict[str, Line2D] = {}
    for axes, (facet, drawn) in zip(panels, found, strict=True):
        for k, curve in enumerate(drawn):
            colour = COLOURS[k % len(COLOURS)]
            (line,) = axes.plot(curve.x, curve.y, color=colour, linewidth=1.3)
            if curve.low is not None and curve.high is not None:
                axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)
            handles.setdefault(curve.name, line)
        axes.set_title(_plain(facet.title))
        axes.set_xlabel(_X[against])
        values = np.concatenate([curve.y for curve in drawn])
        values = values[np.isfinite(values)]
        if len(values) and values.min() > 0 and values.max() / values.min() > _LOG_FROM:
            axes.set_yscale("log")
    panels[0].set_ylabel(_plain(metric.replace("_", " ")))
    figure.legend(
        list(handles.values()), [_plain(name) for name in handles], loc="outside lower center",
        ncols=min(4, len(handles)),
    )  # fmt: skip
    return figure


def _heat_maps(study: Study) -> Figure:
    rows = colour_axis(study) or study.axes[0]
    columns = next(axis for axis in study.axes if axis != rows)
    others = [axis for axis in study.axes if axis not in (rows, columns)]
    at = {setting.key: interval(setting.values()) for setting in study.settings}
    rests = list(dict.fromkeys(tuple(s.key[study.axes.index(a)] for a in others) for s in study.settings))
    rests = rests[:FACETS]
    figure, panels = _panels(len(rests), 2.6, 2.2)
    means = [found.mean for found in at.values() if math.isfinite(found.mean)]
    for axes, rest in zip(panels, rests, strict=True):
        fixed = dict(zip(others, rest, strict=True))

        def lookup(row: object, column: object, fixed: dict[str, object] = fixed) -> Interval | None:
            place = {rows: row, columns: column, **fixed}
            return at.get(tuple(place[axis] for axis in study.axes))

        grid = grid_of(study, rows, columns, lookup)
        axes.grid(visible=False)
        axes.imshow(
            grid.values, cmap="viridis" if study.higher else "viridis_r", vmin=min(means), vmax=max(means),
            aspect="auto",
        )  # fmt: skip
        axes.set_xticks(range(len(grid.columns)), [_plain(c) for c in grid.columns], rotation=30, ha="right")
        axes.set_yticks(range(len(grid.rows)), [_plain(r) for r in grid.rows])
        axes.set_title(_plain(label(others, rest)))
        middle = (min(means) + max(means)) / 2
        for (i, j), value in np.ndenumerate(grid.values):
            if math.isfinite(value):
                dark = (value < middle) == study.higher
                axes.text(
                    j, i, f"{value:.3g}", ha="center", va="center", fontsize=6,
                    color="white" if dark else "black",
                )  # fmt: skip
    return figure


def _decay(study: Study) -> Figure | None:
    found = [d for d in decays(study) if not d.exact]
    if not found:
        return None
    figure, (axes,) = _panels(1)
    axes.plot([0, 1], [0, 1], color="#9aa4b2", linewidth=0.8)
    for k, one in enumerate(found):
        axes.plot(
            one.theory.mean, one.measured.mean, _MARKS[k // len(COLOURS) % len(_MARKS)],
            color=COLOURS[k % len(COLOURS)], markersize=4, label=_plain(one.name),
        )  # fmt: skip
    axes.set_xlabel("ρ, theory")
    axes.set_ylabel("measured factor a round")
    figure.legend(loc="outside right center", fontsize=6)
    return figure


def _plain(name: str) -> str:
    """Text that matplotlib does not take for mathematics."""
    return name.replace("$", r"\$")
