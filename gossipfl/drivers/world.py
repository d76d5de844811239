"""What the event engines share: virtual time, lines between nodes, and nodes that go away and come back.

A node that is away stands still: its step goes on when it is back. For `MISSED` heartbeats nobody knows; a
node that is back by then finds what was sent to it meanwhile. After that its lines are down at both ends, as
those of a real node are, and what was under way on them is lost. When both ends are there, the lower one
dials anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush
from typing import Final

from gossipfl.core.events import Event, PeerDown, PeerUp, Received, Send
from gossipfl.core.messages import Message, Vectors
from gossipfl.drivers.absences import Absence, Absences
from gossipfl.drivers.network import Network, on_wire
from gossipfl.drivers.plan import Plan
from gossipfl.drivers.uplink import Uplink
from gossipfl.records import Record

Watch = Callable[[Record], None]

#: Heartbeats without a word after which a line is taken for broken, as by real nodes.
MISSED: Final = 3
#: Seconds that a node which is done waits for neighbours whose lines are down, as real ones do.
PARTING: Final = 30.0

Happening = Event | Callable[[float], None] | None
_Parcel = tuple[int, Received, int]  # to whom, what, bytes of payload
Due = tuple[float, int, int, Happening, int]
"""When, in which order of those at one time, at which node, what (None: a step ends); and which turn the step
is, or how many bytes of payload a message has."""


@dataclass(slots=True)
class Traveller:
    """What both exchanges keep of a node on its way through virtual time."""

    due: float | None = None  # when the step under way ends
    turn: int = 0  # which step that is: one that was put off does not end when it would have
    rest: float | None = None  # seconds of the step that are left, while it is away
    away: bool = False
    lost: bool = False  # away for ever
    left: bool = False  # it is done, and so are its neighbours with it
    absences: Iterator[Absence] = field(default_factory=lambda: iter(()))
    number: int = 0  # of absences
    mail: list[Event] = field(default_factory=list)  # what came while it was away, or in a step
    sent_bytes: int = 0
    sent_messages: int = 0  # payloads
    received_bytes: int = 0
    told: tuple[int, int] = (0, 0)  # bytes sent and received when the last round was recorded


@dataclass(slots=True)
class _Edge:
    """An edge between two nodes, low < high."""

    low: int
    high: int
    session: int = 1
    broken: bool = False

    def other(self, node: int) -> int:
        return self.low + self.high - node


class World:
    """Time and space of a run; whoever inherits it says what its nodes do."""

    def __init__(self, plan: Plan, watch: Watch) -> None:
        self.plan, self.watch = plan, watch
        self.network = Network(plan.config)
        self.absences = Absences(plan.config)
        rates = self.network.upload
        self._uplinks = [Uplink[_Parcel](rate) if rate != math.inf else None for rate in rates]
        self.begun = 0.0
        self.travellers: Sequence[Traveller] = ()  # by node; of whoever inherits this
        self._heap: list[Due] = []
        self._order = 0
        self._live = plan.n  # nodes that are neither done nor lost
        self._edges: dict[tuple[int, int], _Edge] = {(i, j): _Edge(i, j) for i, j in plan.edges()}
        self._around: list[list[_Edge]] = [[] for _ in range(plan.n)]
        for edge in self._edges.values():
            self._around[edge.low].append(edge)
            self._around[edge.high].append(edge)
        self._met = 0  # nodes from the first on that have met all their neighbours
        self._sized: tuple[Vectors, int] = ((), 0)

    # ------------------------------------------------------------------ what a run is told

    def hear(self, node: int, event: Event, now: float) -> None:
        """Let a node that is there handle an event."""
        raise NotImplementedError

    def ended(self, node: int, now: float) -> None:
        """A node's step ends."""
        raise NotImplementedError

    def missing(self, node: int) -> tuple[int, ...]:
        """The neighbours of a node that are neither up nor known to be gone."""
        raise NotImplementedError

    def tell(self, node: int, kind: str, now: float, **fields: object) -> None:
        """A record of a node."""
        raise NotImplementedError

    # ------------------------------------------------------------------ time

    def put(self, at: float, node: int, what: Happening, turn: int = 0) -> None:
        """Something happens at a node."""
        self._order += 1
        heappush(self._heap, (at, self._order, node, what, turn))

    def dial_all(self) -> None:
        """Every edge's lower end dials at the start."""
        for edge in self._edges.values():
            self.put(0.0, edge.low, PeerUp(edge.high, edge.session))

    def anybody_missing(self) -> bool:
        """Before the start, when nobody goes away: does a node still wait for a neighbour?"""
        while self._met < self.plan.n and not self.missing(self._met):
            self._met += 1
        return self._met < self.plan.n

    def begin_absences(self, begun: float) -> None:
        """Training begins: from here on nodes may go away."""
        self.begun = begun
        for i in range(self.plan.n) if self.absences.any else ():
            self.travellers[i].absences = self.absences.of(i)
            self._next_absence(i)

    @property
    def going(self) -> bool:
        """Is there anything left to happen, and anybody whom it may concern?"""
        return bool(self._heap) and (self._live > 0 or not self.absences.any)

    def pop(self) -> float:
        """Let the next thing happen; its time."""
        now, _, i, what, turn = heappop(self._heap)
        if what is None:
            node = self.travellers[i]
            if turn == node.turn and not node.away:
                node.due = None
                self.ended(i, now)
        elif type(what) is Received:
            node = self.travellers[i]
            if not node.away:
                node.received_bytes += turn
                self.hear(i, what, now)
            elif self._stands(i, what):
                node.received_bytes += turn
                node.mail.append(what)
        elif callable(what):
            what(now)
        else:
            self._arrive(i, what, now)
        return now

    def _arrive(self, i: int, event: Event, now: float) -> None:
        node = self.travellers[i]
        if type(event) is PeerUp and not self._stands(i, event):
            return
        if not node.away:
            self.hear(i, event, now)
        else:
            node.mail.append(event)

    def step(self, i: int, now: float, seconds: float) -> None:
        """A step of a node begins, which takes so many seconds."""
        node = self.travellers[i]
        if node.away:
            node.rest = seconds
            return
        node.turn += 1
        node.due = now + seconds
        self.put(node.due, i, None, node.turn)

    def finished(self, i: int) -> None:
        """A node is done."""
        node = self.travellers[i]
        if not node.left:
            node.left = True
            self._live -= not node.lost

    def parting(self, i: int, now: float) -> None:
        """A node has made its rounds; if it is still there after a while, it waits for nobody who is away."""
        if self.absences.any:
            self.put(now + PARTING, i, partial(self._let_go, i))

    # ------------------------------------------------------------------ messages

    def send(self, i: int, send: Send, now: float) -> None:
        """A message goes out, and is on its way."""
        node, message = self.travellers[i], send.message
        size = self.size(message)
        if size:
            node.sent_bytes += size
            node.sent_messages += 1
        event, uplink = Received(i, send.session, message), self._uplinks[i]
        if uplink is None:
            self._travel(i, send.peer, event, size, now)
        else:
            uplink.put(now, send.peer, on_wire(size), (send.peer, event, size))
            self._await(i, uplink)

    def _await(self, i: int, uplink: Uplink[_Parcel]) -> None:
        due = uplink.due()
        if due is not None:
            self.put(due, i, partial(self._out, i, uplink.turn))

    def _out(self, i: int, turn: int, now: float) -> None:
        """Messages have passed their sender's upload, if nothing was put on it since that was foreseen."""
        uplink = self._uplinks[i]
        if uplink is not None and uplink.turn == turn:
            for since, (peer, event, size) in uplink.take(now):
                self._travel(i, peer, event, size, now, since)
            self._await(i, uplink)

    def _travel(
        self, i: int, peer: int, event: Received, size: int, now: float, since: float | None = None
    ) -> None:
        at, took = self.network.arrival(i, peer, now, size, since)
        if self.network.queues:
            self.put(at, peer, partial(self._land, peer, event, took, size))
        else:
            self.put(at, peer, event, size)

    def _land(self, i: int, event: Event, took: float, size: int, now: float) -> None:
        """A message has come as far as its receiver's download."""
        self.put(self.network.landed(i, now, took, size), i, event, size)

    def size(self, message: Message) -> int:
        """Bytes of payload in a message; the same payload goes to many."""
        payload: Vectors = getattr(message, "payload", ())
        if payload is not self._sized[0]:
            self._sized = (payload, sum(tensor.nbytes for tensor in payload))
        return self._sized[1]

    # ------------------------------------------------------------------ absences

    def _next_absence(self, i: int) -> None:
        for absence in self.travellers[i].absences:
            self.put(self.begun + absence.goes, i, partial(self._leave, i, self.begun + absence.back))
            return

    def _leave(self, i: int, back: float, now: float) -> None:
        """A node goes away."""
        node = self.travellers[i]
        if node.left:
            return
        node.away, node.number = True, node.number + 1
        node.rest = None if node.due is None else node.due - now
        node.due = None
        self.tell(i, "away", now)
        missed = now + MISSED * self.plan.config.wire.heartbeat
        if missed < back:
            self.put(missed, i, partial(self._missed, i, node.number, back == math.inf))
        if back < math.inf:
            self.put(back, i, partial(self._back, i))

    def _missed(self, i: int, number: int, lost: bool, now: float) -> None:
        """Its neighbours notice that a node is away."""
        node = self.travellers[i]
        if not node.away or node.number != number:
            return
        node.mail = [event for event in node.mail if not isinstance(event, Received | PeerUp)]
        if lost and not node.lost:
            node.lost = True
            self._live -= not node.left
        for edge in self._around[i]:
            j, edge.broken = edge.other(i), True
            if not self.travellers[j].away:
                self._down(j, edge, now)

    def _down(self, i: int, edge: _Edge, now: float) -> None:
        """One end of an edge learns that its line is broken."""
        other = edge.other(i)
        end = self.travellers[other]
        self.hear(i, PeerDown(other, edge.session), now)
        if end.lost or end.left:
            self.hear(i, PeerDown(other, None, gone=True), now)

    def _back(self, i: int, now: float) -> None:
        """A node comes back."""
        node = self.travellers[i]
        node.away = False
        self.tell(i, "back", now)
        mail, node.mail = node.mail, []
        for event in mail:
            self.hear(i, event, now)
        for edge in self._around[i]:
            if edge.broken:
                self._down(i, edge, now)
                end = self.travellers[edge.other(i)]
                if not (end.away or end.left):
                    edge.broken, edge.session = False, edge.session + 1
                    at = now + self.network.meeting(edge.low, edge.high)
                    self.put(at, edge.low, PeerUp(edge.high, edge.session))
        if node.rest is not None:
            rest, node.rest = node.rest, None
            self.step(i, now, rest)
        self.resumed(i, now)
        self._next_absence(i)

    def resumed(self, i: int, now: float) -> None:
        """A node is back, and has heard what came meanwhile."""

    def _stands(self, i: int, event: PeerUp | Received) -> bool:
        """Is it on the newest connection of its edge, and is that not broken?"""
        edge = self._edges[min(i, event.peer), max(i, event.peer)]
        return edge.session == event.session and not edge.broken

    def _let_go(self, i: int, now: float) -> None:
        node = self.travellers[i]
        if node.left or node.lost:
            return
        if not node.away:
            for j in self.missing(i):
                self.hear(i, PeerDown(j, None, gone=True), now)
        if not node.left:
            self.put(now + PARTING, i, partial(self._let_go, i))
