"""What a node among machines does about those who seem to be gone."""

from __future__ import annotations

import pytest
import torch

from gossipfl.config import Config, load_config
from gossipfl.core.events import Begin, Event, Note, PeerDown, PeerUp, Received
from gossipfl.core.exchange.rounds import Rounds
from gossipfl.core.messages import LAST, Fate, Message, Nothing, Welcome
from gossipfl.drivers.bypass import EVERY, Bypass
from gossipfl.drivers.plan import plan

GONE = 4.0


class Wires:
    """Stands in for a node's connections."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, Message]] = []
        self.dialled: set[int] = set()
        self.answering: set[int] = set()

    def send(self, peer: int, session: int, message: Message) -> None:
        self.sent.append((peer, message))

    def dial(self, peer: int, address: str) -> None:
        self.dialled.add(peer)

    def drop(self, peer: int) -> None:
        self.dialled.discard(peer)

    def answers(self, peer: int) -> bool:
        return peer in self.answering


class Stand:
    """Node `node` of a star or path, with lines to its neighbors, and a clock."""

    def __init__(self, graph: str, node: int, n: int = 5, hidden: int = -1) -> None:
        peers = [
            {"name": f"n{i}", "address": "" if i == hidden else f"127.0.0.1:{7000 + i}"} for i in range(n)
        ]
        keys: dict[str, object] = {"topology.graph": graph, "algorithm.on_death": "rewire", "node": peers}
        self.config: Config = load_config({**keys, "wire.gone": GONE, "wire.hang": 20.0})
        made = plan(self.config)
        rows = made.rows(node)
        self.machine = Rounds(made.recipe.rule, rows, made.near(node), 99, {}, rewiring=made.rewiring)
        self.wires, self.said, self.now = Wires(), list[str](), 0.0
        self.bypass = Bypass(node, self.config, self.machine, self.wires, self.handle, self.said.append)  # type: ignore[arg-type]
        for j in made.near(node):
            self.meet(j)
        self.handle(Begin(torch.zeros(2)))

    def handle(self, event: Event) -> None:
        self.machine.handle(event, self.now)

    def meet(self, peer: int) -> None:
        self.handle(PeerUp(peer, 1))
        self.handle(Received(peer, 1, Welcome(1, 0, 0, -1, -1, -1, {})))

    def wait(self, seconds: float) -> None:
        for _ in range(int(seconds / EVERY)):
            self.now += EVERY
            self.bypass.look(self.now)


def test_a_neighbor_is_gone_after_a_while_and_whoever_is_next_in_the_ring_is_dialled() -> None:
    at = Stand("star", 1)
    at.handle(PeerDown(0, 1))

    at.wait(GONE)
    assert not at.wires.dialled
    at.wait(2 * EVERY)

    assert at.said == ["n0 is taken to be gone for good: those who live go around"]
    assert at.wires.dialled == {2, 4}


def test_the_end_that_does_not_dial_by_rule_does_so_after_a_while() -> None:
    at = Stand("star", 4)
    at.handle(PeerDown(0, 1))
    at.wait(GONE + 2 * EVERY)
    assert not at.wires.dialled

    at.wait(2.0)

    assert at.wires.dialled == {1, 3}


def test_whoever_does_not_answer_is_gone_too_but_not_who_is_only_busy() -> None:
    at = Stand("star", 1)
    at.handle(PeerDown(0, 1))
    at.wait(GONE + 2 * EVERY)
    at.wires.answering = {4}  # somebody is there, and has not said a word yet

    at.wait(GONE + 4.0)

    assert at.said[1:] == ["n2 is taken to be gone for good: those who live go around"]
    assert at.wires.dialled == {3, 4}
    at.wait(20.0)
    assert any("n4" in said for said in at.said)  # it hangs


def test_one_that_nobody_can_dial_is_waited_for_longer() -> None:
    at = Stand("star", 1, hidden=2)
    at.handle(PeerDown(0, 1))
    at.wait(GONE + 2 * EVERY)
    assert at.wires.dialled == {4}

    at.wait(2 * GONE)
    assert not any("n2" in said for said in at.said)
    at.wait(GONE + 4.0)
    assert any("n2" in said for said in at.said)


def test_who_is_back_is_met_and_the_edges_around_it_are_not_wanted_from_then_on() -> None:
    at = Stand("star", 1)
    at.handle(PeerDown(0, 1))
    at.wait(GONE + 2 * EVERY)
    at.meet(2)
    assert at.machine.edges[2].wanted

    at.meet(0)

    assert not at.machine.edges[2].wanted and at.machine.dead == frozenset()
    at.wires.sent.clear()
    at.wait(2 * EVERY)
    assert at.said[-1] == "n0 is back"
    assert (2, Fate(0, 2)) in at.wires.sent and at.wires.dialled == {2}  # 4 has never been met


def test_who_has_left_early_is_gone_at_once_and_who_is_done_is_not() -> None:
    at = Stand("path", 2)
    at.handle(Received(1, 1, Nothing(LAST, LAST)))
    at.handle(Received(3, 1, Nothing(LAST, 98)))
    at.handle(PeerDown(1, 1))
    at.handle(PeerDown(3, 1))

    at.wait(2 * GONE)

    assert at.said[0] == "n1 is taken to be gone for good: those who live go around"
    assert at.machine.dead == {1} | ({0} if len(at.said) > 1 else set())


@pytest.mark.parametrize("word", [Fate(5, 1), Fate(-1, 1), Fate(3, 2**33)])
def test_what_cannot_be_said_is_rejected(word: Fate) -> None:
    at = Stand("star", 1)

    note = at.bypass.hear(0, word)

    assert isinstance(note, Note) and note.kind == "rejected"
    assert not at.wires.sent


def test_a_line_that_begins_to_stand_carries_all_that_is_believed() -> None:
    at = Stand("star", 1)
    assert at.bypass.hear(0, Fate(3, 1)) is None
    assert at.wires.sent == []  # there is nobody else to tell

    at.meet(2)
    at.bypass.met(2)

    assert at.wires.sent == [(2, Fate(3, 1))]
