"""The edges that this end dials: a DEALER each, tried until it stands, and again after each end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Container, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

import zmq

from gossipfl.core.events import Event, Note, PeerDown, PeerUp, Received
from gossipfl.core.messages import Refuse
from gossipfl.core.quarantine import Quarantine, alone, reason
from gossipfl.errors import RemoteProtocolError
from gossipfl.transport.curve import Keys
from gossipfl.transport.descriptor import Descriptor, descriptor
from gossipfl.transport.readiness import Socket, more
from gossipfl.transport.signs import Signs
from gossipfl.transport.sockets import NOBLOCK, Beside, Fetch, Sockets, monitored, recv
from gossipfl.transport.wire import Beat, Decoder, Frames, Layout, Who, encode

_OPENED = zmq.EVENT_CONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED
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
#: Milliseconds in which the last word on a line may leave that this end ends.
LAST_WORD: Final = 1000
#: Milliseconds until libzmq itself would connect again.
NEVER: Final = 3_600_000


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
    connection: Descriptor | None = None
    greeted: bool = False  # has a message come on this session?
    answers: bool = False  # has somebody answered on this session who holds the peer's key?
    reached: float | None = None  # when somebody first answered there who holds the peer's key
    again_at: float | None = None
    pause: float = REDIAL[0]


class Session(NamedTuple):
    """A session that this end dialled."""

    peer: int
    session: int


class Dialling:
    """The edges that this end dials, by peer. `signs` are kept of each."""

    def __init__(
        self,
        sockets: Sockets,
        layout: Layout,
        who: Who,
        keys: Keys | None,
        signs: Signs,
        quarantine: Quarantine,
    ) -> None:
        self._sockets, self._layout, self._keys, self._signs = sockets, layout, keys, signs
        self._who, self._quarantine = who, quarantine
        self.fetch: Fetch | None = None
        self.beside: Beside | None = None
        self.redials = False  # is one of them to be dialled again?
        self._dialled: dict[int, _Dialled] = {}
        self._numbers: dict[int, int] = {}  # the last session with a peer that is not dialled any more
        self._held: set[int] = set()  # peers that are not dialled for now
        # old lines by peer, and what is to come on them
        self._aside: dict[int, list[tuple[Socket, list[Frames]]]] = {}

    def dial(self, peer: int, address: str) -> None:
        """Open the connection to a peer; tried until it stands."""
        before = self._dialled.get(peer)
        if before is not None:
            if before.address == address:
                return
            self._hang_up(before)
        self._dialled[peer] = _Dialled(peer, address, session=self._numbers.get(peer, 0))
        self._connect(self._dialled[peer])

    def trouble(self, peer: int) -> str:
        """Why the last dial of a peer failed; empty if it did not, or is not this end's to make."""
        dialled = self._dialled.get(peer)
        return "" if dialled is None else dialled.trouble

    def reached(self, peer: int) -> float | None:
        """When somebody first answered at a peer's address (monotonic seconds); None: nobody has yet."""
        dialled = self._dialled.get(peer)
        return None if dialled is None else dialled.reached

    def open(self) -> dict[tuple[int, int], Socket]:
        """The sockets on which messages pass, by peer and session."""
        known = self._dialled.values()
        return {(d.peer, d.session): d.socket for d in known if d.socket is not None and d.greeted}

    def idle(self, peer: int, session: int) -> float | None:
        """Seconds since bytes came on a session; None: nobody knows."""
        dialled = self._dialled.get(peer)
        if dialled is None or dialled.session != session or dialled.connection is None:
            return None
        return dialled.connection.idle()

    def hang_up(self, peer: int, session: int) -> None:
        """End a session, and dial again."""
        dialled = self._dialled.get(peer)
        if dialled is not None and dialled.socket is not None and dialled.session == session:
            self._retry_later(dialled)

    def leave_alone(self, peer: int, session: int) -> None:
        """End a session with a peer that is left alone from now on, and say so."""
        dialled = self._dialled.get(peer)
        if dialled is not None and dialled.socket is not None and dialled.session == session:
            left = self._quarantine.left(peer, time.monotonic())
            with contextlib.suppress(zmq.ZMQError):
                word = next(encode(Refuse(session, reason(left)), self._who))
                dialled.socket.send_multipart(word, zmq.NOBLOCK)
            self._retry_later(dialled, LAST_WORD)

    def hold(self, peer: int) -> None:
        """End the connection to a peer, and do not dial until `release`."""
        self._held.add(peer)
        dialled = self._dialled.get(peer)
        if dialled is not None:
            self._hang_up(dialled)
            dialled.again_at = None

    def release(self, peer: int) -> None:
        """Dial a peer again."""
        self._held.discard(peer)
        dialled = self._dialled.get(peer)
        if dialled is not None and dialled.socket is None:
            dialled.again_at, self.redials = time.monotonic(), True

    def overtake(self, peer: int, frames: list[Frames]) -> None:
        """Open a new connection to a peer beside the one there is; once it stands, frames come on the old
        one, which then ends."""
        dialled = self._dialled[peer]
        assert dialled.socket is not None and dialled.monitor is not None
        self._sockets.poller.unregister(dialled.socket)
        self._sockets.unwatch(dialled.socket, dialled.monitor)
        self._aside.setdefault(peer, []).append((dialled.socket, frames))
        dialled.socket = dialled.monitor = dialled.decoder = None
        self._connect(dialled)

    def _overtaken(self, peer: int) -> None:
        for socket, messages in self._aside.pop(peer, []):
            with contextlib.suppress(zmq.ZMQError):
                for frames in messages:
                    socket.send_multipart(frames, zmq.NOBLOCK)
            socket.close(linger=1000)

    def forget(self, peer: int) -> None:
        """Stop dialling a peer that will not come back."""
        dialled = self._dialled.get(peer)
        if dialled is not None and dialled.socket is None:
            del self._dialled[peer]

    def drop(self, peer: int) -> None:
        """Have no connection to a peer any more that this end has dialled; no event tells of it."""
        dialled = self._dialled.pop(peer, None)
        if dialled is not None:
            self._numbers[peer] = dialled.session
            self._hang_up(dialled)

    def dials(self, peer: int) -> bool:
        """Is it this end that dials a peer?"""
        return peer in self._dialled

    def answers(self, peer: int) -> bool:
        """Does somebody at a peer's address answer who holds its key, whether he has said a word or not?"""
        dialled = self._dialled.get(peer)
        return dialled is not None and dialled.socket is not None and dialled.answers

    def socket(self, peer: int, session: int) -> Socket | None:
        """Where to send on a session; None: it is over, or the other end's."""
        dialled = self._dialled.get(peer)
        return None if dialled is None or dialled.session != session else dialled.socket

    def redial(self) -> float | None:
        """Make the redials that are due; seconds until the next one is."""
        now, first = 0.0, None
        for dialled in self._dialled.values():
            at = dialled.again_at
            if at is None:
                continue
            now = now or time.monotonic()
            if at <= now:
                self._connect(dialled)
            else:
                first = at if first is None or at < first else first
        self.redials = first is not None
        return None if first is None else first - now

    def close(self, linger: int) -> None:
        """Hang up everywhere; linger: milliseconds for what has not left."""
        for peer in list(self._aside):
            self._overtaken(peer)
        for dialled in self._dialled.values():
            self._hang_up(dialled, linger)

    def connections(self) -> list[Descriptor]:
        """Those that stand, and the last ones of those that do not."""
        return [line.connection for line in self._dialled.values() if line.connection is not None]

    # ------------------------------------------------------------------ what the poller has seen

    def read(self, ready: Container[Socket | int]) -> list[Event | Note]:
        """What has come on the sockets that are ready."""
        events: list[Event | Note] = []
        for dialled in list(self._dialled.values()):
            if dialled.socket is not None and dialled.socket in ready:
                events += self._read(dialled, dialled.socket)
        return events

    def changed(self, ready: Container[Socket | int]) -> tuple[list[Event | Note], list[Session]]:
        """What the monitors that are ready have seen, and the sessions that are over but not read."""
        events, ending = list[Event | Note](), list[Session]()
        for dialled in list(self._dialled.values()):
            if dialled.monitor is None or dialled.monitor not in ready:
                continue
            for kind, value in list(monitored(dialled.monitor)):
                if kind == zmq.EVENT_CONNECTED:
                    dialled.connection = descriptor(value)
                    if dialled.connection is not None:
                        dialled.connection.widen()
                    continue
                if kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                    dialled.trouble = "the line stands, and no welcome has come: it may be in a local phase"
                    dialled.reached, dialled.answers = dialled.reached or time.monotonic(), True
                    events.append(PeerUp(dialled.peer, dialled.session))
                    continue
                if kind in _TROUBLE:
                    dialled.trouble = _TROUBLE[kind]
                if kind == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                    events.append(Note("refused", dialled.peer, "does not list this node's public key"))
                ending.append(Session(dialled.peer, dialled.session))
        return events, ending

    def ended(self, end: Session) -> list[Event | Note]:
        """A session is over, and read."""
        dialled = self._dialled.get(end.peer)
        if dialled is None or dialled.socket is None or dialled.session != end.session:
            return []
        self._retry_later(dialled)
        return [PeerDown(end.peer, end.session)]

    def _read(self, dialled: _Dialled, socket: Socket) -> list[Event | Note]:
        events: list[Event | Note] = []
        assert dialled.decoder is not None
        at, left, first = self._signs.now(), self._sockets.enough(1), True
        while first or (left > 0 and more(socket)):
            first, left = False, left - 1
            frames = self._sockets.message(recv(socket, NOBLOCK, False), socket)
            if self.beside is not None:
                events += self.beside.before(dialled.peer, dialled.session)
            try:
                done = dialled.decoder.feed(frames)
                if done is not None and done[1] is not None and done[1].node != dialled.peer:
                    raise RemoteProtocolError(
                        f"node {done[1].node} answers where node {dialled.peer} was dialled"
                    )
                self._signs.word(dialled.peer, at)
                if done is not None and isinstance(done[0], Beat):
                    self._signs.beat(dialled.peer, done[0])
            except RemoteProtocolError as error:
                events += [
                    Note("rejected", dialled.peer, str(error)),
                    PeerDown(dialled.peer, dialled.session),
                ]
                told = self._quarantine.reject(dialled.peer, time.monotonic())
                if told:
                    self.leave_alone(dialled.peer, dialled.session)
                else:
                    self._retry_later(dialled)
                return events + told
            if done is None:
                continue
            if isinstance(done[0], Refuse) and alone(done[0].reason) is not None:
                events += self._quarantine.told(dialled.peer, done[0].reason, time.monotonic())
                self._retry_later(dialled)
                dialled.trouble = done[0].reason
                return events
            if not isinstance(done[0], Beat):
                dialled.pause, dialled.trouble, dialled.greeted = REDIAL[0], "", True
                if dialled.peer in self._aside:
                    self._overtaken(dialled.peer)
                events.append(Received(dialled.peer, dialled.session, done[0]))
        return events

    # ------------------------------------------------------------------ connections

    def _connect(self, dialled: _Dialled) -> None:
        socket = self._sockets.open(zmq.DEALER, dialled.address)
        # A new connection is a new session, so it is made here. Where libzmq gives a connection up by itself
        # (no reconnecting, or IMMEDIATE), it drops what has come on it and is not read yet: a goodbye.
        socket.setsockopt(zmq.RECONNECT_IVL, NEVER)
        socket.setsockopt(zmq.IMMEDIATE, 0)
        fetch = None if self.fetch is None else partial(self.fetch, dialled.peer)
        dialled.socket, dialled.decoder, dialled.again_at = socket, Decoder(self._layout, fetch), None
        dialled.session, dialled.greeted, dialled.connection = dialled.session + 1, False, None
        if self.beside is not None:
            self.beside.begin(dialled.peer, dialled.session)
        dialled.answers = False
        dialled.monitor = self._sockets.watch(socket, _OPENED | _CLOSED | _FAILED)
        self._sockets.poller.register(socket)
        if self._keys is not None:
            self._keys.dial(socket, self._keys.peers[dialled.peer])
        try:
            socket.connect(dialled.address)
        except zmq.ZMQError as error:
            dialled.trouble = f"{dialled.address} is no address ({error.strerror})"
            self._retry_later(dialled)

    def _hang_up(self, dialled: _Dialled, linger: int = 0) -> None:
        if dialled.socket is not None and dialled.monitor is not None:
            if self.beside is not None:
                self.beside.end(dialled.peer, dialled.session)
            self._sockets.poller.unregister(dialled.socket)
            self._sockets.unwatch(dialled.socket, dialled.monitor)
            dialled.socket.close(linger=linger)
            dialled.socket = dialled.monitor = dialled.decoder = None

    def _retry_later(self, dialled: _Dialled, linger: int = 0) -> None:
        self._hang_up(dialled, linger)
        if dialled.peer in self._held:
            return
        now = time.monotonic()
        dialled.again_at = now + max(dialled.pause, self._quarantine.left(dialled.peer, now))
        self.redials = True
        dialled.pause = min(2 * dialled.pause, REDIAL[1])
