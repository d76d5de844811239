"""The exchange `rounds`: in each round a node hears from every neighbour whose line is up, then mixes.

The order of a round at one node:

    decide      for each edge: DATA or none (irrevocable)       on `Begin`, and when the last round closes
    emit        send the payload, or say none                   on `Stepped` (early rules: once decided)
    wait        until every edge that is up has spoken of this round
    close       mix what counts, take in late payloads, absorb  -> `Adopt`

and after the last round: say goodbye, wait until all is counted -> `Finished`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from enum import Enum, auto
from typing import TYPE_CHECKING

from gossipfl.core.aggregate import Row
from gossipfl.core.codecs import Packing
from gossipfl.core.events import (
    Adopt,
    Begin,
    Effect,
    Event,
    Finished,
    Halt,
    Leave,
    Note,
    PeerDown,
    PeerUp,
    Received,
    Renew,
    Send,
    Shift,
    Stepped,
    Tick,
    Trained,
)
from gossipfl.core.exchange.agree import differs
from gossipfl.core.exchange.edge import Edge, Flow
from gossipfl.core.exchange.intake import Intake, Own, Terms, inbox, inbox_by_link, links, own
from gossipfl.core.exchange.resets import Resets, Word
from gossipfl.core.exchange.sessions import Sessions
from gossipfl.core.exchange.standing import Standing, footing, stand
from gossipfl.core.messages import (
    LAST,
    Answer,
    Ask,
    Data,
    Decline,
    Hello,
    Message,
    Nothing,
    Push,
    Refuse,
    Reset,
    Stop,
    Vectors,
    Welcome,
)
from gossipfl.core.rules.base import Rule, State, Turn
from gossipfl.errors import LocalProtocolError

if TYPE_CHECKING:
    from torch import Tensor


#: What is told of a neighbour that has said goodbye before the last round.
LEFT = "has left"


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
        terms: Terms | None = None,
    ) -> None:
        self._terms = terms or Terms(Packing(rule.sends))
        self.edges: dict[int, Edge] = {j: Edge(j, self._terms.arcs) for j in sorted(neighbors)}
        self.round = 0
        self.stop = LAST  # the swarm ends after so many rounds, as far as is known
        self.phase = Phase.MEETING
        self.refused: str | None = None
        self._rule, self._row, self._rounds, self._about = rule, row, rounds, about
        self._inc = 0
        self._sessions = Sessions()
        self._resets = Resets()
        self._resumed: Standing | None = None
        self._goal = 0  # the round of a peer that went on while this node was away
        self._state: State = ()
        self._x: Tensor | None = None
        self._after: Tensor | None = None
        self._own = Own()
        self._turn = Turn(0, 1.0)
        self._parted = False  # has this node left while the others go on?
        self._departed: set[int] = set()  # the neighbours that have
        self._last: tuple[State, Intake] = ((), Intake(Row(0, ()), {}))  # what the last round was made of

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
            case Halt(round):
                return self._halt(round)
            case Leave():
                return self._part()
            case Renew(round):
                return self._reset(round)
            case Tick():
                return []
            case Trained():
                raise LocalProtocolError("Trained: in rounds the end of a local phase is Stepped")

    def deadline(self) -> float | None:
        return None

    @property
    def rounds(self) -> int:
        """How many rounds there will be, as far as is known."""
        return min(self._rounds, self.stop)

    def missing(self) -> tuple[int, ...]:
        """The neighbours that are neither up nor known to be gone: who is waited for before round 0."""
        return tuple(j for j, e in self.edges.items() if not (e.up or e.gone))

    def silent(self) -> tuple[int, ...]:
        """The neighbours whose word for the current round is still missing."""
        active = set(self._row(self.round).active)
        return tuple(j for j, e in self.edges.items() if j in active and e.up and e.heard < self.round)

    def _waits(self) -> bool:
        """Is any word missing? As `silent`, which is asked for each message, but quicker."""
        edges, round = self.edges, self.round
        for j in self._row(round).active:
            edge = edges[j]
            if edge.up and edge.heard < round:
                return True
        return False

    # ------------------------------------------------------------------ stopping and going on

    def standing(self) -> Standing:
        """What to keep, between two rounds (after `Adopt`, before `Stepped`) or after the last."""
        if self.phase not in (Phase.TRAINING, Phase.LEFT):
            raise LocalProtocolError(f"a standing in phase {self.phase.name}")
        over = self.round if self.phase is Phase.LEFT else None
        edges = tuple(footing(edge, over) for edge in self.edges.values())
        ahead, last = self._resets.ahead, self._resets.last
        return Standing(self.round, self._inc, self.stop, over is None, ahead, last, self._state, edges)

    def resume(self, standing: Standing) -> None:
        """Go on from what was kept; before the first event. Edges that it does not know begin here."""
        if self.phase is not Phase.MEETING:
            raise LocalProtocolError(f"resume in phase {self.phase.name}")
        self._resumed = standing
        self.round, self._inc, self.stop = standing.round, standing.inc, standing.stop
        self._resets = Resets(standing.resets, standing.renewed)
        for edge in self.edges.values():
            edge.heard = edge.counted = edge.acked = edge.sent = self.round - 1
        for kept in standing.edges:
            if kept.peer in self.edges:
                self.edges[kept.peer] = stand(kept, self.round, self._terms.arcs)

    def _go_on(self, x: Tensor, standing: Standing) -> list[Effect]:
        if standing.state is not None:
            self._state = standing.state
        if not standing.decided or self.round >= self.rounds:
            return self._open_round(x)
        self.phase, self._x = Phase.TRAINING, x
        known, row = {kept.peer for kept in standing.edges}, self._row(self.round)
        for j in row.active:
            if j not in known:
                self.edges[j].decide(self.round, j in row.receivers)
        return self._emit(x, x, 1.0, known) if self._rule.early else []

    # ------------------------------------------------------------------ rounds

    def _begin(self, x: Tensor) -> list[Effect]:
        if self.phase is not Phase.MEETING:
            raise LocalProtocolError(f"Begin in phase {self.phase.name}")
        if self._rule.per_link:
            self._turn = self._turn._replace(links=links(self._row(0), self._terms.nodes, x))
        if self._resumed is None or self._resumed.state is None:
            self._state = self._rule.init(x, self._turn._replace(round=self.round))
        return self._open_round(x) if self._resumed is None else self._go_on(x, self._resumed)

    def _open_round(self, x: Tensor) -> list[Effect]:
        if self.round >= self.rounds:
            self.phase = Phase.LEAVING
            return [*self._goodbyes(), *self._leave()]
        self.phase, self._x, self._after = Phase.TRAINING, x, None
        if self._resets.due(self.round):
            self._state = self._rule.init(x, self._turn._replace(round=self.round, ratio=1.0))
        row = self._row(self.round)
        for j in row.active:
            self.edges[j].decide(self.round, j in row.receivers)
        if not self._rule.early:
            return []
        return self._emit(x, x, 1.0)

    def _emit(self, x: Tensor, after: Tensor, ratio: float, told: Collection[int] = ()) -> list[Effect]:
        """The own payload, and word of it to all neighbours of this round that are not `told` yet."""
        self._turn = Turn(self.round, ratio, self._turn.links)
        self._own = own(self._rule.emit(self._state, x, after, self._turn), self._terms.packing)
        if not self._own.payload:
            return []
        row, effects = self._row(self.round), list[Effect]()
        for j in row.active:
            if j in told:
                continue
            edge = self.edges[j]
            message = edge.emit(self.round, self._outgoing(row, j), row.weight(j))
            effects += self._to(edge, message)
        return effects

    def _outgoing(self, row: Row, peer: int) -> Vectors:
        """What travels to a neighbour: the payload, or its line of a per-link one."""
        if not self._rule.per_link:
            return self._own.coded
        line = row.neighbors.index(peer)
        return tuple(z[line] for z in self._own.coded)

    def _stepped(self, event: Stepped) -> list[Effect]:
        if self.phase is not Phase.TRAINING:
            raise LocalProtocolError(f"Stepped in phase {self.phase.name}")
        self._x, self._after = event.x, event.after
        ratio = 1.0 if self.round == self._resets.last else event.ratio
        effects = [] if self._rule.early else self._emit(event.x, event.after, ratio)
        self._turn = Turn(self.round, ratio, self._turn.links)
        self.phase = Phase.WAITING
        return effects + self._close_if_ready()

    def _close_if_ready(self) -> list[Effect]:
        effects: list[Effect] = []
        if self.phase is Phase.WAITING and (not self._own.payload or not self._waits()):
            effects += self._close()
        return effects

    def _close(self) -> list[Effect]:
        row, round = self._row(self.round), self.round
        intake = self._take(row)
        self._last = (self._state, intake)
        adopt, self._state = self._absorb()
        effects: list[Effect] = [adopt]
        if self._own.payload:
            absent = [j for j in row.neighbors if j not in intake.arrived]
            effects += [Note("skip", j, round=round) for j in absent]
            if self._terms.arcs and not self._terms.columns:
                for j in absent:
                    self.edges[j].owe(round, self._own.coded)
        effects += [Note("correction", f.peer, round=f.round) for f in intake.late]
        for edge in self.edges.values():
            edge.release(round)
        effects += self._advance()
        if self.round < self.rounds:
            self._last = ((), Intake(row, {}))  # let go of what was received
        return effects + self._open_round(adopt.x)

    def _advance(self) -> list[Effect]:
        """On to the next round, or to that of the peers, if they went on while this node was away: a gap is
        none, and everyone who waits for a word of it gets one."""
        last, self.round = self.round, max(self.round + 1, min(self._goal, self.rounds))
        effects: list[Effect] = []
        owed: dict[int, int] = {}
        for t in range(self.round - 1, last, -1):
            for j in self._row(t).active:
                owed.setdefault(j, t)
            if len(owed) == len(self.edges):
                break
        for j, t in sorted(owed.items()):
            edge = self.edges[j]
            edge.sent = t
            effects += self._to(edge, Nothing(t, edge.counted))
        return effects

    def _take(self, row: Row) -> Intake:
        """Everything that counts when this round closes."""
        arrived, late = dict[int, Vectors](), list[Flow]()
        for edge in self.edges.values():
            for flow in edge.settle(self.round):
                if flow.round == self.round:
                    arrived[flow.peer] = self._decoded(flow.theirs)
                elif flow.round >= self._resets.last:  # what is older has no part in what began anew
                    late.append(self._late(flow))
        withheld = frozenset(j for j in row.receivers if not self.edges[j].plan)
        return Intake(row, arrived, tuple(late), withheld)

    def _decoded(self, coded: Vectors) -> Vectors:
        return self._terms.packing.unpack(coded, self._own.payload)

    def _late(self, flow: Flow) -> Flow:
        """A flow of an earlier round, decoded, with its weight."""
        weight = self._row(flow.round).weight(flow.peer) if flow.weight is None else flow.weight
        mine = None if flow.mine is None else self._decoded(flow.mine)
        return Flow(flow.peer, flow.round, self._decoded(flow.theirs), mine, weight)

    def _absorb(self) -> tuple[Adopt, State]:
        """What comes of the last round's intake."""
        assert self._x is not None and self._after is not None
        state, intake = self._last
        box = (
            inbox_by_link(self._own, intake) if self._rule.per_link else inbox(self._terms, self._own, intake)
        )
        x, state = self._rule.absorb(state, self._x, self._after, box, self._turn)
        given, got = self._own.payload, box.mixed
        if self._rule.sends and (self._rule.per_link or self._rule.sends[0].kind != "vector"):
            given, got = (self._after,), (x,)
        return Adopt(self._turn.round, x, given, got, tuple(sorted(intake.arrived))), state

    # ------------------------------------------------------------------ leaving

    def _halt(self, round: int, heard_from: int = -1) -> list[Effect]:
        """The swarm ends after `round` rounds, if nothing earlier is known: pass it on."""
        if round >= self.stop:
            return []
        self.stop = round
        return [
            e for edge in self.edges.values() if edge.peer != heard_from for e in self._to(edge, Stop(round))
        ]

    def _part(self) -> list[Effect]:
        """Leave before the others do. What a neighbor has sent and this node has not counted is acknowledged,
        and lost: it has no next round to be taken up in."""
        if self.phase in (Phase.LEAVING, Phase.LEFT):
            return []
        self._rounds, self._parted, self.phase = self.round, True, Phase.LEAVING
        for edge in self.edges.values():
            edge.counted = LAST
        return [*self._goodbyes(), *self._leave()]

    def _reset(self, round: int, heard_from: int = -1) -> list[Effect]:
        """All begin their rule anew at the start of `round`: pass it on. Late: whoever drives this machine
        has to name another round."""
        match self._resets.hear(round, self.round):
            case Word.KNOWN:
                return []
            case Word.LATE:
                return [Note("late", heard_from, round=round)]
            case Word.NEWS:
                others = [edge for edge in self.edges.values() if edge.peer != heard_from]
                note = Note("reset", heard_from, "all begin their rule anew in this round", round)
                return [note, *(e for edge in others for e in self._to(edge, Reset(round)))]

    def _goodbyes(self) -> list[Effect]:
        effects: list[Effect] = []
        for edge in self.edges.values():
            edge.sent, edge.plan = LAST, False
            effects += self._to(edge, Nothing(LAST, edge.counted))
        return effects

    def _leave(self) -> list[Effect]:
        """Late payloads still count; the node leaves when every neighbour that lives has what it was sent."""
        effects: list[Effect] = []
        late: list[Flow] = []
        for edge in self.edges.values():
            flows = edge.settle(LAST)
            if not self._parted:
                late += [self._late(flow) for flow in flows if flow.round >= self._resets.last]
            before = edge.counted
            edge.release(LAST)
            if before < edge.counted < LAST:
                effects += self._to(edge, Nothing(LAST, edge.counted))
        if late:
            effects += self._shift(late)
        # an arc's payload may come although nothing of this end's is out, until its sender has said goodbye
        if all(e.gone or not (e.out or (e.arcs and not e.done)) for e in self.edges.values()):
            self.phase = Phase.LEFT
            effects.append(Finished())
        return effects

    def _shift(self, late: list[Flow]) -> list[Effect]:
        """The last round once more, with what has come too late for it."""
        state, intake = self._last
        before, _ = self._absorb()
        self._last = (state, intake._replace(late=(*intake.late, *late)))
        after, self._state = self._absorb()
        notes = [Note("correction", f.peer, round=f.round) for f in late]
        return [Shift(after.x - before.x), *notes]

    # ------------------------------------------------------------------ sessions

    def _to(self, edge: Edge, message: Message) -> list[Effect]:
        """Send, if there is a line."""
        return [Send(edge.peer, edge.session, message)] if edge.up and edge.session is not None else []

    def _greeting(self, kind: type[Hello], edge: Edge, session: int) -> Hello:
        return kind(session, self._inc, edge.peer_inc, edge.heard, edge.acked, edge.sent, self._about)

    def _dialled(self, peer: int, session: int) -> list[Effect]:
        edge = self.edges[peer]
        edge.close()
        edge.session = session
        self._sessions.dialled(peer, session)
        return [Send(peer, session, self._greeting(Hello, edge, session))]

    def _received(self, event: Received) -> list[Effect]:
        edge = self.edges.get(event.peer)
        match event.message:
            case Data() | Nothing() as message:
                if edge is None or edge.session != event.session or not edge.up:
                    return []  # a superseded session is discarded unread
                done = edge.done
                edge.receive(message)
                if self.phase is Phase.LEAVING:
                    return self._leave()
                effects: list[Effect] = []
                # who says goodbye and counts nothing more has left; who is only ahead still takes things in
                if edge.done and not done and message.counted >= LAST and self.round + 1 < self.rounds:
                    self._departed.add(edge.peer)
                    effects.append(Note("peer_down", edge.peer, LEFT))
                return effects + self._close_if_ready() if self.phase is Phase.WAITING else effects
            case Stop(round):
                return self._halt(round, event.peer)
            case Reset(round):
                return self._reset(round, event.peer)
            case Welcome() | Hello():
                return self._greeted(event)
            case Refuse(_, reason):
                self.refused = reason
                return [Note("refused", event.peer, reason)]
            case Ask() | Answer() | Decline() | Push():
                return [Note("rejected", event.peer, "a message of another exchange")]

    def _greeted(self, event: Received) -> list[Effect]:
        hello, peer = event.message, event.peer
        assert isinstance(hello, Hello)
        edge = self.edges.get(peer)
        answer = not isinstance(hello, Welcome)
        reason = "not a neighbor here" if edge is None else differs(self._about, hello.about)
        if edge is None or reason is not None:
            note: list[Effect] = [Note("refused", peer, differs(hello.about, self._about) or reason or "")]
            return [Send(peer, event.session, Refuse(event.session, reason or "")), *note] if answer else note
        if answer:
            if self._sessions.overtaken(peer, event.session, hello.about):
                return []
            edge.close()
            edge.session = event.session
        elif edge.session != event.session:
            return []
        if edge.stale(hello, self._inc):
            return [Note("stale", peer, round=hello.sent)]
        if self._resumed is not None:
            self._goal = max(self._goal, hello.sent)
        effects: list[Effect] = []
        if answer:
            effects.append(Send(peer, event.session, self._greeting(Welcome, edge, event.session)))
        self._departed.discard(peer)
        owed = edge.meet(hello, self._inc)
        if self.stop < LAST:
            effects += self._to(edge, Stop(self.stop))
        for round in self._resets.told():
            effects += self._to(edge, Reset(round))
        effects += [Send(peer, event.session, m) for m in owed]
        effects.append(Note("peer_up", peer))
        return effects + self._close_if_ready()

    def _down(self, event: PeerDown) -> list[Effect]:
        edge = self.edges.get(event.peer)
        if edge is None:
            return []
        if event.session is None:
            # Its process ended: what it sent may still be on the line, which closes by itself.
            edge.gone = edge.gone or event.gone
            return self._leave() if self.phase is Phase.LEAVING else self._close_if_ready()
        if event.session != edge.session:
            return []
        was_up = edge.up
        edge.close()
        edge.gone = edge.gone or event.peer in self._departed
        left = edge.heard >= self.rounds - 1  # it has said all it had to say
        effects: list[Effect] = [Note("peer_down", event.peer)] if was_up and not left else []
        if self.phase is Phase.LEAVING:
            return effects + self._leave()
        return effects + self._close_if_ready()
