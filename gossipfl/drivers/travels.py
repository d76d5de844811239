"""Nodes that go away, die and come back in virtual time, and lines that break and are dialled anew.

A node that is away stands still: its step goes on when it is back. For `MISSED` heartbeats nobody knows; a
node that is back by then finds what was sent to it meanwhile. After that its lines are down at both ends, as
those of a real node are, and what was under way on them is lost. When both ends are there, the lower one
dials anew.

A node that dies loses all that it has; its lines close at once, as those of a process that is killed do. It
may begin again, from what it has kept (`reborn`).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Final

from gossipfl.core.events import Lost, PeerDown, PeerUp, Received
from gossipfl.core.membership import DEAD, SUSPECT
from gossipfl.drivers.disasters import Disasters
from gossipfl.drivers.parting import PARTING, Parting
from gossipfl.drivers.place import REJOIN
from gossipfl.drivers.plan import Plan
from gossipfl.drivers.script import acts
from gossipfl.drivers.world import Line, Watch, World

#: Heartbeats without a word after which a line is taken for broken, as by real nodes.
MISSED: Final = DEAD
#: Looks of a node that is done at who is there, in the time for which it waits for one who is not.
LOOKS: Final = 3
#: What the draw of an incarnation is for, the first key after the purpose.
INCARNATION: Final = 31
#: Seconds until a line that broke is dialled anew, as by real nodes.
REDIAL: Final = 0.05


class Travels(World):
    """A world whose nodes and lines are not always there."""

    def __init__(self, plan: Plan, watch: Watch) -> None:
        super().__init__(plan, watch)
        script = acts(plan.config, list(self.lines))
        self.disasters = Disasters(script, plan, self) if script else None

    # ------------------------------------------------------------------ what a run is told

    def reborn(self, node: int, now: float) -> None:
        """A node's process begins again: it has a new machine, which goes on from what was kept."""
        raise NotImplementedError

    def started(self, node: int, now: float) -> None:
        """A node that has begun again has met its neighbours: it trains."""
        raise NotImplementedError

    def complete(self, node: int) -> bool:
        """Has a node made all its rounds, so that its result is safe?"""
        raise NotImplementedError

    def woke(self, i: int) -> None:
        """A node is back after so long that others may have gone on without it, and has heard nothing yet."""

    def resumed(self, i: int, now: float) -> None:
        """A node is back, and has heard what came meanwhile."""

    # ------------------------------------------------------------------ the run

    def begin(self, begun: float) -> None:
        """Training begins: from here on nodes may go away, and disasters happen."""
        self.begun = begun
        for i in range(self.plan.n) if self.absences.any else ():
            self.travellers[i].absences = self.absences.of(i)
            self._next_absence(i)
        if self.disasters is not None:
            self.disasters.begin(begun)

    def last_hope(self, now: float) -> bool:
        """Nothing is under way: those who were to come back, and of whom nobody says when, are lost. Is there
        more to happen now?"""
        for i, node in enumerate(self.travellers):
            if node.dead and not node.lost:
                self._lose(i, now)
        return self.going

    def made(self, i: int, rounds: int, now: float) -> None:
        """A node has made so many rounds."""
        if self.disasters is not None:
            self.disasters.made(i, rounds, now)

    def seconds(self, i: int, seconds: float) -> float:
        """How long a step takes that would take so many seconds."""
        return seconds if self.disasters is None else seconds * self.disasters.factor(i)

    def copies(self, peer: int, event: Received, now: float) -> int:
        return 1 if self.disasters is None else self.disasters.copies(peer, event, now)

    def finished(self, i: int, now: float) -> None:
        """A node is done: its process ends, and with it its lines, once what it has sent has arrived."""
        node = self.travellers[i]
        if node.left:
            return
        node.left = True
        self.live -= not node.lost
        for line in self.around[i] if self.faulty else ():
            j = line.other(i)
            if not line.broken:
                self.leave_for(j, PeerDown(i, line.session), 0, now)
            self.leave_for(j, PeerDown(i, None, gone=True), 0, now)

    def parting(self, i: int, now: float) -> None:
        """A node has made its rounds; if it is still there after a while, it waits for nobody who is away."""
        node = self.travellers[i]
        if self.faulty and node.parting is None:
            node.parting = Parting()
            self._let_go(i, node.parting, now)

    def _let_go(self, i: int, parting: Parting, now: float) -> None:
        node = self.travellers[i]
        if node.left or node.lost or node.parting is not parting:
            return
        if not node.away:
            for j in parting.given_up(self.missing(i), partial(self._apart, i), now):
                self.hear(i, PeerDown(j, None, gone=True), now)
        if not node.left:
            self.put(now + PARTING / LOOKS, i, partial(self._let_go, i, parting))

    def _apart(self, i: int, j: int) -> float:
        """When the last quarantine between two nodes is over."""
        return 0.0 if self.disasters is None else self.disasters.apart(i, j)

    # ------------------------------------------------------------------ absences

    def _next_absence(self, i: int) -> None:
        for absence in self.travellers[i].absences:
            self.put(self.begun + absence.goes, i, partial(self._absent, i, self.begun + absence.back))
            return

    def _absent(self, i: int, back: float, now: float) -> None:
        node = self.travellers[i]
        if node.left:
            return
        if not node.dead:
            self.tell(i, "away", now)
            self.leave(i, back, now)
        if back < math.inf:
            self.put(back, i, lambda now: self._next_absence(i))

    def leave(self, i: int, back: float, now: float) -> None:
        """A node goes away until `back`."""
        node = self.travellers[i]
        if back < math.inf:
            self.put(back, i, partial(self._back, i))
        node.until = max(node.until, back)
        if node.away:
            return
        node.away, node.since, node.number = True, now, node.number + 1
        node.rest = None if node.due is None else node.due - now
        node.due = None
        missed = now + MISSED * self.plan.config.wire.heartbeat
        if missed < back:
            self.put(missed, i, partial(self._missed, i, node.number))

    def _missed(self, i: int, number: int, now: float) -> None:
        """Its neighbours notice that a node is away."""
        node = self.travellers[i]
        if not node.away or node.number != number:
            return
        node.mail = [event for event in node.mail if not isinstance(event, Received | PeerUp)]
        if node.until == math.inf and not node.lost:
            node.lost = True
            self.live -= not node.left
        for line in self.around[i]:
            self.snap(line, now)
        if node.lost:
            self._get_around(now)

    def _back(self, i: int, now: float) -> None:
        """A node comes back."""
        node = self.travellers[i]
        if not node.away or node.dead or now < node.until:
            return
        node.away = False
        self.tell(i, "back", now)
        if now - node.since > SUSPECT * self.plan.config.wire.heartbeat:
            self.woke(i)
        mail, node.mail = node.mail, []
        for event in mail:
            self.hear(i, event, now)
        for line in self.around[i]:
            if line.broken:
                self._down(i, line, now)
                self.mend(line, now)
        if node.rest is not None:
            rest, node.rest = node.rest, None
            self.step(i, now, rest)
        self.resumed(i, now)

    # ------------------------------------------------------------------ lives

    def kill(self, i: int, returns: bool, now: float) -> None:
        """A node's process ends; `returns`: another is to follow it. One that has made its rounds is not
        followed: its result is safe."""
        node = self.travellers[i]
        if node.left or node.dead:
            return
        node.dead = node.away = True
        node.turn, node.number, node.until = node.turn + 1, node.number + 1, 0.0
        node.due = node.rest = None
        node.mail.clear()
        for line in self.around[i]:
            self.snap(line, now)
        if not returns or self.complete(i):
            self._lose(i, now)

    def _lose(self, i: int, now: float) -> None:
        node = self.travellers[i]
        self.live -= not (node.lost or node.left)
        node.lost = True
        for line in self.around[i]:
            j = line.other(i)
            if not self.travellers[j].away:
                self.hear(j, PeerDown(i, None, gone=True), now)
        self._get_around(now)

    def _gone(self) -> frozenset[int]:
        """Who is lost."""
        return frozenset(i for i, node in enumerate(self.travellers) if node.lost)

    def _get_around(self, now: float) -> None:
        """Somebody is lost: all hear of it, and those who become neighbors by that get a line."""
        if self.plan.rewiring is None:
            return
        gone = self._gone()
        for i, node in enumerate(self.travellers):
            if not (node.dead or node.left):
                self.put(now, i, Lost(gone))
        for i, j in self.plan.rewiring.edges(gone):
            if (i, j) not in self.lines:
                line = self.lines[i, j] = Line(i, j, broken=True)
                self.around[i].append(line)
                self.around[j].append(line)
                self.mend(line, now)

    def restart(self, i: int, now: float) -> None:
        """A node's process begins again; one that lives is killed first."""
        node = self.travellers[i]
        if node.left or self.complete(i) or (node.dead and node.lost):
            return
        self.kill(i, True, now)
        node.dead = node.away = False
        self.begin_again(i, now)

    def begin_again(self, i: int, now: float) -> None:
        """A node meets everyone anew, with a machine of its own: all its lines are dialled again."""
        node = self.travellers[i]
        node.meeting, node.patient, node.turn = True, True, node.turn + 1
        node.parting = None
        node.due = node.rest = None
        node.mail.clear()
        self.reborn(i, now)
        if self.plan.rewiring is not None:
            self.hear(i, Lost(self._gone()), now)
        if self.disasters is not None:
            self.disasters.forget(i)
        for line in self.around[i]:
            self.snap(line, now)
            self.mend(line, now)
        self.put(now + REJOIN, i, partial(self._impatient, i, node.turn))
        self.meet(i, now)

    def _impatient(self, i: int, turn: int, now: float) -> None:
        node = self.travellers[i]
        if node.meeting and node.turn == turn:
            node.patient = False
            self.meet(i, now)

    def meet(self, i: int, now: float) -> None:
        """Begin, if this node has begun again and met its neighbours; after a while one of them is enough."""
        node = self.travellers[i]
        if not node.meeting or node.away:
            return
        missing = self.missing(i)
        if not missing or (not node.patient and len(missing) < len(self.around[i])):
            node.meeting = False
            self.started(i, now)

    # ------------------------------------------------------------------ lines

    def snap(self, line: Line, now: float) -> None:
        """A line breaks: what is under way on it is lost, and both ends learn of it."""
        line.broken = True
        for i in (line.low, line.high):
            if not self.travellers[i].away:
                self._down(i, line, now)

    def _down(self, i: int, line: Line, now: float) -> None:
        """One end of an edge learns that its line is broken."""
        other = line.other(i)
        end = self.travellers[other]
        self.hear(i, PeerDown(other, line.session), now)
        if end.lost or end.left:
            self.hear(i, PeerDown(other, None, gone=True), now)

    def mend(self, line: Line, now: float) -> None:
        """Dial a line that is broken anew, if both ends are there and nothing keeps it down."""
        ends = (self.travellers[line.low], self.travellers[line.high])
        if not line.broken or line.closed or any(end.away or end.left for end in ends):
            return
        line.broken, line.session = False, line.session + 1
        at = now + self.network.meeting(line.low, line.high)
        self.put(at, line.low, PeerUp(line.high, line.session))

    def mend_later(self, line: Line, now: float) -> None:
        """The same, when the end that dials has noticed and waited a little."""
        self.put(now + REDIAL, line.low, partial(self.mend, line))
