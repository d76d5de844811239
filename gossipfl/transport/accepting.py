"""The connections that come in, through one ROUTER: nobody until their hello, and gone as soon as that is
known."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Container
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple

import zmq

from gossipfl.core.events import Event, Note, PeerDown, Received
from gossipfl.core.exchange.agree import INSTANCE
from gossipfl.core.messages import Data, Hello, Message, Refuse, Welcome
from gossipfl.core.quarantine import Quarantine, alone, reason
from gossipfl.errors import RemoteProtocolError
from gossipfl.transport.curve import WATCHER, Gate, Keys, Left
from gossipfl.transport.descriptor import Descriptor, descriptor
from gossipfl.transport.lookout import Lookout
from gossipfl.transport.readiness import Socket, more
from gossipfl.transport.signs import Signs
from gossipfl.transport.sockets import NOBLOCK, Beside, Fetch, Sending, Sockets, monitored, recv
from gossipfl.transport.wire import Beat, Buffer, Decoder, Layout, Who, encode

#: How a node is turned away whose name another process bears.
DOUBLED = "has met another node named"

#: Seconds that a second process of one name is held back: by then the first, if it is dead, is known to be.
HOLD: Final = 4.0


class Unbound(OSError):
    """The address to listen at cannot be had."""


class Line(NamedTuple):
    """How lines between machines differ from those inside one: who may speak, and what a frame may hold."""

    keys: Keys | None  # None: everyone may, in plaintext
    records: Path | None = None  # the file that watchers are given to read


@dataclass(slots=True)
class _Accepted:
    """A connection that came in: nobody until its hello."""

    decoder: Decoder
    fd: int
    connection: Descriptor | None
    peer: int | None = None
    session: int = -1
    identity: tuple[str, ...] = ()  # whose key it is: a node's index, `watch`, both; in plaintext nobody's
    instance: object = None  # of the process at the other end


class _Held(NamedTuple):
    """The hello of a node that seems to be there already."""

    until: float
    key: bytes
    line: _Accepted
    message: Hello
    who: Who


class Accepting:
    """The connections that come in, by route. A context manager: entering binds.

    `signs` are kept of each peer.
    """

    def __init__(
        self, sockets: Sockets, layout: Layout, who: Who, signs: Signs, quarantine: Quarantine
    ) -> None:
        self.address = ""
        self.pressing = False  # may there be a watcher to be answered, or a node that is held back?
        self.fetch: Fetch | None = None
        self.beside: Beside | None = None
        self.crossing: Callable[[int], bool] | None = None  # may a peer come in that this end dials, too?
        self._sockets, self._layout, self._who, self._signs = sockets, layout, who, signs
        self._quarantine = quarantine
        self._keys: Keys | None = None
        self._gate: Gate | None = None
        self._lookout: Lookout | None = None
        self._accepted: dict[bytes, _Accepted] = {}
        self._routes: dict[tuple[int, int], bytes] = {}
        self._held: list[_Held] = []

    def listen(self, address: str, line: Line | None) -> None:
        """Listen at an address (empty: nowhere); line None: inside one machine. Raises Unbound."""
        self._router = self._sockets.open(zmq.ROUTER, address)
        self._router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._router.setsockopt(zmq.BACKLOG, 4096)
        if line is not None:
            self._keys = line.keys
            self._lookout = None if line.records is None else Lookout(line.records)
            self.pressing = self._lookout is not None
            self._gate = Gate(self._sockets.context, line.keys, self._router).__enter__()
            self._sockets.poller.register(self._gate.news, told=True)
        else:
            self._monitor = self._sockets.watch(self._router, zmq.EVENT_DISCONNECTED)
        self._sockets.poller.register(self._router)
        if address:
            try:
                self._router.bind(address)
            except zmq.ZMQError as error:
                raise Unbound(error.errno, error.strerror, address) from error
            self.address = self._router.getsockopt_string(zmq.LAST_ENDPOINT)
            if self._gate is not None:
                self._gate.port = int(self.address.rpartition(":")[2])

    def close(
        self,
        linger: int,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        """Let go of everyone; linger: milliseconds for what has not left."""
        if self._gate is not None:
            self._gate.__exit__(kind, error, trace)
        else:
            self._sockets.unwatch(self._router, self._monitor)
        self._router.close(linger=linger)

    def route(self, peer: int, session: int) -> bytes | None:
        """Where to send on a session; None: it is over, or this end dialled it."""
        return self._routes.get((peer, session))

    def open(self) -> dict[tuple[int, int], bytes]:
        """The routes on which messages pass, by peer and session."""
        return self._routes

    def idle(self, peer: int, session: int) -> float | None:
        """Seconds since bytes came on a session; None: nobody knows."""
        connection = self._connection(peer, session)
        return None if connection is None else connection.idle()

    def hang_up(self, peer: int, session: int) -> None:
        """End a session: the other end, which dialled, finds its line closed and may dial again."""
        connection = self._connection(peer, session)
        self._close(peer, session)
        if connection is not None:
            connection.end()

    def _close(self, peer: int, session: int) -> bool:
        """A session is over here. Was it open?"""
        if self.beside is not None:
            self.beside.end(peer, session)
        return self._routes.pop((peer, session), None) is not None

    def _connection(self, peer: int, session: int) -> Descriptor | None:
        line = self._accepted.get(self._routes.get((peer, session), b""))
        return None if line is None else line.connection

    def send(self, route: bytes, frames: Sending) -> None:
        """Queue frames. Raises ZMQError: the connection is over."""
        self._sockets.send(self._router, (route, *frames))

    # ------------------------------------------------------------------ watchers

    def due(self) -> float | None:
        """Seconds until a watcher may be answered, or a node that is held back refused; None: there is
        none."""
        if self._lookout is None and not self._held:
            return None
        watched = None if self._lookout is None else self._lookout.due()
        limits = [held.until - time.monotonic() for held in self._held]
        return min([*limits, *([] if watched is None else [watched])], default=None)

    def answer_watchers(self) -> None:
        """Give watchers the records that are new."""
        if self._lookout is None:
            return
        for route, frames in self._lookout.answers():
            self._sockets.poller.stirred.add(self._router)
            with contextlib.suppress(zmq.ZMQError):  # it has gone
                self._router.send_multipart((route, *frames), zmq.NOBLOCK)

    # ------------------------------------------------------------------ what the poller has seen

    def read(self, ready: Container[Socket | int]) -> list[Event | Note]:
        """What has come, if anything has."""
        events = self._let_in() if self._held else []
        if self._router not in ready:
            return events
        at, left = self._signs.now(), self._sockets.enough(len(self._routes))
        router, first = self._router, True
        while first or (left > 0 and more(router)):
            first, left = False, left - 1
            key, head = recv(router, NOBLOCK), recv(router, NOBLOCK, False)
            line = self._accepted.get(key) or self._met(key, head)
            frames = self._sockets.message(head, router)
            if line.peer is not None and (line.peer, line.session) not in self._routes:
                continue  # a session that is over: discarded unread
            if self.beside is not None and line.peer is not None:
                events += self.beside.before(line.peer, line.session)
            try:
                if self._lookout is not None and self._asks(key, line, frames[0]):
                    continue
                if line.peer is not None:
                    self._signs.word(line.peer, at)
                done = line.decoder.feed(frames)
                if done is None:
                    continue
                message, who = done
                if type(message) is Data and line.peer is not None:
                    events.append(Received(line.peer, line.session, message))
                elif not isinstance(message, Beat):
                    events += self._message(key, line, message, who)
                elif line.peer is None:
                    raise RemoteProtocolError("a beat before hello")
                else:
                    self._signs.beat(line.peer, message)
            except RemoteProtocolError as error:
                peer = -1 if line.peer is None else line.peer
                events.append(Note("rejected", peer, str(error)))
                if line.peer is not None:
                    events += self._quarantine.reject(line.peer, time.monotonic())
                    self.hang_up(line.peer, line.session)
                    events.append(PeerDown(line.peer, line.session))
                else:
                    line.peer = -1
                    if line.connection is not None:  # it may be a neighbor's: its end dials again
                        line.connection.end()
        return events

    def changed(self, ready: Container[Socket | int]) -> tuple[list[Event | Note], list[Left]]:
        """What has happened at the door, and the connections that are over but not read."""
        if self._gate is None:
            gone = [Left(fd, "") for _, fd in monitored(self._monitor)] if self._monitor in ready else []
            return [], gone
        news = self._gate.read() if self._gate.news in ready else []
        turned = [Note("rejected", -1, said) for said in news if isinstance(said, str)]
        return [*turned], [left for left in news if isinstance(left, Left)]

    def ended(self, end: Left) -> list[Event | Note]:
        """A connection is over, and read."""
        # The system may have given the number to a newer connection: the oldest is meant.
        key = next((key for key, line in self._accepted.items() if line.fd == end.fd), None)
        if key is None:
            told = None if self._gate is None or not end.address else self._gate.stranger(end.address)
            return [Note("rejected", -1, told)] if told else []
        line = self._accepted.pop(key)
        if self._lookout is not None:
            self._lookout.forget(key)
        if line.peer is None or not self._close(line.peer, line.session):
            return []
        return [PeerDown(line.peer, line.session)]

    def _met(self, key: bytes, frame: zmq.Frame) -> _Accepted:
        """A connection on which something comes for the first time, in this frame."""
        fd = int(frame.get(zmq.SRCFD))
        connection = descriptor(fd)
        if connection is not None and self._gate is None:
            connection.widen()
        line = self._accepted[key] = _Accepted(Decoder(self._layout), fd, connection)
        if self._keys is not None:
            line.identity = tuple(str(frame.get("User-Id")).split())
        return line

    def _asks(self, key: bytes, line: _Accepted, head: Buffer) -> bool:
        """Is this a watcher's ask, of one who may?"""
        if self._lookout is None or (line.identity and WATCHER not in line.identity):
            return False
        return self._lookout.take(key, [bytes(head)])

    def _message(self, key: bytes, line: _Accepted, message: Message, who: Who | None) -> list[Event | Note]:
        if isinstance(message, Hello) and not isinstance(message, Welcome) and who is not None:
            if line.peer is not None:
                raise RemoteProtocolError("a second hello on one connection")
            if line.identity and str(who.node) not in line.identity:
                raise RemoteProtocolError(f"a hello of node {who.node} with the key of {line.identity[0]}")
            left = self._quarantine.left(who.node, time.monotonic())
            if left:
                with contextlib.suppress(zmq.ZMQError):
                    self.send(key, next(encode(Refuse(message.session, reason(left)), self._who)))
                line.peer = -1
                return []
            if self.crossing is not None and not self.crossing(who.node):
                line.peer = -1
                if line.connection is not None:
                    line.connection.end()
                return []
            line.instance = message.about.get(INSTANCE)
            if self._doubled(who.node, line):
                self.pressing = True
                self._held.append(_Held(time.monotonic() + HOLD, key, line, message, who))
                return []
            self._known(key, line, who.node, message.session)
        elif line.peer is None:
            raise RemoteProtocolError("a message before hello")
        elif isinstance(message, Refuse) and alone(message.reason) is not None:
            told = self._quarantine.told(line.peer, message.reason, time.monotonic())
            self.hang_up(line.peer, line.session)
            return [*told, PeerDown(line.peer, line.session)]
        assert line.peer is not None
        return [Received(line.peer, line.session, message)]

    def _let_in(self) -> list[Event | Note]:
        """What becomes of those that are held back: they come in once the other one of their name is gone, as
        after a restart; if it stays, they are refused."""
        events: list[Event | Note] = []
        held, self._held = self._held, []
        for one in held:
            key, line, message, who = one[1:]
            if key not in self._accepted:
                continue  # it has gone
            if not self._doubled(who.node, line):
                self._known(key, line, who.node, message.session)
                events.append(Received(who.node, line.session, message))
            elif time.monotonic() < one.until:
                self._held.append(one)
            else:
                reason = f"{DOUBLED} {who.name}: one of the two must go"
                with contextlib.suppress(zmq.ZMQError):
                    self.send(key, next(encode(Refuse(message.session, reason), self._who)))
                line.peer = -1
                events.append(Note("rejected", -1, f"a second node named {who.name}"))
        self.pressing = self._lookout is not None or bool(self._held)
        return events

    def _known(self, key: bytes, line: _Accepted, node: int, session: int) -> None:
        """A hello tells who is at the other end of a line."""
        line.peer, line.session = node, session
        self._routes[node, session] = key
        if self._gate is not None:
            self._gate.spoke(line.fd)
        if self.beside is not None:
            self.beside.begin(node, session)
            self.beside.before(node, session)  # of the hello itself nothing was said
        if self.fetch is not None:
            line.decoder.fetch = partial(self.fetch, node)

    def _doubled(self, node: int, line: _Accepted) -> bool:
        """Is another process connected that says it is this node?"""
        others = [self._accepted.get(route) for (peer, _), route in self._routes.items() if peer == node]
        return any(o is not None and o.instance != line.instance for o in others)
