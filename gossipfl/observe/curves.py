"""Curves over rounds or seconds: a mean with its spread, one curve a run, values under the pointer."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from gossipfl.observe.metrics import text
from gossipfl.observe.svg import (
    WIDTH,
    Array,
    Scale,
    area,
    element,
    escape,
    label,
    picture,
    points,
    scale,
    spans_much,
    tick_text,
)

HEIGHT = 316
LEFT, RIGHT, TOP, BOTTOM = 66, 14, 14, 46
THIN = 32  # up to so many nodes each has a thin line of its own
COLOURS = 8  # classes s0..s7 of the style sheet; further curves repeat them, dashed


@dataclass(frozen=True, eq=False)
class Curve:
    """A line through `y` [k] at `x` [k]; around it a band `low`..`high` [k] and thin lines [k], if any."""

    name: str
    x: Array
    y: Array
    low: Array | None = None
    high: Array | None = None
    thin: Sequence[Array] = field(default=())


def over_nodes(name: str, x: Array, values: Array) -> Curve:
    """The mean over nodes of `values` [k, n] in its band from least to greatest; a thin line each, of few."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a round in which no node said anything
        mean, low, high = np.nanmean(values, axis=1), np.nanmin(values, axis=1), np.nanmax(values, axis=1)
    several = values.shape[1] > 1
    thin = tuple(values.T) if several and values.shape[1] <= THIN else ()
    return Curve(name, x, mean, low if several else None, high if several else None, thin)


def chart(curves: Sequence[Curve], x_name: str, y_name: str) -> str:
    """The SVG of one or more curves. With one, its band and thin lines are explained in the legend."""
    bands = [c for c in curves if c.low is not None and c.high is not None]
    drawn = [c.y for c in curves] + [b for c in bands for b in (c.low, c.high) if b is not None]
    x_scale = scale([c.x for c in curves], LEFT, WIDTH - RIGHT)
    x_scale = _tight(x_scale, curves)
    # a band that nearly touches 0 makes no logarithm of what is told by the lines themselves
    y_scale = scale(drawn, HEIGHT - BOTTOM, TOP, allow_log=spans_much([c.y for c in curves]))
    parts = [_axes(x_scale, y_scale, x_name, y_name)]
    for i, curve in enumerate(curves):
        parts.append(_curve(curve, i, x_scale, y_scale))
    parts.append(_hits(curves, x_scale, y_scale, x_name))
    return picture(HEIGHT, "".join(parts), _described(curves, x_name, y_name))


def legend(curves: Sequence[Curve]) -> str:
    """What the lines are, as HTML above a chart."""
    if len(curves) > 1:
        keys = [(f"key s{i % COLOURS}{_dash(i)}", curve.name) for i, curve in enumerate(curves)]
    elif curves and curves[0].low is not None:
        keys = [("key s0", "mean over nodes"), ("key s0 wide", "least to greatest")]
        keys += [("key s0 faint", "each node")] if len(curves[0].thin) else []
    else:
        return ""
    return element(
        "p",
        "".join(f"<span>{element('i', '', class_=class_)}{escape(name)}</span>" for class_, name in keys),
        class_="legend",
    )


def _tight(x_scale: Scale, curves: Sequence[Curve]) -> Scale:
    """The data's own ends along x: a curve should reach the edge of its frame."""
    flat = np.concatenate([c.x for c in curves]) if curves else np.empty(0)
    if len(flat) < 2 or flat.min() == flat.max():
        return x_scale
    return Scale(float(flat.min()), float(flat.max()), x_scale.start, x_scale.end)


def _axes(x_scale: Scale, y_scale: Scale, x_name: str, y_name: str) -> str:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    y_ticks = y_scale.ticks()
    for value in y_ticks:
        y = y_scale.at(value)
        parts.append(element("path", class_="grid", d=f"M{LEFT} {y:.1f}H{right}"))
        shown = text(value, 2) if y_scale.log and not 1e-3 <= value < 1e5 else tick_text(value, y_ticks)
        parts.append(
            label(LEFT - 7, y + 4, f"{value:g}" if y_scale.log and value >= 1e-3 else shown, "", "end")
        )
    x_ticks = x_scale.ticks()
    for value in x_ticks:
        x = x_scale.at(value)
        parts.append(element("path", class_="tick", d=f"M{x:.1f} {bottom}v5"))
        parts.append(label(x, bottom + 19, tick_text(value, x_ticks), "", "middle"))
    parts.append(element("path", class_="axis", d=f"M{LEFT} {bottom}H{right}"))
    parts.append(label((LEFT + right) / 2, HEIGHT - 6, x_name, "name", "middle"))
    shown = f"{y_name} (log)" if y_scale.log else y_name
    return "".join(parts) + element(
        "text", escape(shown), class_="name y", text_anchor="middle",
        transform=f"translate(13 {(TOP + bottom) / 2:g}) rotate(-90)",
    )  # fmt: skip


def _curve(curve: Curve, index: int, x_scale: Scale, y_scale: Scale) -> str:
    x = x_scale(curve.x)
    parts = []
    if curve.low is not None and curve.high is not None:
        parts.append(element("path", class_="band", d=area(x, y_scale(curve.low), y_scale(curve.high))))
    parts += [element("path", class_="thin", d=points(x, y_scale(line))) for line in curve.thin]
    y = y_scale(curve.y)
    parts.append(element("path", class_="line", d=points(x, y)))
    if np.isfinite(y).sum() <= 12:
        parts += [
            element("circle", class_="dot", cx=float(px), cy=float(py), r=3)
            for px, py in zip(x, y, strict=True)
            if np.isfinite(py)
        ]
    return element("g", "".join(parts), class_=f"s{index % COLOURS}{_dash(index)}")


def _dash(index: int) -> str:
    return " dashed" if index >= COLOURS else ""


def _hits(curves: Sequence[Curve], x_scale: Scale, y_scale: Scale, x_name: str) -> str:
    """Invisible strips, one a value of x, that say what is there."""
    xs = sorted({float(v) for c in curves for v in c.x})
    if len(xs) > 400:
        xs = xs[:: len(xs) // 400 + 1]
    at = [x_scale.at(v) for v in xs]
    edges = [at[0], *((a + b) / 2 for a, b in pairwise(at)), at[-1]] if at else []
    parts = []
    for value, x, left, right in zip(xs, at, edges, edges[1:], strict=False):
        lines = [f"{x_name} {value:,.6g}"]
        marks = []
        for i, curve in enumerate(curves):
            k = int(np.argmin(np.abs(curve.x - value))) if len(curve.x) else -1
            if k < 0 or (len(curves) == 1 and curve.x[k] != value) or not np.isfinite(curve.y[k]):
                continue
            lines.append(_value(curve, k))
            marks.append(
                element("circle", class_=f"mark s{i % COLOURS}", r=4, cx=x_scale.at(curve.x[k]),
                        cy=y_scale.at(float(curve.y[k])))
            )  # fmt: skip
        rule = element("path", d=f"M{x:.1f} {TOP}V{HEIGHT - BOTTOM}")
        hit = element(
            "rect", x=left - 3, y=TOP, width=right - left + 6, height=HEIGHT - BOTTOM - TOP,
            data_tip="\n".join(lines),
        )  # fmt: skip
        parts.append(element("g", hit + rule + "".join(marks), class_="hit"))
    return "".join(parts)


def _value(curve: Curve, k: int) -> str:
    said = f"{curve.name}: {text(float(curve.y[k]))}"
    if curve.low is not None and curve.high is not None:
        said += f" ({text(float(curve.low[k]))} to {text(float(curve.high[k]))})"
    return said


def _described(curves: Sequence[Curve], x_name: str, y_name: str) -> str:
    ends = []
    for curve in curves[:12]:
        fine = curve.y[np.isfinite(curve.y)]
        if len(fine):
            ends.append(f"{curve.name} from {text(float(fine[0]))} to {text(float(fine[-1]))}")
    return f"{y_name} over {x_name}: {'; '.join(ends) or 'nothing recorded'}"
