"""A node among machines goes around those that are gone for good (`algorithm.on_death = "rewire"`).

Nobody tells it who that is: it believes so of whom it has had no line to for a while, and of whom others say
so (`core/fates.py`). Whom it wants an extra edge with, it dials, and whoever does not answer in time is
believed to be gone as well: so it finds those who live behind a part of the dead of whom it knew only the
rim.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from gossipfl.config import Config
from gossipfl.core.events import Event, Lost, Note
from gossipfl.core.exchange.edge import Edge
from gossipfl.core.exchange.machine import End, Machine
from gossipfl.core.fates import Fates
from gossipfl.core.messages import Fate
from gossipfl.transport.zeromq import ZeroMQ

#: Seconds between two looks; a belief counts from the second one on that finds it unchanged.
EVERY: Final = 0.5
#: Seconds between two looks that count as time without a line: a node that trains for long does not look.
LAPSE: Final = 1.0
#: Seconds after which the end that does not dial by rule does: the other may not know of the edge yet.
GRACE: Final = 2.0
#: How much longer one is waited for that nobody can dial.
UNREACHABLE: Final = 3.0
#: How often a belief may have turned.
MOST: Final = 2**32
#: What people are told.
GONE: Final = "taken to be gone for good: those who live go around"
BACK: Final = "back"


class Bypass:
    """What one node makes of who is there and who is not."""

    def __init__(
        self,
        node: int,
        config: Config,
        machine: Machine,
        transport: ZeroMQ,
        handle: Callable[[Event], None],
        tell: Callable[[str], None],
    ) -> None:
        """handle: tells the machine; tell: takes lines for people."""
        self._node, self._config, self._machine, self._transport = node, config, machine, transport
        self._handle, self._tell = handle, tell
        self._fates = Fates(node)
        self._seen = self._acted = frozenset[int]()
        self._last = self._due = 0.0
        self._needed: dict[int, float] = {}  # extra edges without a line, and for how many seconds

    def met(self, peer: int) -> None:
        """A line to a node stands: it hears all that this one believes."""
        self._say(self._fates.told(), [peer])

    def hear(self, peer: int, word: Fate) -> Note | None:
        """Another node says something of a third; a note, if it cannot be."""
        if not (0 <= word.node < self._config.swarm.nodes and word.turns <= MOST):
            return Note("rejected", peer, f"fate {word.turns} of node {word.node}")
        words, up = self._fates.hear(word, self._up()), self._up()
        self._say(words, up if words != [word] else [j for j in up if j != peer])
        return None

    @property
    def gone(self) -> frozenset[int]:
        """Who is gone around."""
        return self._acted

    def look(self, now: float) -> None:
        """Is it time to believe something else? Asked again and again; seconds in which this process ran."""
        if now < self._due:
            return
        passed, self._last, self._due = min(now - self._last, LAPSE), now, now + EVERY
        if not self._machine.begun:
            return
        up = self._up()
        self._say(self._fates.look(up, self._down(), passed), up)
        gone = self._fates.gone - {*up}
        if gone == self._seen and gone != self._acted:
            self._act(gone)
        self._seen = gone
        for end in list(self._machine.ends.values()):
            if end.extra:
                self._dial(end, passed)

    # ------------------------------------------------------------------ who is there

    def _up(self) -> list[int]:
        return [j for j, end in self._machine.ends.items() if end.up]

    def _down(self) -> dict[int, float]:
        """Those to whom there should be a line and is none, and for how many seconds that may be so. Who has
        made all its rounds is not missed."""
        ends = self._machine.ends.values()
        missed = [e for e in ends if not e.up and e.wanted and (_departed(e) or not e.done)]
        return {end.peer: self._limit(end) for end in missed}

    def _limit(self, end: End) -> float:
        wire = self._config.wire
        if _departed(end):
            return 0.0
        if self._transport.answers(end.peer):  # it is in a long local phase, or hangs
            return max(wire.gone, wire.hang or math.inf)
        if not end.extra:
            return wire.gone
        return wire.gone * (1.0 if self._address(end.peer) else UNREACHABLE) + GRACE

    def _act(self, gone: frozenset[int]) -> None:
        """Others are gone from now on."""
        for said, nodes in ((GONE, gone - self._acted), (BACK, self._acted - gone)):
            if nodes:
                who = ", ".join(self._config.names[j] for j in sorted(nodes))
                self._tell(f"{who} {'is' if len(nodes) == 1 else 'are'} {said}")
        self._acted = gone
        self._handle(Lost(gone))

    # ------------------------------------------------------------------ lines

    def _say(self, words: Sequence[Fate], peers: Sequence[int]) -> None:
        for j in peers if words else ():
            session = self._machine.ends[j].session
            if session is not None:
                for word in words:
                    self._transport.send(j, session, word)

    def _address(self, node: int) -> str:
        return self._config.node[node].address

    def _dial(self, end: End, passed: float) -> None:
        """Have a line where an extra edge is wanted or something is open on it, and do not dial any more
        where it is not."""
        peer, address = end.peer, self._address(end.peer)
        if end.up:
            self._needed.pop(peer, None)
        elif not (end.wanted or end.owes):
            self._needed.pop(peer, None)
            self._transport.drop(peer)
        elif address:
            waited = self._needed[peer] = self._needed.get(peer, -passed) + passed
            if self._node < peer or not self._address(self._node) or waited >= GRACE:
                self._transport.dial(peer, f"tcp://{address}")


def _departed(end: End) -> bool:
    """Has it left before its last round?"""
    return isinstance(end, Edge) and end.departed
