"""The exchange `rounds` under deadlines: rounds close without neighbors that live, at random, while lines are
cut anywhere and nodes come back with their exact state, a stale one, or none.

The laws are those of `test_restart_laws`. When the disasters are over deadlines are too, so that every edge
has to be in use again at the end.

Of what failed in the model, these tests take away what holds against our machine under deadlines; kills and
cuts alone need what `test_restart_laws` and `test_exchange_laws` take away. A window without bounds loses
nothing by itself, only memory and convergence, so it is taken away together with the acknowledgements.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from gossipfl.core.events import Event, Tick
from gossipfl.core.exchange.edge import Edge
from gossipfl.core.exchange.rounds import Phase, Rounds
from gossipfl.core.exchange.waiting import Limits
from gossipfl.core.messages import Data, Message, Nothing
from gossipfl.core.rules import averaging
from gossipfl.core.rules.base import Rule
from tests.laws.test_restart_laws import CHANGING, GRAPHS, ROUNDS, TAIL, World

#: Schedules a graph and kind of disaster; more of them: GOSSIPFL_SCHEDULES=20000.
SCHEDULES = int(os.environ.get("GOSSIPFL_SCHEDULES", "25"))
#: Where the schedules begin: other seeds, other schedules.
FIRST = int(os.environ.get("GOSSIPFL_FIRST", "0"))


class Late(World):
    """Deadlines pass whenever the die says so."""

    def machine(self, i: int) -> Rounds:
        near = tuple(self.near[i])
        made = Rounds(self.rule, self.rows[i], near, ROUNDS + TAIL, {}, limits=Limits(deadline=1.0))
        onward = made._waiting.onward  # nobody leaps beyond the round in which the disasters end
        made._waiting.onward = lambda round, end: min(onward(round, end), max(round + 1, ROUNDS))  # type: ignore[method-assign]
        return made

    def disaster(self) -> bool:
        if self.die.random() < 0.5:
            return super().disaster()
        waiting = [
            i
            for i, m in enumerate(self.machines)
            if i not in self.left and i not in self.dead and m.phase is Phase.WAITING and m.round < ROUNDS
        ]
        if waiting:
            i = self.die.choice(waiting)
            self.happened["late"] += 1
            self.apply(i, self.machines[i].handle(Tick(), 1.0))
        return bool(waiting)

    def tell(self, i: int, event: Event) -> None:
        if all(m.round >= ROUNDS for m in self.machines):
            for m in self.machines:
                m._limited = False
        super().tell(i, event)


def explore(graph: str, rule: Rule, kinds: tuple[str, ...], schedules: int) -> Counter[str]:
    happened: Counter[str] = Counter()
    for seed in range(FIRST, FIRST + schedules):
        try:
            happened += Late(graph, seed, rule, kinds, 1 + seed % 16).run().happened
        except (AssertionError, KeyError) as error:
            raise AssertionError(f"{graph}, {kinds}, seed {seed}: {type(error).__name__} {error}") from error
    return happened


@pytest.mark.parametrize("graph", [*GRAPHS, *CHANGING])
@pytest.mark.parametrize("kinds", [(), ("exact",), ("exact", "old", "lost")], ids=["cuts", "exact", "any"])
def test_rounds_that_close_without_a_neighbor_lose_nothing(graph: str, kinds: tuple[str, ...]) -> None:
    happened = explore(graph, averaging.dpsgd(), kinds, SCHEDULES)
    assert happened["late"] > SCHEDULES / 4


def test_so_do_those_of_early_rules() -> None:
    assert explore("ring4", averaging.dpsgd_cta(), ("exact",), SCHEDULES)["late"]


def _forgets(self: Edge, through: int) -> None:
    """Payloads are let go of two rounds later, acknowledged or not."""
    for t in [t for t in self.out if t < through - 1]:
        del self.out[t]


def _at_emission(self: Edge, round: int, payload: object, weight: float) -> Message:
    """Decide when the payload is sent: what was decided is not kept by a checkpoint."""
    self.plan = self.up and not self.out
    return _EMIT(self, round, payload, weight)  # type: ignore[arg-type]


def _skips(self: Edge, message: Data | Nothing) -> bool:
    """A word that comes late for its round is taken for none."""
    return _RECEIVE(self, Nothing(message.round, message.counted) if message.round < self.sent else message)


_EMIT, _RECEIVE = Edge.emit, Edge.receive


@pytest.mark.parametrize(
    ("part", "instead"),
    [
        pytest.param("_drop", _forgets, id="payloads are kept until they are acknowledged"),
        pytest.param("emit", _at_emission, id="a decision is kept"),
        pytest.param("receive", _skips, id="what comes late counts"),
    ],
)
def test_each_part_of_the_protocol_is_needed(
    part: str, instead: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Edge, part, instead)

    with pytest.raises(AssertionError, match="seed"):
        explore("pair", averaging.dpsgd(), ("exact",), 200)
