"""The page of several runs: what differs between them, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from gossipfl.observe import curves
from gossipfl.observe.metrics import size, span, text
from gossipfl.observe.page import Page, card, table
from gossipfl.observe.reading import Run
from gossipfl.observe.svg import Array, element, escape
from gossipfl.records import number

_BANDS = 4  # up to so many runs are drawn with their spread over nodes
_LABEL_KEYS = 3  # differing keys that a run's label can carry
_LONG = 60  # characters of a config value in the table


def comparison(runs: Sequence[Run]) -> Page:
    """The page of several runs; curves of one colour a run throughout."""
    differing = _differing(runs)
    labels = _labels(runs, differing)
    metric = runs[0].metric
    cards = [card("the runs", _table(runs, labels, differing), _same(runs, metric), wide=True)]
    for title, x_name, y_name, drawn in (
        (f"{metric} by round", "round", metric, [_values(r, metric, r.rounds) for r in runs]),
        (f"{metric} by time", "seconds", metric, [_values(r, metric, r.seconds) for r in runs]),
        ("training loss", "round", "training loss", [(r.train_rounds, r.train_loss) for r in runs]),
        (
            "consensus distance",
            "round",
            "consensus distance",
            [(r.rounds, r.consensus[:, None]) for r in runs],
        ),
    ):
        if any(np.isfinite(values).any() for _, values in drawn):
            lines = [_curve(label, x, y, len(runs)) for label, (x, y) in zip(labels, drawn, strict=True)]
            cards.append(card(title, curves.legend(lines) + curves.chart(lines, x_name, y_name)))
    return Page(
        title=f"{len(runs)} runs compared",
        lead=f"They differ in {', '.join(differing)}." if differing else "Their configs are the same.",
        badges=[],
        cards=cards,
        colophon=f"Run folders: {', '.join(r.folder.name for r in runs)}.",
    )


def _values(run: Run, metric: str, x: Array) -> tuple[Array, Array]:
    values = run.values.get(metric)
    return (x, values) if values is not None else (np.empty(0), np.empty((0, 1)))


def _curve(label: str, x: Array, values: Array, runs: int) -> curves.Curve:
    curve = curves.over_nodes(label, x, values)
    band = runs <= _BANDS
    return curves.Curve(label, x, curve.y, curve.low if band else None, curve.high if band else None)


def _flat(config: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def _differing(runs: Sequence[Run]) -> dict[str, list[object]]:
    """Dotted key -> its value in each run, for keys that are not the same in all; `engine` is among them."""
    configs = [_flat(run.config) | {"engine": run.summary.get("engine")} for run in runs]
    keys = dict.fromkeys(key for config in configs for key in config)
    columns = {key: [config.get(key) for config in configs] for key in keys}
    return {k: v for k, v in columns.items() if any(value != v[0] for value in v) and k != "swarm.name"}


def _labels(runs: Sequence[Run], differing: Mapping[str, Sequence[object]]) -> list[str]:
    """A short name for each run: what is special about it, or its folder."""
    keys = list(differing)[: _LABEL_KEYS + 1]
    if 0 < len(keys) <= _LABEL_KEYS:
        special = [", ".join(_short(k, differing[k][i]) for k in keys) for i in range(len(runs))]
        if len(set(special)) == len(runs):
            return special
    folders = [run.folder.name for run in runs]
    return folders if len(set(folders)) == len(runs) else [str(run.folder) for run in runs]


def _short(key: str, value: object) -> str:
    return f"{value}"[:_LONG] if isinstance(value, str) and value else f"{key.split('.')[-1]} {value}"[:_LONG]


def _table(runs: Sequence[Run], labels: Sequence[str], differing: Mapping[str, Sequence[object]]) -> str:
    figures = ["mean", "worst", "best", "mean model", "consensus", "rounds", "time", "sent by a node"]
    rows = []
    for i, run in enumerate(runs):
        s = run.summary
        low, high = number(s.get("min")), number(s.get("max"))
        worst, best = (low, high) if run.higher else (high, low)
        colour = element("i", "", class_=f"box s{i % curves.COLOURS}")
        lost = f" ({len(run.lost)} lost)" if run.lost else ""
        rounds = number(s.get("rounds"))
        rows.append(
            [
                colour + escape(labels[i] + lost),
                *(escape(str(values[i])[:_LONG]) for values in differing.values()),
                *(escape(text(v)) for v in (number(s.get("mean")), worst, best, number(s.get("mean_model")))),
                text(number(s.get("consensus_distance"))),
                "–" if math.isnan(rounds) else f"{rounds:,.0f}",
                span(number(s.get("seconds"))),
                size(number(s.get("sent_bytes_per_node"))),
            ]
        )
    first = 1 + len(differing)
    return table(["run", *differing, *figures], rows, frozenset(range(first, first + len(figures))))


def _same(runs: Sequence[Run], metric: str) -> str:
    other = [run.folder.name for run in runs if run.metric != metric]
    said = f"Figures are {metric} over nodes at the end."
    return f"{said} Not so for {', '.join(other)}: another metric." if other else said
