"""Key pairs, and the gate: who may speak to this node is decided before a byte of theirs is decoded.

The lines are CurveZMQ (rfc.zeromq.org/spec/26), the admission is ZAP (rfc.zeromq.org/spec/27), answered in a
thread of its own: a node that trains must not keep its neighbours waiting at the door.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, NamedTuple

import zmq
from zmq.utils import z85

from gossipfl.config.lan import key_text
from gossipfl.transport.departures import Departures, From

log = logging.getLogger(__name__)

#: What has happened to a socket, and a value (zmq_socket_monitor(3)); pyzmq's reader of it loads more.
_EVENT: Final = struct.Struct("=Hi")

Socket = zmq.Socket[bytes]

#: Strangers told of by address; of more than that, nothing is said.
STRANGERS: Final = 1000
#: What the gate calls one who may read records.
WATCHER: Final = "watch"
#: Milliseconds in which a connection must have shaken hands.
HANDSHAKE: Final = 5000


#: Who has gone before his address could be seen, where the system does not tell it afterwards.
UNSEEN: Final = "someone"


class Pair(NamedTuple):
    """A key pair, 32 bytes each."""

    public: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"Pair({key_text(self.public)})"


def new_pair() -> Pair:
    """A fresh pair from the system's randomness."""
    return Pair(*(z85.decode(key) for key in zmq.curve_keypair()))


def public_of(secret: bytes) -> bytes:
    """The public key that belongs to a secret one."""
    public: bytes = z85.decode(zmq.curve_public(z85.encode(secret)))
    return public


@dataclass(frozen=True)
class Keys:
    """What a node needs to know of keys."""

    own: Pair
    peers: Mapping[int, bytes]  # node -> public key
    watchers: frozenset[bytes] = frozenset()

    def serve(self, socket: Socket) -> None:
        """Let only the listed keys connect to a socket that binds."""
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.own.secret)

    def dial(self, socket: Socket, server: bytes) -> None:
        """Speak only to whoever holds the secret of `server`."""
        socket.setsockopt(zmq.CURVE_SERVERKEY, server)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self.own.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.own.secret)

    def identity(self, key: bytes) -> str:
        """What the gate calls the owner of a key: a node's index, `watch`, both, or nothing."""
        named = [str(node) for node, known in self.peers.items() if known == key]
        return " ".join([*named, WATCHER] if key in self.watchers else named)


class Left(NamedTuple):
    """A connection that came in is over; `address`: where it came from, if it could be seen."""

    fd: int
    address: str


@dataclass
class _Turned:
    """Whom the gate has turned away, so that each is told of once."""

    seen: set[str] = field(default_factory=set)

    def first(self, who: str) -> bool:
        if who in self.seen or len(self.seen) >= STRANGERS:
            return False
        self.seen.add(who)
        return True


class Gate:
    """Answers ZAP requests and watches a listening socket, in a thread that lives inside the `with`.

    `left` of the socket `news` gives what has ended; `turned` says who was turned away, a line each.
    """

    def __init__(self, context: zmq.Context[Socket], keys: Keys | None, listening: Socket) -> None:
        """keys None: everyone who speaks the protocol is admitted (plaintext)."""
        self._context, self._keys, self._listening = context, keys, listening
        self._turned = _Turned()
        self._thread = threading.Thread(target=self._keep, name="gate", daemon=True)
        self._from: dict[int, From] = {}  # file descriptor -> where it comes from
        self._known: set[From] = set()  # all of those, until the system has let go of them
        self._departures = Departures()
        self.port = 0  # where the socket listens, once it does

    def __enter__(self) -> Gate:
        self._zap: Socket = self._context.socket(zmq.REP)
        self._zap.bind("inproc://zeromq.zap.01")
        self._listening.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE)
        if self._keys is not None:
            self._listening.setsockopt(zmq.ZAP_DOMAIN, b"gossipfl")
            self._keys.serve(self._listening)
        self._listening.monitor("inproc://gate", zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        self._monitor: Socket = self._context.socket(zmq.PAIR)
        # A monitor that is full would stop libzmq's own thread, and all lines with it.
        self._monitor.setsockopt(zmq.RCVHWM, 0)
        self._monitor.connect("inproc://gate")
        self.news: Socket = self._pair("inproc://news", bind=True)
        self._tell: Socket = self._pair("inproc://news", bind=False)
        self._stop: Socket = self._pair("inproc://stop", bind=True)
        self._stopped: Socket = self._pair("inproc://stop", bind=False)
        self._thread.start()
        return self

    def _pair(self, address: str, *, bind: bool) -> Socket:
        made: Socket = self._context.socket(zmq.PAIR)
        made.setsockopt(zmq.SNDHWM, 0)
        made.setsockopt(zmq.RCVHWM, 0)
        if bind:
            made.bind(address)
        else:
            made.connect(address)
        return made

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.send(b"")
        self._thread.join()
        self._listening.disable_monitor()
        self._departures.close()
        for made in (self._zap, self._monitor, self.news, self._tell, self._stop, self._stopped):
            made.close(linger=0)

    def read(self) -> list[Left | str]:
        """What has happened at the gate: ends, and lines about who was turned away."""
        found: list[Left | str] = []
        with contextlib.suppress(zmq.Again):
            while True:
                kind, text = self.news.recv_multipart(zmq.NOBLOCK)
                if kind == b"turned":
                    found.append(text.decode())
                else:
                    fd, _, address = text.decode().partition(" ")
                    found.append(Left(int(fd), address))
        return found

    def stranger(self, address: str) -> str | None:
        """A line about someone who never said hello, once for each address."""
        return f"{address} connected and did not speak the protocol" if self._turned.first(address) else None

    def spoke(self, fd: int) -> None:
        """A neighbor has said hello on this connection: what else comes from its address and says nothing is
        no stranger, but a try that it has given up, while this node stood still or its port was full."""
        came = self._from.get(fd)
        if came is not None:
            self._turned.seen.add(came.host)

    # ------------------------------------------------------------------ the thread

    def _keep(self) -> None:
        poller = zmq.Poller()
        for made in (self._zap, self._monitor, self._stopped):
            poller.register(made, zmq.POLLIN)
        departures = self._departures.fileno()
        if departures is not None:
            poller.register(departures, zmq.POLLIN)
        while True:
            ready = {s for s, _ in poller.poll()}
            if self._stopped in ready:
                return
            if self._zap in ready:
                self._answer(self._zap.recv_multipart())
            if self._monitor in ready:
                with contextlib.suppress(zmq.Again):
                    while True:
                        self._seen(*_EVENT.unpack(self._monitor.recv_multipart(zmq.NOBLOCK)[0]))
            if departures in ready:
                self._departed()

    def _answer(self, request: list[bytes]) -> None:
        """A ZAP request: version, id, domain, address, identity, mechanism, credentials."""
        key = request[6] if len(request) == 7 and request[5] == b"CURVE" else b""
        who = "" if self._keys is None else self._keys.identity(key)
        address = request[3].decode(errors="replace") if len(request) > 3 else ""
        status = (b"200", b"OK") if who else (b"400", b"this key is not listed")
        self._zap.send_multipart([b"1.0", request[1], *status, who.encode(), b""])
        shown = key_text(key) if len(key) == 32 else "no key"
        if not who and self._turned.first(f"{address} {shown}"):
            self._turned.first(address)
            self._tell.send_multipart(
                [b"turned", f"{address} has a key that is not listed: {shown}".encode()]
            )

    def _seen(self, event: int, fd: int) -> None:
        if event == zmq.EVENT_ACCEPTED:
            came = _came_from(fd)
            if came is not None:
                self._from[fd] = came
                if self._departures.fileno() is not None:
                    self._known.add(came)
        else:
            left = self._from.pop(fd, None)
            unseen = "" if self._departures.fileno() is not None else UNSEEN
            self._tell.send_multipart([b"left", f"{fd} {left.host if left else unseen}".encode()])

    def _departed(self) -> None:
        """Tell of the connections that ended before the gate could look where they came from."""
        for left in self._departures.read(self.port):
            if left in self._known:
                self._known.discard(left)
            else:
                self._tell.send_multipart([b"left", f"-1 {left.host}".encode()])


def _came_from(fd: int) -> From | None:
    """Where a connection comes from; None if it has gone already."""
    try:
        with socket.socket(fileno=os.dup(fd)) as line:
            name = line.getpeername()
    except OSError:
        return None
    return From(str(name[0]), int(name[1])) if isinstance(name, tuple) else None
