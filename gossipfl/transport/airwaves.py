"""Beats over ZeroMQ: one publisher, and subscriptions to those of others."""

from __future__ import annotations

import contextlib
import math
from types import TracebackType

import zmq

Socket = zmq.Socket[bytes]


class Airwaves:
    """One publisher and what is subscribed to, for a thread of its own: only `wait` and `publish` may be
    called there, `subscribe` and `stop` from any other."""

    def __init__(self, listen: str, context: zmq.Context[Socket]) -> None:
        """context: whose threads move the beats; it outlives this."""
        self.address = ""
        self._listen, self._context = listen, context

    def __enter__(self) -> Airwaves:
        self._publisher: Socket = self._context.socket(zmq.PUB)
        self._publisher.setsockopt(zmq.SNDHWM, 16)
        self._publisher.bind(self._listen)
        self.address = self._publisher.getsockopt_string(zmq.LAST_ENDPOINT)
        self._subscriber: Socket = self._context.socket(zmq.SUB)
        self._subscriber.setsockopt(zmq.MAXMSGSIZE, 1024)
        self._subscriber.setsockopt(zmq.RCVHWM, 64)
        self._subscriber.setsockopt(zmq.SUBSCRIBE, b"")
        self._inside: Socket = self._context.socket(zmq.PAIR)
        self._outside: Socket = self._context.socket(zmq.PAIR)
        self._inside.bind("inproc://words")
        self._outside.connect("inproc://words")
        self._poller = zmq.Poller()
        self._poller.register(self._subscriber, zmq.POLLIN)
        self._poller.register(self._inside, zmq.POLLIN)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for socket in (self._publisher, self._subscriber, self._inside, self._outside):
            socket.close(linger=0)

    def subscribe(self, addresses: list[str]) -> None:
        """Hear what is published at these addresses."""
        for address in addresses:
            self._outside.send(address.encode())

    def stop(self) -> None:
        """Make `wait` give a None."""
        self._outside.send(b"")

    def publish(self, frame: bytes) -> None:
        """Send to whoever listens; whoever is slow misses it."""
        self._publisher.send(frame)

    def wait(self, timeout: float) -> list[bytes | None]:
        """The frames that came within `timeout` seconds; a None: `stop` was called."""
        frames: list[bytes | None] = []
        ready = {s for s, _ in self._poller.poll(math.ceil(timeout * 1000))}
        if self._inside in ready:
            word = self._inside.recv()
            if not word:
                return [None]
            self._subscriber.connect(word.decode())
        if self._subscriber in ready:
            with contextlib.suppress(zmq.Again):
                while True:
                    frames.append(self._subscriber.recv(zmq.NOBLOCK))
        return frames
