"""Where a node is in its run of the exchange `rounds`: what others may ask about it, and what it keeps
between two rounds, to go on from there. What happens to it is in `rounds`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple

from gossipfl.core.aggregate import Row
from gossipfl.core.codecs import Packing
from gossipfl.core.exchange.detours import Detours
from gossipfl.core.exchange.edge import Edge
from gossipfl.core.exchange.edges import Edges
from gossipfl.core.exchange.intake import Terms
from gossipfl.core.exchange.news import News
from gossipfl.core.exchange.resets import Resets
from gossipfl.core.exchange.standing import Standing, footing, stand
from gossipfl.core.exchange.waiting import PATIENT, Limits, Waiting
from gossipfl.core.exchange.work import Work
from gossipfl.core.messages import LAST
from gossipfl.core.rules.base import Rule
from gossipfl.errors import LocalProtocolError

if TYPE_CHECKING:
    from gossipfl.topology.rewire import Rewiring


class Phase(Enum):
    """Where a node is in its round."""

    MEETING = auto()  # before round 0
    TRAINING = auto()
    WAITING = auto()
    LEAVING = auto()  # after the last round
    LEFT = auto()


class Lane(NamedTuple):
    """An edge in a round: its end here, what this node gives the peer, and whether its payload goes there."""

    edge: Edge
    weight: float
    sends: bool


class Course:
    """What a node's machine has. `row(t)` is its row of the mixing matrix in round t; `neighbors` all it will
    ever meet."""

    def __init__(
        self,
        rule: Rule,
        row: Callable[[int], Row],
        neighbors: tuple[int, ...],
        rounds: int,
        about: Mapping[str, object],
        terms: Terms | None = None,
        limits: Limits = PATIENT,
        rewiring: Rewiring | None = None,
    ) -> None:
        """rewiring: how those are got around who die; None: they are done without."""
        terms = terms or Terms(Packing(rule.sends))
        self.round = 0
        self.phase = Phase.MEETING
        self._ends = Edges(neighbors, terms.arcs, about)
        #: This node's ends of its edges, by peer.
        self.edges: dict[int, Edge] = self._ends.by_peer
        self._detours = None if rewiring is None else Detours(rewiring, row, self._ends)
        row = row if self._detours is None else self._detours.row
        self.work = Work(rule, row, terms)
        self._news = News(self._ends)
        self._row, self._rounds, self._length = row, rounds, rounds
        self._here = Row(-1, ())  # of this round
        self._lanes: tuple[Lane, ...] = ()  # of that row, in its order
        self._awaited: Edge | None = None  # one of them, whose word was missing when last looked for
        self._waiting = Waiting(limits, self.edges, row)
        self._limited = limits.any
        self._resumed: Standing | None = None
        self._follows = False  # has this node been away, so that it goes on where its peers are?
        self._goal = 0  # the round of a peer that went on meanwhile
        self._parted = False  # has this node left while the others go on?

    # ------------------------------------------------------------------ what a driver asks

    def deadline(self) -> float | None:
        if self._waiting.until is None or self.phase is not Phase.WAITING:
            return None
        return self._waiting.until if self._waiting.until > self._waiting.now else None

    @property
    def rounds(self) -> int:
        """How many rounds there will be, as far as is known. A round that has begun is made, even if word
        comes that all is to have ended by then: from a node that has been away, and knew no better."""
        stop, next = self._news.stop, self.round + 1
        end = self._rounds if self._rounds < stop else stop
        if next <= end:
            return end
        begun = self.phase in (Phase.TRAINING, Phase.WAITING)
        return max(end, min(next, self._rounds)) if begun else end

    @property
    def front(self) -> int:
        """The round that this node is in, or that of its neighbours if it comes back and they are ahead: the
        end, if they have said goodbye."""
        return max(self.round, min(self._goal, self._end))

    @property
    def _said(self) -> int:
        """The last round of which this node has no more to say to whom it has not met yet."""
        if self.phase in (Phase.LEAVING, Phase.LEFT):
            return LAST
        return self.round - (self.phase is Phase.MEETING)

    def _meet(self, peer: int) -> None:
        """A node that may have heard first of a death, and so be no neighbor yet."""
        if self._detours is not None:
            self._detours.meet(peer, self._said)

    @property
    def _end(self) -> int:
        stop = self._news.stop
        return self._rounds if self._rounds < stop else stop

    @property
    def stop(self) -> int:
        """The swarm ends after so many rounds, as far as is known."""
        return self._news.stop

    @property
    def resets(self) -> Resets:
        """When all begin their rule anew."""
        return self._news.resets

    @property
    def ends(self) -> Mapping[int, Edge]:
        """The same, as every exchange has them."""
        return self._ends.by_peer

    @property
    def begun(self) -> bool:
        """Has training begun?"""
        return self.phase is not Phase.MEETING

    @property
    def inc(self) -> int:
        """This node's incarnation."""
        return self._ends.inc

    @property
    def dead(self) -> frozenset[int]:
        """The nodes that are got around, as far as this one knows."""
        return frozenset() if self._detours is None else self._detours.dead

    @property
    def refused(self) -> str | None:
        """Why a peer will have nothing to do with this node."""
        return self._ends.refused

    def follow(self) -> None:
        """This node has not run for a while: it goes on in the round of those whom it meets again."""
        self._follows = True

    def missing(self) -> tuple[int, ...]:
        """The neighbours that are not there and may come: who is waited for before the first round. One that
        goes on counts those around the dead among them: it had them in its last round. After the last round:
        for whom it stays."""
        if self.phase in (Phase.LEAVING, Phase.LEFT):
            return self._ends.awaited()
        return self._ends.missing(self.phase is Phase.MEETING and self._resumed is not None)

    def silent(self) -> tuple[int, ...]:
        """The neighbours whose word for the current round is still missing."""
        return self._ends.silent(self._row(self.round), self.round)

    def _enter(self) -> Row:
        """A round begins: its row and its edges, which stay as they are until it is closed."""
        if self._detours is not None:
            self._detours.turn()
        row = self._row(self.round)
        if row is not self._here:
            receivers = frozenset(row.receivers)
            lanes = (Lane(self.edges[j], row.weight(j), j in receivers) for j in row.active)
            self._here, self._lanes, self._awaited = row, tuple(lanes), None
        return row

    # ------------------------------------------------------------------ stopping and going on

    def standing(self) -> Standing:
        """What to keep, between two rounds (after `Adopt`, before `Stepped`) or after the last."""
        if self.phase not in (Phase.TRAINING, Phase.LEFT):
            raise LocalProtocolError(f"a standing in phase {self.phase.name}")
        over = self.round if self.phase is Phase.LEFT else None
        edges = tuple(footing(edge, over) for edge in self.edges.values())
        ahead, last = self.resets.ahead, self.resets.last
        return Standing(self.round, self.inc, self.stop, over is None, ahead, last, self.work.state, edges)

    def resume(self, standing: Standing) -> None:
        """Go on from what was kept; before the first event. Edges that it does not know begin here."""
        if self.phase is not Phase.MEETING:
            raise LocalProtocolError(f"resume in phase {self.phase.name}")
        self._resumed, self._follows = standing, True
        self.round, self._ends.inc, self._news.stop = standing.round, standing.inc, standing.stop
        self._news.resets = Resets(standing.resets, standing.renewed)
        for edge in self.edges.values():
            edge.heard = edge.counted = edge.acked = edge.sent = self.round - 1
            edge.verify = LAST
        for kept in standing.edges:
            edge = stand(kept, self.round, self.work.terms.arcs)
            if kept.peer in self.edges and not self.edges[kept.peer].extra:
                self.edges[kept.peer] = edge
            elif self._detours is not None:
                self._detours.add(edge)
