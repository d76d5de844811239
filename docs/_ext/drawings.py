"""The pictures of the concepts page: functions from colours to a matplotlib figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from gossipfl import topology
from gossipfl.topology.graph import from_pairs

Colors = dict[str, str]
THEMES: Mapping[str, Colors] = {
    "light": {
        "text": "#24292f",
        "quiet": "#8c959f",
        "line": "#afb8c1",
        "panel": "#eef1f4",
        "blue": "#2f6fde",
        "green": "#2a8c5a",
        "orange": "#d9730d",
        "red": "#cf3a4a",
        "on": "#ffffff",
    },
    "dark": {
        "text": "#d5dbe2",
        "quiet": "#8b949e",
        "line": "#566069",
        "panel": "#262c34",
        "blue": "#6ea8fe",
        "green": "#57c08a",
        "orange": "#f0a35e",
        "red": "#ff7b86",
        "on": "#14181d",
    },
}


def _blank(axes: Axes) -> None:
    axes.set_axis_off()
    axes.margins(0.02)


def graph_and_matrix(c: Colors) -> Figure:
    """A graph of six nodes with its Metropolis weights, and the same as a matrix."""
    pairs = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0), (1, 4)]
    graph = from_pairs("six", 6, pairs)
    w = topology.mixing_matrix(graph)
    angle = np.pi / 2 - 2 * np.pi * (np.arange(6) + 0.5) / 6
    at = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    figure = Figure(figsize=(8.2, 3.7))
    left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
    for i, j in pairs:
        left.plot(*at[[i, j]].T, color=c["line"], lw=1 + 6 * w[i, j], zorder=1, solid_capstyle="round")
        middle = at[[i, j]].mean(axis=0)
        out = 1.16 if (i, j) != (1, 4) else 1.0
        left.text(
            *(middle * out + (np.array([0, 0.1]) if out == 1.0 else 0)),
            str(Fraction(w[i, j]).limit_denominator(100)),
            color=c["text"],
            ha="center",
            va="center",
            fontsize=10,
        )
    left.scatter(*at.T, s=520, color=c["blue"], zorder=2, linewidths=0)
    for i, point in enumerate(at):
        left.text(*point, str(i), color=c["on"], ha="center", va="center", weight="bold", zorder=3)
    left.set(aspect="equal", xlim=(-1.35, 1.35), ylim=(-1.3, 1.3))
    left.set_title("a graph: who may talk to whom", color=c["text"], fontsize=11)
    _blank(left)
    for i in range(6):
        for j in range(6):
            share = float(w[i, j])
            face = c["blue"] if share else c["panel"]
            cell = FancyBboxPatch(
                (j + 0.06, i + 0.06),
                0.88,
                0.88,
                boxstyle="round,pad=0,rounding_size=0.1",
                linewidth=0,
                facecolor=face,
                alpha=0.25 + 1.4 * share if share else 1.0,
            )
            right.add_patch(cell)
            if share:
                text = str(Fraction(share).limit_denominator(100))
                right.text(j + 0.5, i + 0.5, text, ha="center", va="center", color=c["text"])
    for k in range(6):
        right.text(k + 0.5, -0.25, str(k), ha="center", va="center", color=c["quiet"], fontsize=9)
        right.text(-0.25, k + 0.5, str(k), ha="center", va="center", color=c["quiet"], fontsize=9)
    right.set(aspect="equal", xlim=(-0.5, 6.1), ylim=(6.1, -0.6))
    right.set_title("its mixing matrix W", color=c["text"], fontsize=11)
    _blank(right)
    return figure


def round_in_time(c: Colors) -> Figure:
    """Two rounds at one node and at its two neighbours, along the clock."""
    kinds = {"train": c["blue"], "wait": c["panel"], "mix": c["green"]}
    lanes = {
        1: [
            ("train", 0.0, 2.2),
            ("wait", 2.2, 3.4),
            ("mix", 3.4, 3.8),
            ("train", 3.8, 6.0),
            ("wait", 6.0, 8.4),
        ],
        2: [
            ("train", 0.0, 3.0),
            ("wait", 3.0, 4.9),
            ("mix", 4.9, 5.3),
            ("train", 5.3, 8.0),
            ("wait", 8.0, 9.4),
        ],
        3: [("train", 0.0, 4.5), ("mix", 4.5, 4.9), ("train", 4.9, 9.0), ("mix", 9.0, 9.4)],
    }
    ends = {1: (2.2, 6.0), 2: (3.0, 8.0), 3: (4.5, 9.0)}
    figure = Figure(figsize=(8.2, 3.1))
    axes = figure.subplots()
    for node, spans in lanes.items():
        y = -float(node)
        strong = node == 2
        axes.text(
            -0.2,
            y,
            f"node {node}",
            ha="right",
            va="center",
            color=c["text"],
            weight="bold" if strong else None,
        )
        for kind, begin, end in spans:
            shape = FancyBboxPatch(
                (begin + 0.02, y - 0.17),
                end - begin - 0.04,
                0.34,
                boxstyle="round,pad=0,rounding_size=0.06",
                linewidth=0,
                facecolor=kinds[kind],
                alpha=1.0 if strong or kind == "wait" else 0.55,
                zorder=2,
            )
            axes.add_patch(shape)
            ink = c["quiet"] if kind == "wait" else c["on"]
            if end - begin > 0.6:
                axes.text(
                    (begin + end) / 2, y, kind, ha="center", va="center", color=ink, fontsize=9, zorder=3
                )
            elif strong:
                axes.text(
                    (begin + end) / 2, y, "mix", ha="center", va="center", color=ink, fontsize=7, zorder=3
                )
    for a, b in ((1, 2), (2, 1), (2, 3), (3, 2)):
        for sent in ends[a]:
            way = -0.19 if b > a else 0.19
            axes.annotate(
                "",
                xy=(sent + 0.4, -b - way),
                xytext=(sent, -a + way),
                arrowprops={"arrowstyle": "-|>", "color": c["orange"], "lw": 1.4, "shrinkA": 0, "shrinkB": 0},
                zorder=4,
            )
    for x, text in ((0.0, "round t begins at node 2"), (5.3, "round t + 1")):
        axes.plot([x, x], [-1.55, -2.45], color=c["text"], lw=1, zorder=5)
        axes.text(x + 0.05, -2.42, text, color=c["text"], fontsize=8.5, va="center")
    axes.annotate(
        "payloads",
        xy=(2.4, -1.4),
        xytext=(0.7, -1.5),
        color=c["orange"],
        fontsize=9,
        va="center",
        ha="center",
    )
    axes.annotate(
        "",
        xy=(9.6, -3.6),
        xytext=(0, -3.6),
        arrowprops={"arrowstyle": "->", "color": c["quiet"], "lw": 1},
    )
    axes.text(9.6, -3.75, "time", ha="right", va="top", color=c["quiet"], fontsize=9)
    axes.set(xlim=(-1.1, 9.7), ylim=(-4.0, -0.6))
    _blank(axes)
    return figure


def _lifelines(axes: Axes, c: Colors, title: str, bottom: float) -> None:
    axes.set_title(title, color=c["text"], fontsize=9.5)
    for x, name in ((0, "i"), (1, "j")):
        axes.plot([x, x], [0, bottom], color=c["line"], lw=1.5, zorder=1)
        axes.scatter([x], [0], s=330, color=c["blue"], zorder=2, linewidths=0)
        axes.text(x, 0, name, color=c["on"], ha="center", va="center", weight="bold")
    axes.set(xlim=(-0.75, 1.75), ylim=(bottom - 0.1, 0.35))
    _blank(axes)


def _message(axes: Axes, c: Colors, y: float, text: str, *, left: bool = False, lost: bool = False) -> None:
    begin, end = (1, 0) if left else (0, 1)
    reach = end if not lost else 0.55
    tip = y - 0.22 * abs(reach - begin)
    color = c["red"] if lost else c["orange"] if text.startswith("data") else c["quiet"]
    axes.annotate(
        "",
        xy=(reach, tip),
        xytext=(begin, y),
        arrowprops={"arrowstyle": "-|>", "color": color, "lw": 1.5, "shrinkA": 1, "shrinkB": 1},
    )
    if lost:
        axes.text(reach + 0.03, tip, "✕", color=c["red"], ha="left", va="center", fontsize=11)
    axes.text(0.5, y + 0.0, text, ha="center", va="bottom", color=color, fontsize=9)


def _says(axes: Axes, c: Colors, y: float, i: str, j: str, color: str = "green") -> None:
    axes.text(-0.08, y, i, ha="right", va="center", color=c[color], fontsize=8.5)
    axes.text(1.08, y, j, ha="left", va="center", color=c[color], fontsize=8.5)


def edge(c: Colors) -> Figure:
    """What passes on an edge: a round that counts, one that does not, and a line that breaks."""
    figure = Figure(figsize=(10.2, 4.4))
    one, two, three = figure.subplots(1, 3)
    _lifelines(one, c, "both send: t counts at both", -3.2)
    _message(one, c, -0.6, "data t")
    _message(one, c, -1.0, "data t", left=True)
    _says(one, c, -1.5, "counts\n$w\\,z_j$", "counts\n$w\\,z_i$")
    _message(one, c, -2.1, "data t+1")
    _message(one, c, -2.5, "data t+1", left=True)
    _says(one, c, -3.0, "counts", "counts")
    _lifelines(two, c, "one says none: t counts nowhere", -3.2)
    _message(two, c, -0.6, "data t")
    _message(two, c, -1.0, "none t", left=True)
    _says(two, c, -1.5, "$w$ to self", "$w$ to self", "quiet")
    _message(two, c, -2.1, "data t+1")
    _message(two, c, -2.5, "data t+1", left=True)
    _says(two, c, -3.0, "counts", "counts")
    _lifelines(three, c, "the line breaks: t still counts", -3.2)
    _message(three, c, -0.55, "data t", lost=True)
    _message(three, c, -0.9, "data t", left=True)
    three.plot([-0.12, 1.12], [-1.33, -1.33], color=c["red"], lw=1, ls=(0, (4, 3)))
    three.text(1.16, -1.33, "broken", color=c["red"], fontsize=8.5, va="center")
    _message(three, c, -1.55, "hello")
    _message(three, c, -1.85, "welcome", left=True)
    _message(three, c, -2.2, "data t again")
    _says(three, c, -1.12, "counts\n$w\\,z_j$", "")
    _says(three, c, -2.7, "", "correction\n$w\\,(z_i-z_j)$")
    figure.subplots_adjust(wspace=0.05)
    return figure


@lru_cache(maxsize=1)
def _runs() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Rounds and mean accuracy on the quickstart's setting, by graph."""
    import gossipfl

    base = {
        "swarm.nodes": 16,
        "algorithm.local_steps": 3,
        "train.batch": 8,
        "data.alpha": 0.1,
        "swarm.eval_every": 5,
    }
    found = {}
    for graph in ("complete", "torus:4x4", "ring", "none"):
        result = gossipfl.simulate(overrides={**base, "topology.graph": graph})
        found[graph] = (result.rounds, result.accuracy.mean(axis=1))
    return found


def neighbors_help(c: Colors) -> Figure:
    """Mean accuracy over nodes, by graph, on data that differ much between nodes."""
    figure = Figure(figsize=(7.2, 3.2))
    axes = figure.subplots()
    colors = {"complete": c["green"], "torus:4x4": c["blue"], "ring": c["orange"], "none": c["quiet"]}
    for graph, (rounds, accuracy) in _runs().items():
        axes.plot(rounds, accuracy, color=colors[graph], lw=2)
        name = "no neighbors" if graph == "none" else graph
        nudge = {"complete": 0.015, "torus:4x4": -0.015}.get(graph, 0.0)
        at = accuracy[-1] + nudge
        axes.text(rounds[-1] + 1.2, at, name, color=colors[graph], va="center", fontsize=9.5)
    axes.set(xlim=(0, 118), ylim=(0, 1), xlabel="round", ylabel="accuracy, mean over nodes")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(c["line"])
    axes.tick_params(colors=c["quiet"])
    axes.xaxis.label.set_color(c["quiet"])
    axes.yaxis.label.set_color(c["quiet"])
    axes.grid(axis="y", color=c["line"], alpha=0.35, lw=0.7)
    return figure


DRAWINGS: Mapping[str, Callable[[Colors], Figure]] = {
    "graph-and-matrix": graph_and_matrix,
    "round-in-time": round_in_time,
    "edge": edge,
    "neighbors-help": neighbors_help,
}
