"""Whom of its neighbors a node takes to be alive, from what it hears of them: signs in, changes out.

Three things are heard (docs/faults.md, "Detection"):

    the line          a connection that closes is the end of its session at once; nothing is judged here
    bytes             libzmq's own thread answers pings however busy the process is: no bytes, no process
    beats             they carry the steps of the training thread: bytes without steps, and it hangs

This is Lifeguard's suspicion (Dadgar, Phillips and Currey, DSN-W 2018; hashicorp/memberlist, `suspicion.go`
and `awareness.go`) for neighbors that have a line of their own. A suspect refutes by its next word on that
line, one hop, so that there is no gossip of suspicions to wait for: memberlist's factor log10(n) and its
confirmations by others have nothing to do here. What is kept is suspicion before death, and local health.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum
from typing import Final, Literal, NamedTuple

#: Beats without a byte until a neighbor on another machine is suspected, and until it is taken to be dead.
SUSPECT: Final = 3.0
DEAD: Final = 5.0
#: The same for a neighbor on this machine, where a process that dies closes its lines, so that there is time.
NEAR_SUSPECT: Final = 8.0
NEAR_DEAD: Final = 24.0
#: Nodes a core of which each beats as often as it is told to; of more, each beats more seldom.
AT_EASE: Final = 8
#: Nodes a core beyond which silence says nothing: only a closed line is a death.
CROWDED: Final = 32
#: Beats without a step, and lengths of the longest pause so far, until a neighbor seems to hang.
STILL: Final = 40.0
PAUSES: Final = 2.0

#: The largest score of local health; on-time beats in a row that take one off it; beats that a lapse counts
#: for.
WORST: Final = 8
RECOVERY: Final = 4
LAPSE: Final = 2.0


class State(Enum):
    """What a neighbor whose line stands is taken to be."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"


class Terms(NamedTuple):
    """When a neighbor is taken to be what; seconds."""

    beat: float  # between two beats
    suspect: float  # without a byte: suspect
    dead: float  # without a byte: dead; inf: never
    still: float  # without a step: suspect
    hang: float  # without a step: dead; inf: never


class Sign(NamedTuple):
    """What has been heard of a neighbor whose line stands; seconds in which this process was awake."""

    silence: float  # since anything came of it
    still: float  # since it last made a step, or was waiting for others
    pause: float = 0.0  # the longest of its pauses between two steps


class Change(NamedTuple):
    """A neighbor is taken to be something else from now on."""

    peer: int
    state: State
    why: Literal["silence", "hang"]
    seconds: float  # since the last sign of what is missed


def apart(beat: float, hang: float) -> Terms:
    """Terms between machines. hang: seconds without a step, 0: silence alone is a death."""
    return Terms(beat, SUSPECT * beat, DEAD * beat, STILL * beat, hang or math.inf)


def together(beat: float, hang: float, nodes: int, cores: int) -> Terms:
    """Terms of `nodes` on one machine with so many cores.

    Past `AT_EASE` nodes a core beats come more seldom, by n / (AT_EASE cores), so that all of them together
    cost the same; past `CROWDED` nodes a core a process may wait for its turn longer than anyone can tell
    from death.
    """
    beat *= max(1.0, nodes / (AT_EASE * cores))
    dead = NEAR_DEAD * beat if nodes <= CROWDED * cores else math.inf
    return Terms(beat, NEAR_SUSPECT * beat, dead, STILL * beat, hang or math.inf)


class Health:
    """How well this node itself gets to run, told by its own beats: who is late cannot call others late.

    A beat that comes k whole intervals late adds k to the score, which is at most `WORST`; every `RECOVERY`
    beats in a row that are in time take one off. Time-outs are multiplied by score + 1 (memberlist:
    `ScaleTimeout`).

    Time in which the process did not run (it was stopped, or starved) is no silence of others: of the time
    between two own beats at most `LAPSE` intervals count, so that who wakes up finds everyone as they were.
    """

    def __init__(self, beat: float) -> None:
        self.score = 0
        self._beat = beat
        self._last: float | None = None
        self._lost = 0.0  # seconds that did not count
        self._well = 0

    def tick(self, now: float) -> None:
        """An own beat."""
        if self._last is not None:
            gap = now - self._last
            self._lost += max(0.0, gap - LAPSE * self._beat)
            late = int(gap / self._beat - 1)
            self._well = 0 if late > 0 else self._well + 1
            self.score = min(WORST, self.score + max(0, late))
            if self._well >= RECOVERY:
                self.score, self._well = max(0, self.score - 1), 0
        self._last = now

    def lost(self, now: float) -> float:
        """Seconds up to now that did not count."""
        last = self._last
        lapse = 0.0 if last is None else now - last - LAPSE * self._beat
        return self._lost + lapse if lapse > 0.0 else self._lost

    def awake(self, now: float) -> float:
        """`now` less the time that did not count; never goes back."""
        return now - self.lost(now)


class Membership:
    """The neighbors whose line stands, and what each is taken to be."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self._known: dict[int, State] = {}

    def met(self, peer: int) -> None:
        """A line to a neighbor stands: it is alive."""
        self._known[peer] = State.ALIVE

    def parted(self, peer: int) -> None:
        """Its line is over: there is nothing to judge until the next one."""
        self._known.pop(peer, None)

    def state(self, peer: int) -> State | None:
        """What a neighbor is taken to be; None: its line does not stand."""
        return self._known.get(peer)

    def look(self, signs: Mapping[int, Sign], score: int = 0) -> list[Change]:
        """What has changed, by the latest signs of the neighbors (of who is not in them, nothing is known);
        score: this node's own health. Who is dead is parted."""
        changes: list[Change] = []
        for peer in sorted(self._known.keys() & signs.keys()):
            change = judge(peer, signs[peer], self.terms, score)
            if change.state is self._known[peer]:
                continue
            self._known[peer] = change.state
            changes.append(change)
            if change.state is State.DEAD:
                self.parted(peer)
        return changes

    def wait(self, signs: Mapping[int, Sign], score: int = 0) -> float | None:
        """Seconds until the earliest change that silence alone can bring; None: there is none to wait for."""
        waits = [
            limit - signs[peer].silence
            for peer in self._known.keys() & signs.keys()
            for limit in (scale(self.terms.suspect, score), scale(self.terms.dead, score))
            if math.isfinite(limit) and limit > signs[peer].silence
        ]
        return min(waits, default=None)


def judge(peer: int, sign: Sign, terms: Terms, score: int) -> Change:
    """What a neighbor is taken to be by its signs alone.

    dead     silence > (score + 1) dead,     or still > (score + 1) max(hang, PAUSES pause)
    suspect  silence > (score + 1) suspect,  or still > (score + 1) max(still, PAUSES pause)
    """
    if sign.silence > scale(terms.dead, score):
        return Change(peer, State.DEAD, "silence", sign.silence)
    if sign.still > scale(max(terms.hang, PAUSES * sign.pause), score):
        return Change(peer, State.DEAD, "hang", sign.still)
    if sign.silence > scale(terms.suspect, score):
        return Change(peer, State.SUSPECT, "silence", sign.silence)
    if sign.still > scale(max(terms.still, PAUSES * sign.pause), score):
        return Change(peer, State.SUSPECT, "hang", sign.still)
    return Change(peer, State.ALIVE, "silence", sign.silence)


def scale(timeout: float, score: int) -> float:
    """A time-out as this node's health allows it."""
    return timeout * (score + 1)
