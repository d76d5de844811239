"""One end of an edge: an edge counts in a round at both ends or at neither (docs/protocol.md, "An edge").

An edge counts in round t iff both ends decided DATA for t. Decisions are irrevocable; payloads are delivered
exactly once and in order; each message says through which round its sender has counted, and at most `WINDOW`
payloads of an edge are neither counted nor refused by the peer.

An edge that may carry data only one way (`arcs`) counts arc by arc: a payload counts when it arrives, however
late, and its sender keeps it until that is acknowledged. The end that sends nothing says so each round, which
is its acknowledgement.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from gossipfl.core.messages import LAST, Data, Hello, Message, Nothing, Vectors

WINDOW: Final = 2


class Flow(NamedTuple):
    """A payload that counts: what the peer sent and what this end had of its own in round `round` (None on an
    arc where that is not known any more). As they travelled, coded."""

    peer: int
    round: int
    theirs: Vectors
    mine: Vectors | None
    weight: float | None = None  # what this end gives the peer; None on an arc: as the round's row says


@dataclass(slots=True)
class Sent:
    """A payload of this end that is not released yet."""

    payload: Vectors
    weight: float
    settled: bool = False


@dataclass(slots=True)
class Edge:
    """The state of one end. Rounds are -1 before the first."""

    peer: int
    arcs: bool = False  # each direction counts for itself
    heard: int = -1  # last round heard of from the peer
    counted: int = -1  # counted through this round
    acked: int = -1  # the peer has counted through this round of mine
    sent: int = -1  # last round emitted
    plan: bool = False  # decided DATA for the coming round
    up: bool = False  # hello and welcome have passed
    gone: bool = False  # the peer will not come back
    ended: bool = False  # so says whoever started it; what it sent before may come later than that
    departed: bool = False  # it has left before the last round
    extra: bool = False  # no edge of the graph: around somebody who has died
    wanted: bool = True  # an extra edge that is not wanted carries nothing
    returned: bool = False  # it came back with nothing after this end's goodbye, and may want its model
    session: int | None = None
    peer_inc: int | None = None
    verify: int = LAST  # no round after this is known here, and the peer has not said yet that it knows none
    out: dict[int, Sent] = field(default_factory=dict)
    inbox: dict[int, Vectors] = field(default_factory=dict)
    owed: dict[int, Vectors] = field(
        default_factory=dict
    )  # arcs: the own payload of rounds without the peer's

    # ------------------------------------------------------------------ rounds

    def decide(self, round: int, sends: bool = True) -> None:
        """Will this end send its payload of `round`? Not before everything open on the edge is settled, and
        only if an arc leads there (`sends`)."""
        self.plan = False
        if not (sends and self.up and self.wanted):
            return
        heard, acked, unacknowledged = self.heard, self.acked, 0
        for t in self.out:
            if t > heard:  # unanswered
                return
            unacknowledged += t > acked
        refused = heard >= round and not self.arcs and round not in self.inbox
        self.plan = unacknowledged < WINDOW and not refused

    def emit(self, round: int, payload: Vectors, weight: float) -> Message:
        """The message of this round. A line that broke since the decision does not change it: it is sent
        again later."""
        self.sent = round
        if not self.plan:
            return Nothing(round, self.counted)
        self.out[round] = Sent(payload, weight)
        return Data(round, self.counted, payload)

    def take(self, round: int) -> Vectors | None:
        """The peer's payload of a round in which the edge counts: what `settle` finds, and mostly all it
        does."""
        mine = self.out.get(round)
        if mine is None or mine.settled or self.arcs or round not in self.inbox:
            return None
        mine.settled = True
        return self.inbox.pop(round)

    def settle(self, through: int) -> list[Flow]:
        """Take the pairs of payloads up to and including a round; each is counted once. Ascending rounds."""
        flows: list[Flow] = []
        for t in sorted([t for t in self.inbox if t <= through]):
            theirs = self.inbox.pop(t)
            if self.arcs:
                flows.append(Flow(self.peer, t, theirs, self.owed.pop(t, None)))
                continue
            mine = self.out.get(t)
            if mine is not None and not mine.settled:
                mine.settled = True
                flows.append(Flow(self.peer, t, theirs, mine.payload, mine.weight))
        return flows

    def release(self, round: int) -> None:
        """The round is closed here: move `counted` on and let go of what the peer refused or has counted."""
        through = self.heard if self.heard < round else round
        if through > self.counted:
            self.counted = through
        if self.out or self.arcs:
            self._drop(self.counted)

    def owe(self, round: int, payload: Vectors) -> None:
        """The round closes without the peer's payload, which may still come: keep what this end had. No more
        than `WINDOW` can be under way."""
        if len(self.owed) < WINDOW and self.heard < round:
            self.owed[round] = payload

    def _drop(self, through: int) -> None:
        out, acked = self.out, self.acked
        if self.arcs:
            for t in [t for t in out if t <= acked]:
                del out[t]
            for t in [t for t in self.owed if t <= self.heard and t not in self.inbox]:
                del self.owed[t]
            return
        for t in [*out]:
            if t <= through and (t <= acked or not out[t].settled):
                del out[t]

    # ---------------------------------------------------------------- messages

    def receive(self, message: Data | Nothing) -> bool:
        """Take a message in; False if it is one already heard."""
        round, acked = message[0], message[1]
        if acked > self.sent:
            acked = self.sent
        if acked > self.acked:
            self.acked = acked
        if round <= self.heard:
            return False
        if type(message) is Data:
            self.inbox[round] = message[2]
        self.heard = round
        return True

    @property
    def owes(self) -> bool:
        """Is a payload out that the peer has neither counted nor refused?"""
        return bool(self.out)

    @property
    def done(self) -> bool:
        """The peer has said goodbye."""
        return self.heard >= LAST

    @property
    def keeps(self) -> bool:
        """Does this end stay for the peer after its last round?"""
        # an arc's payload may come although nothing of this end's is out, until its sender has said goodbye
        return not self.gone and (bool(self.out) or ((self.arcs or self.returned) and not self.done))

    # ---------------------------------------------------------------- sessions

    def stale(self, hello: Hello, inc: int) -> bool:
        """Does the peer remember more of this end than it does itself? Then what it was restored from is not
        its last state.

        It has heard of a round after the one that this end is in, or knows more to be counted here than is,
        or has met a later incarnation.
        """
        if self.verify >= LAST or hello.peer_inc is None:
            return False
        if hello.peer_inc != inc:
            return True
        return hello.heard > self.verify or (hello.inc == self.peer_inc and hello.acked > self.counted)

    def meet(self, hello: Hello, inc: int) -> list[Message]:
        """The peer's hello or welcome: the edge is up. Returns what has to be sent (again)."""
        self.verify = LAST
        messages: list[Message] = []
        heard = hello.heard
        lineage = hello.inc == self.peer_inc and hello.peer_inc == inc
        if not lineage:  # one of the two does not remember the other: both forget the edge
            self.out.clear()
            self.inbox.clear()
            self.owed.clear()
            self.plan = False
            # What was heard of this incarnation stays known: it may be told by it that the peer is stale.
            known = self.heard if hello.inc == self.peer_inc else -1
            self.heard = self.counted = max(known, hello.sent)
            self.acked = heard = self.sent
            self.peer_inc = hello.inc
            self.returned = self.sent >= LAST
        self.up, self.gone = True, False
        last = heard
        for t in sorted(t for t in self.out if heard < t <= self.sent):
            messages.append(Data(t, self.counted, self.out[t].payload))
            last = t
        # What the peer's greeting was an answer to may be a round old: it takes this end's word for the rest.
        # And after a goodbye nothing else would tell it what has been counted here.
        if self.sent > last or self.sent >= LAST or (not lineage and self.sent >= 0):
            messages.append(Nothing(self.sent, self.counted))
        return messages

    def close(self) -> None:
        """The session is over: nobody is waited for on it."""
        self.session, self.up = None, False
