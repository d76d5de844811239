"""The page of a sweep: who is best and by how much, how they got there, on which graphs, and what failed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from gossipfl.observe import curves
from gossipfl.observe.metrics import size, span, text
from gossipfl.observe.page import Page, card, folded, paired, table, tile
from gossipfl.observe.svg import element, escape
from gossipfl.observe.sweep_pictures import Mark, against, decays, graphs, grid_of, heat_map, whisker
from gossipfl.observe.sweep_reading import Key, Setting, Study, label, word
from gossipfl.observe.sweep_stats import Interval, band, effects, interval
from gossipfl.observe.sweep_stats import paired as paired_difference

RANKED: Final = 200
"""Settings in the ranking; results.csv has all."""
FACETS: Final = 12
"""Charts of a kind that are shown; as many again stand in a box that opens."""
_COLOURED: Final = 16
_LISTED = 1000
_POINTS = 120  # of a curve, evenly spread over its evaluations


@dataclass(frozen=True)
class Facet:
    """The settings that one chart shows: they differ in one axis, and share the rest."""

    title: str
    settings: Sequence[Setting]
    names: Sequence[str]


def sweep_page(study: Study) -> Page:
    """The page of a sweep, finished or not."""
    done = len(study.trials)
    axes = [f"{len(study.values_on(axis))} × {_axis(axis)}" for axis in study.axes]
    seeds = len(study.seeds)
    lead = (
        f"{done:,} runs"
        + (f": {', '.join(axes)}" if axes else "")
        + f", {seeds} {'seed' if seeds == 1 else 'seeds'} each; {study.metric} over the nodes at the end."
    )
    badges = [("good", "✓ every run finished")] if done == study.cells and not study.failed else []
    if done < study.cells:
        badges.append(("bad", f"{study.cells - done:,} of {study.cells:,} runs are still to come"))
    if study.failed:
        badges.append(("bad", f"{len(study.failed):,} runs failed"))
    ranked = study.ranked()
    cards = [_ranking(study, ranked)] if ranked else []
    cards += [_effects(study)] if len(study.axes) > 1 else []
    cards += paired([*_heat_maps(study), *_decay(study), *_curves(study, "round")])
    cards += [c for kind in _kinds(study) for c in [_folded_curves(study, kind)] if c]
    cards += [_graphs(study), _failures(study), _facts(study), _every_run(study)]
    cards += [folded("the sweep's file", study.text)]
    return Page(
        title=study.name,
        lead=lead,
        badges=badges,
        tiles=_tiles(study, ranked) if ranked else [],
        cards=[c for c in cards if c],
        colophon=f"Sweep {study.digest}.",
    )


def _axis(axis: str) -> str:
    return axis.rpartition(".")[2]


def figure(found: Interval) -> str:
    """mean ± half width in words."""
    half = f" ± {text(found.half, 2)}" if math.isfinite(found.half) else ""
    return f"{text(found.mean)}{half}"


def signed(found: Interval) -> str:
    """A difference with its sign."""
    sign = "+" if found.mean > 0 else ""
    return f"{sign}{figure(found)}"


def _tiles(study: Study, ranked: Sequence[Setting]) -> list[str]:
    best, worst = ranked[0], ranked[-1]
    wall = sum(trial.wall for trial in study.trials)
    return [
        tile(f"best {study.metric}", text(interval(best.values()).mean), best.label, first=True),
        tile("worst", text(interval(worst.values()).mean), worst.label),
        tile(
            "runs", f"{len(study.trials):,}", f"{len(study.settings):,} settings, {len(study.failed)} failed"
        ),
        tile("time", span(wall), "of one core, all runs together"),
    ]


def _ranking(study: Study, ranked: Sequence[Setting]) -> str:
    shown = ranked[:RANKED]
    means = [interval(setting.values()) for setting in shown]
    reach = [m.mean + s * (m.half if math.isfinite(m.half) else 0.0) for m in means for s in (-1, 1)]
    low, high = min(reach), max(reach)
    worst = "min" if study.higher else "max"
    rows = []
    for place, (setting, mean) in enumerate(zip(shown, means, strict=True), start=1):
        behind = "" if place == 1 else signed(paired_difference(setting, shown[0]))
        cells = [
            str(place),
            *(escape(value) for value in setting.key),
            figure(mean),
            whisker(mean, low, high),
            behind,
            text(interval(setting.values(worst)).mean),
            text(interval(setting.values("mean_model")).mean),
            text(interval(setting.values("consensus_distance")).mean),
            size(interval(setting.values("sent_bytes_per_node")).mean),
            *([span(interval(setting.values("seconds")).mean)] if study.timed else []),
            str(mean.n),
        ]
        rows.append(cells)
    head = ["", *map(_axis, study.axes), f"{study.metric} ± 95 %", "", "to the best", "worst node"]
    head += ["mean model", "consensus distance", "sent by a node"]
    head += [_clock(study)] if study.timed else []
    head += ["seeds"]
    first = 1 + len(study.axes)
    numbers = frozenset({0, first, *range(first + 2, len(head))})
    note = (
        "± is half of a 95 % interval over seeds (Student's t); to the best: the mean difference of "
        "runs that share a seed. Figures are means over nodes at the end."
    )
    if len(study.seeds) == 1:
        note = "One seed: there are no intervals. Figures are means over nodes at the end."
    if len(ranked) > RANKED:
        note += f" The first {RANKED} of {len(ranked):,} settings: results.csv has all."
    return card("ranking", table(head, rows, numbers), note, wide=True)


def _clock(study: Study) -> str:
    return "simulated time" if study.engine == "events" else "time"


def _effects(study: Study) -> str:
    rows = [
        [
            escape(_axis(effect.axis)),
            escape(effect.value),
            escape(effect.reference),
            signed(effect.difference),
            f"{effect.better} of {effect.settings}",
        ]
        for effect in effects(study)
    ]
    if not rows:
        return ""
    note = (
        f"The mean difference of {study.metric} between runs that differ in that one value and share "
        "a seed; its 95 % interval is over seeds. Settings in which it is better, of those that both have."
    )
    head = ["", "value", "against", f"difference of {study.metric}", "better in"]
    return card("one thing changed", table(head, rows, frozenset({3, 4})), note, wide=True)


def colour_axis(study: Study) -> str | None:
    """The axis that is drawn in colours: the graphs, else the first that has few enough values."""
    few = [axis for axis in study.axes if 2 <= len(study.values_on(axis)) <= _COLOURED]
    return next((axis for axis in few if axis == "topology.graph"), next(iter(few), None))


def facets(study: Study) -> list[Facet]:
    """One chart a combination of the other axes; where no axis has few values, the best few settings."""
    axis = colour_axis(study)
    if axis is None:
        best = study.ranked()[:_COLOURED]
        return [Facet("the best" if len(study.settings) > 1 else "", best, [s.label for s in best])]
    place = study.axes.index(axis)
    grouped: dict[Key, list[Setting]] = {}
    for setting in study.settings:
        grouped.setdefault((*setting.key[:place], *setting.key[place + 1 :]), []).append(setting)
    others = (*study.axes[:place], *study.axes[place + 1 :])
    return [
        Facet(label(others, key), found, [word(axis, s.key[place]) for s in found])
        for key, found in grouped.items()
    ]


def curves_of(facet: Facet, metric: str, against: str) -> list[curves.Curve]:
    """A facet's curves: the mean over seeds with its interval, against rounds, bytes or seconds."""
    found = []
    for name, setting in zip(facet.names, facet.settings, strict=True):
        x, mean, low, high = band(setting, metric)
        if len(mean):
            some = np.unique(np.linspace(0, len(mean) - 1, _POINTS).round().astype(int))
            x, mean, low, high = x[some], mean[some], low[some], high[some]
            spread = len(setting.trials) > 1
            column = x[:, ("round", "seconds", "sent_bytes").index(against)]
            found.append(curves.Curve(name, column, mean, low if spread else None, high if spread else None))
    return found


def _charts(study: Study, against: str) -> list[str]:
    names = {"round": "round", "sent_bytes": "bytes sent by a node", "seconds": "seconds"}
    metric = "consensus_distance" if study.setting("train", "task") == "consensus" else study.metric
    found = []
    for facet in facets(study):
        drawn = curves_of(facet, metric, against)
        if drawn:
            body = _legend(drawn) + curves.chart(drawn, names[against], metric.replace("_", " "))
            found.append(card(facet.title or f"{metric.replace('_', ' ')} by {names[against]}", body))
    return found


def _legend(drawn: Sequence[curves.Curve]) -> str:
    """Always by name: a single curve is a setting too."""
    keys = (
        element(
            "span",
            element("i", "", class_=f"key s{i % curves.COLOURS}{' dashed' if i >= curves.COLOURS else ''}")
            + escape(curve.name),
        )
        for i, curve in enumerate(drawn)
    )
    return element("p", "".join(keys), class_="legend")


def _curves(study: Study, against: str) -> list[str]:
    return _charts(study, against)[:FACETS]


def _kinds(study: Study) -> list[str]:
    """What else than rounds the curves are drawn against; `more` is the rest of those against rounds."""
    return ["more", "sent_bytes", *(["seconds"] if study.timed else [])]


def _folded_curves(study: Study, kind: str) -> str:
    if kind == "more":
        drawn = _charts(study, "round")[FACETS : 3 * FACETS]
        title = "more curves against rounds"
    else:
        drawn = _charts(study, kind)[: 2 * FACETS]
        title = "curves against bytes" if kind == "sent_bytes" else f"curves against {_clock(study)}"
    if not drawn:
        return ""
    inside = element("section", "".join(drawn), class_="cards")
    return element(
        "section", element("details", element("summary", escape(title)) + inside), class_="card wide"
    )


def _heat_maps(study: Study) -> list[str]:
    if len(study.axes) < 2:
        return []
    rows = colour_axis(study) or study.axes[0]
    columns = next(axis for axis in study.axes if axis != rows)
    others = [axis for axis in study.axes if axis not in (rows, columns)]
    at = {setting.key: interval(setting.values()) for setting in study.settings}
    means = [found.mean for found in at.values() if math.isfinite(found.mean)]
    if not means:
        return []
    found = []
    for rest in itertools.islice(itertools.product(*map(study.values_on, others)), FACETS):
        fixed = dict(zip(others, rest, strict=True))

        def lookup(row: object, column: object, fixed: dict[str, object] = fixed) -> Interval | None:
            place = {rows: row, columns: column, **fixed}
            return at.get(tuple(place[axis] for axis in study.axes))

        body = heat_map(
            grid_of(study, rows, columns, lookup), study.metric, higher=study.higher,
            ends=(min(means), max(means)),
        )  # fmt: skip
        title = label(others, rest) or f"{study.metric} by {_axis(rows)} and {_axis(columns)}"
        found.append(card(title, body))
    return found


def _decay(study: Study) -> list[str]:
    found = decays(study)
    marks = [
        Mark(
            d.theory.mean, d.measured.mean, f"{d.name}\nρ {d.theory.mean:.5f}\nmeasured {d.measured.mean:.5f}"
        )
        for d in found
        if not d.exact
    ]
    rows = [
        [escape(d.name), f"exact after {d.theory.mean:.0f}", f"after {d.measured.mean:.0f}", ""]
        if d.exact
        else [escape(d.name), *(f"{v:.5f}" for v in (d.theory.mean, d.measured.mean)), f"{d.largest:.0e}"]
        for d in found
    ]
    if not found:
        return []
    note = (
        "By what the consensus distance is multiplied in a round: the slope that was measured over the "
        "second half, against ρ, the second largest eigenvalue of the mixing matrix; of random schedules, "
        "the root of the exact second moment."
    )
    listed = table(["", "ρ", "measured", "differ by at most"], rows, frozenset({1, 2, 3}))
    cards = [card("decay against theory", against(marks, "ρ, theory", "measured factor a round"), note)]
    return [*(cards if marks else []), card("decay, in figures", listed)]


def _graphs(study: Study) -> str:
    drawn = graphs(study)[: 2 * FACETS]
    body = element("div", "".join(drawn), class_="gallery")
    note = "Of graphs that change, the first round; of random ones, the first seed's."
    return card("the graphs", body, note, wide=True) if drawn else ""


def _failures(study: Study) -> str:
    rows = [
        [
            *(escape(trial.axes.get(axis, "")) for axis in study.axes),
            str(trial.seed),
            escape(trial.error[:300]),
        ]
        for trial in study.failed[:_LISTED]
    ]
    head = [*map(_axis, study.axes), "seed", "error"]
    return card("what failed", table(head, rows), wide=True) if rows else ""


def _facts(study: Study) -> str:
    seeds = ", ".join(map(str, study.seeds[:20])) + (", …" if len(study.seeds) > 20 else "")
    facts = [
        ("gossipfl", _several(trial.texts["version"] for trial in study.trials)),
        ("engine", study.engine),
        ("seeds", seeds),
        ("sweep", study.digest),
    ]
    shown = "".join(
        element("div", element("dt", escape(name)) + element("dd", escape(value))) for name, value in facts
    )
    machines = element("p", escape(_several(trial.machine for trial in study.trials)))
    note = "The same sweep, with any --jobs, gives the same model hashes on the same versions."
    return card("to repeat it", element("dl", shown) + machines, note, wide=True)


def _several(values: object) -> str:
    assert hasattr(values, "__iter__")
    return " · ".join(dict.fromkeys(value for value in values if value))


def _every_run(study: Study) -> str:
    rows = [
        [
            *(escape(trial.axes.get(axis, "")) for axis in study.axes),
            str(trial.seed),
            text(trial.figures["mean"], 5) if trial.ok else "failed",
            escape(trial.texts["config_hash"]),
            escape(trial.texts["data_hash"]),
            escape(trial.model_hash),
        ]
        for trial in study.trials[:_LISTED]
    ]
    head = [*map(_axis, study.axes), "seed", study.metric, "config hash", "data hash", "model hash"]
    opened = element("summary", "every run") + table(head, rows, frozenset({len(study.axes) + 1}))
    return element("section", element("details", opened), class_="card wide")
