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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple

import zmq
from zmq.utils.monitor import recv_monitor_message

from gossipfl.core.events import Event, Note, PeerDown, PeerUp, Received
from gossipfl.core.exchange.agree import INSTANCE
from gossipfl.core.messages import Hello, Message, Refuse, Welcome
from gossipfl.errors import RemoteProtocolError
from gossipfl.transport.curve import HANDSHAKE, Gate, Keys, Left
from gossipfl.transport.lookout import Lookout
from gossipfl.transport.wire import Decoder, Layout, Who, encode

log = logging.getLogger(__name__)

_CLOSED = zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED
_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
_STRANGER = "whoever answers there does not hold its key, or speaks another protocol"
_TROUBLE: Final[Mapping[int, str]] = {
    zmq.EVENT_CLOSED: "nobody answers there",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: _STRANGER,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: _STRANGER,
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "it does not list this node's public key",
}
#: Seconds until a dial that failed is tried again: from the first to the last, doubling.
REDIAL: Final = (0.05, 1.0)
#: Seconds that what came last on a line may take to be readable after the line's end is known.
SETTLE: Final = 0.02
#: Bytes that the system may hold back on a line between machines.
SEND_BUFFER: Final = 512 * 1024
#: Seconds that what was sent may take to leave after the node is done.
LINGER: Final = 10.0

Socket = zmq.Socket[bytes]


class Unbound(OSError):
    """The address to listen at cannot be had."""


class Line(NamedTuple):
    """How lines between machines differ from those inside one: who may speak, and what a frame may hold."""

    keys: Keys | None  # None: everyone may, in plaintext
    records: Path | None = None  # the file that watchers are given to read


@dataclass(slots=True)
class _Dialled:
    """An edge that this end dials."""

    peer: int
    address: str
    trouble: str = ""
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
    identity: str = ""  # whose key it is: a node's index, or `watch`
    instance: object = None  # of the process at the other end


class _Session(NamedTuple):
    """A session that this end dialled."""

    peer: int
    session: int


class ZeroMQ:
    """A node's connections. A context manager: entering binds, leaving lets the last messages go and
    closes."""

    def __init__(
        self, who: Who, layout: Layout, listen: str, heartbeat: float = 1.0, line: Line | None = None
    ) -> None:
        """listen: where to bind (`ipc://PATH`, `tcp://127.0.0.1:*`; empty: this end only dials); heartbeat:
        seconds between ZMTP pings on tcp; line: None inside one machine."""
        self.address = ""
        self._who, self._layout, self._listen, self._heartbeat = who, layout, listen, heartbeat
        self._line = line
        self._gate: Gate | None = None
        self._lookout = None if line is None or line.records is None else Lookout(line.records)
        self._context: zmq.Context[Socket] = zmq.Context()
        self._poller = zmq.Poller()
        self._dialled: dict[int, _Dialled] = {}
        self._accepted: dict[bytes, _Accepted] = {}
        self._routes: dict[tuple[int, int], bytes] = {}
        self._ending: list[Left | _Session] = []  # connections that are over, seen in the last poll
        self._heard: dict[int, float] = {}  # when a peer's last message came
        self.sent_bytes = 0
        self.received_bytes = 0

    # ------------------------------------------------------------------ lifetime

    def __enter__(self) -> ZeroMQ:
        self._context.set(zmq.MAX_SOCKETS, 65_536)
        self._router: Socket = self._open(zmq.ROUTER, self._listen)
        self._router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._router.setsockopt(zmq.BACKLOG, 4096)
        if self._line is not None:
            self._gate = Gate(self._context, self._line.keys, self._router).__enter__()
            self._poller.register(self._gate.news, zmq.POLLIN)
        else:
            self._router_monitor = self._watch(self._router, zmq.EVENT_DISCONNECTED)
        self._poller.register(self._router, zmq.POLLIN)
        if self._listen:
            try:
                self._router.bind(self._listen)
            except zmq.ZMQError as error:
                self.__exit__(type(error), error, None)
                raise Unbound(error.errno, error.strerror, self._listen) from error
            self.address = self._router.getsockopt_string(zmq.LAST_ENDPOINT)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        linger = int(LINGER * 1000) if kind is None else 200
        for dialled in self._dialled.values():
            self._hang_up(dialled, linger)
        if self._gate is not None:
            self._gate.__exit__(kind, error, trace)
        else:
            self._unwatch(self._router, self._router_monitor)
        self._router.close(linger=linger)
        self._context.term()

    def _open(self, kind: int, address: str) -> Socket:
        socket: Socket = self._context.socket(kind)
        socket.setsockopt(zmq.SNDHWM, 0)  # the protocol bounds what is under way: two payloads an edge
        socket.setsockopt(zmq.MAXMSGSIZE, self._layout.chunk + 1024)
        socket.setsockopt(zmq.IMMEDIATE, 1)
        if self._heartbeat > 0:
            socket.setsockopt(zmq.HEARTBEAT_IVL, int(self._heartbeat * 1000))
            socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, int(self._heartbeat * 3000))
        if self._line is not None:
            # What waits in the system's buffer delays the heartbeats behind it: on a slow line, too long.
            socket.setsockopt(zmq.SNDBUF, SEND_BUFFER)
            socket.setsockopt(zmq.IPV6, "[" in address)
            socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE)
            socket.setsockopt(zmq.CONNECT_TIMEOUT, HANDSHAKE)
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

    def trouble(self, peer: int) -> str:
        """Why the last dial of a peer failed; empty if it did not, or is not this end's to make."""
        dialled = self._dialled.get(peer)
        return "" if dialled is None else dialled.trouble

    def heard(self, peer: int) -> float | None:
        """Seconds since the last message of a peer, or None before the first."""
        at = self._heard.get(peer)
        return None if at is None else time.monotonic() - at

    def forget(self, peer: int) -> None:
        """Stop dialling a peer that will not come back."""
        dialled = self._dialled.get(peer)
        if dialled is not None and dialled.socket is None:
            del self._dialled[peer]

    def _connect(self, dialled: _Dialled) -> None:
        socket = self._open(zmq.DEALER, dialled.address)
        socket.setsockopt(zmq.RECONNECT_IVL, -1)  # a new connection is a new session, so it is made here
        dialled.socket, dialled.decoder, dialled.again_at = socket, Decoder(self._layout), None
        dialled.session += 1
        dialled.monitor = self._watch(socket, _CLOSED | _FAILED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self._poller.register(socket, zmq.POLLIN)
        if self._line is not None and self._line.keys is not None:
            self._line.keys.dial(socket, self._line.keys.peers[dialled.peer])
        try:
            socket.connect(dialled.address)
        except zmq.ZMQError as error:
            dialled.trouble = f"{dialled.address} is no address ({error.strerror})"
            self._retry_later(dialled)

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
        for frames in encode(message, self._who, self._layout.chunk):
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
        self._answer_watchers()
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
        if self._gate is None:
            if self._router_monitor in ready:
                self._ending += [Left(fd, "") for _, fd in self._monitored(self._router_monitor)]
        elif self._gate.news in ready:
            for news in self._gate.read():
                if isinstance(news, Left):
                    self._ending.append(news)
                else:
                    events.append(Note("rejected", -1, news))
        for dialled in list(self._dialled.values()):
            if dialled.monitor is not None and dialled.monitor in ready:
                events += self._dealer_changed(dialled)
        return events

    def _patience(self, timeout: float | None, settle: float | None) -> int | None:
        """Milliseconds to wait, until the next redial at most; makes the redials that are due."""
        now = time.monotonic()
        watched = None if self._lookout is None else self._lookout.due()
        limits = [t for t in (timeout, settle, watched) if t is not None]
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
            self._heard[dialled.peer] = time.monotonic()
            if done is not None:
                dialled.pause, dialled.trouble = REDIAL[0], ""
                events.append(Received(dialled.peer, dialled.session, done[0]))
        return events

    def _read_router(self) -> list[Event | Note]:
        events: list[Event | Note] = []
        for route, *frames in self._frames(self._router):
            key = route.bytes
            line = self._accepted.get(key)
            if line is None:
                line = self._accepted[key] = _Accepted(Decoder(self._layout), int(frames[0].get(zmq.SRCFD)))
                if self._line is not None and self._line.keys is not None:
                    line.identity = str(frames[0].get("User-Id"))
            if line.peer is not None and (line.peer, line.session) not in self._routes:
                continue  # a session that is over: discarded unread
            try:
                if self._lookout is not None and self._lookout.take(key, [f.bytes for f in frames[:1]]):
                    continue
                if line.peer is not None:
                    self._heard[line.peer] = time.monotonic()
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
            if line.identity and line.identity != str(who.node):
                raise RemoteProtocolError(f"a hello of node {who.node} with the key of {line.identity}")
            line.instance = message.about.get(INSTANCE)
            if self._doubled(who.node, line):
                reason = f"has met another node named {who.name}: one of the two must go"
                refuse = next(encode(Refuse(message.session, reason), self._who))
                self._router.send_multipart((key, *refuse), zmq.NOBLOCK)
                raise RemoteProtocolError(f"a second node named {who.name}")
            line.peer, line.session = who.node, message.session
            self._routes[who.node, message.session] = key
        elif line.peer is None:
            raise RemoteProtocolError("a message before hello")
        return [Received(line.peer, line.session, message)]

    def _doubled(self, node: int, line: _Accepted) -> bool:
        """Is another process connected that says it is this node?"""
        others = [self._accepted.get(route) for (peer, _), route in self._routes.items() if peer == node]
        return any(o is not None and o.instance != line.instance for o in others)

    def _answer_watchers(self) -> None:
        for route, frames in () if self._lookout is None else self._lookout.answers():
            with contextlib.suppress(zmq.ZMQError):  # it has gone
                self._router.send_multipart((route, *frames), zmq.NOBLOCK)

    # ------------------------------------------------------------------ closed connections

    def _monitored(self, monitor: Socket) -> Iterator[tuple[int, int]]:
        with contextlib.suppress(zmq.Again):
            while True:
                event = recv_monitor_message(monitor, zmq.NOBLOCK)
                yield int(event["event"]), int(event["value"])

    def _ended(self, end: Left | _Session) -> list[Event | Note]:
        """A connection that came in (its file descriptor) or that was dialled is over, and read."""
        if isinstance(end, _Session):
            dialled = self._dialled.get(end.peer)
            if dialled is None or dialled.socket is None or dialled.session != end.session:
                return []
            self._retry_later(dialled)
            return [PeerDown(end.peer, end.session)]
        # The system may have given the number to a newer connection: the oldest is meant.
        key = next((key for key, line in self._accepted.items() if line.fd == end.fd), None)
        if key is None:
            told = None if self._gate is None or not end.address else self._gate.stranger(end.address)
            return [Note("rejected", -1, told)] if told else []
        line = self._accepted.pop(key)
        if self._lookout is not None:
            self._lookout.forget(key)
        if line.peer is None or self._routes.pop((line.peer, line.session), None) is None:
            return []
        return [PeerDown(line.peer, line.session)]

    def _dealer_changed(self, dialled: _Dialled) -> list[Event | Note]:
        events: list[Event | Note] = []
        assert dialled.monitor is not None
        for kind, _ in list(self._monitored(dialled.monitor)):
            if kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                dialled.trouble = "the line stands, and no welcome has come: it may be in a local phase"
                events.append(PeerUp(dialled.peer, dialled.session))
            else:
                if kind in _TROUBLE:
                    dialled.trouble = _TROUBLE[kind]
                if kind == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                    events.append(Note("refused", dialled.peer, "does not list this node's public key"))
                self._ending.append(_Session(dialled.peer, dialled.session))
        return events
