"""SVG as text: escaped elements, scales with round ticks, and the frame that every chart stands in.

Colours are classes of the page's style sheet, so that one picture serves light and dark. A chart is drawn on
a canvas `WIDTH` wide and scaled by the page.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gossipfl.observe.metrics import text

WIDTH = 560
LOG_FROM = 30.0  # positive values that span more than this factor are drawn on a logarithmic scale

Array = NDArray[np.float64]

# viridis at nine points (van der Walt & Smith 2015, CC0): even steps for every kind of colour vision
_VIRIDIS = (
    (68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141), (39, 173, 129),
    (92, 200, 99), (170, 220, 50), (253, 231, 37),
)  # fmt: skip


def escape(value: object) -> str:
    """Text that is safe in HTML, in and outside attributes; control characters are replaced."""
    shown = "".join(c if c >= " " or c in "\n\t" else "\ufffd" for c in str(value))
    return html.escape(shown.encode("utf-8", "replace").decode("utf-8"))


def element(name: str, content: str | None = None, **attributes: object) -> str:
    """`<name key="value">content</name>`; attributes are escaped, content is markup. `class_` is `class`."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{written}/>" if content is None else f"<{name}{written}>{content}</{name}>"


def _attribute(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else escape(value)


def label(x: float, y: float, content: object, class_: str = "", anchor: str | None = None) -> str:
    """A piece of text at a point."""
    return element("text", escape(content), x=x, y=y, class_=class_ or None, text_anchor=anchor)


def picture(height: float, content: str, described: str) -> str:
    """A whole SVG of WIDTH x height with its description for those who do not see it."""
    return element(
        "svg", content, viewBox=f"0 0 {WIDTH} {height:g}", role="img", aria_label=described, class_="chart"
    )


def points(x: Iterable[float], y: Iterable[float]) -> str:
    """The `d` of a path through points; it is broken where a point is not finite."""
    parts, pen = [], "M"
    for px, py in zip(x, y, strict=True):
        if math.isfinite(px) and math.isfinite(py):
            parts.append(f"{pen}{px:.1f} {py:.1f}")
            pen = "L"
        else:
            pen = "M"
    return "".join(parts)


def area(x: Array, low: Array, high: Array) -> str:
    """The `d` of the area between two curves, [k] each; points that are not finite are left out."""
    fine = np.isfinite(x) & np.isfinite(low) & np.isfinite(high)
    there = points(x[fine], high[fine])
    back = points(x[fine][::-1], low[fine][::-1])
    return f"{there}L{back[1:]}Z" if fine.sum() > 1 else ""


def colour(share: float) -> str:
    """Viridis at 0..1 as `#rrggbb`."""
    at = min(max(share, 0.0), 1.0) * (len(_VIRIDIS) - 1)
    i = min(int(at), len(_VIRIDIS) - 2)
    mixed = (round(a + (b - a) * (at - i)) for a, b in zip(_VIRIDIS[i], _VIRIDIS[i + 1], strict=True))
    return "#" + "".join(f"{c:02x}" for c in mixed)


@dataclass(frozen=True)
class Scale:
    """Data to canvas along one axis, linear or logarithmic."""

    low: float
    high: float
    start: float  # canvas coordinate of `low`
    end: float
    log: bool = False

    def __call__(self, values: Array) -> Array:
        """Canvas coordinates; NaN for what has no place (not positive on a logarithmic scale)."""
        low, high, at = self.low, self.high, np.asarray(values, dtype=float)
        if self.log:
            with np.errstate(divide="ignore", invalid="ignore"):
                low, high, at = math.log10(low), math.log10(high), np.log10(np.where(at > 0, at, math.nan))
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def at(self, value: float) -> float:
        return float(self(np.array(value)))

    def ticks(self) -> list[float]:
        """Round values inside the scale, about five."""
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            if last - first >= 2:
                every = max(1, (last - first) // 4)
                return [10.0**k for k in range(first, last + 1, every)]
            exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            fine = [m * 10.0**k for k in exponents for m in (1, 2, 5)]
            return [v for v in fine if self.low <= v <= self.high]
        step = _step(self.high - self.low)
        first = math.ceil(self.low / step - 1e-9)
        return [k * step for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


def scale(values: Iterable[Array], start: float, end: float, *, allow_log: bool = False) -> Scale:
    """A scale with round ends that holds all finite values; logarithmic where all are > 0 and span much."""
    arrays = [np.ravel(v) for v in values]
    flat = np.concatenate(arrays) if arrays else np.empty(0)
    flat = flat[np.isfinite(flat)]
    if not len(flat):
        return Scale(0.0, 1.0, start, end)
    low, high = float(flat.min()), float(flat.max())
    if allow_log and low > 0 and high / low > LOG_FROM:
        return Scale(low / 1.1, high * 1.1, start, end, log=True)
    if high - low < 1e-12 * max(abs(low), abs(high), 1e-300):
        pad = abs(high) * 0.1 or 1.0
        return Scale(low - pad, high + pad, start, end)
    step = _step(high - low)
    return Scale(math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, start, end)


def spans_much(values: Iterable[Array]) -> bool:
    """Are all finite values positive, and the greatest many times the least?"""
    arrays = [np.ravel(v) for v in values]
    flat = np.concatenate(arrays) if arrays else np.empty(0)
    flat = flat[np.isfinite(flat)]
    return bool(len(flat)) and float(flat.min()) > 0 and float(flat.max() / flat.min()) > LOG_FROM


def _step(width: float) -> float:
    """A round step that cuts `width` into about five."""
    raw = max(width, 1e-300) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)


def tick_text(value: float, others: Sequence[float]) -> str:
    """A tick's label with just the decimals that tell it from its neighbours."""
    top = max((abs(v) for v in others), default=0.0)
    if top >= 1e5 or 0 < top < 1e-3:
        return "0" if value == 0 else text(value, 2)
    gaps = [abs(b - a) for a, b in pairwise(others)]
    small = min([*gaps, *(abs(v) for v in others if v)], default=1.0)
    decimals = min(4, max(0, -math.floor(math.log10(small) + 1e-9))) if small > 0 else 0
    if decimals < 4 and any(abs(v * 10**decimals - round(v * 10**decimals)) > 1e-6 for v in others):
        decimals += 1
    return f"{value:,.{decimals}f}"
