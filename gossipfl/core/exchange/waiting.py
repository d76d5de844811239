"""How long a round waits for neighbors that live: `wire.deadline`, `wire.patience` and `wire.quorum`.

A round is closed without a neighbor that has not spoken of it within

    min(deadline, patience x median of the last rounds)      seconds of this node's own Stepped,

though not before `quorum` of its neighbors have. What the straggler sends later comes in as a correction, so
nothing is lost. Who was late is waited for again in the next round, and so brought back into step. Who is two
rounds behind is *slow*, and not waited for until it has made rounds as quickly as this node for a while:
what it brings is late either way. So a straggler costs its neighbors the deadline twice, not in every round.

A round's length, for the median, is the time until this node has trained and half of its neighbors have
spoken: with the wait for stragglers in it, each wait would lengthen the next.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from gossipfl.core.aggregate import Row
from gossipfl.core.events import Effect, Note
from gossipfl.core.exchange.edge import Edge
from gossipfl.core.messages import LAST, Data, Nothing

#: Rounds that the median is taken of, and from how many on it means something.
ROUNDS: Final = 11
ENOUGH: Final = 3
#: A slow neighbor is waited for again when it has made all rounds but one while this node made so many. (It
#: may still be behind, by an offset that stays: then waiting is what brings the two together.)
PROBATION: Final = 8
#: The share of rounds above which an edge rests too much (D2 breaks near one half), of so many at least.
REST: Final = 0.4
TURNS: Final = 25
#: Rounds in a row that a neighbor has to have made, and that it has to be ahead, for a node to follow it.
STEADY: Final = 3
FAR: Final = 64


class Limits(NamedTuple):
    """What the config says; zeros: a neighbor that lives is waited for."""

    deadline: float = 0.0  # seconds
    patience: float = 0.0  # times the median round
    quorum: int = 0

    @property
    def any(self) -> bool:
        return self.deadline > 0 or self.patience > 0


PATIENT: Final = Limits()


@dataclass(slots=True)
class Pace:
    """How a neighbor keeps up."""

    slow: bool = False  # not waited for
    steady: int = 0  # rounds in a row that it has spoken of
    allowed: int = 1  # how many rounds it may be behind
    before: int = 0  # steady, when it became slow or was looked at last
    looked: int = 0  # this node's rounds since then
    turns: int = 0  # rounds in which its edge was up
    rested: int = 0  # of these
    told: bool = False  # that it rests much


class Waiting:
    """One node's waiting, in the seconds of its driver's clock."""

    def __init__(self, limits: Limits, edges: Mapping[int, Edge], row: Callable[[int], Row]) -> None:
        self.limits = limits
        self.now = 0.0
        self.until: float | None = None  # of this round; None: as long as it takes
        self._edges, self._row = edges, row
        self._paces: defaultdict[int, Pace] = defaultdict(Pace)
        self._begun = 0.0
        self._trained = 0.0
        self._half: float | None = None  # when half of the neighbors had spoken
        self._lengths: deque[float] = deque(maxlen=ROUNDS)

    # ------------------------------------------------------------------ a round

    def open(self, row: Row, round: int) -> list[Effect]:
        """A round begins, its decisions are made: tell who keeps up again; and, once, which edges rest in
        more than `REST` of the rounds in which they are up."""
        self._begun, self._half, self.until = self.now, None, None
        effects: list[Effect] = []
        for j in row.active:
            edge, pace = self._edges[j], self._paces[j]
            if pace.slow:
                pace.looked += 1
                if pace.looked == PROBATION:
                    pace.slow = pace.steady - pace.before < PROBATION - 1
                    pace.before, pace.looked = pace.steady, 0
                    if not pace.slow:
                        pace.allowed = max(1, self._behind(edge, round - 1))
                        effects.append(Note("timely", j, "keeps up again", round))
            if edge.up and edge.wanted and not edge.done and (not edge.arcs or j in row.receivers):
                pace.turns += 1
                pace.rested += not edge.plan
                if pace.turns >= TURNS and pace.rested > REST * pace.turns and not pace.told:
                    pace.told = True
                    effects.append(Note("rest", j, f"rested in {pace.rested} of {pace.turns} rounds", round))
        return effects

    def trained(self) -> None:
        """The node's own local phase is done: the others have so long from now on."""
        self._trained = self.now
        limit = self.limits.deadline or None
        if self.limits.patience and len(self._lengths) >= ENOUGH:
            typical = self.limits.patience * _median(self._lengths)
            limit = typical if limit is None else min(limit, typical)
        self.until = None if limit is None else self.now + limit

    def enough(self, row: Row, round: int) -> bool:
        """May the round be closed?"""
        edges = self._edges
        there = [edges[j] for j in row.active if edges[j].up or edges[j].heard >= round]
        spoken = sum(edge.heard >= round for edge in there)
        if self._half is None and 2 * spoken >= len(there):
            self._half = self.now
        if spoken < min(self.limits.quorum, len(there)):
            return False
        if self.until is not None and self.now >= self.until:
            return True
        return not any(self._awaited(edge, row, round) for edge in there)

    def close(self, row: Row, round: int) -> list[Effect]:
        """The round is closed: tell of the neighbors that live and are slow from now on."""
        half = self.now if self._half is None else self._half
        self._lengths.append(max(self._trained, half) - self._begun)
        effects: list[Effect] = []
        for j in row.active:
            edge, pace = self._edges[j], self._paces[j]
            if edge.up and not pace.slow:
                behind = self._behind(edge, round)
                if behind > pace.allowed:
                    pace.slow, pace.before, pace.looked = True, pace.steady, 0
                    effects.append(Note("slow", j, f"is {behind} rounds behind: not waited for", round))
                pace.allowed = max(1, min(pace.allowed, behind))
        return effects

    def _awaited(self, edge: Edge, row: Row, round: int) -> bool:
        """Is a word missing that may come in time, and brings something?"""
        return edge.heard < round and edge.peer in row.neighbors and not self._paces[edge.peer].slow

    # ------------------------------------------------------------------ how the others keep up

    def word(self, edge: Edge, message: Data | Nothing) -> None:
        """A neighbor speaks of a round: has it left any out?"""
        if edge.heard < message.round < LAST:
            pace = self._paces[edge.peer]
            pace.steady = 0 if self._behind(edge, message.round - 1) else pace.steady + 1

    def _behind(self, edge: Edge, round: int) -> int:
        """Of how many of its rounds, up to this one, has a neighbor not spoken? Counted up to `FAR`."""
        return sum(
            edge.peer in self._row(t).active for t in range(max(edge.heard, round - FAR) + 1, round + 1)
        )

    def onward(self, round: int, end: int) -> int:
        """The round in which this node goes on that has just closed one: the next; or, if neighbors are
        `STEADY` or more ahead, one that none of them has begun. The rounds between are none on its edges; its
        neighbors, whose edges to it rest until they hear of it, then all send their payload of that one.

        Only neighbors that go on round after round are followed: two slow nodes would lead each other on. Who
        sees one at the end of the run is at its own end.
        """
        front = round
        for j, pace in self._paces.items():
            edge = self._edges[j]
            if edge.up and not edge.departed and pace.steady >= STEADY:
                front = max(front, min(edge.heard, end - 1))
        return round + 1 if front < round + STEADY else min(front + 2, end)


def _median(values: Iterable[float]) -> float:
    """As that of `statistics`, which loads decimal numbers and fractions too."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
