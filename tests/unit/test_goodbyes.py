"""Who is waited for, and who waits, when a node comes back after its neighbors have said goodbye."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gossipfl.config import load_config
from gossipfl.core.aggregate import Row
from gossipfl.core.events import Begin, Effect, Finished, PeerDown, PeerUp, Received, Send, Stepped
from gossipfl.core.exchange.line import Post
from gossipfl.core.exchange.machine import Machine
from gossipfl.core.exchange.pairwise import Pairwise
from gossipfl.core.exchange.push import Push, Terms
from gossipfl.core.exchange.rounds import Rounds
from gossipfl.core.exchange.standing import anew
from gossipfl.core.messages import LAST, Data, Hello, Message, Nothing, Welcome
from gossipfl.core.rules import averaging
from gossipfl.drivers import node as driver
from gossipfl.drivers.node import Node
from gossipfl.drivers.parting import PARTING
from gossipfl.drivers.place import REJOIN
from gossipfl.drivers.plan import plan
from gossipfl.errors import PeerLost

ALICE, BOB, CAROL = 0, 1, 2
ROUNDS = 2
THIRD = 1 / 3


def vector(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def rounds() -> Rounds:
    """Bob, between alice and carol."""
    row = Row(BOB, ((ALICE, THIRD), (BOB, THIRD), (CAROL, THIRD)))
    return Rounds(averaging.dpsgd(), lambda t: row, (ALICE, CAROL), ROUNDS, {})


def returner() -> Rounds:
    """Bob, who comes back as another incarnation."""
    m = rounds()
    m.resume(anew(1, inc=5))
    return m


def pairwise() -> Pairwise:
    return Pairwise(Post(BOB, 0, (ALICE, CAROL), 9, {}))


def push() -> Push:
    return Push(Post(BOB, 0, (ALICE, CAROL), 9, {}), Terms(to=(ALICE, CAROL), comes=(ALICE, CAROL)))


def told(m: Machine, peer: int, message: Message, session: int = 1) -> list[Effect]:
    return m.handle(Received(peer, session, message), 0.0)


def sends(effects: list[Effect]) -> list[Message]:
    return [e.message for e in effects if isinstance(e, Send)]


@pytest.mark.parametrize("made", [rounds, returner, pairwise, push])
@pytest.mark.parametrize("line", ["stands", "is over"])
def test_who_has_said_goodbye_is_not_waited_for(made: Any, line: str) -> None:
    # given a node that has met one of its two neighbors before it begins
    m = made()
    told(m, ALICE, Hello(1, 0, None, -1, -1, -1, {}))
    assert m.missing() == (CAROL,)
    # when that one says goodbye, and goes
    told(m, ALICE, Nothing(LAST, -1))
    if line == "is over":
        m.handle(PeerDown(ALICE, 1), 0.0)
    # then it waits for the other alone
    assert m.missing() == (CAROL,)
    assert m.ends[ALICE].done


@pytest.mark.parametrize("made", [rounds, returner, pairwise, push])
def test_who_goes_without_a_goodbye_is_waited_for(made: Any) -> None:
    m = made()
    told(m, ALICE, Hello(1, 0, None, -1, -1, -1, {}))
    m.handle(PeerDown(ALICE, 1), 0.0)
    assert m.missing() == (ALICE, CAROL)


def done(m: Rounds) -> list[Effect]:
    """All rounds, with two neighbors of which the last one dies in the last round."""
    told(m, ALICE, Hello(1, 0, None, -1, -1, -1, {}))
    m.handle(PeerUp(CAROL, 1), 0.0)
    told(m, CAROL, Welcome(1, 0, None, -1, -1, -1, {}))
    m.handle(Begin(vector(0.0)), 0.0)
    for t in range(ROUNDS):
        m.handle(Stepped(vector(0.0), vector(1.0)), 0.0)
        told(m, ALICE, Data(t, t - 1, (vector(0.0),)))
        if t + 1 < ROUNDS:
            told(m, CAROL, Data(t, t - 1, (vector(0.0),)))
    m.handle(PeerDown(CAROL, 1), 0.0)
    return told(m, ALICE, Nothing(LAST, ROUNDS - 1))


def finished(effects: list[Effect]) -> bool:
    return any(isinstance(e, Finished) for e in effects)


def test_who_is_done_stays_for_those_alone_who_have_something_to_count() -> None:
    # given a node that has made all rounds, while a payload of its is not counted at one neighbor
    m = rounds()
    assert not finished(done(m))
    # when the other has gone, who has all
    m.handle(PeerDown(ALICE, 1), 0.0)
    # then it is not one of those who are waited for
    assert m.missing() == (CAROL,)


def test_who_is_done_stays_for_one_that_comes_back_with_nothing_until_it_says_goodbye() -> None:
    # given the same
    m = rounds()
    done(m)
    # when that neighbor comes back as another incarnation, to which nothing of before is owed
    m.handle(PeerUp(CAROL, 2), 0.0)
    effects = told(m, CAROL, Welcome(2, 7, None, -1, -1, 0, {}), session=2)
    assert sends(effects) == [Nothing(LAST, 0)]
    # then it stays, since its model may be wanted, though not for ever
    assert not finished(told(m, CAROL, Nothing(0, -1), session=2))
    assert m.missing() == (CAROL,)
    # and goes when that one says goodbye
    assert finished(told(m, CAROL, Nothing(LAST, LAST - 1), session=2))
    assert m.missing() == ()


def test_who_is_done_does_not_stay_for_one_that_is_done_as_well() -> None:
    m = rounds()
    done(m)
    m.handle(PeerUp(CAROL, 2), 0.0)
    told(m, CAROL, Welcome(2, 7, None, -1, -1, LAST, {}), session=2)
    assert m.missing() == ()
    assert finished(told(m, CAROL, Nothing(LAST, LAST - 1), session=2))


# ---------------------------------------------------------------------- how long


class Alone(Node):
    """Bob's driver without anything around it but a clock."""

    def __init__(self, clock: Clock, machine: Machine, *, rounds: int, begun: float = 1.0) -> None:
        nodes = [
            {"name": n, "address": f"127.0.0.1:{i + 1}"} for i, n in enumerate(("alice", "bob", "carol"))
        ]
        self._plan = plan(load_config({"node": nodes, "swarm": {"rounds": 9}}))
        self._name, self.machine, self.rounds, self.begun = "bob", machine, rounds, begun
        self._place = SimpleNamespace(resume=rounds, borrows=True, instance="")  # type: ignore[assignment]
        self._abroad = SimpleNamespace(met=frozenset())  # type: ignore[assignment]
        self._met_since, self._borrowed, self._lender = clock.now, None, -1
        self.transport = SimpleNamespace(lines=dict)  # type: ignore[assignment]
        self.said: list[str] = []

    def _say_note(self, text: str) -> None:
        self.said.append(text)


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(driver, "time", SimpleNamespace(monotonic=lambda: self.now))


def greeted(peer: int | None) -> Rounds:
    m = returner()
    if peer is not None:
        told(m, peer, Hello(1, 0, None, -1, -1, LAST, {}))
        m.handle(PeerDown(peer, 1), 0.0)
    return m


def test_one_neighbor_that_is_done_is_enough_for_who_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    bob = Alone(clock, greeted(ALICE), rounds=3)
    clock.now += REJOIN
    assert not bob._enough()
    clock.now += 0.1
    assert bob._enough()
    bob._tell_alone()
    assert bob.said == ["alice has made all rounds, and carol is not there: waits for nobody any more"]


def test_who_has_met_nobody_waits_unless_it_has_no_round_to_make(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    going, over = Alone(clock, greeted(None), rounds=3), Alone(clock, greeted(None), rounds=9)
    clock.now += PARTING
    assert not going._enough() and not over._enough()
    clock.now += 0.1
    assert not going._enough() and over._enough()
    over._tell_alone()
    assert over.said == ["alice, carol are not there: waits for nobody any more"]


def test_who_gets_no_model_keeps_its_own_if_it_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    trained, none = Alone(clock, greeted(None), rounds=9), Alone(clock, greeted(None), rounds=9, begun=0.0)
    trained._borrow()
    assert trained.said == ["nobody has given it a model: it keeps its own"]
    with pytest.raises(PeerLost, match="bob: has no model, and nobody gives it one"):
        none._borrow()
