"""The keeper: a small thread that tells the neighbours, at every beat, which round its node is in, while the
node trains.

A process that hangs keeps its connections open and libzmq's thread goes on answering; only beats that carry
progress tell a slow node from a stuck one. The keeper has sockets of its own, since ZeroMQ's may not be
shared between threads; libzmq's threads they share with the lines.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType

from gossipfl.core.membership import Health
from gossipfl.errors import RemoteProtocolError
from gossipfl.transport.airwaves import Airwaves
from gossipfl.transport.wire import Beat, decode_beat, encode_beat
from gossipfl.transport.zeromq import ZeroMQ


class Keeper:
    """Sends this node's beats and keeps the neighbours' last ones. A context manager: the thread lives inside
    the `with`."""

    def __init__(self, node: int, listen: str, transport: ZeroMQ, interval: float, health: Health) -> None:
        """listen: where beats are published; transport: the lines, whose signs are kept; interval: seconds
        between two beats; health: is told of the own ones. Its `with` lies inside that of the transport."""
        self.address = ""
        self._node, self._interval = node, interval
        self._air = Airwaves(listen, transport.context)
        self._at, self._steps = (0, False), 0  # round, and whether it trains
        self._signs, self._health = transport.signs, health
        self._thread = threading.Thread(target=self._keep, name=f"keeper-{node}", daemon=True)

    def __enter__(self) -> Keeper:
        self._air.__enter__()
        self.address = self._air.address
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._air.stop()
        self._thread.join()
        self._air.__exit__(kind, error, trace)

    def at(self, round: int, *, training: bool) -> None:
        """The node is in this round, and is training or waiting; told at the next beat."""
        self._steps += 1
        self._at = round, training

    def step(self) -> None:
        """The node has made an optimiser step."""
        self._steps += 1

    def follow(self, addresses: dict[int, str]) -> None:
        """Listen to the beats of these nodes."""
        self._air.subscribe(list(addresses.values()))

    def tell(self, peer: int) -> str:
        """What the last beat of a peer says, for people."""
        return self._signs.tell(peer)

    def _keep(self) -> None:
        due = time.monotonic()
        while True:
            for frame in self._air.wait(max(0.0, due - time.monotonic())):
                if frame is None:
                    return
                try:
                    beat = decode_beat(frame)
                except RemoteProtocolError:
                    continue
                self._signs.beat(beat.node, beat)
            now = time.monotonic()
            if now >= due:
                self._health.tick(now)
                round, training = self._at
                self._air.publish(encode_beat(Beat(self._node, round, self._steps, training)))
                due = now + self._interval
