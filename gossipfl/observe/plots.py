"""Pictures as matplotlib figures, for notebooks and files. They are drawn without a window (Agg)."""

from __future__ import annotations

import io
import math
import warnings

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

THIN = 32  # up to so many nodes each has a thin line of its own
_LOG_FROM = 30.0  # positive values that span more than this factor are drawn on a logarithmic axis


class Picture(Figure):
    """A figure that notebooks show by itself, with or without pyplot; `savefig` writes any format."""

    def _repr_png_(self) -> bytes:
        written = io.BytesIO()
        self.savefig(written, format="png", bbox_inches="tight")
        return written.getvalue()


def curve(rounds: NDArray[np.number], values: NDArray[np.floating], metric: str) -> Figure:
    """The mean over nodes of `values` [k, n] at `rounds` [k], its spread as a band, each node as a thin line.

    NaN where a node did not evaluate. The axis is logarithmic where all values are positive and span much.
    """
    figure = Picture(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel("round")
    axes.set_ylabel(metric)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # rounds in which no node said anything
        mean, low, high = np.nanmean(values, 1), np.nanmin(values, 1), np.nanmax(values, 1)
    nodes = values.shape[1]
    if 1 < nodes <= THIN:
        axes.plot(rounds, values, color="#0072b2", alpha=0.3, linewidth=0.7)
    if nodes > 1:
        axes.fill_between(
            rounds, low, high, color="#0072b2", alpha=0.18, linewidth=0, label="least to greatest"
        )
    marker = "o" if len(rounds) <= 12 else None
    axes.plot(
        rounds, mean, color="#0072b2", linewidth=2, marker=marker, markersize=4, label="mean over nodes"
    )
    finite = values[np.isfinite(values)]
    if finite.size and finite.min() > 0 and math.log(finite.max() / finite.min()) > math.log(_LOG_FROM):
        axes.set_yscale("log")
    if nodes > 1:
        axes.legend(frameon=False)
    return figure
