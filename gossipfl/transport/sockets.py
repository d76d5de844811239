"""ZeroMQ sockets as the lines of a node need them: with limits, heartbeats and monitors, on one poller."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import zmq
from zmq.backend import Socket as Backend
from zmq.utils.monitor import recv_monitor_message

from gossipfl.core.events import Event, Note
from gossipfl.core.messages import Vectors
from gossipfl.transport.curve import HANDSHAKE
from gossipfl.transport.readiness import Socket, poller
from gossipfl.transport.wire import Buffer

NOBLOCK: Final = int(zmq.NOBLOCK)
SOME: Final = int(zmq.NOBLOCK | zmq.SNDMORE)

#: Bytes that the system may hold back on a line between machines.
SEND_BUFFER = 512 * 1024
#: Pings, and seconds at least, without an answer until libzmq itself closes a line. It knows nothing of
#: whether this process got to run, so that it has to be slower than `core/membership.py`.
PINGS, UNANSWERED = 12, 3.0
#: Milliseconds for the handshake of a line inside one machine, where a process that dies closes its lines,
#: and one among a thousand may wait long for its turn.
PATIENT = 600_000
#: Messages that may wait to be read on a line between machines.
WAITING = 4000
#: Bytes of a frame below which a copy costs less than to be told, by a thread, that it has left.
COPY_BELOW = 512 * 1024


#: What `Socket.recv` and `send` come to for the kinds of sockets there are here, found at once.
recv: Final = Backend.recv
_send: Final = Backend.send

Sending = Sequence[Buffer | zmq.Frame]

Fetch = Callable[[int, int], Vectors]
"""(peer, slot) -> the payload that lies there, in memory shared with it."""


class Beside(NamedTuple):
    """What passes beside the sockets, and in order with what they bring (`mail.py`). All take peer and
    session."""

    begin: Callable[[int, int], None]  # a session begins
    end: Callable[[int, int], None]  # it is over
    before: Callable[[int, int], list[Event | Note]]  # a message has come: what was said before it


class Limits(NamedTuple):
    """What holds for every line of a node."""

    chunk: int  # bytes of a frame of numbers at most
    heartbeat: float  # seconds between two ZMTP pings
    abroad: (
        bool  # do lines leave this machine? Inside it there are no pings: what dies there closes its lines
    )


class Sockets:
    """The sockets of one node, each with its limits, and the poller that waits for all of them."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.context: zmq.Context[Socket] = zmq.Context()
        self.poller = poller()
        self.received_bytes = 0
        self.thorough = False  # is all that has come to be read?

    def open(self, kind: int, address: str) -> Socket:
        """A socket for an address; it is neither bound nor connected."""
        chunk, heartbeat, abroad = self.limits
        socket: Socket = self.context.socket(kind)
        socket.copy_threshold = COPY_BELOW
        socket.setsockopt(zmq.SNDHWM, 0)  # the protocol bounds what is under way: two payloads an edge
        socket.setsockopt(zmq.MAXMSGSIZE, chunk + 1024)
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE if abroad else PATIENT)
        if abroad:
            socket.setsockopt(zmq.HEARTBEAT_IVL, math.ceil(heartbeat * 1000))
            socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, math.ceil(max(PINGS * heartbeat, UNANSWERED) * 1000))
            # Beats wait here through a long local phase: a line whose end is full carries no pings either.
            socket.setsockopt(zmq.RCVHWM, WAITING)
            # What waits in the system's buffer delays the heartbeats behind it: on a slow line, too long.
            socket.setsockopt(zmq.SNDBUF, SEND_BUFFER)
            socket.setsockopt(zmq.IPV6, "[" in address)
            socket.setsockopt(zmq.CONNECT_TIMEOUT, HANDSHAKE)
        return socket

    def watch(self, socket: Socket, events: int) -> Socket:
        """The monitor of a socket, on the poller too."""
        monitor: Socket = socket.get_monitor_socket(events)
        self.poller.register(monitor, told=True)
        return monitor

    def unwatch(self, socket: Socket, monitor: Socket) -> None:
        """The reverse."""
        self.poller.unregister(monitor)
        socket.disable_monitor()
        monitor.close(linger=0)

    def send(self, socket: Socket, frames: Sending) -> None:
        """Queue a message; its last frame is not copied if it is large. Raises ZMQError."""
        self.poller.stirred.add(socket)
        *heads, last = frames
        for head in heads:
            _send(socket, head, SOME)
        _send(socket, last, NOBLOCK, False)

    def message(self, head: zmq.Frame, socket: Socket) -> list[Buffer]:
        """The frames of a message, of which the first is read: headers are copied, numbers stay in place."""
        first = head.bytes
        frames: list[Buffer] = [first]
        size, more = len(first), head.more
        while more:
            frame = recv(socket, NOBLOCK, False)
            buffer, more = frame.buffer, frame.more
            frames.append(buffer)
            size += len(buffer)
        self.received_bytes += size
        return frames

    def enough(self, lines: int) -> float:
        """After how many messages it need not be asked for more: a round has one of each of its lines."""
        return math.inf if self.thorough or self.limits.abroad else lines


def monitored(monitor: Socket) -> Iterator[tuple[int, int]]:
    """The events that a monitor has seen: kind and value."""
    with contextlib.suppress(zmq.Again):
        while True:
            event = recv_monitor_message(monitor, zmq.NOBLOCK)
            yield int(event["event"]), int(event["value"])
