"""Pictures of graphs, and of what they cost against what they buy; matplotlib figures, drawn without a
window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Final

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from gossipfl.errors import ConfigError, Problem
from gossipfl.topology.graph import Graph
from gossipfl.topology.layout import positions
from gossipfl.topology.schedules import Schedule

NODE, EDGE, INK = "#0072b2", "#5f6b76", "#20262c"
PANELS: Final = 6
"""Rounds of a schedule that are drawn."""
NUMBERED: Final = 40
"""Nodes up to which each bears its number (or its name, where it has one)."""
BENT: Final = 150
"""Nodes up to which an edge that would run through another node is bent around it."""
ENDINGS: Final = (".svg", ".png", ".pdf")

Array = NDArray[np.float64]


def draw(graph: Graph, axes: Axes) -> None:
    """Draw nodes and edges; arcs of a directed graph end in an arrow."""
    at = positions(graph)
    crowd = max(graph.n, 1)
    named = bool(graph.labels) and graph.n <= NUMBERED
    size = float(np.clip(2400 / crowd, 6, 70 if named else 170))
    edges = graph.edges()
    width = float(np.clip(60 / max(len(edges), 1), 0.25, 1.3))
    lines = [curve(at, int(i), int(j)) for i, j in edges]
    axes.add_collection(LineCollection(lines, colors=EDGE, linewidths=width, alpha=0.75, zorder=1))
    if graph.directed and len(edges):
        _arrow_heads(axes, lines, size)
    axes.scatter(at[:, 0], at[:, 1], s=size, color=NODE, edgecolors="white", linewidths=0.6, zorder=2)
    if named:
        _names(axes, graph.labels, at)
    elif graph.n <= NUMBERED:
        points = float(np.clip(size / 16, 4.5, 8))
        for i, (x, y) in enumerate(at):
            axes.text(
                x, y, str(i), color="white", zorder=3, ha="center", va="center_baseline", fontsize=points
            )
    axes.set_aspect("equal")
    axes.axis("off")
    axes.margins(0.12)


def curve(at: Array, i: int, j: int) -> Array:
    """The line from node i to node j, float64 [k, 2]: straight, or bent where it would run through another
    node."""
    start, end = at[i], at[j]
    along = end - start
    length = float(np.hypot(*along))
    if len(at) > BENT or length < 1e-9:
        return np.stack([start, end])
    place = (at - start) @ along / length**2
    away = np.abs((at - start) @ np.array([-along[1], along[0]])) / length
    if not ((away < 0.03) & (place > 0.1) & (place < 0.9)).any():
        return np.stack([start, end])
    side = np.array([-along[1], along[0]])
    middle = (start + end) / 2 - at.mean(axis=0)
    sign = 1.0 if middle @ side > 1e-9 or (abs(middle @ side) <= 1e-9 and i < j) else -1.0
    bend = (start + end) / 2 + sign * 0.28 * side
    t = np.linspace(0, 1, 24)[:, None]
    return np.asarray((1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end)


def _arrow_heads(axes: Axes, lines: Sequence[Array], size: float) -> None:
    """An arrow head on each line, short of the node it leads to."""
    for line in lines:
        tip, before = line[-1], line[-2]
        style = {"arrowstyle": "-|>", "color": EDGE, "linewidth": 0, "mutation_scale": 4 + size / 30}
        axes.annotate(
            "", tip, before, arrowprops={**style, "shrinkB": np.sqrt(size) / 2, "shrinkA": 0}, zorder=1
        )


def _names(axes: Axes, names: Sequence[str], at: Array) -> None:
    """Names beside their nodes, on the outer side."""
    middle = at.mean(axis=0)
    for name, (x, y) in zip(names, at, strict=True):
        right = x >= middle[0]
        offset = (6, 0) if right else (-6, 0)
        axes.annotate(
            name,
            (x, y),
            offset,
            textcoords="offset points",
            ha="left" if right else "right",
            va="center",
            fontsize=6.5,
            color=INK,
            zorder=3,
            path_effects=[withStroke(linewidth=2, foreground="white")],
            parse_math=False,
        )


def graph_figure(schedule: Schedule, title: str) -> Figure:
    """A picture of a graph; of a schedule, its first rounds side by side."""
    rounds = 1 if schedule.length == 1 else min(schedule.length or 3, PANELS)
    columns = min(rounds, 3)
    rows = -(-rounds // columns)
    side = 5.2 if rounds == 1 else 3.2
    figure = Figure(figsize=(side * columns, side * rows + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=11, color=INK, parse_math=False)
    for round in range(rounds):
        axes = figure.add_subplot(rows, columns, round + 1)
        draw(schedule.graph(round), axes)
        if rounds > 1:
            axes.set_title(f"round {round}", fontsize=9, color=INK)
    return figure


def comparison_figure(rows: Sequence[Mapping[str, object]], title: str) -> Figure:
    """rho, and effective neighbors at .99, against messages a round: a point for each of the figures of
    `describe`."""
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    figure.suptitle(title, fontsize=11, color=INK, parse_math=False)
    panels = (
        ("ρ (lower is faster)", [_value(row["rho"]) for row in rows]),
        ("effective neighbours at γ = .99", [_effective(row) for row in rows]),
    )
    for place, (label, values) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, 2, place)
        messages = [_value(row["messages_per_round"]) for row in rows]
        axes.set_xlabel("messages a round, all nodes together")
        axes.set_ylabel(label)
        axes.set_xscale("symlog", linthresh=1) if min(messages, default=1.0) <= 0 else axes.set_xscale("log")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        shown = [(x, y, str(row["name"])) for x, y, row in zip(messages, values, rows, strict=True) if y == y]
        axes.scatter([x for x, _, _ in shown], [y for _, y, _ in shown], color=NODE, s=36, zorder=2)
        _captions(axes, shown)
        axes.margins(0.16)
    return figure


def _captions(axes: Axes, shown: Sequence[tuple[float, float, str]]) -> None:
    """A name at each point; points that nearly touch share one caption."""
    if not shown:
        return
    at = np.array([(x, y) for x, y, _ in shown])
    at[:, 0] = np.log10(np.maximum(at[:, 0], 1.0))
    at = (at - at.min(axis=0)) / np.maximum(np.ptp(at, axis=0), 1e-9)
    left = sorted(range(len(shown)), key=lambda i: (at[i, 0], -at[i, 1]))
    while left:
        first = left[0]
        group = [i for i in left if (np.abs(at[i] - at[first]) < (0.2, 0.12)).all()]
        left = [i for i in left if i not in group]
        group.sort(key=lambda i: -at[i, 1])
        far = at[first, 0] > 0.75
        axes.annotate(
            "\n".join(shown[i][2] for i in group),
            (shown[group[0]][0], shown[group[-1]][1]),
            (-7, 4) if far else (7, 4),
            textcoords="offset points",
            ha="right" if far else "left",
            fontsize=8,
            color=INK,
            parse_math=False,
        )


def _value(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def _effective(row: Mapping[str, object]) -> float:
    found = row["effective_neighbours"]
    return _value(found.get("0.99")) if isinstance(found, Mapping) else float("nan")


def check_ending(path: str | PathLike[str]) -> None:
    """Raise ConfigError where a picture cannot have this ending, or its folder is not there."""
    if Path(path).suffix.lower() not in ENDINGS:
        raise ConfigError(
            Problem("--plot", f"{path}: not a picture", f"a file ending in {' '.join(ENDINGS)}")
        )
    if not Path(path).resolve().parent.is_dir():
        raise ConfigError(Problem("--plot", f"{path}: its folder is not there", "an existing folder"))


def save(figure: Figure, path: str | PathLike[str]) -> None:
    """Write a picture; the same figure gives the same bytes. Raises ConfigError for an unknown ending."""
    check_ending(path)
    metadata = {"Date": None} if Path(path).suffix.lower() == ".svg" else None
    with matplotlib.rc_context({"svg.hashsalt": "gossipfl", "svg.fonttype": "path"}):
        figure.savefig(path, dpi=160, metadata=metadata)
