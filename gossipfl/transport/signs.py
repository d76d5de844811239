"""Signs of life: when each peer was last heard of, and what its last beat said. They are collected here and
judged in `core/membership.py`.

A process that hangs keeps its connections, and libzmq's own thread goes on answering pings. What tells a slow
node from a stuck one is a step count that no longer grows, or beats that no longer come.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from gossipfl.core.membership import Health, Sign
from gossipfl.errors import RemoteProtocolError
from gossipfl.transport.wire import Beat


@dataclass(slots=True)
class _Kept:
    """Of one peer, in seconds in which this process was awake: others' clocks mean nothing here."""

    word: float  # when anything came
    moved: float  # when a beat first told of these steps, or anything came before the first beat
    beat: Beat | None = None
    pause: float = 0.0  # the longest time between two beats that told of different steps


class Signs:
    """The last sign of each peer."""

    def __init__(self, health: Health) -> None:
        """health: of this node, whose own beats tell how much it runs."""
        self._health = health
        self._kept: dict[int, _Kept] = {}

    def now(self) -> float:
        """The time as it counts here."""
        now = time.monotonic()
        return now - self._health.lost(now)

    def word(self, peer: int, at: float) -> None:
        """Something came from a peer at this time."""
        kept = self._kept.get(peer)
        if kept is None:
            self._kept[peer] = _Kept(at, at)
        elif at > kept.word:
            kept.word = at

    def met(self, peer: int) -> None:
        """A line to a peer stands: what it said on another one is no sign on this."""
        now = self.now()
        self._kept[peer] = _Kept(now, now, None, self._kept[peer].pause if peer in self._kept else 0.0)

    def beat(self, peer: int, beat: Beat) -> None:
        """A beat has come from a peer. Raises RemoteProtocolError: it is another node's."""
        if beat.node != peer:
            raise RemoteProtocolError(f"a beat of node {beat.node} from node {peer}")
        self.word(peer, self.now())
        kept = self._kept[peer]
        before = kept.beat
        if before is None or beat.steps != before.steps or not beat.training:
            if before is not None and before.training:
                kept.pause = max(kept.pause, kept.word - kept.moved)
            kept.moved = kept.word
        kept.beat = beat

    def sign(self, peer: int) -> Sign | None:
        """What is known of a peer now; None: nothing ever came."""
        kept = self._kept.get(peer)
        if kept is None:
            return None
        now = self.now()
        still = now - kept.moved if kept.beat is not None else 0.0
        return Sign(max(0.0, now - kept.word), max(0.0, still), kept.pause)

    def tell(self, peer: int) -> str:
        """What a peer's last sign says, for people."""
        kept = self._kept.get(peer)
        if kept is None:
            return "not a word yet"
        ago = max(0.0, self.now() - kept.word)
        if kept.beat is None:
            return f"last word {ago:.1f} s ago"
        doing = "training" if kept.beat.training else "waiting"
        return f"{doing} in round {kept.beat.round}, {ago:.1f} s ago"
