"""Deadlines of the exchange `rounds`: what a round waits for, who is slow, and where a slow node goes on."""

from __future__ import annotations

import pytest
import torch

from gossipfl.core.aggregate import Row
from gossipfl.core.events import Adopt, Begin, Effect, Note, Received, Send, Stepped, Tick
from gossipfl.core.exchange.rounds import Rounds
from gossipfl.core.exchange.waiting import PROBATION, STEADY, Limits
from gossipfl.core.messages import LAST, Data, Hello, Message, Nothing
from gossipfl.core.rules import averaging

ONE = torch.ones(1, dtype=torch.float64)


class Node:
    """Node 0 of a star, whose neighbors are whoever speaks; its clock is told."""

    def __init__(self, limits: Limits, neighbors: int = 2, rounds: int = 100) -> None:
        weight = 1 / (neighbors + 1)
        row = Row(0, tuple((j, weight) for j in range(neighbors + 1)))
        peers = tuple(range(1, neighbors + 1))
        self.machine = Rounds(averaging.dpsgd(), lambda t: row, peers, rounds, {}, limits=limits)
        self.now = 0.0
        for j in peers:
            self.told(j, Hello(1, 0, None, -1, -1, -1, {}))
        self.effects = self.machine.handle(Begin(ONE), self.now)

    def told(self, peer: int, message: Message) -> list[Effect]:
        return self.machine.handle(Received(peer, 1, message), self.now)

    def data(self, peer: int, round: int, value: float = 1.0) -> list[Effect]:
        return self.told(peer, Data(round, round - 1, (ONE * value,)))

    def step(self, after: float = 1.0) -> list[Effect]:
        """Its own local phase, of so many seconds."""
        self.now += after
        return self.machine.handle(Stepped(ONE, ONE), self.now)

    def tick(self) -> list[Effect]:
        """Wait until the deadline."""
        deadline = self.machine.deadline()
        assert deadline is not None
        self.now = deadline
        return self.machine.handle(Tick(), self.now)


def closed(effects: list[Effect]) -> bool:
    return any(isinstance(e, Adopt) for e in effects)


def notes(effects: list[Effect], kind: str) -> list[int]:
    return [e.peer for e in effects if isinstance(e, Note) and e.kind == kind]


def words(effects: list[Effect], peer: int) -> list[tuple[type[Message], int]]:
    return [
        (type(e.message), e.message.round)
        for e in effects
        if isinstance(e, Send) and e.peer == peer and isinstance(e.message, Data | Nothing)
    ]


def test_without_a_deadline_a_neighbor_that_lives_is_waited_for() -> None:
    node = Node(Limits())
    node.step()

    assert node.machine.deadline() is None
    assert not closed(node.machine.handle(Tick(), 1e9))


def test_the_deadline_counts_from_the_nodes_own_step_and_late_payloads_come_in_as_corrections() -> None:
    node = Node(Limits(deadline=0.5))
    node.step(after=3.0)
    node.data(1, 0)
    assert node.machine.deadline() == 3.5

    node.now = 3.4
    assert not closed(node.machine.handle(Tick(), node.now))
    effects = node.tick()
    assert closed(effects) and notes(effects, "skip") == [2]

    assert words(node.step(), 2) == [(Nothing, 1)]  # the edge has something open, and rests
    node.data(1, 1)
    effects = node.data(2, 0, value=4.0)
    assert not closed(effects)  # it is one round behind, and waited for
    effects = node.tick()
    assert notes(effects, "correction") == [2]
    [adopt] = [e for e in effects if isinstance(e, Adopt)]
    assert float(adopt.x) == pytest.approx(1 + (4 - 1) / 3)


def test_who_is_two_rounds_behind_is_told_as_slow_and_costs_no_more_deadlines() -> None:
    node = Node(Limits(deadline=0.5))
    told: list[int] = []
    waited = 0.0
    for round in range(10):
        node.data(1, round)
        effects = node.step()
        if not closed(effects):
            before = node.now
            effects += node.tick()
            waited += node.now - before
        told += notes(effects, "slow")

    assert told == [2] and waited == 1.0


def test_a_slow_neighbor_that_makes_its_rounds_is_waited_for_again() -> None:
    node = Node(Limits(deadline=0.5))
    effects: list[Effect] = []
    for round in range(3 + 2 * PROBATION):
        node.data(1, round)
        if round >= 3:  # three rounds behind, and no slower
            effects += node.told(2, Nothing(round - 3, -1))
        effects += node.step()
        if node.machine.deadline() is not None:
            effects += node.tick()
    assert notes(effects, "timely") == [2]

    node.data(1, 3 + 2 * PROBATION)
    assert not closed(node.step())


@pytest.mark.parametrize(("quorum", "speak", "closes"), [(2, 1, False), (2, 2, True), (9, 2, False)])
def test_a_quorum_is_waited_for_beyond_the_deadline(quorum: int, speak: int, closes: bool) -> None:
    node = Node(Limits(deadline=0.5, quorum=quorum), neighbors=3)
    node.step()
    for j in range(1, speak + 1):
        node.data(j, 0)

    assert closed(node.tick()) == closes
    assert node.machine.deadline() is None or closes
    assert closes or closed([e for j in (2, 3) for e in node.data(j, 0)])


def test_patience_is_a_multiple_of_the_median_round_without_the_wait_for_stragglers() -> None:
    node = Node(Limits(patience=0.25), neighbors=3)
    for round in range(3):  # nothing is known yet: waited for, however long
        node.step(after=2.0)
        assert node.machine.deadline() is None
        for j in (1, 2):
            node.data(j, round)
        node.now += 50.0
        assert closed(node.data(3, round))

    node.step(after=7.0)
    assert node.machine.deadline() == node.now + 0.5  # a quarter of 2 s

    both = Node(Limits(deadline=0.1, patience=0.25))
    both.step()
    assert both.machine.deadline() == pytest.approx(1.1)


def test_an_edge_that_rests_too_much_is_told_of_once() -> None:
    node = Node(Limits(deadline=0.5))
    told: list[int] = []
    for round in range(60):
        node.data(1, round)
        effects = node.step()
        told += notes(effects if closed(effects) else node.tick(), "rest")

    assert told == [2]


def test_a_slow_node_goes_on_where_its_neighbors_will_be_and_says_none_for_what_it_leaves_out() -> None:
    node = Node(Limits(deadline=0.5))
    for round in range(10):
        node.told(1, Nothing(round, -1))
    node.data(2, 0)

    effects = node.step()

    assert closed(effects) and node.machine.round == 11  # 1 is in round 10, and rests
    assert words(effects, 1)[-1] == words(effects, 2)[-1] == (Nothing, 10)


@pytest.mark.parametrize(
    "heard",
    [
        pytest.param([[0], [0, 10]], id="who has left out rounds itself"),
        pytest.param([[0], list(range(STEADY))], id="who is only a little ahead"),
    ],
)
def test_a_node_does_not_follow(heard: list[list[int]]) -> None:
    node = Node(Limits(deadline=0.5))
    for peer, rounds in enumerate(heard, start=1):
        for round in rounds:
            node.told(peer, Nothing(round, -1))

    assert closed(node.step()) and node.machine.round == 1


def test_who_sees_a_neighbor_at_the_end_is_at_its_own_end() -> None:
    node = Node(Limits(deadline=0.5), rounds=20)
    for round in range(20):
        node.told(1, Nothing(round, -1))
    node.told(1, Nothing(LAST, -1))
    node.data(2, 0)

    node.step()

    assert node.machine.round == 20
