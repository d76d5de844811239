"""Edges over ZeroMQ, ipc or tcp: one connection an edge, used both ways, driven from the thread that calls
`poll`.

A node binds one ROUTER; for each edge one end dials with a DEALER of its own. libzmq's thread moves the bytes
while Python trains. A closed connection is seen through the socket monitors, in about a millisecond after a
kill.
"""

from __future__ import annotations

import math
import time
from types import TracebackType
from typing import Final

import zmq

from gossipfl.core.events import Event, Note
from gossipfl.core.messages import Message
from gossipfl.transport.accepting import Accepting, Line, Unbound
from gossipfl.transport.curve import Left
from gossipfl.transport.dialling import Dialling, Session
from gossipfl.transport.sockets import Limits, Sockets
from gossipfl.transport.wire import Layout, Who, encode

__all__ = ["Line", "Unbound", "ZeroMQ"]

#: Seconds that what came last on a line may take to be readable after the line's end is known.
SETTLE: Final = 0.02
#: Seconds that what was sent may take to leave after the node is done.
LINGER: Final = 10.0


class ZeroMQ:
    """A node's connections. A context manager: entering binds, leaving lets the last messages go and
    closes."""

    def __init__(
        self, who: Who, layout: Layout, listen: str, heartbeat: float = 1.0, line: Line | None = None
    ) -> None:
        """listen: where to bind (`ipc://PATH`, `tcp://127.0.0.1:*`; empty: this end only dials); heartbeat:
        seconds between ZMTP pings on tcp; line: None inside one machine."""
        self._who, self._chunk, self._listen, self._line = who, layout.chunk, listen, line
        self._sockets = Sockets(Limits(layout.chunk, heartbeat, line is not None))
        self._heard: dict[int, float] = {}  # when a peer's last message came
        keys = None if line is None else line.keys
        self._dialling = Dialling(self._sockets, layout, keys, self._heard)
        self._accepting = Accepting(self._sockets, layout, who, self._heard)
        self._ending: list[Left | Session] = []  # connections that are over, seen in the last poll
        self.sent_bytes = 0

    # ------------------------------------------------------------------ lifetime

    def __enter__(self) -> ZeroMQ:
        self._sockets.context.set(zmq.MAX_SOCKETS, 65_536)
        try:
            self._accepting.open(self._listen, self._line)
        except Unbound as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        linger = int(LINGER * 1000) if kind is None else 200
        self._dialling.close(linger)
        self._accepting.close(linger, kind, error, trace)
        self._sockets.context.term()

    @property
    def address(self) -> str:
        """Where this node listens; empty: nowhere."""
        return self._accepting.address

    @property
    def received_bytes(self) -> int:
        """Bytes that have come, of everyone."""
        return self._sockets.received_bytes

    def listen_to(self, fd: int) -> None:
        """Also wake `poll` when this file descriptor can be read."""
        self._sockets.poller.register(fd, zmq.POLLIN)

    # ------------------------------------------------------------------ peers

    def dial(self, peer: int, address: str) -> None:
        """Open this end's connection to a peer; a `PeerUp` follows from `poll` when it stands. Tried until it
        does."""
        self._dialling.dial(peer, address)

    def trouble(self, peer: int) -> str:
        """Why the last dial of a peer failed; empty if it did not, or is not this end's to make."""
        return self._dialling.trouble(peer)

    def heard(self, peer: int) -> float | None:
        """Seconds since the last message of a peer, or None before the first."""
        at = self._heard.get(peer)
        return None if at is None else time.monotonic() - at

    def forget(self, peer: int) -> None:
        """Stop dialling a peer that will not come back."""
        self._dialling.forget(peer)

    # ------------------------------------------------------------------ sending and receiving

    def send(self, peer: int, session: int, message: Message) -> None:
        """Queue a message on a session; on one that is closed it is dropped (the machine hears of that from
        `poll`)."""
        route, socket = self._accepting.route(peer, session), self._dialling.socket(peer, session)
        for frames in encode(message, self._who, self._chunk):
            try:
                if route is not None:
                    self._accepting.send(route, frames)
                elif socket is not None:
                    socket.send_multipart(frames, zmq.NOBLOCK, copy=False)
                else:
                    return
            except (zmq.Again, zmq.error.ZMQError) as error:
                if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                    raise
                return
            self.sent_bytes += sum(memoryview(f).nbytes for f in frames)

    def poll(self, timeout: float | None) -> list[Event | Note]:
        """Wait up to `timeout` seconds (None: for ever) for anything to happen; returns at once with what is
        there."""
        self._accepting.answer_watchers()
        # The monitor tells of an end before what came last can be read: ends wait for one more look at the
        # lines.
        ending, self._ending = self._ending, []
        limits = [timeout, SETTLE if ending else None, self._accepting.due(), self._dialling.redial()]
        ready = {s for s, _ in self._sockets.poller.poll(_milliseconds(limits))}
        events = self._accepting.read(ready) + self._dialling.read(ready)
        for end in ending:
            if isinstance(end, Session):
                events += self._dialling.ended(end)
            else:
                events += self._accepting.ended(end)
        for said, over in (self._accepting.changed(ready), self._dialling.changed(ready)):
            events += said
            self._ending += over
        return events


def _milliseconds(limits: list[float | None]) -> int | None:
    """The first of these times (seconds), for a poller; None: no end."""
    known = [t for t in limits if t is not None]
    return math.ceil(max(min(known), 0) * 1000) if known else None
