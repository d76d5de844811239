"""What a fault script makes of a real node: how slow it is, which lines stay down, what befalls its messages.

The zygote tells (`faults`); everything here is done for real, by the node itself: it sleeps, it hangs up, it
sends bytes that are no message.
"""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

from gossipfl import draw
from gossipfl.core.events import PeerDown, Send
from gossipfl.core.messages import Hello
from gossipfl.draw import Purpose
from gossipfl.drivers.disasters import MESSAGES
from gossipfl.transport.zeromq import ZeroMQ


class _Strike(NamedTuple):
    kind: str
    peers: frozenset[int]
    share: float
    once: bool


class Meddling:
    """The faults of one node that are under way."""

    def __init__(self, seed: int, node: int, transport: ZeroMQ) -> None:
        self._seed, self._node, self._transport = seed, node, transport
        self._slow: dict[int, float] = {}
        self._cut: dict[int, frozenset[int]] = {}
        self._strikes: dict[int, _Strike] = {}
        self._drawn: dict[tuple[int, int], int] = {}
        self._downs: list[PeerDown] = []  # of lines that were hung up, and of which the machine does not know

    def word(self, word: dict[str, Any]) -> None:
        """A fault begins, or is over."""
        number, kind = word["number"], word["kind"]
        if word.get("over"):
            self._slow.pop(number, None)
            self._strikes.pop(number, None)
            for peer in self._cut.pop(number, frozenset()) - self._kept_down():
                self._transport.release(peer)
        elif kind == "slow":
            self._slow[number] = word["factor"]
        elif kind == "partition":
            self._cut[number] = frozenset(word["peers"])
            for peer in word["peers"]:
                session = self._transport.hold(peer)
                if session is not None:
                    self._downs.append(PeerDown(peer, session))
        else:
            peers = frozenset(word["peers"])
            self._strikes[number] = _Strike(kind, peers, word["share"], word["once"])

    def drag(self, seconds: float) -> None:
        """Let a step that took so many seconds take as long as a slow node's."""
        factor = math.prod(self._slow.values())
        if factor > 1.0:
            time.sleep(seconds * (factor - 1.0))

    def downs(self) -> list[PeerDown]:
        """The lines that were hung up since the last call."""
        downs, self._downs = self._downs, []
        return downs

    def send(self, send: Send) -> None:
        """Send a message, or let what is to befall it."""
        strike = self._struck(send)
        peer, session = send.peer, send.session
        match "" if strike is None else strike.kind:
            case "duplicate":
                self._transport.send(peer, session, send.message)
                self._transport.send(peer, session, send.message)
            case "drop":
                self._hang_up(peer, session)
            case "corrupt":
                self._transport.junk(peer, session)
            case "reorder":
                if self._transport.overtake(peer, session, send.message):
                    self._downs.append(PeerDown(peer, session))
            case _:
                self._transport.send(peer, session, send.message)

    def _hang_up(self, peer: int, session: int) -> None:
        self._transport.hang_up(peer, session)
        self._downs.append(PeerDown(peer, session))

    def _struck(self, send: Send) -> _Strike | None:
        for number, strike in self._strikes.items():
            if send.peer not in strike.peers:
                continue
            if isinstance(send.message, Hello) and strike.kind in ("duplicate", "reorder"):
                continue
            key = (number, send.peer)
            self._drawn[key] = count = self._drawn.get(key, 0) + 1
            before = draw.prefix(self._seed, Purpose.NETWORK, MESSAGES, number, self._node, send.peer)
            if draw.one(before, count) < strike.share:
                if strike.once:
                    del self._strikes[number]
                return strike
        return None

    def _kept_down(self) -> frozenset[int]:
        return frozenset(peer for peers in self._cut.values() for peer in peers)
