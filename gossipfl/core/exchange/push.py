"""The exchange `push` with the rule `gossip-learning`: send now and then, never wait (Ormandi et al. 2013,
"Gossip learning with linear models on fully distributed data").

On a timer a node sends (x, age) to a random neighbour; age counts the local phases in x. What it receives is
merged by age, and one local phase follows:

    merge (x, a), (y, b):   x <- (a x + b y) / (a + b),   a <- max(a, b)
                            (Hegedus, Danner & Jelasity 2021, "Decentralized learning works")

    merge-update   x <- train(merge(x, y))
    update-merge   x <- merge(x, train(y)), x having been trained when it came
    random-walk    x <- train(y): models walk from node to node

merge-update merges a model when it comes, also between two optimiser steps of a local phase (after which
another is due); the others take it up when the phase is over, of each neighbour the newest. Each node begins
with one local phase, so that there is something to send; one that nobody can send to trains on alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

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
    Stepped,
    Take,
    Tick,
    Train,
    Trained,
)
from gossipfl.core.exchange.line import Line, Post
from gossipfl.core.exchange.phased import Phased
from gossipfl.core.exchange.standing import Tree
from gossipfl.core.exchange.tokens import Account
from gossipfl.core.messages import Hello, Message, Nothing, Refuse, Stop, Welcome
from gossipfl.core.messages import Push as Pushed
from gossipfl.draw import Purpose
from gossipfl.errors import LocalProtocolError

if TYPE_CHECKING:
    from torch import Tensor

VARIANTS: Final = ("merge-update", "update-merge", "random-walk")

#: Seconds between two ticks at least, however short a local phase was.
SHORTEST: Final = 1e-6

# what a checkpoint keeps beside models
_COUNTERS: Final = ("_age", "tokens", "sends", "_ticks", "_taken")

# what a keyed draw is for, after (node, count)
_WHOM, _WHETHER, _HOW_MANY = 0, 1, 2


class Terms(NamedTuple):
    """How often, to whom and what: `period` in the node's own local phases, or in seconds."""

    period: float = 1.0
    in_seconds: bool = False
    variant: str = "merge-update"
    account: Account = Account()
    to: tuple[int, ...] = ()  # the neighbours it may send to, ascending
    comes: tuple[int, ...] = ()  # the neighbours that may send to it


class Model(NamedTuple):
    """Parameters `[d]` and how many local phases are in them."""

    x: Tensor
    age: int


def merge(mine: Model, theirs: Model) -> Model:
    """The mean of two models, weighed by age (two new ones: alike)."""
    a, b = (mine.age, theirs.age) if mine.age + theirs.age else (1, 1)
    return Model(mine.x * (a / (a + b)) + theirs.x * (b / (a + b)), max(mine.age, theirs.age))


class Push(Phased):
    """A node's machine."""

    def __init__(self, post: Post, terms: Terms) -> None:
        super().__init__(post)
        self._age = 0  # of the live x
        self.tokens = 0
        self.sends = 0
        self._terms = terms
        self._aside: Model | None = None  # update-merge: the own model, while the other's is trained
        self._fresh: Tensor | None = None  # what this event's effects make of the live x
        self._inbox: dict[int, Model] = {}  # the newest of each neighbour, in the order they came
        self._due = False  # a model has been merged since the last local phase began
        self._worth: list[bool] = []  # for each model taken in since the last reactive send: was it useful?
        self._ticks = self._taken = 0
        self._period: float | None = terms.period if terms.in_seconds else None
        self._tick_at: float | None = None

    # ------------------------------------------------------------------ what a driver asks

    def handle(self, event: Event, now: float) -> list[Effect]:
        effects: list[Effect] = []
        self._fresh = None
        match event:
            case Received():
                effects = self._received(event)
            case Trained(seconds):
                effects = self._trained(seconds)
            case Tick():
                effects = self._tick(now)
            case Begin(x):
                self._x, self._training = x, True
                effects = [Train()]
            case PeerUp(peer, session):
                effects = self.lines.dialled(peer, session)
            case PeerDown():
                effects, _ = self.lines.down(event)
            case Halt():
                effects = self.lines.halt()
            case Leave():
                raise LocalProtocolError("Leave: in push a node leaves by closing its lines")
            case Lost(nodes):
                effects = self.lines.lost(nodes)
            case Renew():
                raise LocalProtocolError("Renew: in push there is no rule that could begin anew")
            case Stepped():
                raise LocalProtocolError("Stepped: in push the end of a local phase is Trained")
        effects += self._go_on()
        if self._tick_at is None and self._period is not None and self._x is not None:
            self._tick_at = now + self._period * self._chance(_WHETHER, 0)
        return effects + self._leave()

    def kept(self) -> Tree:
        """What to keep between two local phases. Models that have come and are not merged yet are lost, as
        any push may be."""
        counters = {name: getattr(self, name) for name in _COUNTERS}
        return {"phases": self.phases, "aside": self._aside, **counters}

    def resume(self, kept: Tree) -> None:
        """Go on from what was kept; before the first event."""
        self.lines.phases = kept["phases"]
        self._aside = None if kept["aside"] is None else Model(*kept["aside"])
        for name in _COUNTERS:
            setattr(self, name, kept[name])

    def deadline(self) -> float | None:
        return None if self.left else self._tick_at

    @property
    def age(self) -> int:
        """Of the node's own model; never less than it was, unless models walk."""
        return self._own.age

    # ------------------------------------------------------------------ sending

    def _tick(self, now: float) -> list[Effect]:
        assert self._period is not None
        self._ticks += 1
        self._tick_at = now + self._period
        if self._chance(_WHETHER, self._ticks) < self._terms.account.proactive(self.tokens):
            return self._send()
        self.tokens += 1
        return []

    def _react(self) -> list[Effect]:
        """The sends that the models taken in are worth."""
        effects: list[Effect] = []
        for useful in self._worth:
            worth = self._terms.account.reactive(self.tokens, useful)
            self._taken += 1
            count = int(worth) + (self._chance(_HOW_MANY, self._taken) < worth - int(worth))
            for _ in range(min(count, self.tokens)):
                self.tokens -= 1
                effects += self._send()
        self._worth.clear()
        return effects

    def _send(self) -> list[Effect]:
        up = [j for j in self.lines.up() if j in self._terms.to or self.lines.by_peer[j].extra]
        if not up:
            return []
        self.sends += 1
        keys = (self._post.node, self.sends, _WHOM)
        line = self.lines.by_peer[up[int(draw.bits(self._post.seed, Purpose.PEER, *keys)) % len(up)]]
        assert line.session is not None
        x, age = self._own
        return [Send(line.peer, line.session, Pushed(self.sends, age, (x.clone(),)))]

    def _chance(self, what: int, count: int) -> float:
        return float(draw.uniform(self._post.seed, Purpose.PEER, self._post.node, count, what))

    @property
    def _own(self) -> Model:
        if self._aside is not None:
            return self._aside
        x = self._x if self._fresh is None else self._fresh
        assert x is not None
        return Model(x, self._age)

    # ------------------------------------------------------------------ receiving

    def _received(self, event: Received) -> list[Effect]:
        match event.message:
            case Welcome() | Hello():
                return self.lines.greeted(event)[0]
            case Refuse(_, reason):
                return [Note("refused", event.peer, reason)]
            case _:
                line = self.lines.open(event)
                return [] if line is None else self._told(line, event.message)

    def _told(self, line: Line, message: Message) -> list[Effect]:
        match message:
            case Pushed(number, age, payload):
                if number <= line.heard or self._x is None:
                    return []
                line.heard = number
                return self._arrived(line.peer, Model(payload[0], age))
            case Nothing():
                line.done = True
                return []
            case Stop():
                return self.lines.halt(line.peer)
            case _:
                return [Note("rejected", line.peer, "a message of another exchange")]

    def _arrived(self, peer: int, theirs: Model) -> list[Effect]:
        if self._terms.variant == "merge-update" or (
            self._terms.variant == "update-merge" and self.lines.over()
        ):
            self._judge(theirs)
            self._due = True
            return [self._take(merge(self._own, theirs))]
        self._inbox.pop(peer, None)
        self._inbox[peer] = theirs
        return []

    def _judge(self, theirs: Model) -> None:
        self._worth.append(theirs.age >= self._own.age)

    # ------------------------------------------------------------------ training

    def _trained(self, seconds: float) -> list[Effect]:
        if not self._training:
            raise LocalProtocolError("Trained: no local phase was under way")
        self._training = False
        self.lines.phases += 1
        self._age += 1
        if not self._terms.in_seconds:
            self._period = max(self._terms.period * seconds, SHORTEST)
        effects: list[Effect] = []
        if self._aside is not None:
            mine, self._aside = self._aside, None
            effects.append(self._take(merge(mine, self._own)))
        return effects

    def _go_on(self) -> list[Effect]:
        """What is due when no local phase is under way: send, take up what has come, and train."""
        if self._training or self._x is None:
            return []
        effects = self._react()
        if self.lines.over():
            return effects + self._settle()
        alone = not any(j in self._terms.comes or self.lines.by_peer[j].extra for j in self.lines.up())
        if self._inbox:
            theirs = self._inbox.pop(next(iter(self._inbox)))
            self._judge(theirs)
            if self._terms.variant == "update-merge":
                x, age = self._own
                self._aside = Model(x.clone(), age)
            return [*effects, self._take(theirs), *self._train()]
        return effects + (self._train() if self._due or alone else [])

    def _settle(self) -> list[Effect]:
        """All local phases are made: merge what is left in the inbox, or take it if it is an older walker."""
        effects: list[Effect] = []
        for theirs in self._inbox.values():
            if self._terms.variant == "update-merge":
                effects.append(self._take(merge(self._own, theirs)))
            elif theirs.age > self._age:
                effects.append(self._take(theirs))
        self._inbox.clear()
        return effects

    def _train(self) -> list[Effect]:
        self._training, self._due = True, False
        return [Train()]

    def _take(self, model: Model) -> Take:
        self._fresh, self._age = model
        return Take(model.x)

    # ------------------------------------------------------------------ the end

    def _leave(self) -> list[Effect]:
        if self.left or self._x is None or not self.lines.over():
            return []
        effects = self.lines.part()
        if self.lines.settled():
            self.left = True
            if self._aside is not None:
                self._training, mine, self._aside = False, self._aside, None
                effects.append(self._take(mine))
            effects.append(Finished())
        return effects
