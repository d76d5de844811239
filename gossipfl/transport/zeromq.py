"""Edges over ZeroMQ, ipc or tcp: one connection an edge, used both ways, driven from the thread that calls
`poll`.

A node binds one ROUTER; for each edge one end dials with a DEALER of its own. libzmq's thread moves the bytes
while Python trains. A closed connection is seen through the socket monitors, in about a millisecond after a
kill.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Final, NamedTuple

import zmq

from gossipfl.core.events import Event, Note, PeerDown
from gossipfl.core.messages import Data, Message
from gossipfl.core.quarantine import Quarantine
from gossipfl.transport.accepting import Accepting, Line, Unbound
from gossipfl.transport.curve import Left
from gossipfl.transport.descriptor import Descriptor
from gossipfl.transport.dialling import Dialling, Session
from gossipfl.transport.forks import close_in_forks
from gossipfl.transport.mail import Mail
from gossipfl.transport.readiness import Socket
from gossipfl.transport.shared import Commons, Shelf
from gossipfl.transport.sharing import SILENT, Sharing
from gossipfl.transport.signs import Signs
from gossipfl.transport.sockets import COPY_BELOW, Beside, Limits, Sending, Sockets
from gossipfl.transport.wire import DATA, Beat, Layout, Who, chunks, encode, encode_beat, encode_here

__all__ = ["Line", "Unbound", "ZeroMQ"]

#: Seconds that what came last on a line may take to be readable after the line's end is known.
SETTLE: Final = 0.02
#: Bytes that are no message, for faults that are wanted.
JUNK: Final = b"\xc1 no message"
#: Seconds that what was sent may take to leave after the node is done.
LINGER: Final = 10.0
#: Sockets that a line takes at most, with its monitor and what is being closed; those of a node besides.
SOCKETS: Final = 8
SPARE: Final = 256


class Parcel(NamedTuple):
    """A wire message."""

    frames: Sending
    size: int  # bytes that move with it, in its frames or beside them


class Made(NamedTuple):
    """A payload as it travels."""

    message: Data
    parcels: Sequence[Parcel]


class ZeroMQ:
    """A node's connections. A context manager: entering binds, leaving lets the last messages go and
    closes."""

    def __init__(
        self,
        who: Who,
        layout: Layout,
        listen: str,
        signs: Signs,
        heartbeat: float,
        line: Line | None = None,
    ) -> None:
        """listen: where to bind (`ipc://PATH`, `tcp://127.0.0.1:*`; empty: this end only dials); signs: takes
        those of the peers; heartbeat: seconds between two ZMTP pings; line: None inside one machine."""
        self._who, self._chunk, self._listen, self._line = who, layout.chunk, listen, line
        self._sockets = Sockets(Limits(layout.chunk, heartbeat, line is not None))
        self.signs = signs
        keys = None if line is None else line.keys
        self._quarantine = Quarantine()
        self._dialling = Dialling(self._sockets, layout, who, keys, signs, self._quarantine)
        self._accepting = Accepting(self._sockets, layout, who, signs, self._quarantine)
        self._accepting.crossing = self._crossing
        self._ending: list[Left | Session] = []  # connections that are over, seen in the last poll
        self._beat: Callable[[], Beat] | None = None
        self._interval, self._due = 0.0, 0.0  # of own beats
        self._peers = 8192
        # Sockets may be used by one thread at a time: the one that calls `poll`, or one that calls `beat`.
        self._lock = threading.Lock()
        self._sharing: Sharing | None = None
        self._bell = SILENT
        self._made: Made | None = None  # what was sent last, since `poll` was called last
        self._control = -1
        self.told = False
        self._sent_bytes = 0

    def share(self, commons: Commons, shelf: Shelf | None, mail: Mail | None = None) -> None:
        """Payloads are read where the peers leave theirs, and left on this node's shelf, if it has one; word
        of them goes by mail, if it has that; before entering."""
        sharing = self._sharing = Sharing(commons, shelf, mail, self.signs)
        self._accepting.fetch = self._dialling.fetch = sharing.fetch
        if mail is not None:
            self._bell, before = mail.bell, partial(sharing.before, reject=self._reject)
            self._accepting.beside = self._dialling.beside = Beside(mail.begin, mail.end, before)
            self._sockets.poller.register(mail.bell)

    # ------------------------------------------------------------------ lifetime

    def __enter__(self) -> ZeroMQ:
        self._sockets.context.set(zmq.MAX_SOCKETS, SPARE + SOCKETS * self._peers)
        try:
            self._accepting.listen(self._listen, self._line)
        except Unbound as error:
            self.__exit__(type(error), error, None)
            raise
        close_in_forks(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        linger = int(LINGER * 1000) if kind is None else 200
        self._dialling.close(linger)
        self._accepting.close(linger, kind, error, trace)
        self._sockets.context.term()

    def expect(self, peers: int) -> None:
        """Have room for lines to so many peers; to be called before entering. libzmq writes 12 bytes for each
        socket that there might ever be."""
        self._peers = peers

    @property
    def context(self) -> zmq.Context[Socket]:
        """Whose threads move the bytes; it ends with the `with`."""
        return self._sockets.context

    @property
    def address(self) -> str:
        """Where this node listens; empty: nowhere."""
        return self._accepting.address

    def dialled(self) -> list[Descriptor]:
        """The connections that this end has made."""
        return self._dialling.connections()

    @property
    def received_bytes(self) -> int:
        """Bytes that have come, of everyone."""
        beside = 0 if self._sharing is None else self._sharing.received_bytes
        return self._sockets.received_bytes + beside

    @property
    def sent_bytes(self) -> int:
        """Bytes that were sent."""
        return self._sent_bytes + (0 if self._sharing is None else self._sharing.sent_bytes)

    def listen_to(self, fd: int) -> None:
        """Also wake `poll` when this file descriptor can be read, and say so in `told`."""
        self._control = fd
        self._sockets.poller.register(fd)

    # ------------------------------------------------------------------ peers

    def dial(self, peer: int, address: str) -> None:
        """Open this end's connection to a peer; a `PeerUp` follows from `poll` when it stands. Tried until it
        does."""
        with self._lock:
            self._dialling.dial(peer, address)

    def trouble(self, peer: int) -> str:
        """Why the last dial of a peer failed; empty if it did not, or is not this end's to make."""
        return self._dialling.trouble(peer)

    def lines(self) -> dict[int, int]:
        """The peers whose line stands, and the session of each."""
        return dict([*self._accepting.open(), *self._dialling.open()])

    def idle(self, peer: int, session: int) -> float | None:
        """Seconds since bytes came on a session, of whatever kind; None: nobody knows."""
        of_mine = self._accepting.idle(peer, session)
        return self._dialling.idle(peer, session) if of_mine is None else of_mine

    def reject(self, peer: int) -> list[Event | Note]:
        """What a peer said could be read, and was wrong all the same: it is counted, and its line ended."""
        with self._lock:
            return self._reject(peer)

    def _reject(self, peer: int) -> list[Event | Note]:
        told, session = self._quarantine.reject(peer, time.monotonic()), self.lines().get(peer)
        if session is None:
            return [*told]
        if told:
            self._dialling.leave_alone(peer, session)
        self._hang_up(peer, session)
        return [*told, PeerDown(peer, session)]

    def apart(self, peer: int) -> float:
        """When neither of the two leaves the other alone any more (monotonic seconds); 0: neither ever
        did."""
        return self._quarantine.over(peer)

    def hang_up(self, peer: int, session: int) -> None:
        """End a session; this end dials again if it dialled. No event tells of it."""
        with self._lock:
            self._hang_up(peer, session)

    def _hang_up(self, peer: int, session: int) -> None:
        self._accepting.hang_up(peer, session)
        self._dialling.hang_up(peer, session)

    # ------------------------------------------------------------------ faults that are wanted

    def hold(self, peer: int) -> int | None:
        """End the line to a peer and keep it down until `release`; its session, if it stood. No event tells
        of it."""
        with self._lock:
            session = self.lines().get(peer)
            if session is not None:
                self._accepting.hang_up(peer, session)
            self._dialling.hold(peer)
        return session

    def release(self, peer: int) -> None:
        """The reverse of `hold`: dial again, if it is this end that dials."""
        with self._lock:
            self._dialling.release(peer)

    def junk(self, peer: int, session: int) -> None:
        """Send bytes that are no message."""
        with self._lock:
            route, socket = self._accepting.route(peer, session), self._dialling.socket(peer, session)
            with contextlib.suppress(zmq.ZMQError):
                if route is not None:
                    self._accepting.send(route, (JUNK,))
                elif socket is not None:
                    self._sockets.poller.stirred.add(socket)
                    socket.send(JUNK, zmq.NOBLOCK)

    def overtake(self, peer: int, session: int, message: Message) -> bool:
        """Let a message come in on the old line once a new one stands; False (and it is sent as it is) where
        this end does not dial."""
        with self._lock:
            frames = list(encode(message, self._who, self._chunk))
            if self._dialling.socket(peer, session) is not None:
                self._dialling.overtake(peer, frames)
                return True
            self._send(peer, session, message)
        return False

    # ------------------------------------------------------------------ who can be reached

    def reached(self, peer: int) -> float | None:
        """When somebody first answered at the address that was dialled (monotonic seconds); None: nobody has
        yet, or it is not this end's to dial."""
        return self._dialling.reached(peer)

    def answers(self, peer: int) -> bool:
        """Does somebody answer where this end dials a peer, whether he has said a word or not?"""
        return self._dialling.answers(peer)

    def drop(self, peer: int) -> None:
        """Dial a peer no more, and end what this end has dialled; no event tells of it."""
        with self._lock:
            self._dialling.drop(peer)

    def _crossing(self, peer: int) -> bool:
        """A peer dials this end. Where both dial, the lower index does, and the other one leaves it to it."""
        if not self._dialling.dials(peer):
            return True
        if self._who.node < peer:
            return False
        self._dialling.drop(peer)
        return True

    def forget(self, peer: int) -> None:
        """Stop dialling a peer that will not come back."""
        with self._lock:
            self._dialling.forget(peer)

    # ------------------------------------------------------------------ sending and receiving

    def send(self, peer: int, session: int, message: Message) -> None:
        """Queue a message on a session; on one that is closed it is dropped (the machine hears of that from
        `poll`)."""
        sharing = self._sharing
        if sharing is not None and type(message) is Data and sharing.leave(peer, session, message):
            return
        with self._lock:
            self._send(peer, session, message)

    def _send(self, peer: int, session: int, message: Message) -> None:
        route = self._accepting.route(peer, session)
        socket = self._dialling.socket(peer, session) if route is None else None
        if route is None and socket is None:
            return
        parcels: Sequence[Parcel]
        if type(message) is Data:
            made = self._made  # once for several neighbors
            if made is None or made.message[:2] != message[:2] or made.message[2] is not message[2]:
                made = self._made = Made(message, self._make(message))
            parcels = made.parcels
        else:
            frames_of_all = encode(message, self._who, self._chunk)
            parcels = [Parcel(frames, sum(map(len, frames))) for frames in frames_of_all]
        mail = None if self._sharing is None else self._sharing.mail
        for frames, size in parcels:
            try:
                if route is not None:
                    self._accepting.send(route, frames)
                elif socket is not None:
                    self._sockets.send(socket, frames)
            except (zmq.Again, zmq.error.ZMQError) as error:
                if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                    raise
                return
            self._sent_bytes += size
            if mail is not None:
                mail.said(peer, session)

    def _make(self, message: Data) -> Sequence[Parcel]:
        """A payload's frames: of where it lies, or with its numbers."""
        sharing = self._sharing
        slot = None if sharing is None else sharing.slot(message.payload)
        if sharing is not None and slot is not None:
            word = encode_here(message, slot)
            return [Parcel((word,), sharing.bytes + len(word))]
        parcels = []
        for head, raw in chunks((DATA, message.round, message.counted), message.payload, self._chunk):
            frame = zmq.Frame(raw, track=False, copy=len(raw) < COPY_BELOW)
            parcels.append(Parcel((head, frame), len(head) + len(raw)))
        return parcels

    def poll(self, timeout: float | None, thorough: bool = False) -> list[Event | Note]:
        """Wait up to `timeout` seconds (None: for ever) for anything to happen; returns at once with what is
        there. thorough: with all of it, and not only with what a round has of it."""
        with self._lock:
            self._sockets.thorough = thorough
            return self._poll(timeout)

    def _poll(self, timeout: float | None) -> list[Event | Note]:
        ending, sharing, poller = self._ending, self._sharing, self._sockets.poller
        self._made = None
        if sharing is not None:
            sharing.laid = None
        # Nearly always there is nothing to do but to wait for what comes.
        pressing = bool(ending) or self._accepting.pressing
        if pressing or self._dialling.redials or self._beat is not None:
            timeout = self._hasten(timeout)
        ready = poller.poll(timeout)
        if not ready and not pressing:
            return []
        rung = self._bell in ready
        if sharing is not None and rung and len(ready) == 1 and not pressing:
            return sharing.read(True, self._reject)
        self.told = self.told or self._control in ready
        events = self._accepting.read(ready)
        events += self._dialling.read(ready)
        if sharing is not None:
            events += sharing.read(rung, self._reject)
        if ending:
            events += self._end(ending)
        if poller.news:
            for said, over in (self._accepting.changed(ready), self._dialling.changed(ready)):
                events += said
                self._ending += over
        return events

    def _hasten(self, timeout: float | None) -> float | None:
        """Do what is due besides, and wait no longer than until something else is."""
        self._accepting.answer_watchers()
        # The monitor tells of an end before what came last can be read: ends wait for one more look at the
        # lines.
        self._sockets.thorough = self._sockets.thorough or bool(self._ending)
        settle = SETTLE if self._ending else None
        limits = (timeout, settle, self._accepting.due(), self._dialling.redial(), self._beat_if_due())
        return min((limit for limit in limits if limit is not None), default=None)

    def _end(self, ending: Sequence[Left | Session]) -> list[Event | Note]:
        """These connections are over, and read."""
        self._ending = []
        events: list[Event | Note] = []
        for end in ending:
            events += self._dialling.ended(end) if isinstance(end, Session) else self._accepting.ended(end)
        return events

    # ------------------------------------------------------------------ beats

    def beats(self, beat: Callable[[], Beat], interval: float) -> None:
        """Send beats on all lines, every `interval` seconds while `poll` waits, and on `beat`."""
        self._beat, self._interval = beat, interval

    def beat(self) -> None:
        """Send a beat if one is due; from another thread than that of `poll`, which is not waited for: while
        it polls, it sends them itself."""
        if self._lock.acquire(blocking=False):
            try:
                self._beat_if_due()
            finally:
                self._lock.release()

    def _beat_if_due(self) -> float | None:
        """Seconds until the next beat; None: there are none."""
        if self._beat is None:
            return None
        now = time.monotonic()
        if now >= self._due:
            self._due = now + self._interval
            frame = encode_beat(self._beat())
            for route in self._accepting.open().values():
                with contextlib.suppress(zmq.ZMQError):  # it is over, which the next poll sees
                    self._accepting.send(route, (frame,))
            for socket in self._dialling.open().values():
                with contextlib.suppress(zmq.ZMQError):
                    self._sockets.send(socket, (frame,))
        return self._due - now
