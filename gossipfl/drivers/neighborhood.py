"""Whom of its neighbors a node does not wait for any more: signs go to `core/membership.py`, and what comes
of it is told, recorded and done. Who is dead has its line ended, so that both ends know."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from gossipfl.config import Config
from gossipfl.core.events import PeerDown
from gossipfl.core.membership import LAPSE, Change, Health, Membership, Sign, State, Terms, apart, together
from gossipfl.drivers.machine import cores
from gossipfl.transport.signs import Signs
from gossipfl.transport.zeromq import ZeroMQ


class End(NamedTuple):
    """How it was found that a line is over."""

    found: str  # closed: the line was; silence, hang: this node ended it
    after: float  # seconds since the last sign of what is missed


#: What people are told of a neighbor that is suspected, or dead, by what is missed.
_WORDS = {"silence": "has been silent for {:.1f} s", "hang": "has made no step for {:.0f} s"}


def terms(config: Config, *, abroad: bool) -> Terms:
    """When a neighbor is taken to be what."""
    wire = config.wire
    if abroad:
        return apart(wire.heartbeat, wire.hang)
    return together(wire.heartbeat, wire.hang, config.swarm.nodes, cores())


class Neighborhood:
    """The neighbors whose lines stand, looked at now and then from the training thread."""

    def __init__(self, terms: Terms, tell: Callable[[Change], None]) -> None:
        """tell: is given what changes, before it is acted on."""
        self.health = Health(terms.beat)
        self.signs = Signs(self.health)
        self._members, self._tell = Membership(terms), tell
        self._away = terms.suspect - terms.beat * LAPSE
        self._lines: dict[int, int] = {}  # peer -> session
        self._ends: dict[int, End] = {}
        self.due = 0.0  # when to look again (monotonic seconds)
        self._lost = 0.0  # seconds that this node did not run, so far

    @property
    def beat(self) -> float:
        """Seconds between two own beats."""
        return self._members.terms.beat

    def woke(self, now: float) -> bool:
        """Has this node not run for so long, since the last call, that others may have gone on without it?"""
        lost = self.health.lost(now)
        away, self._lost = lost - self._lost, max(lost, self._lost)
        return away > self._away

    def look(self, transport: ZeroMQ) -> list[PeerDown]:
        """The sessions of those who are dead by now, ended; nothing, if no look is due."""
        now = time.monotonic()
        if now < self.due:
            return []
        signs = self._see(transport)
        downs = []
        for change in self._members.look(signs, self.health.score):
            self._tell(change)
            if change.state is State.DEAD:
                session = self._lines.pop(change.peer)
                self._ends[change.peer] = End(change.why, change.seconds)
                transport.hang_up(change.peer, session)
                downs.append(PeerDown(change.peer, session))
        wait = self._members.wait(signs, self.health.score)
        self.due = now + (self.beat if wait is None else min(self.beat, wait + 0.001))
        return downs

    def end(self, peer: int) -> End:
        """How the last line to a peer came to its end."""
        sign = self.signs.sign(peer)
        return self._ends.pop(peer, End("closed", sign.silence if sign else 0.0))

    def _see(self, transport: ZeroMQ) -> dict[int, Sign]:
        """The signs of all whose lines stand."""
        lines, signs = transport.lines(), dict[int, Sign]()
        for peer in self._lines.keys() - lines.keys():
            self._members.parted(peer)
        for peer, session in lines.items():
            if self._lines.get(peer) != session:
                self.signs.met(peer)
                self._members.met(peer)
                self._ends.pop(peer, None)
            sign = self.signs.sign(peer)
            assert sign is not None
            if sign.silence > self.beat:  # what this thread has not read yet may have come all the same
                idle = transport.idle(peer, session)
                if idle is not None and idle < sign.silence:
                    self.signs.word(peer, self.signs.now() - idle)
                    sign = sign._replace(silence=idle)
            signs[peer] = sign
        self._lines = lines
        return signs


def words(change: Change) -> str:
    """What is missed of a neighbor, for people."""
    return _WORDS[change.why].format(change.seconds)
