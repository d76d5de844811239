"""The exchange `rounds`: in each round a node hears from every neighbour whose line is up, then mixes.

The order of a round at one node:

    decide      for each edge: DATA or none (irrevocable)        on `Begin`, and when the last round closes
    emit        send the payload, or say none                    on `Stepped` (early rules: right after
    deciding) wait        until every edge that is up has spoken of this round
    close       mix what counts, take in late payloads, absorb   -> `Adopt`

and after the last round: say goodbye, wait until all is counted -> `Finished`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import TYPE_CHECKING

from gossipfl.core.aggregate import Row, ordered_sum
from gossipfl.core.events import (
    Adopt,
    Begin,
    Effect,
    Event,
    Finished,
    Note,
    PeerDown,
    PeerUp,
    Received,
    Send,
    Shift,
    Stepped,
    Tick,
    Trained,
)
from gossipfl.core.exchange.edge import Edge, Flow
from gossipfl.core.messages import (
    LAST,
    Answer,
    Ask,
    Data,
    Decline,
    Hello,
    Nothing,
    Push,
    Refuse,
    Vectors,
    Welcome,
)
from gossipfl.core.rules.base import Inbox, Rule, State, Turn
from gossipfl.errors import LocalProtocolError

if TYPE_CHECKING:
    from torch import Tensor


class Phase(Enum):
    """Where a node is in its round."""

    MEETING = auto()  # before round 0
    TRAINING = auto()
    WAITING = auto()
    LEAVING = auto()  # after the last round
    LEFT = auto()


class Rounds:
    """A node's machine. `row(t)` is its row of the mixing matrix in round t; `neighbors` all it will ever
    meet."""

    def __init__(
        self,
        rule: Rule,
        row: Callable[[int], Row],
        neighbors: tuple[int, ...],
        rounds: int,
        about: Mapping[str, object],
    ) -> None:
        self.edges: dict[int, Edge] = {j: Edge(j) for j in sorted(neighbors)}
        self.round = 0
        self.phase = Phase.MEETING
        self.refused: str | None = None
        self._rule, self._row, self._rounds, self._about = rule, row, rounds, about
        self._inc = 0
        self._sessions: dict[int, int] = {}  # newest session seen, a peer
        self._state: State = ()
        self._x: Tensor | None = None
        self._after: Tensor | None = None
        self._payload: Vectors = ()
        self._turn = Turn(0, 1.0)

    # ------------------------------------------------------------------ what a driver asks

    def handle(self, event: Event, now: float) -> list[Effect]:
        match event:
            case Stepped():
                return self._stepped(event)
            case Received():
                return self._received(event)
            case PeerUp(peer, session):
                return self._dialled(peer, session)
            case PeerDown():
                return self._down(event)
            case Begin(x):
                return self._begin(x)
            case Tick():
                return []
            case Trained():
                raise LocalProtocolError("Trained: in rounds the end of a local phase is Stepped")

    def deadline(self) -> float | None:
        return None

    def missing(self) -> tuple[int, ...]:
        """The neighbours that are neither up nor known to be gone: who is waited for before round 0."""
        return tuple(j for j, e in self.edges.items() if not (e.up or e.gone))

    def silent(self) -> tuple[int, ...]:
        """The neighbours whose word for the current round is still missing."""
        active = set(self._row(self.round).neighbors)
        return tuple(j for j, e in self.edges.items() if j in active and e.up and e.heard < self.round)

    # ------------------------------------------------------------------ rounds

    def _begin(self, x: Tensor) -> list[Effect]:
        if self.phase is not Phase.MEETING:
            raise LocalProtocolError(f"Begin in phase {self.phase.name}")
        self._state = self._rule.init(x, self._turn)
        return self._open_round(x)

    def _open_round(self, x: Tensor) -> list[Effect]:
        if self.round >= self._rounds:
            self.phase = Phase.LEAVING
            return [*self._goodbyes(), *self._leave()]
        self.phase, self._x, self._after = Phase.TRAINING, x, None
        for j in self._row(self.round).neighbors:
            self.edges[j].decide(self.round)
        if not self._rule.early:
            return []
        return self._emit(x, x, 1.0)

    def _emit(self, x: Tensor, after: Tensor, ratio: float) -> list[Effect]:
        self._turn = Turn(self.round, ratio)
        self._payload = self._rule.emit(self._state, x, after, self._turn)
        effects: list[Effect] = []
        if not self._payload:
            return effects
        for j, weight in self._row(self.round).weights:
            edge = self.edges.get(j)
            if edge is not None:
                message = edge.emit(self.round, self._payload, weight)
                if edge.up and edge.session is not None:
                    effects.append(Send(j, edge.session, message))
        return effects

    def _stepped(self, event: Stepped) -> list[Effect]:
        if self.phase is not Phase.TRAINING:
            raise LocalProtocolError(f"Stepped in phase {self.phase.name}")
        self._x, self._after = event.x, event.after
        effects = [] if self._rule.early else self._emit(event.x, event.after, event.ratio)
        self._turn = Turn(self.round, event.ratio)
        self.phase = Phase.WAITING
        return effects + self._close_if_ready()

    def _close_if_ready(self) -> list[Effect]:
        effects: list[Effect] = []
        if self.phase is Phase.WAITING and (not self._payload or not self.silent()):
            effects += self._close()
        return effects

    def _close(self) -> list[Effect]:
        assert self._x is not None and self._after is not None
        row, round = self._row(self.round), self.round
        counted = tuple(j for j in row.neighbors if self._payload and self.edges[j].counts(round))
        arrived = {j: self.edges[j].inbox[round] for j in counted}
        flows = [f for e in self.edges.values() for f in e.settle(round) if f.round < round]
        mixed = self._mix(row.without(frozenset(row.neighbors) - frozenset(counted)), arrived, flows)
        x, self._state = self._rule.absorb(
            self._state, self._x, self._after, Inbox(mixed, self._payload), self._turn
        )
        effects: list[Effect] = [Adopt(round, x, self._payload, mixed, counted)]
        if self._payload:
            effects += [Note("skip", j, round=round) for j in row.neighbors if j not in counted]
        effects += [Note("correction", f.peer, round=f.round) for f in flows]
        for edge in self.edges.values():
            edge.release(round)
        self.round += 1
        return effects + self._open_round(x)

    def _mix(self, row: Row, arrived: Mapping[int, Vectors], flows: list[Flow]) -> Vectors:
        mixed = []
        for k, own in enumerate(self._payload):
            total = ordered_sum([(w, own if j == row.node else arrived[j][k]) for j, w in row.weights])
            for flow in flows:
                total += (flow.theirs[k] - flow.mine[k]) * flow.weight
            mixed.append(total)
        return tuple(mixed)

    # ------------------------------------------------------------------ leaving

    def _goodbyes(self) -> list[Effect]:
        effects: list[Effect] = []
        for edge in self.edges.values():
            edge.sent, edge.plan = LAST, False
            if edge.up and edge.session is not None:
                effects.append(Send(edge.peer, edge.session, Nothing(LAST, edge.counted)))
        return effects

    def _leave(self) -> list[Effect]:
        """Late payloads still count; the node leaves when every neighbour that lives has what it was sent."""
        effects: list[Effect] = []
        for edge in self.edges.values():
            for flow in edge.settle(LAST):
                effects.append(Shift((flow.theirs[0] - flow.mine[0]) * flow.weight))
                effects.append(Note("correction", flow.peer, round=flow.round))
            before = edge.counted
            edge.release(LAST)
            if before < edge.counted < LAST and edge.up and edge.session is not None:
                effects.append(Send(edge.peer, edge.session, Nothing(LAST, edge.counted)))
        if all(e.gone or not e.out for e in self.edges.values()):
            self.phase = Phase.LEFT
            effects.append(Finished())
        return effects

    # ------------------------------------------------------------------ sessions

    def _greeting(self, kind: type[Hello], edge: Edge, session: int) -> Hello:
        return kind(session, self._inc, edge.peer_inc, edge.heard, edge.acked, edge.sent, self._about)

    def _dialled(self, peer: int, session: int) -> list[Effect]:
        edge = self.edges[peer]
        edge.close()
        edge.session, self._sessions[peer] = session, session
        return [Send(peer, session, self._greeting(Hello, edge, session))]

    def _received(self, event: Received) -> list[Effect]:
        edge = self.edges.get(event.peer)
        match event.message:
            case Welcome() | Hello():
                return self._greeted(event)
            case Refuse(_, reason):
                self.refused = reason
                return [Note("refused", event.peer, reason)]
            case Data() | Nothing() as message:
                if edge is None or edge.session != event.session or not edge.up:
                    return []  # a superseded session is discarded unread
                edge.receive(message)
                if self.phase is Phase.LEAVING:
                    return self._leave()
                return self._close_if_ready()
            case Ask() | Answer() | Decline() | Push():
                return [Note("rejected", event.peer, "a message of another exchange")]

    def _greeted(self, event: Received) -> list[Effect]:
        hello, peer = event.message, event.peer
        assert isinstance(hello, Hello)
        edge = self.edges.get(peer)
        answer = not isinstance(hello, Welcome)
        reason = "not a neighbor here" if edge is None else differs(self._about, hello.about)
        if edge is None or reason is not None:
            note: list[Effect] = [Note("rejected", peer, reason or "")]
            return [Send(peer, event.session, Refuse(event.session, reason or "")), *note] if answer else note
        if answer:
            if event.session < self._sessions.get(peer, event.session):
                return []  # a hello that was overtaken by a newer session
            self._sessions[peer] = event.session
            edge.close()
            edge.session = event.session
        elif edge.session != event.session:
            return []
        effects: list[Effect] = []
        if answer:
            effects.append(Send(peer, event.session, self._greeting(Welcome, edge, event.session)))
        effects += [Send(peer, event.session, m) for m in edge.meet(hello, self._inc)]
        effects.append(Note("peer_up", peer))
        return effects + self._close_if_ready()

    def _down(self, event: PeerDown) -> list[Effect]:
        edge = self.edges.get(event.peer)
        if edge is None:
            return []
        if (
            event.session is None
        ):  # its process ended: what it sent may still be on the line, which closes by itself
            edge.gone = edge.gone or event.gone
            return self._leave() if self.phase is Phase.LEAVING else self._close_if_ready()
        if event.session != edge.session:
            return []
        was_up = edge.up
        edge.close()
        effects: list[Effect] = [Note("peer_down", event.peer)] if was_up and not edge.done else []
        if self.phase is Phase.LEAVING:
            return effects + self._leave()
        return effects + self._close_if_ready()


def differs(mine: Mapping[str, object], theirs: Mapping[str, object]) -> str | None:
    """The first thing two nodes do not agree on, as a sentence, or None."""
    for key in sorted({*mine, *theirs}):
        if mine.get(key) != theirs.get(key):
            return f"{key} differs: {mine.get(key)!r} here, {theirs.get(key)!r} there"
    return None
