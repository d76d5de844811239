"""The exchange `rounds`: in each round a node hears from every neighbour whose line is up, then mixes.

The order of a round at one node:

    decide      for each edge: DATA or none (irrevocable)       on `Begin`, and when the last round closes
    emit        send the payload, or say none                   on `Stepped` (early rules: once decided)
    wait        until every edge that is up has spoken of this round, or for as long as `Waiting` says
    close       mix what counts, take in late payloads, absorb  -> `Adopt`

and after the last round: say goodbye, wait until all is counted -> `Finished`.

What a node has of all this, and what it says of it to whoever drives it, is in `course`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Final

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
    Trained,
)
from gossipfl.core.exchange.course import Course, Phase
from gossipfl.core.exchange.edge import Flow
from gossipfl.core.exchange.standing import Standing
from gossipfl.core.messages import (
    LAST,
    Answer,
    Ask,
    Data,
    Decline,
    Fate,
    Hello,
    Message,
    Model,
    Nothing,
    Push,
    Refuse,
    Reset,
    Stop,
    Want,
    Welcome,
)
from gossipfl.errors import LocalProtocolError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Phase", "Rounds"]

#: Asked for with every message, and an enum looks its members up by name each time.
TRAINING: Final = Phase.TRAINING
WAITING: Final = Phase.WAITING


class Rounds(Course):
    """A node's machine: what happens to it, and what it does then."""

    def handle(self, event: Event, now: float) -> list[Effect]:
        self._waiting.now = now
        if isinstance(event, Received):  # nearly all of them, and nearly all of those with data
            message = event.message
            return self._data(event, message) if type(message) is Data else self._received(event, message)
        match event:
            case Stepped():
                return self._stepped(event)
            case Lost(nodes):
                if self._detours is not None:
                    self._detours.lost(nodes, self._said)
                return []
            case PeerUp(peer, session):
                self._meet(peer)
                return self._ends.dialled(peer, session)
            case PeerDown():
                return self._down(event)
            case Begin(x):
                return self._begin(x)
            case Halt(round):
                return self._news.halt(round)
            case Leave():
                return self._part()
            case Renew(round):
                return self._news.reset(round, self.round)
            case Tick():
                return self._close_if_ready()
            case Trained():
                raise LocalProtocolError("Trained: in rounds the end of a local phase is Stepped")

    # ------------------------------------------------------------------ rounds

    def _begin(self, x: Tensor) -> list[Effect]:
        if self.phase is not Phase.MEETING:
            raise LocalProtocolError(f"Begin in phase {self.phase.name}")
        if self._detours is not None:
            self._detours.turn()
        self.work.link(x)
        if self._resumed is None or self._resumed.state is None:
            self.work.begin(x, self.round)
        return self._open_round(x) if self._resumed is None else self._go_on(x, self._resumed)

    def _go_on(self, x: Tensor, standing: Standing) -> list[Effect]:
        if standing.state is not None:
            self.work.state = standing.state
        if self.round >= self.rounds:
            self.work.stand(x, self.round)
        if not standing.decided or self.round >= self.rounds:
            return self._open_round(x)
        self.phase, self.work.x = Phase.TRAINING, x
        known = {kept.peer for kept in standing.edges}
        self._enter()
        for edge, _, sends in self._lanes:
            if edge.peer not in known:
                edge.decide(self.round, sends)
        return self._emit(x, x, 1.0, known) if self.work.rule.early else []

    def _open_round(self, x: Tensor) -> list[Effect]:
        work, news, round = self.work, self._news, self.round
        if round >= self._rounds or round >= news.stop:
            self.phase = Phase.LEAVING
            return [*self._ends.goodbyes(), *self._leave()]
        self.phase = TRAINING
        work.open(x)
        if news.resets.ahead and news.resets.due(round):
            work.begin(x, round)
        row = self._enter()
        for edge, _, sends in self._lanes:
            edge.decide(round, sends)
        effects = self._waiting.open(row, round) if self._limited else []
        return effects + self._emit(x, x, 1.0) if work.rule.early else effects

    def _emit(self, x: Tensor, after: Tensor, ratio: float, told: Collection[int] = ()) -> list[Effect]:
        """The own payload, and word of it to all neighbours of this round that are not `told` yet."""
        work, round = self.work, self.round
        effects: list[Effect] = []
        if not work.emit(x, after, round, ratio):
            return effects
        payload, per_link = work.own.coded, work.rule.per_link
        for edge, weight, _ in self._lanes:
            peer = edge.peer
            if told and peer in told:
                continue
            if per_link:
                payload = work.outgoing(self._here, peer)
            message = edge.emit(round, payload, weight)
            if edge.up and edge.session is not None:
                effects.append(Send(peer, edge.session, message))
        return effects

    def _stepped(self, event: Stepped) -> list[Effect]:
        if self.phase is not TRAINING:
            raise LocalProtocolError(f"Stepped in phase {self.phase.name}")
        x, after, ratio = event
        work = self.work
        work.x, work.after = x, after
        if self.round == self._news.resets.last:
            ratio = 1.0
        effects: list[Effect] = []
        if work.rule.early:
            work.turn(self.round, ratio)
        else:
            effects = self._emit(x, after, ratio)
        self.phase = WAITING
        if self._limited:
            self._waiting.trained()
        return self._close(effects) if self._ready() else effects

    def _close_if_ready(self) -> list[Effect]:
        return self._close([]) if self.phase is WAITING and self._ready() else []

    def _ready(self) -> bool:
        if not self.work.own.payload:
            return True
        round, awaited = self.round, self._awaited
        if self._limited:
            return self._waiting.enough(self._here, round)
        if awaited is not None and awaited.up and awaited.heard < round:
            return False  # who was missing when this was asked last still is
        for edge, _, _ in self._lanes:
            if edge.up and edge.heard < round:
                self._awaited = edge
                return False
        return True

    def _close(self, effects: list[Effect]) -> list[Effect]:
        """Close the round, and open the next; added to effects."""
        work, row, round = self.work, self._here, self.round
        intake = work.take(self.edges, row, round, self._news.resets.last)
        adopt = work.absorb(intake)
        effects.append(adopt)
        if work.own.payload:
            if intake.absent:
                effects += [Note("skip", j, round=round) for j in intake.absent if self.edges[j].wanted]
            if work.terms.columns:
                effects += [Note("withheld", j, round=round) for j in sorted(intake.withheld)]
            if work.terms.arcs and not work.terms.columns:
                for j in intake.absent:
                    self.edges[j].owe(round, work.own.coded)
            if self._limited:
                effects += self._waiting.close(row, round)
        if intake.late:
            effects += [Note("correction", f.peer, round=f.round) for f in intake.late]
        for edge in self.edges.values():
            edge.release(round)
        self.round = round + 1
        if self._goal > self.round or self._limited:
            effects += self._catch_up(round)
        effects += self._open_round(adopt.x)
        return effects

    def _catch_up(self, last: int) -> list[Effect]:
        """On in the round of the peers, if they went on while this node was away or slow: a gap is none, and
        everyone who waits for a word of it gets one."""
        if self._goal > self.round:
            self.round = max(self.round, min(self._goal, self._end))
        if self._limited:
            self.round = max(self.round, self._waiting.onward(last, self._end))
        return self._ends.skip(self._row, last, self.round) if self.round > last + 1 else []

    # ------------------------------------------------------------------ leaving

    def _part(self) -> list[Effect]:
        """Leave before the others do. What a neighbor has sent and this node has not counted is acknowledged,
        and lost: it has no next round to be taken up in."""
        if self.phase in (Phase.LEAVING, Phase.LEFT):
            return []
        self._rounds, self._parted, self.phase = self.round, True, Phase.LEAVING
        for edge in self.edges.values():
            edge.counted = LAST
        return [*self._ends.goodbyes(), *self._leave()]

    def _leave(self) -> list[Effect]:
        """Late payloads still count; the node leaves when every neighbour that lives has what it was sent."""
        effects: list[Effect] = []
        late: list[Flow] = []
        for edge in self.edges.values():
            flows = edge.settle(LAST)
            if not self._parted:
                late += [self.work.late(flow) for flow in flows if flow.round >= self.resets.last]
            before = edge.counted
            edge.release(LAST)
            if before < edge.counted < LAST:
                effects += self._ends.say(edge, Nothing(LAST, edge.counted))
        if late:
            effects.append(Shift(self.work.again(late)))
            effects += [Note("correction", f.peer, round=f.round) for f in late]
        if self._ends.settled():
            self.phase = Phase.LEFT
            effects.append(Finished())
        return effects

    # ------------------------------------------------------------------ messages

    def _received(self, event: Received, message: Message) -> list[Effect]:
        match message:
            case Nothing():
                edge = self._ends.open(event)
                if edge is None:
                    return []
                if self._limited:
                    self._waiting.word(edge, message)
                return self._ends.hear(edge, message, self.round + 1 < self.rounds) + self._go()
            case Stop(round):
                return self._news.halt(round, event.peer)
            case Reset(round):
                return self._news.reset(round, self.round, event.peer)
            case Welcome() | Hello():
                return self._greeted(event, message)
            case Refuse(_, reason):
                self._ends.refused = reason
                return [Note("refused", event.peer, reason)]
            case Data():
                return self._data(event, message)
            case Ask() | Answer() | Decline() | Push() | Want() | Model() | Fate():
                return [Note("rejected", event.peer, "a message of another exchange")]

    def _data(self, event: Received, data: Data) -> list[Effect]:
        if data.round >= self._length:
            return [Note("rejected", event.peer, f"a payload of round {data.round + 1} of {self._length}")]
        edge = self._ends.open(event)
        if edge is None:
            return []
        if self._limited:
            self._waiting.word(edge, data)
        edge.receive(data)
        if self.phase is WAITING:
            return self._close([]) if self._ready() else []
        return self._go()

    def _go(self) -> list[Effect]:
        """Something has come in, or somebody is not waited for any more."""
        return self._leave() if self.phase is Phase.LEAVING else self._close_if_ready()

    def _greeted(self, event: Received, hello: Hello) -> list[Effect]:
        self._meet(event.peer)
        effects, edge, owed = self._ends.greeted(event)
        if edge is None:
            return effects
        if self._follows or self.phase is Phase.MEETING:
            self._goal = max(self._goal, hello.sent)
        if self._detours is not None:
            self._detours.back(edge.peer, self._said)
        effects += self._news.told(edge)
        for message in owed:
            effects += self._ends.say(edge, message)
        effects.append(Note("peer_up", edge.peer))
        return effects + self._close_if_ready()

    def _down(self, event: PeerDown) -> list[Effect]:
        known, effects = self._ends.down(event, self.rounds - 1)
        return effects + self._go() if known else effects
