"""One node's asynchronous training, an optimiser step at a time, whoever gives it time: a process, virtual
time, or the order that another run has recorded. All three go through here, so they give the same bits.

What happens to a node is a sequence of optimiser steps and, between them, of events that its machine handles.
`Meeting` names one such event by the number of steps made before it: the sequence of meetings of every node
is all that a run decided by itself, and all that a replay needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import torch

from gossipfl.core.events import (
    Begin,
    Effect,
    Event,
    Finished,
    Halt,
    Note,
    PeerDown,
    PeerUp,
    Received,
    Send,
    Shift,
    Take,
    Tick,
    Train,
    Trained,
)
from gossipfl.core.messages import (
    Answer,
    Ask,
    Decline,
    Hello,
    Message,
    Nothing,
    Push,
    Refuse,
    Reset,
    Stop,
    Welcome,
)
from gossipfl.drivers.machines import Asynchronous
from gossipfl.learning.learner import Learner, Phase, Steps

#: What a meeting is called whose event is the arrival of a message.
WORDS: Final[Mapping[type, str]] = {
    Ask: "ask",
    Answer: "answer",
    Decline: "decline",
    Push: "push",
    Nothing: "last",
    Hello: "hello",
    Welcome: "welcome",
    Refuse: "refuse",
    Stop: "stop",
    Reset: "reset",
}
BEGIN, UP, DOWN, TICK, HALT, LEFT = "begin", "up", "down", "tick", "halt", "left"


class Meeting(NamedTuple):
    """An event between two optimiser steps of a node, in logical steps."""

    step: int  # optimiser steps that the node had made
    event: str  # one of WORDS, or "begin", "up", "down", "tick", "halt", "left"
    peer: int = -1
    session: int | None = None
    gone: bool = False  # of "down": the peer will not come back


def meeting(step: int, event: Event) -> Meeting | None:
    """The name of an event; None for those that follow from the steps alone."""
    match event:
        case Received(peer, session, message):
            return Meeting(step, word(message), peer, session)
        case PeerUp(peer, session):
            return Meeting(step, UP, peer, session)
        case PeerDown(peer, session, gone):
            return Meeting(step, DOWN, peer, session, gone)
        case Tick():
            return Meeting(step, TICK)
        case Halt():
            return Meeting(step, HALT)
        case _:
            return None


def word(message: Message) -> str:
    """What the arrival of a message is called."""
    return WORDS.get(type(message), "other")


class Walk:
    """A node's machine and learner on their way. `met` is told of each meeting before it happens."""

    def __init__(
        self, machine: Asynchronous, learner: Learner, met: Callable[[Meeting], None] = lambda meeting: None
    ) -> None:
        self.machine, self.learner = machine, learner
        self.steps = 0  # optimiser steps made
        self.exchanges = 0  # since `fresh` was last called
        self._met = met
        self._phase: Steps | None = None
        self._moved = 0.0

    @property
    def training(self) -> bool:
        """Is a local phase under way?"""
        return self._phase is not None

    def begin(self, now: float) -> list[Effect]:
        """Start; like `handle` and `trained`, what is left to do for whoever has sockets."""
        self._met(Meeting(self.steps, BEGIN))
        return self._handle(Begin(self.learner.vector), now)

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Let the machine handle an event between two optimiser steps. One that has left hears nothing."""
        if self.machine.left:
            return []
        named = meeting(self.steps, event)
        if named is not None:
            self._met(named)
        return self._handle(event, now)

    def step(self) -> Phase | None:
        """One optimiser step; the local phase, if that was its last: `trained` must follow."""
        assert self._phase is not None
        self.steps += 1
        try:
            next(self._phase)
        except StopIteration as end:
            self._phase = None
            phase: Phase = end.value
            return phase
        return None

    def trained(self, seconds: float, now: float) -> list[Effect]:
        """Tell the machine that a local phase is over."""
        return self._handle(Trained(seconds), now)

    def fresh(self) -> dict[str, object]:
        """`neighbors` (exchanges since the last call) and their mean `disagreement`, ||change|| / ||x||."""
        fields: dict[str, object] = {
            "neighbors": self.exchanges,
            "disagreement": self._moved / max(1, self.exchanges),
        }
        self.exchanges, self._moved = 0, 0.0
        return fields

    def _handle(self, event: Event, now: float) -> list[Effect]:
        _ = self.learner.vector  # the machine reads it where it lies: it must be up to date
        return self._apply(self.machine.handle(event, now))

    def _apply(self, effects: list[Effect]) -> list[Effect]:
        rest: list[Effect] = []
        for effect in effects:
            match effect:
                case Shift(delta):
                    self._count(delta)
                    self.learner.load(self.learner.vector.detach() + delta)
                case Take(new):
                    self._count(new - self.learner.vector.detach())
                    self.learner.load(new)
                case Train():
                    self._phase = self.learner.steps(self.machine.phases)
                case Finished():
                    self._phase = None
                    self._met(Meeting(self.steps, LEFT))
                    rest.append(effect)
                case Send() | Note():
                    rest.append(effect)
                case _:
                    raise TypeError(f"no effect of an asynchronous machine: {type(effect).__name__}")
        return rest

    def _count(self, change: torch.Tensor) -> None:
        x = self.learner.vector.detach()
        self.exchanges += 1
        self._moved += float(change.norm() / x.norm().clamp_min(torch.finfo(x.dtype).tiny))
