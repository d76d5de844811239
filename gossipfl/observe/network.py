"""The graph of a run as a picture: nodes where the graph's layout puts them, coloured by how well they
did."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gossipfl.errors import ConfigError
from gossipfl.observe.metrics import text
from gossipfl.observe.reading import Run
from gossipfl.observe.svg import WIDTH, Array, colour, element, label, picture
from gossipfl.records import number

HEIGHT = 344
EDGES = 4000  # lines drawn at most; of more edges, as many evenly spread
_NUMBERED = 40  # up to so many nodes carry their index
_KEY = 40  # height of the colour key


def edges_of(run: Run) -> NDArray[np.int64]:
    """[m, 2] of the run's (first) graph as the summary has it; empty where it is not there."""
    stored = run.summary.get("edges")
    pairs = [
        (int(number(a)), int(number(b)))
        for a, b in (pair for pair in stored if isinstance(pair, list) and len(pair) == 2)
        if 0 <= number(a) < run.n and 0 <= number(b) < run.n
    ] if isinstance(stored, list) else []  # fmt: skip
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def places(run: Run, edges: NDArray[np.int64]) -> Array:
    """[n, 2] in -1..1, y upwards: the family's own layout, else one made of distances along the edges."""
    from gossipfl.topology import FAMILIES, Graph, build
    from gossipfl.topology.layout import STRESS_NODES, circle, positions

    both = np.unique(np.concatenate([edges, edges[:, ::-1]]), axis=0)
    drawn = Graph("run", run.n, both)
    spec = run.setting("topology.graph")
    if isinstance(spec, str) and spec.split(":")[0] in FAMILIES:
        try:
            family = build(
                spec, run.n, seed=int(number(run.setting("swarm.seed"), 0.0)), allow_disconnected=True
            )
        except (ConfigError, ValueError):
            family = drawn
        if family.positions is not None:
            drawn = family
    bare = drawn.positions is None and not len(edges)
    if drawn.positions is None and run.n > STRESS_NODES:
        at = _sunflower(run.n)
    else:
        at = circle(run.n) if bare else positions(drawn)
    middle = (at.max(axis=0) + at.min(axis=0)) / 2
    return np.asarray((at - middle) / max(float(np.abs(at - middle).max()), 1e-9))


def _sunflower(n: int) -> Array:
    """[n, 2], nodes spread evenly over a disc (Vogel 1979), for graphs that are too large to lay out."""
    k = np.arange(n)
    angle = k * np.pi * (3 - np.sqrt(5))
    return np.stack([np.cos(angle), np.sin(angle)], axis=1) * np.sqrt((k + 0.5) / n)[:, None]


def network(run: Run) -> str:
    """The SVG: better nodes brighter, lost ones dashed and crossed, each with its figures under the
    pointer."""
    edges = edges_of(run)
    at = places(run, edges)
    reach = (HEIGHT - _KEY) / 2 - 20
    radius = float(np.clip(120 / np.sqrt(max(run.n, 1)), 2.5, 17))
    x = WIDTH / 2 + at[:, 0] * min(reach * 1.25, WIDTH / 2 - 24)
    y = 16 + reach - at[:, 1] * reach
    parts = [_lines(edges, x, y)]
    values, lost = run.final, set(run.lost)
    shares, low, high = _shares(values, run.higher)
    degree = np.bincount(edges.ravel(), minlength=run.n)
    for i, name in enumerate(run.names):
        said = [name, f"{run.metric}: {text(float(values[i]))}"]
        if len(edges):
            said.append(f"{degree[i]} neighbors")
        gone = name in lost
        if gone:
            said.append("lost")
        parts.append(_node(float(x[i]), float(y[i]), radius, i, shares[i], gone, "\n".join(said), run.n))
    parts.append(_key(low, high, run))
    return picture(HEIGHT, "".join(parts), f"{run.n} nodes, {len(edges)} edges, coloured by {run.metric}")


def caption(run: Run) -> str:
    """A sentence about what the picture leaves out, or nothing."""
    m = len(edges_of(run))
    if not m and run.n > 1 and run.setting("topology.graph") != "none":
        return "The edges of this graph were not kept."
    return f"{EDGES:,} of {m:,} edges are drawn." if m > EDGES else ""


def _lines(edges: NDArray[np.int64], x: Array, y: Array) -> str:
    if len(edges) > EDGES:
        edges = edges[np.linspace(0, len(edges) - 1, EDGES).round().astype(int)]
    d = "".join(f"M{x[i]:.1f} {y[i]:.1f}L{x[j]:.1f} {y[j]:.1f}" for i, j in edges.tolist())
    return element("path", class_="edges many" if len(edges) > 300 else "edges", d=d)


def _shares(values: Array, higher: bool) -> tuple[Sequence[float], float, float]:
    """0 (worst) to 1 (best) for each node, and the two ends."""
    fine = values[np.isfinite(values)]
    low, high = (float(fine.min()), float(fine.max())) if len(fine) else (np.nan, np.nan)
    if not high > low:
        return [0.7] * len(values), low, high
    share = (values - low) / (high - low)
    return list(share if higher else 1 - share), low, high


def _node(x: float, y: float, radius: float, index: int, share: float, gone: bool, tip: str, n: int) -> str:
    known = np.isfinite(share) and not gone
    fill = colour(0.08 + 0.9 * share) if known else None
    parts = [
        element(
            "circle",
            class_=f"node{'' if known else ' gone'}{' small' if radius < 6 else ''}",
            cx=x,
            cy=y,
            r=radius,
            fill=fill,
            data_tip=tip,
        )
    ]
    if n <= _NUMBERED:
        tone = "on-dark" if known and share < 0.55 else ("on-light" if known else "")
        parts.append(label(x, y + 4, index, f"index {tone}", "middle"))
    return "".join(parts)


def _key(low: float, high: float, run: Run) -> str:
    """The strip that says which colour is which value."""
    if not high > low:
        return ""
    left, width, steps = WIDTH / 2 - 90, 180, 24
    y = HEIGHT - 20
    strip = "".join(
        element(
            "rect", x=left + width * k / steps, y=y, width=width / steps + 0.5, height=9,
            fill=colour(0.08 + 0.9 * k / (steps - 1)),
        )
        for k in range(steps)
    )  # fmt: skip
    worst, best = (low, high) if run.higher else (high, low)
    return (
        strip
        + label(left - 8, y + 9, f"{run.metric} {text(worst)}", "", "end")
        + label(left + width + 8, y + 9, text(best))
    )
