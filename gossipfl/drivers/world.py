"""What the event engines share: virtual time, and lines between nodes that carry messages in order.

Who goes away, dies and comes back, and what becomes of lines then, is in `travels`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush
from operator import itemgetter

from gossipfl.core.events import Event, PeerDown, PeerUp, Received, Send
from gossipfl.core.messages import Message, Vectors
from gossipfl.drivers.absences import Absence, Absences
from gossipfl.drivers.network import Network, on_wire
from gossipfl.drivers.parting import Parting
from gossipfl.drivers.plan import Plan
from gossipfl.drivers.uplink import Uplink
from gossipfl.records import Record

Watch = Callable[[Record], None]

Happening = Event | Callable[[float], None] | None
_Parcel = tuple[int, Received | PeerDown, int]  # to whom, what, bytes of payload
_NODE = itemgetter(0)
Due = tuple[int, Happening, int]
"""At which node, what (None: a step ends); and which turn the step is, or how many bytes of payload a message
has."""


@dataclass(slots=True)
class Traveller:
    """What both exchanges keep of a node on its way through virtual time."""

    due: float | None = None  # when the step under way ends
    turn: int = 0  # which step that is: one that was put off does not end when it would have
    rest: float | None = None  # seconds of the step that are left, while it is away
    away: bool = False
    since: float = 0.0  # away, if it is, since then
    until: float = 0.0  # ... and at least until then
    dead: bool = False  # away because its process has ended
    meeting: bool = False  # its process has begun again, and waits for its neighbours
    patient: bool = True  # ... for all of them
    lost: bool = False  # away for ever
    parting: Parting | None = None  # it has made its rounds, and waits for its neighbours
    left: bool = False  # it is done, and so are its neighbours with it
    absences: Iterator[Absence] = field(default_factory=lambda: iter(()))
    number: int = 0  # of absences
    mail: list[Event] = field(default_factory=list)  # what came while it was away, or in a step
    sent_bytes: int = 0
    sent_messages: int = 0  # payloads
    received_bytes: int = 0
    told: tuple[int, int] = (0, 0)  # bytes sent and received when the last round was recorded


@dataclass(slots=True)
class Line:
    """An edge between two nodes, low < high, and its connection."""

    low: int
    high: int
    session: int = 1
    broken: bool = False
    closed: int = 0  # partitions that keep it so

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
        # What is put at one time in a row lies in one list: nodes that are alike do much at the same time.
        self._heap: list[tuple[float, int, list[Due]]] = []  # time, which of those at that time, what
        self._order = 0
        self._newest: tuple[float, list[Due]] = (math.nan, [])  # what is put now may join that
        self._now, self._dues, self._done = 0.0, list[Due](), 0  # what happens at this time, and how much has
        self.halted = False  # is nothing more to happen?
        self.live = plan.n  # nodes that are neither done nor lost
        self.faulty = self.absences.any or bool(plan.config.fault)  # may lines break?
        # Does a message go straight onto its line, and arrive when it comes out there?
        self._straight = not (plan.config.fault or self.network.queues or any(self._uplinks))
        self.lines: dict[tuple[int, int], Line] = {(i, j): Line(i, j) for i, j in plan.edges()}
        self.around: list[list[Line]] = [[] for _ in range(plan.n)]
        for line in self.lines.values():
            self.around[line.low].append(line)
            self.around[line.high].append(line)
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
        """Something happens at a node, after all that has been put at the same time before."""
        time, dues = self._newest
        if at != time:
            dues = []
            self._order += 1
            self._newest = at, dues
            heappush(self._heap, (at, self._order, dues))
        dues.append((node, what, turn))

    def dial_all(self) -> None:
        """Every edge's lower end dials at the start."""
        for line in self.lines.values():
            self.put(0.0, line.low, PeerUp(line.high, line.session))

    def anybody_missing(self) -> bool:
        """Before the start, when nobody goes away: does a node still wait for a neighbour?"""
        while self._met < self.plan.n and not self.missing(self._met):
            self._met += 1
        return self._met < self.plan.n

    @property
    def going(self) -> bool:
        """Is there anything left to happen, and anybody whom it may concern?"""
        return (self._done < len(self._dues) or bool(self._heap)) and (self.live > 0 or not self.faulty)

    def pop(self) -> float:
        """Let the next thing happen; its time."""
        if self._done == len(self._dues):
            self._on()
        self._done += 1
        self._happen(*self._dues[self._done - 1])
        return self._now

    def flow(self) -> float:
        """Let all happen until nobody is left whom it may concern, or `halted`; the time then."""
        while self.going and not self.halted:
            if self.faulty or self._done < len(self._dues):
                self.pop()
            else:
                self._on()
                self._instant()
        return self._now

    def _instant(self) -> None:
        """Let all happen that happens at this time. Where lines cannot break, nodes do not see each other
        within an instant, so each does in a row what it has to do: it is still in the cache."""
        if self._straight:
            self._dues.sort(key=_NODE)
        now = self._now
        for i, what, turn in self._dues:  # and what is put meanwhile
            if type(what) is Received:
                self.travellers[i].received_bytes += turn
                self.hear(i, what, now)
            else:
                self._happen(i, what, turn)
                if self.halted:
                    return
        self._done = len(self._dues)

    def _on(self) -> None:
        """On to the next time at which anything happens."""
        if self._newest[1] is self._dues:
            self._newest = math.nan, []
        self._now, _, self._dues = heappop(self._heap)
        self._done = 0

    def _happen(self, i: int, what: Happening, turn: int) -> None:
        if type(what) is Received:
            if not self.faulty or self.stands(i, what):
                node = self.travellers[i]
                node.received_bytes += turn
                if node.away:
                    node.mail.append(what)
                else:
                    self.hear(i, what, self._now)
        elif what is None:
            node = self.travellers[i]
            if turn == node.turn and not node.away:
                node.due = None
                self.ended(i, self._now)
        elif callable(what):
            what(self._now)
        else:
            self._arrive(i, what, self._now)

    def _arrive(self, i: int, event: Event, now: float) -> None:
        node = self.travellers[i]
        if node.dead or (type(event) is PeerUp and not self.stands(i, event)):
            return
        if not node.away:
            self.hear(i, event, now)
        else:
            node.mail.append(event)

    def stands(self, i: int, event: PeerUp | Received) -> bool:
        """Is it on the newest connection of its edge, and is that not broken?"""
        line = self.lines[min(i, event.peer), max(i, event.peer)]
        return line.session == event.session and not line.broken

    def step(self, i: int, now: float, seconds: float) -> None:
        """A step of a node begins, which takes so many seconds."""
        node = self.travellers[i]
        if node.away:
            node.rest = seconds
            return
        node.turn += 1
        node.due = now + seconds
        self.put(node.due, i, None, node.turn)

    # ------------------------------------------------------------------ messages

    def send(self, i: int, send: Send, now: float) -> None:
        """A message goes out, and is on its way."""
        peer, session, message = send
        size = self.size(message)
        if size:
            node = self.travellers[i]
            node.sent_bytes += size
            node.sent_messages += 1
        event = Received(i, session, message)
        if self._straight:
            at, _ = self.network.arrival(i, peer, now, size)
            self.put(at, peer, event, size)
            return
        for _ in range(self.copies(peer, event, now)):
            self.leave_for(peer, event, size, now)

    def copies(self, peer: int, event: Received, now: float) -> int:
        """How many times a message that is sent to a node goes out."""
        return 1

    def leave_for(self, peer: int, event: Received | PeerDown, size: int, now: float) -> None:
        """What a node sends, or the end of its line, goes to a peer behind what it has sent before."""
        i, uplink = event.peer, self._uplinks[event.peer]
        if uplink is None:
            self._travel(i, peer, event, size, now)
        else:
            uplink.put(now, peer, on_wire(size), (peer, event, size))
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
        self, i: int, peer: int, event: Received | PeerDown, size: int, now: float, since: float | None = None
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
