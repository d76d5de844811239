"""Bars, one a node: how its time was split, what it sent, which labels it holds. Of many, a sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from gossipfl.observe.metrics import size, span, text
from gossipfl.observe.svg import WIDTH, Array, Scale, element, escape, label, picture

ALL, ROWS = 32, 16  # up to ALL nodes each has a bar; of more, ROWS of them, evenly spread over an order
CLASS_COLOURS = 10  # classes k0..k9 of the style sheet
_LEFT, _RIGHT, _BOTTOM = 104, 74, 26


@dataclass(frozen=True, eq=False)
class Bars:
    """Stacked horizontal bars: `values` [n, k], a segment a column in its class of the style sheet.

    `order` [n] is what a sample of many nodes is spread over; `beside` is written after a bar, `tip` is shown
    under the pointer, `tick` writes the axis, `described` is for those who do not see the picture.
    """

    values: Array
    classes: Sequence[str]
    order: Array
    beside: Callable[[int], str]
    tip: Callable[[int], str]
    tick: Callable[[float], str]
    described: str

    def rows(self) -> list[int]:
        """The nodes that get a bar: all in their own order, or ROWS of many."""
        n = len(self.values)
        if n <= ALL:
            return list(range(n))
        ranked = np.argsort(self.order, kind="stable")
        return [int(ranked[k]) for k in np.linspace(0, n - 1, ROWS).round().astype(int)]


def time_split(names: Sequence[str], spent: Array) -> str:
    """Seconds training, waiting and mixing of each node, [n, 3]."""

    def tip(i: int) -> str:
        total = float(spent[i].sum()) or 1.0
        parts = zip(("training", "waiting", "mixing"), spent[i].tolist(), strict=True)
        return "\n".join([names[i], *(f"{name}: {span(s)} ({s / total:.0%})" for name, s in parts)])

    waiting = spent[:, 1] / np.maximum(spent.sum(axis=1), 1e-300)
    bars = Bars(
        values=spent,
        classes=("t0", "t1", "t2"),
        order=waiting,
        beside=lambda i: f"{waiting[i]:.0%} wait",
        tip=tip,
        tick=lambda v: f"{v:g} s" if v >= 1 else span(v),
        described="Seconds each node spent training, waiting and mixing",
    )
    return _draw(names, bars)


def bytes_sent(names: Sequence[str], sent: Array) -> str:
    """Bytes sent by each node, [n]."""
    bars = Bars(
        values=sent[:, None],
        classes=("t0",),
        order=sent,
        beside=lambda i: size(float(sent[i])),
        tip=lambda i: f"{names[i]}\n{size(float(sent[i]))} sent",
        tick=size,
        described="Bytes each node sent",
    )
    return _draw(names, bars)


def labels(names: Sequence[str], counts: Array, distance: Array) -> str:
    """Samples of each class that each node holds, [n, classes]; `distance`: total variation from all, [n]."""

    def tip(i: int) -> str:
        held = ", ".join(f"{k}: {int(c):,}" for k, c in enumerate(counts[i]) if c)
        whole = f"{names[i]}\n{int(counts[i].sum()):,} samples\n{held}"
        return f"{whole}\nlabel distance from all: {distance[i]:.2f}"

    bars = Bars(
        values=counts,
        classes=[f"k{k % CLASS_COLOURS}" for k in range(counts.shape[1])],
        order=distance,
        beside=lambda i: f"TV {distance[i]:.2f}",
        tip=tip,
        tick=_count,
        described="Samples of each class that each node holds",
    )
    return _draw(names, bars)


def samples(names: Sequence[str], sizes: Array) -> str:
    """Samples that each node holds, [n]."""
    bars = Bars(
        values=sizes[:, None],
        classes=("t0",),
        order=sizes,
        beside=lambda i: _count(sizes[i]),
        tip=lambda i: f"{names[i]}\n{_count(sizes[i])} samples",
        tick=_count,
        described="Samples that each node holds",
    )
    return _draw(names, bars)


def keys(entries: Sequence[tuple[str, str]]) -> str:
    """A legend: (class of the style sheet, words) each."""
    shown = (
        f"<span>{element('i', '', class_=f'box {class_}')}{escape(words)}</span>" for class_, words in entries
    )
    return element("p", "".join(shown), class_="legend")


def sampled(n: int, by: str) -> str:
    """A sentence that says which bars are shown, where not all are."""
    return f"{ROWS} of {n:,} nodes, evenly spread from the least to the most {by}." if n > ALL else ""


def _count(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:,.1f}"


def _draw(names: Sequence[str], bars: Bars) -> str:
    rows = bars.rows()
    step = 26 if len(rows) <= 16 else 18
    height = len(rows) * step + _BOTTOM
    longest = float(np.nan_to_num(bars.values[rows]).sum(axis=1).max(initial=0.0))
    extent = Scale(0.0, longest or 1.0, _LEFT, WIDTH - _RIGHT)
    parts = []
    for value in extent.ticks():
        x = extent.at(value)
        parts.append(element("path", class_="grid", d=f"M{x:.1f} 0V{height - _BOTTOM}"))
        parts.append(label(x, height - 7, bars.tick(value), "", "middle"))
    for k, i in enumerate(rows):
        y, thick = k * step + 3, step - 6
        ends = extent(np.append(0.0, np.cumsum(np.nan_to_num(bars.values[i])))).tolist()
        segments = (
            element("rect", class_=class_, x=a, y=y, width=b - a, height=thick)
            for class_, (a, b) in zip(bars.classes, pairwise(ends), strict=True)
            if b - a > 0.05
        )
        name = names[i] if len(names[i]) <= 12 else f"{names[i][:11]}…"
        middle = y + thick / 2 + 4
        written = label(_LEFT - 8, middle, name, "", "end") + label(
            ends[-1] + 7, middle, bars.beside(i), "side"
        )
        hit = element("rect", class_="over", x=0, y=y - 3, width=WIDTH, height=step, data_tip=bars.tip(i))
        parts.append(element("g", "".join(segments) + written + hit))
    total = text(float(np.nansum(bars.values)))
    return picture(height, "".join(parts), f"{bars.described}: {len(names)} nodes, {total} in all")
