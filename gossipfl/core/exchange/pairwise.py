"""The exchange `pairwise`: now and then a node and one neighbour both take the mean of the two.

    x_i, x_j  <-  (x_i + x_j) / 2          (Boyd et al. 2006, "Randomized Gossip Algorithms"; as training
                                            goes on meanwhile: Lian et al. 2018, AD-PSGD, algorithm 1)

Node i asks with a copy a of its parameters and trains on. Node j, between two of its optimiser steps, takes a
copy b of its own, answers with it and adds (a - b) / 2; when the answer is there, i adds (b - a) / 2. The two
increments cancel exactly, so the sum over the nodes is kept whatever happened in between.

At most one exchange is in flight at a node: while its own ask is, it declines others'. A node that is
declined asks another neighbour, each at most once after a local phase. Where two nodes ask each other, the
lower one's ask counts and the other's is void. An exchange counts at both ends or at neither also when a line
breaks: an answer is kept, and given again if the asker comes back without it.

A reply has one local phase to come in. Where it is not there by then, the asker stands still for it once,
SLICE seconds at most, and trains on. So a node whose phases are shorter than the way to its neighbour and
back still meets it every other phase or so, and a neighbour that is slow, or hangs, costs it no more than
that an ask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gossipfl import draw
from gossipfl.core.events import (
    Begin,
    Effect,
    Event,
    Finished,
    Halt,
    Leave,
    Lost,
    Note,
    PeerDown,
    PeerUp,
    Received,
    Renew,
    Send,
    Shift,
    Stepped,
    Tick,
    Train,
    Trained,
)
from gossipfl.core.exchange.line import Kept, Line, Post
from gossipfl.core.exchange.phased import Phased
from gossipfl.core.exchange.standing import Tree
from gossipfl.core.messages import (
    Answer,
    Ask,
    Decline,
    Hello,
    Message,
    Nothing,
    Refuse,
    Stop,
    Vectors,
    Welcome,
)
from gossipfl.draw import Purpose
from gossipfl.errors import LocalProtocolError

if TYPE_CHECKING:
    pass


#: Seconds that a late reply is waited for: some turns of a busy core.
SLICE: Final = 0.01


class Pairwise(Phased):
    """A node's machine; it asks after every `every`-th local phase."""

    def __init__(self, post: Post, every: int = 1) -> None:
        super().__init__(post)
        self.asking: int | None = None  # the neighbour whose reply is awaited
        self._every = every
        self._number = -1
        self._tried: set[int] = set()  # asked since the last local phase
        self._until: float | None = None  # it stands still for a reply until then
        self._stood = False  # ... and has done so for this ask

    # ------------------------------------------------------------------ what a driver asks

    def handle(self, event: Event, now: float) -> list[Effect]:
        match event:
            case Received():
                effects = self._received(event)
            case Trained():
                effects = self._trained(now)
            case Begin(x):
                self._x, self._training = x, True
                effects = [Train()]
            case PeerUp(peer, session):
                effects = self.lines.dialled(peer, session)
            case PeerDown():
                effects, line = self.lines.down(event)
                if line is not None and self.asking == line.peer:
                    self.asking = None
            case Halt():
                effects = self.lines.halt()
            case Tick():
                effects = self._go_on()
            case Leave():
                raise LocalProtocolError("Leave: in pairwise a node leaves by closing its lines")
            case Lost(nodes):
                effects = self.lines.lost(nodes)
            case Renew():
                raise LocalProtocolError("Renew: in pairwise there is no rule that could begin anew")
            case Stepped():
                raise LocalProtocolError("Stepped: in pairwise the end of a local phase is Trained")
        if self._until is not None and self.asking is None:
            effects += self._go_on()
        return effects + self._leave()

    def kept(self) -> Tree:
        """What to keep between two local phases. An exchange in flight is not part of it: it is void at this
        end, and may have counted at the other."""
        return {"phases": self.phases, "number": self._number}

    def resume(self, kept: Tree) -> None:
        """Go on from what was kept; before the first event."""
        self.lines.phases, self._number = kept["phases"], kept["number"]

    def deadline(self) -> float | None:
        return self._until

    # ------------------------------------------------------------------ asking

    def _trained(self, now: float) -> list[Effect]:
        if not self._training:
            raise LocalProtocolError("Trained: no local phase was under way")
        self._training = False
        self.lines.phases += 1
        self._until = now
        if self.asking is None or self._stood or self.lines.over():
            return self._go_on()
        self._until, self._stood = now + SLICE, True
        return []

    def _go_on(self) -> list[Effect]:
        """Ask, if it is time and nobody is being asked, and train."""
        if self._until is None:
            return []
        self._until = None
        effects: list[Effect] = []
        if self.phases % self._every == 0 and self.asking is None:
            self._tried.clear()
            effects += self._ask()
        if not self.lines.over():
            self._training = True
            effects.append(Train())
        return effects

    def _ask(self) -> list[Effect]:
        free = [j for j in self.lines.up() if self.lines.by_peer[j].asked is None and j not in self._tried]
        if not free or self._x is None or self.lines.parted:  # after a goodbye nobody need be there to answer
            return []
        self._number += 1
        drawn = int(draw.bits(self._post.seed, Purpose.PEER, self._post.node, self._number))
        line = self.lines.by_peer[free[drawn % len(free)]]
        line.asked, self.asking = Kept(self._number, (self._x.clone(),)), line.peer
        self._stood = self._until is not None
        self._tried.add(line.peer)
        assert line.session is not None
        return [Send(line.peer, line.session, Ask(*line.asked))]

    def _over(self, line: Line) -> None:
        line.asked = None
        if self.asking == line.peer:
            self.asking = None

    # ------------------------------------------------------------------ being asked

    def _received(self, event: Received) -> list[Effect]:
        match event.message:
            case Welcome() | Hello() as hello:
                effects, met = self.lines.greeted(event)
                return effects + (self._resume(met, hello) if met is not None else [])
            case Refuse(_, reason):
                return [Note("refused", event.peer, reason)]
            case _:
                line = self.lines.open(event)
                return [] if line is None else self._told(line, event.message)

    def _told(self, line: Line, message: Message) -> list[Effect]:
        match message:
            case Ask(number, payload):
                return self._asked(line, number, payload)
            case Answer(number, payload):
                return self._answered(line, number, payload)
            case Decline(number):
                if line.asked is None or line.asked.number != number:
                    return []
                self._over(line)
                return self._ask() if self.asking is None else []
            case Nothing():
                line.done, line.answered = True, None  # nobody says goodbye who waits for an answer
                return []
            case Stop():
                return self.lines.halt(line.peer)
            case _:
                return [Note("rejected", line.peer, "a message of another exchange")]

    def _asked(self, line: Line, number: int, payload: Vectors) -> list[Effect]:
        if number <= line.seen:
            return []
        assert line.session is not None
        line.seen = number
        if self._x is None:  # this end still waits for other neighbours to begin
            return [Send(line.peer, line.session, Decline(number))]
        if self.asking == line.peer and self._post.node < line.peer:
            return []  # both asked: this end's ask counts, and the peer knows it when it comes
        if self.asking == line.peer:
            self._over(line)
        if self.asking is not None:
            return [Send(line.peer, line.session, Decline(number))]
        line.heard, line.answered = number, Kept(number, (self._x.clone(),))
        return [
            Send(line.peer, line.session, Answer(*line.answered)),
            halfway(line.answered.payload, payload),
        ]

    def _answered(self, line: Line, number: int, payload: Vectors) -> list[Effect]:
        if line.asked is None or line.asked.number != number:
            return []
        mine, line.taken = line.asked.payload, number
        self._over(line)
        return [halfway(mine, payload)]

    # ------------------------------------------------------------------ lines and the end

    def _resume(self, line: Line, hello: Hello) -> list[Effect]:
        """After a break: an ask that the peer has not answered is void, an answer it has not taken is given
        again."""
        if line.asked is None or hello.heard < line.asked.number:
            self._over(line)
        assert line.session is not None
        if line.answered is not None and hello.acked < line.answered.number:
            return [Send(line.peer, line.session, Answer(*line.answered))]
        line.answered = None
        return []

    def _leave(self) -> list[Effect]:
        if self.left or self._x is None or not self.lines.over():
            return []
        lines = [line for line in self.lines.by_peer.values() if not line.gone]
        if any(line.asked is not None for line in lines):  # it may have counted there
            return []
        effects = self.lines.part()
        # An answer may have been lost with its line: whoever asked comes back for it.
        if self.lines.settled() and not any(line.answered is not None and not line.up for line in lines):
            self.left = True
            effects.append(Finished())
        return effects


def halfway(mine: Vectors, theirs: Vectors) -> Shift:
    """The increment that moves `mine` to the mean of the two; the other end's is its exact negative."""
    return Shift((theirs[0] - mine[0]) * 0.5)
