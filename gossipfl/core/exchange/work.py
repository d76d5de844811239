"""A rule at work at one node: its state, its payload of the round, and what it makes of what a round
brings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gossipfl.core.aggregate import Row
from gossipfl.core.codecs import NONE
from gossipfl.core.events import Adopt
from gossipfl.core.exchange.edge import Edge, Flow
from gossipfl.core.exchange.intake import Intake, Own, Terms, inbox, inbox_by_link, links, own
from gossipfl.core.messages import Vectors
from gossipfl.core.rules.base import Rule, State, Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor


#: What no round was made of.
NOTHING: Final[tuple[State, Intake]] = ((), Intake(Row(0, ()), {}))


class Work:
    """What one node has of its rule."""

    def __init__(self, rule: Rule, row: Callable[[int], Row], terms: Terms) -> None:
        self.rule, self.terms = rule, terms
        self.state: State = ()
        self.own = Own()
        self.x: Tensor | None = None  # [d] before and after the local phase of the round
        self.after: Tensor | None = None
        self._row = row
        self._turn = Turn(0, 1.0)
        self._last = NOTHING  # what the last round was made of
        # Is the first part of what is sent a model, which the mean of it may be compared with?
        self._coded = terms.packing.codec is not NONE
        self._compares = bool(rule.sends) and not rule.per_link and rule.sends[0].kind == "vector"

    def link(self, x: Tensor) -> None:
        """The edges, for a rule that has a payload for each."""
        if self.rule.per_link:
            self._turn = self._turn._replace(links=links(self._row(0), self.terms.nodes, x))

    def begin(self, x: Tensor, round: int) -> None:
        """The state at the start, and where all begin anew."""
        self.state = self.rule.init(x, self._turn._replace(round=round, ratio=1.0))

    def emit(self, x: Tensor, after: Tensor, round: int, ratio: float) -> bool:
        """Make the own payload. Is there one?"""
        turn = self._turn = Turn(round, ratio, self._turn.links)
        payload = self.rule.emit(self.state, x, after, turn)
        self.own = own(payload, self.terms.packing) if self._coded else Own(payload, payload, payload)
        return bool(payload)

    def turn(self, round: int, ratio: float) -> None:
        """`ratio`: of the learning rates of this local phase and the one before."""
        self._turn = Turn(round, ratio, self._turn.links)

    def outgoing(self, row: Row, peer: int) -> Vectors:
        """What travels to a neighbour of a per-link payload."""
        line = row.neighbors.index(peer)
        return tuple(z[line] for z in self.own.coded)

    # ------------------------------------------------------------------ the end of a round

    def decoded(self, coded: Vectors) -> Vectors:
        return self.terms.packing.unpack(coded, self.own.payload)

    def late(self, flow: Flow) -> Flow:
        """A flow of an earlier round, decoded, with its weight."""
        weight = self._row(flow.round).weight(flow.peer) if flow.weight is None else flow.weight
        mine = None if flow.mine is None else self.decoded(flow.mine)
        return Flow(flow.peer, flow.round, self.decoded(flow.theirs), mine, weight)

    def take(self, edges: Mapping[int, Edge], row: Row, round: int, since: int) -> Intake:
        """Everything that counts when a round closes. What is older than `since` has no part in what began
        anew there."""
        arrived: dict[int, Vectors] = {}
        late: list[Flow] = []
        for peer, edge in edges.items():
            theirs = edge.take(round)
            if theirs is not None:
                arrived[peer] = self.decoded(theirs) if self._coded else theirs
            if not edge.inbox:
                continue
            for flow in edge.settle(round):
                if flow.round == round:
                    arrived[peer] = self.decoded(flow.theirs)
                elif flow.round >= since:
                    late.append(self.late(flow))
        absent = tuple([j for j in row.neighbors if j not in arrived])
        if not self.terms.columns:
            return Intake(row, arrived, tuple(late), absent)
        withheld = frozenset(j for j in row.receivers if not edges[j].plan)
        return Intake(row, arrived, tuple(late), absent, withheld)

    def absorb(self, intake: Intake) -> Adopt:
        """Close the round with what counts in it."""
        adopt, state = self._absorb(self.state, intake)
        self._last, self.state = (self.state, intake), state
        return adopt

    def again(self, late: list[Flow]) -> Tensor:
        """The last round once more, with what has come too late for it: what that adds to x [d]."""
        state, intake = self._last
        before, _ = self._absorb(state, intake)
        # It is acknowledged now, and may be asked for once more: its sender's memory may not be.
        late = [flow._replace(theirs=tuple(z.clone() for z in flow.theirs)) for flow in late]
        intake = intake._replace(late=(*intake.late, *late))
        self._last = (state, intake)
        after, self.state = self._absorb(state, intake)
        return after.x - before.x

    def stand(self, x: Tensor, round: int) -> None:
        """A process goes on at x `[d]` after its last round, of which it has nothing: what is still to come
        counts as it would in a round in which nothing was learned and nothing came or went."""
        row = self._row(max(0, round - 1))
        self.x = self.after = x
        self.emit(x, x, round, 1.0)
        withheld = frozenset(row.receivers) if self.terms.columns else frozenset()
        self._last = (self.state, Intake(row, {}, (), tuple(row.neighbors), withheld))

    def open(self, x: Tensor) -> None:
        """A round begins at x `[d]`. The last one will not be asked for again: what was received is let go
        of."""
        self.x, self.after, self._last = x, None, NOTHING

    def _absorb(self, state: State, intake: Intake) -> tuple[Adopt, State]:
        """What comes of a round's intake."""
        assert self.x is not None and self.after is not None
        rule, own, turn = self.rule, self.own, self._turn
        apart: float | None = None
        if rule.per_link:
            box = inbox_by_link(own, intake)
        else:
            box, apart = inbox(self.terms, own, intake)
        x, state = rule.absorb(state, self.x, self.after, box, turn)
        given, got = own.payload, box.mixed
        if rule.sends and not self._compares:
            given, got, apart = (self.after,), (x,), None
        return Adopt(turn.round, x, given, got, tuple(intake.arrived), apart), state
