"""Signs of life: when each peer was last heard of, and what its last beat said.

A process that hangs keeps its connections, and libzmq's own thread goes on answering pings. What tells a slow
node from a stuck one is a step count that no longer grows, or beats that no longer come.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from gossipfl.errors import RemoteProtocolError
from gossipfl.transport.wire import Beat

#: Beats without a step, and lengths of the longest pause that a node has made so far, until it seems to hang.
BEATS: Final = 10.0
PAUSES: Final = 2.0


@dataclass(slots=True)
class _Sign:
    """Of one peer, in seconds of the monotonic clock of this machine: others' clocks mean nothing here."""

    word: float  # when anything came
    beat: Beat | None = None
    moved: float = 0.0  # when a beat first told of these steps
    pause: float = 0.0  # the longest time between two beats that told of different steps


class Signs:
    """The last sign of each peer."""

    def __init__(self) -> None:
        self._signs: dict[int, _Sign] = {}

    def word(self, peer: int) -> None:
        """Something has come from a peer."""
        now = time.monotonic()
        sign = self._signs.get(peer)
        if sign is None:
            self._signs[peer] = _Sign(now, moved=now)
        else:
            sign.word = now

    def beat(self, peer: int, beat: Beat) -> None:
        """A beat has come from a peer. Raises RemoteProtocolError: it is another node's."""
        if beat.node != peer:
            raise RemoteProtocolError(f"a beat of node {beat.node} from node {peer}")
        self.word(peer)
        sign = self._signs[peer]
        if sign.beat is None or beat.steps != sign.beat.steps or not sign.beat.training:
            if sign.beat is not None and sign.beat.training:
                sign.pause = max(sign.pause, sign.word - sign.moved)
            sign.moved = sign.word
        sign.beat = beat

    def silence(self, peer: int) -> float | None:
        """Seconds since anything came from a peer; None: nothing ever did."""
        sign = self._signs.get(peer)
        return None if sign is None else time.monotonic() - sign.word

    def stuck(self, peer: int, interval: float) -> float:
        """Seconds for which a peer has made no step, if that is so long that it seems to hang; else 0.

        interval: seconds between two of its beats. For peers whose line stands.
        """
        sign = self._signs.get(peer)
        if sign is None or sign.beat is None or interval <= 0:
            return 0.0
        now = time.monotonic()
        still = now - sign.moved if sign.beat.training else 0.0
        longest = max(still, now - sign.word)
        return longest if longest > max(BEATS * interval, PAUSES * sign.pause) else 0.0

    def tell(self, peer: int) -> str:
        """What a peer's last sign says, for people."""
        sign = self._signs.get(peer)
        if sign is None:
            return "not a word yet"
        now = time.monotonic()
        if sign.beat is None:
            return f"last word {now - sign.word:.1f} s ago"
        doing = "training" if sign.beat.training else "waiting"
        return f"{doing} in round {sign.beat.round}, {now - sign.word:.1f} s ago"
