"""The page of one run: what came out, how it got there, who did what."""

from __future__ import annotations

import math

import numpy as np

from gossipfl.observe import bars, curves
from gossipfl.observe.metrics import size, span, text
from gossipfl.observe.network import caption, network
from gossipfl.observe.page import Page, card, folded, paired, tile
from gossipfl.observe.reading import Run
from gossipfl.observe.svg import element, escape
from gossipfl.observe.timeline import remarkable, timeline
from gossipfl.records import number

_ENGINES = {
    "swarm": "as real processes",
    "events": "simulated event by event, in virtual time",
    "vector": "simulated with all nodes as one matrix",
}
_DID = {"consensus": "averaged their vectors", "quadratic": "minimised the mean of their quadratics"}
_MANY_CLASSES = 20  # label classes that a legend names


def single(run: Run) -> Page:
    """The page of a run, finished or not."""
    s = run.summary
    counts = f"{run.n:,} {'node' if run.n == 1 else 'nodes'}"
    how = _ENGINES.get(str(s.get("engine")), "")
    task = _said(run, "train.task")
    lead = (
        f"{counts} on the graph {_said(run, 'topology.graph')} {_DID.get(task, f'learned {task}')} with the "
        f"rule {_said(run, 'algorithm.rule')}{', ' + how if how else ''}. No server; no data left a node."
    )
    if not run.n:
        lead = "Nothing about its nodes was left in this folder."
    return Page(
        title=str(run.setting("swarm.name") or run.folder.name),
        lead=lead,
        badges=_badges(run),
        tiles=_tiles(run),
        cards=paired([c for c in _cards(run) if c]) + [c for c in _closing(run) if c],
        colophon=f"Run folder: {run.folder.name}.",
    )


def _badges(run: Run) -> list[tuple[str, str]]:
    s = run.summary
    if not s:
        return [("bad", "not finished: there is no summary yet")]
    badges = []
    if s.get("finished") is True:
        badges.append(("good", "✓ every node finished"))
    elif "nodes_finished" in s:
        badges.append(("bad", f"{s['nodes_finished']} of {run.n} nodes finished"))
    if run.lost:
        shown = ", ".join(run.lost[:8]) + (f" and {len(run.lost) - 8} more" if len(run.lost) > 8 else "")
        badges.append(("bad", f"lost: {shown}"))
    return badges


def _tiles(run: Run) -> list[str]:
    s, final = run.summary, run.final
    fine = final[np.isfinite(final)]
    mean = number(s.get("mean"), float(fine.mean()) if len(fine) else math.nan)
    low = number(s.get("min"), float(fine.min()) if len(fine) else math.nan)
    high = number(s.get("max"), float(fine.max()) if len(fine) else math.nan)
    worst, best = (low, high) if run.higher else (high, low)
    distance = number(
        s.get("consensus_distance"), float(run.consensus[-1]) if len(run.consensus) else math.nan
    )
    rounds, seconds = number(s.get("rounds")), number(s.get("seconds"))
    sent = number(s.get("sent_bytes_per_node"), float(run.sent.mean()) if run.n else math.nan)
    pace = [
        f"in {span(seconds)}" if math.isfinite(seconds) else "",
        _pace(number(s.get("rounds_per_second"))),
    ]
    weights = f"weights {_said(run, 'topology.weights')}"
    return [
        tile(run.metric, text(mean), f"worst {text(worst)} · best {text(best)}", first=True),
        tile("mean model", text(number(s.get("mean_model"))), f"{run.metric} of the average"),
        tile("consensus distance", text(distance), "from the average model"),
        tile("rounds", "–" if math.isnan(rounds) else f"{rounds:,.0f}", " · ".join(filter(None, pace))),
        tile("sent by a node", size(sent), f"codec {s.get('codec', 'none')}"),
        tile("spectral gap", text(number(s.get("spectral_gap"))), weights),
    ]


def _pace(per_second: float) -> str:
    return f"{text(per_second)} a second" if math.isfinite(per_second) and per_second > 0 else ""


def _cards(run: Run) -> list[str]:
    cards = [_curve_card(run, run.metric, run.metric)]
    if run.n > 1:
        note = caption(run) or "Brighter nodes did better; point at one for its figures."
        cards.append(card("the graph", network(run), note))
    if remarkable(run):
        cards.append(card("what happened", timeline(run), _happened(run)))
    if run.train_loss.any():
        curve = curves.over_nodes("training loss", run.train_rounds, run.train_loss)
        cards.append(card("training loss", _drawn(curve, "round", "training loss")))
    if np.isfinite(run.consensus).any():
        curve = curves.Curve("consensus distance", run.rounds, run.consensus)
        cards.append(
            card(
                "consensus distance",
                _drawn(curve, "round", "consensus distance"),
                "Root mean square distance of the nodes' parameters from their average.",
            )
        )
    cards += [_curve_card(run, name, f"{name}, evaluated") for name in run.values if name != run.metric]
    if run.spent.any():
        legend = bars.keys([("t0", "training"), ("t1", "waiting"), ("t2", "mixing")])
        note = bars.sampled(run.n, "waiting")
        cards.append(card("where time went", legend + bars.time_split(run.names, run.spent), note))
    cards.append(_partition(run))
    if run.sent.any():
        cards.append(card("bytes sent", bars.bytes_sent(run.names, run.sent), bars.sampled(run.n, "bytes")))
    return cards


def _happened(run: Run) -> str:
    """How often, and how to learn more."""
    stored = run.summary.get("events")
    counts = stored if isinstance(stored, dict) else {}
    said = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    point = "Point at a mark for who and what."
    return f"As seen by the nodes, each of its own neighbors: {said}. {point}" if said else point


def _closing(run: Run) -> list[str]:
    return [_notes(run), _facts(run), folded("swarm.toml: the whole config", run.config_text)]


def _curve_card(run: Run, metric: str, title: str) -> str:
    values = run.values.get(metric)
    if values is None or not np.isfinite(values).any() or (metric != run.metric and not values.any()):
        return card(title, element("p", "Nothing was evaluated.")) if metric == run.metric else ""
    return card(title, _drawn(curves.over_nodes(metric, run.rounds, values), "round", metric))


def _drawn(curve: curves.Curve, x_name: str, y_name: str) -> str:
    return curves.legend([curve]) + curves.chart([curve], x_name, y_name)


def _partition(run: Run) -> str:
    stored = run.summary.get("partition")
    if not isinstance(stored, dict) or not run.n:
        return ""
    counts = _matrix(stored.get("labels"), run.n)
    sizes = _matrix(stored.get("sizes"), run.n)
    how = f"partition {_said(run, 'data.partition')}"
    if counts is not None and counts.shape[1] > 1:
        distance = _matrix(stored.get("tv"), run.n)
        away = distance[:, 0] if distance is not None else np.zeros(run.n)
        classes = counts.shape[1]
        named = (
            [(f"k{k % bars.CLASS_COLOURS}", str(k)) for k in range(classes)]
            if classes <= _MANY_CLASSES
            else []
        )
        note = f"TV: total variation distance of a node's labels from all nodes' ({how}). "
        body = bars.keys(named) + bars.labels(run.names, counts, away)
        return card("who holds which labels", body, note + bars.sampled(run.n, "apart"))
    if sizes is not None and sizes.any():
        body = bars.samples(run.names, sizes[:, 0])
        return card("samples a node", body, f"{how}. {bars.sampled(run.n, 'samples')}".strip())
    return ""


def _matrix(value: object, n: int) -> np.ndarray | None:
    """[n, k] of a list of numbers or of lists of them; None for anything else."""
    if not isinstance(value, list) or len(value) != n:
        return None
    rows = [row if isinstance(row, list) else [row] for row in value]
    if len({len(row) for row in rows}) != 1:
        return None
    return np.array([[number(v, 0.0) for v in row] for row in rows]).reshape(n, -1)


def _notes(run: Run) -> str:
    stored = run.summary.get("notes")
    notes = [str(note) for note in stored] if isinstance(stored, list) else []
    return (
        card("notes", element("ul", "".join(element("li", escape(n)) for n in notes)), wide=True)
        if notes
        else ""
    )


def _facts(run: Run) -> str:
    s = run.summary
    names = {
        "version": "gossipfl", "engine": "engine", "seed": "seed", "exchange": "exchange", "codec": "codec",
        "parameters": "parameters", "config_hash": "config hash", "data_hash": "data hash",
        "machine": "machine",
    }  # fmt: skip
    facts = [(shown, s[key]) for key, shown in names.items() if s.get(key) is not None]
    if number(s.get("start_seconds"), 0.0) > 0:
        facts.append(("start", span(number(s["start_seconds"]))))
    shown = (
        element("div", element("dt", escape(name)) + element("dd", escape(f"{v:,}" if type(v) is int else v)))
        for name, v in facts
    )
    return card("to repeat it", element("dl", "".join(shown)), _repeats(run), wide=True) if facts else ""


def _repeats(run: Run) -> str:
    """What is true of running it again: what befalls real processes comes at times, not in rounds."""
    engine = run.summary.get("engine")
    if engine == "events":
        return "gossipfl simulate config.toml --engine events repeats the run."
    if engine == "vector":
        return "gossipfl simulate config.toml repeats the run."
    if not remarkable(run) and not run.config.get("fault"):
        return "gossipfl swarm config.toml repeats the run."
    same = "the same faults at the same seconds" if run.config.get("fault") else "the same config"
    replay = f"--set algorithm.replay={run.folder.name}"
    return (
        f"gossipfl swarm config.toml runs {same}; in which rounds things happen is up to the machine, and so "
        f"are the figures. gossipfl simulate config.toml --engine events {replay} repeats what the records "
        "hold, as far as they hold all that counts."
    )


def _said(run: Run, key: str) -> str:
    value = run.setting(key)
    return "–" if value is None else str(value)
