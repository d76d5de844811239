"""What is known of each node while a swarm runs: records in, a few numbers a node out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from statistics import median_high
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from gossipfl.core.sketch import BUCKETS, consensus_distance, decode
from gossipfl.observe.metrics import higher_is_better, metrics_of
from gossipfl.records import number

State = Literal["starting", "up", "suspect", "slow", "lost", "rejoined", "done"]

#: Seconds for which a node is shown as one that has come back.
NEWS: Final = 10.0


@dataclass
class Row:
    """One node: its last record's numbers and its totals."""

    name: str
    round: int = 0
    loss: float = math.nan
    metric: float = math.nan
    neighbors: int = 0
    sent_bytes: float = 0.0
    busy: float = 0.0  # seconds training and mixing
    waiting: float = 0.0  # seconds
    state: State = "starting"
    since: float = math.nan  # seconds since the start at which that came to be, where it is worth telling

    @property
    def waiting_share(self) -> float:
        """Share of its time so far that the node waited for others; NaN before the first round."""
        total = self.busy + self.waiting
        return self.waiting / total if total > 0 else math.nan


@dataclass(frozen=True)
class Evaluation:
    """One evaluation over the nodes that made it."""

    round: int
    time: float
    mean: float
    low: float
    high: float
    consensus_distance: float  # NaN where nobody says


@dataclass
class _Gathering:
    time: float = 0.0
    metric: dict[int, float] = field(default_factory=dict)
    sketches: list[NDArray[np.float32]] = field(default_factory=list)
    exact: float = math.nan


class Board:
    """Takes records of any kind and order; fields it does not understand are passed over.

    `metric` is the headline metric: the first one of the first evaluation unless it is named. `waits`: every
    node is waited for; else (asynchronous exchanges) an evaluation is complete without those that are not
    half as far.
    """

    def __init__(
        self,
        names: Sequence[str],
        rounds: int,
        metric: str = "",
        higher: bool | None = None,
        *,
        waits: bool = True,
    ) -> None:
        self.rows = [Row(name) for name in names]
        self.rounds = rounds
        self.metric = metric
        self.higher = higher
        self.waits = waits
        self.evaluations: list[Evaluation] = []
        self._index = {name: i for i, name in enumerate(names)}
        self._gathering: dict[int, _Gathering] = {}
        self._front = 0

    @property
    def higher_is_better(self) -> bool:
        return higher_is_better(self.metric) if self.higher is None else self.higher

    @property
    def round(self) -> int:
        """Rounds that half of the nodes still in the run have finished: one that was lost for a while does
        not take the others back when it returns. The last one is everyone's."""
        living = [row for row in self.rows if row.state != "lost"]
        if living:
            self._front = max(self._front, median_high(row.round for row in living))
        done = all(row.state == "done" for row in living)
        return self._front if done else min(self._front, max(0, self.rounds - 1))

    def worst(self, count: int) -> list[Row]:
        """The rows people should look at: lost nodes, then those with the worst metric (or loss)."""

        def badness(row: Row) -> tuple[bool, float]:
            value = row.metric if math.isfinite(row.metric) else row.loss
            higher = self.higher_is_better and math.isfinite(row.metric)
            return row.state != "lost", (value if higher else -value) if math.isfinite(value) else math.inf

        return sorted(self.rows, key=badness)[:count]

    def take(self, record: Mapping[str, object]) -> list[Evaluation]:
        """Take one record; the evaluations that are complete with it."""
        node, round = number(record.get("node")), number(record.get("round"))
        row = self.rows[int(node)] if 0 <= node < len(self.rows) else None
        kind = record.get("kind")
        if row is None or not math.isfinite(round):
            return []
        if kind == "round":
            self._take_round(row, int(round), record)
        elif kind == "eval":
            self._take_eval(row, int(node), int(round), record)
        elif kind == "peer_down":
            return self.lost(record.get("peer"), number(record.get("time")))
        elif kind in ("suspect", "slow", "alive", "peer_up"):
            self._take_sign(kind, record)
        return self._complete() if kind == "eval" else []

    def lost(self, who: object, at: float = math.nan) -> list[Evaluation]:
        """A node (index or name) is gone, since so many seconds after the start; the evaluations that nobody
        waits for any more."""
        index = self._index.get(who) if isinstance(who, str) else who
        if not isinstance(index, int) or not 0 <= index < len(self.rows):
            return []
        row = self.rows[index]
        if row.state == "done":  # it said goodbye
            return []
        if row.state != "lost":
            row.state, row.since = "lost", at
        return self._complete()

    def _take_sign(self, kind: object, record: Mapping[str, object]) -> None:
        """What a neighbor says of a node."""
        peer, at = number(record.get("peer")), number(record.get("time"))
        row = self.rows[int(peer)] if 0 <= peer < len(self.rows) else None
        if row is None or row.state == "done":
            return
        if kind == "suspect" and row.state != "lost":
            row.state, row.since = "suspect", number(record.get("since"), at)
        elif kind == "slow" and row.state == "up":
            row.state, row.since = "slow", at
        elif kind == "alive" and row.state in ("suspect", "slow"):
            row.state, row.since = "up", math.nan
        elif kind == "peer_up" and row.state == "lost":
            row.state, row.since = "rejoined", at

    def rest(self) -> list[Evaluation]:
        """The evaluations that were never complete, for the end of a run."""
        return [self._close(round) for round in sorted(self._gathering)]

    def _take_round(self, row: Row, round: int, record: Mapping[str, object]) -> None:
        row.round = max(row.round, round)
        row.loss = number(record.get("loss"))
        row.busy += number(record.get("train_s"), 0.0) + number(record.get("mix_s"), 0.0)
        row.waiting += number(record.get("wait_s"), 0.0)
        row.sent_bytes += number(record.get("sent_bytes"), 0.0)
        neighbors = record.get("neighbors")
        row.neighbors = len(neighbors) if isinstance(neighbors, list | tuple) else int(number(neighbors, 0.0))
        self._runs(row, number(record.get("time")))

    def _runs(self, row: Row, now: float) -> None:
        """A node says of itself, at a time (seconds since the start), that it makes rounds."""
        if row.round >= self.rounds:
            row.state, row.since = "done", math.nan
        elif row.state == "lost" and now > row.since:
            row.state, row.since = "rejoined", now
        elif row.state == "lost" or (row.state == "suspect" and now <= row.since):
            return  # from before that: records of many nodes come in any order
        elif row.state not in ("rejoined", "slow") or not now - row.since < NEWS:
            row.state, row.since = "up", math.nan

    def _take_eval(self, row: Row, node: int, round: int, record: Mapping[str, object]) -> None:
        values = metrics_of(record)
        self.metric = self.metric or next(iter(values), "")
        row.metric = values.get(self.metric, math.nan)
        if row.state == "starting":
            row.state = "up"
        if round <= max((e.round for e in self.evaluations), default=-1):
            return  # late: that line has been given out
        gathering = self._gathering.setdefault(round, _Gathering())
        gathering.time = max(gathering.time, number(record.get("time"), 0.0))
        gathering.metric[node] = row.metric
        gathering.exact = number(record.get("consensus_distance"), gathering.exact)
        sketch = record.get("sketch")
        if isinstance(sketch, str) and math.isnan(gathering.exact):
            try:
                gathering.sketches.append(decode(sketch))
            except ValueError:
                return

    def _complete(self) -> list[Evaluation]:
        """Close each evaluation that no living node is behind of."""
        ready = [r for r in sorted(self._gathering) if self._whole(r, self._gathering[r].metric.keys())]
        if not ready:
            return []
        return [self._close(round) for round in sorted(self._gathering) if round <= ready[-1]]

    def _whole(self, round: int, told: Set[int]) -> bool:
        living = [i for i, row in enumerate(self.rows) if row.state != "lost"]
        missing = [i for i in living if i not in told]
        if self.waits or not missing:
            return not missing
        return 2 * len(told) > len(living) and all(2 * self.rows[i].round < round for i in missing)

    def _close(self, round: int) -> Evaluation:
        gathering = self._gathering.pop(round)
        values = [v for v in gathering.metric.values() if math.isfinite(v)] or [math.nan]
        distance = gathering.exact
        if math.isnan(distance) and len(gathering.sketches) == len(gathering.metric):
            distance = consensus_distance(np.reshape(gathering.sketches, (-1, BUCKETS)))
        done = Evaluation(
            round, gathering.time, sum(values) / len(values), min(values), max(values), distance
        )
        self.evaluations.append(done)
        return done
