"""Edges over ZeroMQ, ipc or tcp: one connection an edge, used both ways, driven from the thread that calls
`poll`.

A node binds one ROUTER; for each edge one end dials with a DEALER of its own. libzmq's thread moves the bytes
while Python trains. A closed connection is seen through the socket monitors, in about a millisecond after a
kill.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Final, NamedTuple

import zmq
from zmq.utils.monitor import recv_monitor_message

from gossipfl.core.events import Event, Note, PeerDown, PeerUp, Received
from gossipfl.core.messages import Hello, Message, Welcome
from gossipfl.errors import RemoteProtocolError
from gossipfl.transport.wire import FRAME_LIMIT, Decoder, Layout, Who, encode

log = logging.getLogger(__name__)

_CLOSED = zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED
_FAILED = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
#: Seconds until a dial that failed is tried again: from the first to the last, doubling.
REDIAL: Final = (0.05, 1.0)
#: Seconds that what came last on a line may take to be readable after the line's end is known.
SETTLE: Final = 0.02
#: Seconds that what was sent may take to leave after the node is done.
LINGER: Final = 10.0

Socket = zmq.Socket[bytes]


@dataclass(slots=True)
class _Dialled:
    """An edge that this end dials."""

    peer: int
    address: str
    session: int = 0
    socket: Socket | None = None
    monitor: Socket | None = None
    decoder: Decoder | None = None
    again_at: float | None = None
    pause: float = REDIAL[0]


@dataclass(slots=True)
class _Accepted:
    """A connection that came in: nobody until its hello."""

    decoder: Decoder
    fd: int
    peer: int | None = None
    session: int = -1


class _Session(NamedTuple):
    """A session that this end dialled."""

    peer: int
    session: int


class ZeroMQ:
    """A node's connections. A context manager: entering binds, leaving lets the last messages go and
    closes."""

    def __init__(self, who: Who, layout: Layout, listen: str, heartbeat: float = 1.0) -> None:
        """listen: where to bind (`ipc://PATH`, `tcp://127.0.0.1:*`); heartbeat: seconds between ZMTP pings on
        tcp."""
        self.address = ""
        self._who, self._layout, self._listen, self._heartbeat = who, layout, listen, heartbeat
        self._context: zmq.Context[Socket] = zmq.Context()
        self._poller = zmq.Poller()
        self._dialled: dict[int, _Dialled] = {}
        self._accepted: dict[bytes, _Accepted] = {}
        self._routes: dict[tuple[int, int], bytes] = {}
        self._ending: list[int | _Session] = []  # connections that are over, seen in the last poll
        self.sent_bytes = 0
        self.received_bytes = 0

    # ------------------------------------------------------------------ lifetime

    def __enter__(self) -> ZeroMQ:
        self._context.set(zmq.MAX_SOCKETS, 65_536)
        self._router: Socket = self._open(zmq.ROUTER)
        self._router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._router.setsockopt(zmq.BACKLOG, 4096)
        self._router_monitor = self._watch(self._router, zmq.EVENT_DISCONNECTED)
        self._router.bind(self._listen)
        self.address = self._router.getsockopt_string(zmq.LAST_ENDPOINT)
        self._poller.register(self._router, zmq.POLLIN)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        linger = int(LINGER * 1000) if kind is None else 200
        for dialled in self._dialled.values():
            self._hang_up(dialled, linger)
        self._unwatch(self._router, self._router_monitor)
        self._router.close(linger=linger)
        self._context.term()

    def _open(self, kind: int) -> Socket:
        socket: Socket = self._context.socket(kind)
        socket.setsockopt(zmq.SNDHWM, 0)  # the protocol bounds what is under way: two payloads an edge
        socket.setsockopt(zmq.MAXMSGSIZE, FRAME_LIMIT)
        socket.setsockopt(zmq.IMMEDIATE, 1)
        if self._heartbeat > 0:
            socket.setsockopt(zmq.HEARTBEAT_IVL, int(self._heartbeat * 1000))
            socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, int(self._heartbeat * 3000))
        return socket

    def _watch(self, socket: Socket, events: int) -> Socket:
        monitor: Socket = socket.get_monitor_socket(events)
        self._poller.register(monitor, zmq.POLLIN)
        return monitor

    def _unwatch(self, socket: Socket, monitor: Socket) -> None:
        self._poller.unregister(monitor)
        socket.disable_monitor()
        monitor.close(linger=0)

    def listen_to(self, fd: int) -> None:
        """Also wake `poll` when this file descriptor can be read."""
        self._poller.register(fd, zmq.POLLIN)

    # ------------------------------------------------------------------ dialling

    def dial(self, peer: int, address: str) -> None:
        """Open this end's connection to a peer; a `PeerUp` follows from `poll` when it stands. Tried until it
        does."""
        self._dialled[peer] = _Dialled(peer, address)
        self._connect(self._dialled[peer])

    def forget(self, peer: int) -> None:
        """Stop dialling a peer that will not come back."""
        dialled = self._dialled.get(peer)
        if dialled is not None and dialled.socket is None:
            del self._dialled[peer]

    def _connect(self, dialled: _Dialled) -> None:
        socket = self._open(zmq.DEALER)
        socket.setsockopt(zmq.RECONNECT_IVL, -1)  # a new connection is a new session, so it is made here
        dialled.socket, dialled.decoder, dialled.again_at = socket, Decoder(self._layout), None
        dialled.session += 1
        dialled.monitor = self._watch(socket, _CLOSED | _FAILED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self._poller.register(socket, zmq.POLLIN)
        socket.connect(dialled.address)

    def _hang_up(self, dialled: _Dialled, linger: int = 0) -> None:
        if dialled.socket is not None and dialled.monitor is not None:
            self._poller.unregister(dialled.socket)
            self._unwatch(dialled.socket, dialled.monitor)
            dialled.socket.close(linger=linger)
            dialled.socket = dialled.monitor = dialled.decoder = None

    def _retry_later(self, dialled: _Dialled) -> None:
        self._hang_up(dialled)
        dialled.again_at = time.monotonic() + dialled.pause
        dialled.pause = min(2 * dialled.pause, REDIAL[1])

    # ------------------------------------------------------------------ sending

    def send(self, peer: int, session: int, message: Message) -> None:
        """Queue a message on a session; on one that is closed it is dropped (the machine hears of that from
        `poll`)."""
        dialled, route = self._dialled.get(peer), self._routes.get((peer, session))
        for frames in encode(message, self._who):
            try:
                if route is not None:
                    self._router.send_multipart((route, *frames), zmq.NOBLOCK, copy=False)
                elif dialled is not None and dialled.session == session and dialled.socket is not None:
                    dialled.socket.send_multipart(frames, zmq.NOBLOCK, copy=False)
                else:
                    return
            except (zmq.Again, zmq.error.ZMQError) as error:
                if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                    raise
                return
            self.sent_bytes += sum(memoryview(f).nbytes for f in frames)

    # ------------------------------------------------------------------ receiving

    def poll(self, timeout: float | None) -> list[Event | Note]:
        """Wait up to `timeout` seconds (None: for ever) for anything to happen; returns at once with what is
        there."""
        events: list[Event | Note] = []
        # The monitor tells of an end before what came last can be read: ends wait for one more look at the
        # lines.
        ending, self._ending = self._ending, []
        ready = {s for s, _ in self._poller.poll(self._patience(timeout, SETTLE if ending else None))}
        if self._router in ready:
            events += self._read_router()
        for dialled in list(self._dialled.values()):
            if dialled.socket in ready:
                events += self._read_dealer(dialled)
        for end in ending:
            events += self._ended(end)
        if self._router_monitor in ready:
            self._ending += [fd for _, fd in self._monitored(self._router_monitor)]
        for dialled in list(self._dialled.values()):
            if dialled.monitor is not None and dialled.monitor in ready:
                events += self._dealer_changed(dialled)
        return events

    def _patience(self, timeout: float | None, settle: float | None) -> int | None:
        """Milliseconds to wait, until the next redial at most; makes the redials that are due."""
        now = time.monotonic()
        limits = [t for t in (timeout, settle) if t is not None]
        for dialled in [d for d in self._dialled.values() if d.again_at is not None]:
            assert dialled.again_at is not None
            if dialled.again_at <= now:
                self._connect(dialled)
            else:
                limits.append(dialled.again_at - now)
        return math.ceil(max(min(limits), 0) * 1000) if limits else None

    def _frames(self, socket: Socket) -> Iterator[list[zmq.Frame]]:
        while True:
            try:
                frames = socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            self.received_bytes += sum(len(f) for f in frames)
            yield frames

    def _read_dealer(self, dialled: _Dialled) -> list[Event | Note]:
        events: list[Event | Note] = []
        if dialled.socket is None or dialled.decoder is None:
            return events
        for frames in self._frames(dialled.socket):
            try:
                done = dialled.decoder.feed([f.buffer for f in frames])
                if done is not None and done[1] is not None and done[1].node != dialled.peer:
                    raise RemoteProtocolError(
                        f"node {done[1].node} answers where node {dialled.peer} was dialled"
                    )
            except RemoteProtocolError as error:
                events += [
                    Note("rejected", dialled.peer, str(error)),
                    PeerDown(dialled.peer, dialled.session),
                ]
                self._retry_later(dialled)
                return events
            if done is not None:
                dialled.pause = REDIAL[0]
                events.append(Received(dialled.peer, dialled.session, done[0]))
        return events

    def _read_router(self) -> list[Event | Note]:
        events: list[Event | Note] = []
        for route, *frames in self._frames(self._router):
            key = route.bytes
            line = self._accepted.get(key)
            if line is None:
                line = self._accepted[key] = _Accepted(Decoder(self._layout), int(frames[0].get(zmq.SRCFD)))
            if line.peer is not None and (line.peer, line.session) not in self._routes:
                continue  # a session that is over: discarded unread
            try:
                done = line.decoder.feed([f.buffer for f in frames])
                events += self._from_accepted(key, line, done)
            except RemoteProtocolError as error:
                peer = -1 if line.peer is None else line.peer
                events.append(Note("rejected", peer, str(error)))
                if line.peer is not None:
                    self._routes.pop((line.peer, line.session), None)
                    events.append(PeerDown(line.peer, line.session))
                else:
                    line.peer = -1
        return events

    def _from_accepted(
        self, key: bytes, line: _Accepted, done: tuple[Message, Who | None] | None
    ) -> list[Event | Note]:
        if done is None:
            return []
        message, who = done
        if isinstance(message, Hello) and not isinstance(message, Welcome) and who is not None:
            if line.peer is not None:
                raise RemoteProtocolError("a second hello on one connection")
            line.peer, line.session = who.node, message.session
            self._routes[who.node, message.session] = key
        elif line.peer is None:
            raise RemoteProtocolError("a message before hello")
        return [Received(line.peer, line.session, message)]

    # ------------------------------------------------------------------ closed connections

    def _monitored(self, monitor: Socket) -> Iterator[tuple[int, int]]:
        with contextlib.suppress(zmq.Again):
            while True:
                event = recv_monitor_message(monitor, zmq.NOBLOCK)
                yield int(event["event"]), int(event["value"])

    def _ended(self, end: int | _Session) -> list[Event | Note]:
        """A connection that came in (its file descriptor) or that was dialled is over, and read."""
        if isinstance(end, _Session):
            dialled = self._dialled.get(end.peer)
            if dialled is None or dialled.socket is None or dialled.session != end.session:
                return []
            self._retry_later(dialled)
            return [PeerDown(end.peer, end.session)]
        # The system may have given the number to a newer connection: the oldest is meant.
        key = next((key for key, line in self._accepted.items() if line.fd == end), None)
        if key is None:
            return []
        line = self._accepted.pop(key)
        if line.peer is None or self._routes.pop((line.peer, line.session), None) is None:
            return []
        return [PeerDown(line.peer, line.session)]

    def _dealer_changed(self, dialled: _Dialled) -> list[Event | Note]:
        events: list[Event | Note] = []
        assert dialled.monitor is not None
        for kind, _ in list(self._monitored(dialled.monitor)):
            if kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                events.append(PeerUp(dialled.peer, dialled.session))
            else:
                self._ending.append(_Session(dialled.peer, dialled.session))
        return events


class Airwaves:
    """One publisher and what is subscribed to, for a thread of its own: only `wait` and `publish` may be
    called there, `subscribe` and `stop` from any other."""

    def __init__(self, listen: str) -> None:
        self.address = ""
        self._listen = listen
        self._context: zmq.Context[Socket] = zmq.Context()

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
        self._context.term()

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
