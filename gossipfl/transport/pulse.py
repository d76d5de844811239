"""Beats between machines: on the lines themselves, since a machine has one port and a firewall before it."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from gossipfl.core.membership import Health
from gossipfl.transport.wire import Beat
from gossipfl.transport.zeromq import ZeroMQ


class Pulse:
    """Sends a node's beats while it trains; while it waits, its own thread does. A context manager: the
    thread lives inside the `with`, which must lie inside that of the transport.

    What it is told is the keeper's (`gossipfl/transport/keeper.py`), which does the same inside one machine.
    """

    address = ""  # beats have none of their own

    def __init__(self, node: int, transport: ZeroMQ, interval: float, health: Health) -> None:
        """interval: seconds between two beats; health: is told how this thread gets to run."""
        self._transport, self._interval, self._health = transport, interval, health
        self._beat, self._steps = Beat(node, 0, 0, False), 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"pulse-{node}", daemon=True)

    def __enter__(self) -> Pulse:
        self._transport.beats(self.now, self._interval)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def now(self) -> Beat:
        """The beat of this moment."""
        return self._beat._replace(steps=self._steps)

    def at(self, round: int, *, training: bool) -> None:
        """The node is in this round, and is training or waiting."""
        self._steps += 1
        self._beat = self._beat._replace(round=round, training=training)

    def step(self) -> None:
        """The node has made an optimiser step."""
        self._steps += 1

    def follow(self, addresses: dict[int, str]) -> None:
        """Beats come over the lines."""

    def tell(self, peer: int) -> str:
        """What the last sign of a peer says, for people."""
        return self._transport.signs.tell(peer)

    def _keep(self) -> None:
        due = time.monotonic()
        while not self._over.wait(self._interval / 2):
            now = time.monotonic()
            if now >= due:
                self._health.tick(now)
                due = now + self._interval
            self._transport.beat()
