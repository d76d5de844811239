"""The exchange `rounds` under deadlines: rounds close without neighbors that live, at random, while lines are
cut anywhere and nodes come back with their exact state, a stale one, or none.

The laws are those of `test_restart_laws`. When the disasters are over deadlines are too, so that every edge
has to be in use again at the end.

What each part of the protocol is needed for is in `test_ablations`.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from gossipfl.core.events import Event, PeerDown, Received, Tick
from gossipfl.core.exchange.edges import Edges
from gossipfl.core.exchange.rounds import Phase, Rounds
from gossipfl.core.exchange.waiting import Limits
from gossipfl.core.messages import Hello
from gossipfl.core.rules import averaging
from gossipfl.core.rules.base import Rule
from tests.laws.test_restart_laws import CHANGING, GRAPHS, ROUNDS, TAIL, World

#: Schedules a graph and kind of disaster; more of them: GOSSIPFL_SCHEDULES=20000.
SCHEDULES = int(os.environ.get("GOSSIPFL_SCHEDULES", "60"))
#: Where the schedules begin: other seeds, other schedules.
FIRST = int(os.environ.get("GOSSIPFL_FIRST", "0"))


class Late(World):
    """Deadlines pass whenever the die says so."""

    def machine(self, i: int) -> Rounds:
        near = tuple(self.near[i])
        made = Rounds(self.rule, self.rows[i], near, ROUNDS + TAIL, {}, limits=Limits(deadline=1.0))
        onward = made._waiting.onward  # nobody leaps beyond the round in which the disasters end
        made._waiting.onward = lambda round, end: min(onward(round, end), max(round + 1, self.over))  # type: ignore[method-assign]
        return made

    def disaster(self) -> bool:
        if self.die.random() < 0.5:
            return super().disaster()
        waiting = [
            i
            for i, m in enumerate(self.machines)
            if i not in self.left and i not in self.dead and m.phase is Phase.WAITING and m.round < self.over
        ]
        if waiting:
            i = self.die.choice(waiting)
            self.happened["late"] += 1
            self.apply(i, self.machines[i].handle(Tick(), 1.0))
        return bool(waiting)

    def tell(self, i: int, event: Event) -> None:
        if all(m.round >= self.over for m in self.machines):
            for m in self.machines:
                m._limited = False
        super().tell(i, event)


class Ending(Late):
    """Disasters to the very end: what comes too late for the last round is taken in before a node leaves."""

    over = ROUNDS + TAIL
    rests = True


def explore(
    graph: str, rule: Rule, kinds: tuple[str, ...], schedules: int, world: type[Late] = Late
) -> Counter[str]:
    happened: Counter[str] = Counter()
    for seed in range(FIRST, FIRST + schedules):
        try:
            happened += world(graph, seed, rule, kinds, 1 + seed % 16).run().happened
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


@pytest.mark.parametrize("graph", GRAPHS)
def test_disasters_to_the_very_end_lose_nothing(graph: str) -> None:
    """What is late for the last round counts before a node leaves. (A stale state that comes back when all
    have left is found out by nobody, so there is none here.)"""
    assert explore(graph, averaging.dpsgd(), ("exact",), SCHEDULES, Ending)["late"] > SCHEDULES / 4


def test_who_is_gone_stays_so_whatever_it_sent_before() -> None:
    """Word of its end may be quicker than the greeting that it sent: when that line closes nobody is waited
    for."""
    ends = Edges([1], False, {})

    ends.down(PeerDown(1, None, gone=True), 3)
    ends.greeted(Received(1, 5, Hello(5, 0, None, -1, -1, -1)))
    assert ends.missing(around=False) == () and not ends.by_peer[1].gone  # what it still sends is taken in

    ends.down(PeerDown(1, 5), 3)
    assert ends.missing(around=False) == () and ends.by_peer[1].gone
