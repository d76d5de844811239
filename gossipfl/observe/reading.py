"""What a run left in its folder, as arrays: the one reader that reports, pictures and results are made of."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gossipfl.core.sketch import BUCKETS, decode
from gossipfl.observe.metrics import higher_is_better, metrics_of
from gossipfl.records import Record, number, scan

Array = NDArray[np.float64]

BINS = 200  # points of the training curve: rounds are averaged into at most so many
EVENTS = 5000  # happenings that are kept
APART = 100  # records are one happening while the rounds between two are less than this part of all


@dataclass
class Happening:
    """Records of one kind, node, peer and text, one soon after the other: how many, from which round to
    which."""

    kind: str
    name: str  # who says so
    peer: object
    text: str
    first: int
    last: int
    count: int = 0


@dataclass(frozen=True, eq=False)
class Run:
    """A run, finished or not; what was not recorded is NaN or empty.

    Shapes: E evaluations, n nodes, B bins of rounds.
    """

    folder: Path
    config: Mapping[str, object]
    config_text: str
    summary: Mapping[str, object]
    names: tuple[str, ...]
    metric: str  # the headline
    higher: bool  # is a higher one better?
    rounds: Array  # [E]
    seconds: Array  # [E], since the start, of the last node to get there
    values: Mapping[str, Array]  # metric -> [E, n], the headline first
    consensus: Array  # [E], consensus distance: exact where it was recorded, else of sketches
    train_rounds: Array  # [B]
    train_loss: Array  # [B, n]
    spent: Array  # [n, 3], seconds training, waiting, mixing
    sent: Array  # [n], bytes
    events: tuple[Happening, ...]  # all but rounds and evaluations; to meet a second time is to have rejoined

    @property
    def n(self) -> int:
        return len(self.names)

    @property
    def headline(self) -> Array:
        """[E, n], the headline metric; [0, n] where nothing was evaluated."""
        return self.values.get(self.metric, np.empty((0, self.n)))

    @property
    def final(self) -> Array:
        """[n], each node's last headline metric."""
        stored = self.summary.get("per_node")
        if isinstance(stored, list) and len(stored) == self.n:
            return np.array([number(v) for v in stored])
        last = np.full(self.n, math.nan)
        for row in self.headline:
            last = np.where(np.isfinite(row), row, last)
        return last

    @property
    def lost(self) -> tuple[str, ...]:
        """Names of the nodes that were lost."""
        stored = self.summary.get("lost")
        return tuple(map(str, stored)) if isinstance(stored, list) else ()

    def setting(self, key: str) -> object:
        """A dotted key of the config; None where it is not there."""
        value: object = self.config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value


@dataclass
class _Distance:
    """Sketches of one evaluation, summed as they come: mean ‖s_i − s̄‖² = mean ‖s_i‖² − ‖s̄‖²."""

    total: Array = field(default_factory=lambda: np.zeros(BUCKETS))
    squares: float = 0.0
    count: int = 0
    origin: Array | None = None  # the first sketch: subtracted, so that what all share does not cancel late
    exact: float = math.nan

    def add(self, text: str) -> None:
        try:
            sketch = decode(text).astype(np.float64)
        except ValueError:
            return
        self.origin = sketch if self.origin is None else self.origin
        away = sketch - self.origin
        self.total += away
        self.squares += float(away @ away)
        self.count += 1

    def value(self) -> float:
        if not math.isnan(self.exact) or not self.count:
            return self.exact
        mean = self.total / self.count
        return math.sqrt(max(0.0, self.squares / self.count - float(mean @ mean)))


class _Gatherer:
    """Takes records in any order and keeps sums, so that a long run of many nodes needs little memory."""

    def __init__(self, names: tuple[str, ...], rounds: int) -> None:
        n = len(names)
        self.names, self.scale = names, max(1, rounds)
        bins = min(self.scale, BINS)
        self.evals: dict[int, dict[str, Array]] = {}
        self.times: dict[int, float] = {}
        self.distances: dict[int, _Distance] = {}
        self.loss, self.count = np.zeros((bins, n)), np.zeros((bins, n))
        self.spent, self.sent = np.zeros((n, 3)), np.zeros(n)
        self.events: list[Happening] = []
        self._newest: dict[tuple[object, ...], Happening] = {}
        self._met: set[tuple[str, str]] = set()
        self._timed: list[Record] = []  # what is put at a round by its time
        self._furthest = np.zeros(n)  # rounds that each node had made, by the records so far
        self._reached = np.full(self.scale + 1, math.inf)  # when the first node had made so many rounds

    def take(self, record: Record) -> None:
        kind, node, round = record.get("kind"), number(record.get("node")), number(record.get("round"))
        known = 0 <= node < len(self.names)
        if kind not in ("round", "eval"):
            if kind == "fault" or (known and round < self._furthest[int(node)]):
                self._timed.append(record)
            else:
                self._take_event(record, int(number(round, 0.0)) if round >= 0 else 0)
        elif known and 0 <= round < math.inf:
            (self._take_round if kind == "round" else self._take_eval)(record, int(node), int(round))

    def _take_event(self, record: Record, round: int) -> None:
        kind, name = str(record.get("kind")), str(record.get("name"))
        peer, text = record.get("peer"), str(record.get("text", ""))
        if kind == "peer_up":
            kind = "rejoined" if (name, str(peer)) in self._met else kind
            self._met.add((name, str(peer)))
        key, apart = (kind, name, str(peer), text), max(1, self.scale // APART)
        event = self._newest.get(key)
        if event is None or not event.first - apart <= round <= event.last + apart:
            if len(self.events) >= EVENTS:
                return
            event = self._newest[key] = Happening(kind, name, peer, text, round, round)
            self.events.append(event)
        event.first, event.last = min(event.first, round), max(event.last, round)
        event.count += 1

    def take_timed(self) -> None:
        """When all else is known: what a script did, and what a node says that has begun anew and counts
        from nothing. It is put where the foremost node was at the time."""
        for record in self._timed:
            passed = np.flatnonzero(self._reached <= number(record.get("time"), 0.0))
            self._take_event(record, int(passed[-1]) if len(passed) else 0)
        self._timed.clear()

    def _take_round(self, record: Record, node: int, round: int) -> None:
        reached = min(round, self.scale)
        self._reached[reached] = min(self._reached[reached], number(record.get("time"), math.inf))
        at = min(max(round - 1, 0), self.scale - 1) * len(self.loss) // self.scale
        self._furthest[node] = max(self._furthest[node], round)
        self.loss[at, node] += number(record.get("loss"))
        self.count[at, node] += 1
        self.spent[node] += [number(record.get(k), 0.0) for k in ("train_s", "wait_s", "mix_s")]
        self.sent[node] += number(record.get("sent_bytes"), 0.0)

    def _take_eval(self, record: Record, node: int, round: int) -> None:
        values = self.evals.setdefault(round, {})
        for name, value in metrics_of(record).items():
            values.setdefault(name, np.full(len(self.names), math.nan))[node] = value
        self.times[round] = max(self.times.get(round, 0.0), number(record.get("time"), 0.0))
        distance = self.distances.setdefault(round, _Distance())
        distance.exact = number(record.get("consensus_distance"), distance.exact)
        sketch = record.get("sketch")
        if isinstance(sketch, str):
            distance.add(sketch)


def read_folder(folder: Path) -> Run:
    """Read a run's folder: `config.toml`, `summary.json` and the records, as far as they are there.

    Raises OSError for a folder or file that cannot be read.
    """
    config_text = _text(folder / "config.toml")
    try:
        config: Mapping[str, object] = tomllib.loads(config_text)
    except tomllib.TOMLDecodeError:
        config = {}
    try:
        parsed = json.loads(_text(folder / "summary.json") or "{}")
    except ValueError:
        parsed = {}
    summary: Mapping[str, object] = parsed if isinstance(parsed, dict) else {}
    swarm = config.get("swarm")
    swarm = swarm if isinstance(swarm, Mapping) else {}
    rounds = number(swarm.get("rounds"), number(summary.get("rounds"), 0.0))
    names = _names(config, summary, int(number(summary.get("nodes"), number(swarm.get("nodes"), 0.0))))
    gathered = _Gatherer(names or _recorded_names(folder), int(rounds))
    for record in scan(folder):
        gathered.take(record)
    gathered.take_timed()
    return _run(folder, config, config_text, summary, gathered)


def _run(
    folder: Path, config: Mapping[str, object], text: str, summary: Mapping[str, object], got: _Gatherer
) -> Run:
    order = sorted(got.evals)
    found = list(dict.fromkeys(name for round in order for name in got.evals[round]))
    metric = str(summary.get("metric") or (found[0] if found else "loss"))
    found.sort(key=lambda name: name != metric)
    nothing = np.full(len(got.names), math.nan)
    values = {
        name: np.array([got.evals[round].get(name, nothing) for round in order]).reshape(-1, len(got.names))
        for name in found
    }
    stated = summary.get("higher_is_better")
    bins = len(got.loss)
    with np.errstate(invalid="ignore", divide="ignore"):
        loss = got.loss / got.count
    filled = (got.count > 0).any(axis=1)
    return Run(
        folder=folder,
        config=config,
        config_text=text,
        summary=summary,
        names=got.names,
        metric=metric,
        higher=stated if isinstance(stated, bool) else higher_is_better(metric),
        rounds=np.array(order, dtype=float),
        seconds=np.array([got.times[round] for round in order]),
        values=values,
        consensus=np.array([got.distances[round].value() for round in order]),
        train_rounds=((np.arange(bins) + 0.5) * got.scale / bins + 0.5)[filled],
        train_loss=loss[filled],
        spent=got.spent,
        sent=got.sent,
        events=tuple(got.events),
    )


def _names(config: Mapping[str, object], summary: Mapping[str, object], nodes: int) -> tuple[str, ...]:
    stored = summary.get("names")
    if isinstance(stored, list) and stored:
        return tuple(map(str, stored))
    listed = config.get("node")
    if isinstance(listed, list) and listed:
        return tuple(str(entry.get("name")) for entry in listed if isinstance(entry, Mapping))
    return tuple(f"node-{i}" for i in range(nodes))


def _recorded_names(folder: Path) -> tuple[str, ...]:
    """Names by node index, of a run whose config and summary are gone."""
    seen = {int(number(r.get("node"), 0.0)): str(r.get("name", "")) for r in scan(folder) if "node" in r}
    return tuple(seen.get(i, f"node-{i}") for i in range(max(seen, default=-1) + 1))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
