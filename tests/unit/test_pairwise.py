"""When an asker stands still for a reply, and for how long."""

from __future__ import annotations

import pytest
import torch

from gossipfl.core.events import Begin, Effect, PeerDown, PeerUp, Received, Send, Shift, Tick, Train, Trained
from gossipfl.core.exchange.line import Post
from gossipfl.core.exchange.pairwise import SLICE, Pairwise
from gossipfl.core.messages import Answer, Ask, Decline, Message, Welcome

PEERS = (0, 2)
X = torch.zeros(3)


def trains(effects: list[Effect]) -> bool:
    return any(isinstance(effect, Train) for effect in effects)


def asks(effects: list[Effect]) -> list[tuple[int, int]]:
    return [(e.peer, e.message.number) for e in effects if isinstance(e, Send) and isinstance(e.message, Ask)]


def training() -> Pairwise:
    """A node in its first local phase."""
    node = Pairwise(Post(1, 0, PEERS, 9, {}))
    for peer in PEERS:
        node.handle(PeerUp(peer, 1), 0.0)
        node.handle(Received(peer, 1, Welcome(1, 0, None, -1, -1, -1, {})), 0.0)
    node.handle(Begin(X), 0.0)
    return node


@pytest.fixture
def asking() -> tuple[Pairwise, int, int]:
    """A node whose ask has had one local phase, which ended at 2.0, and no reply; whom it asks, and the ask's
    number."""
    node = training()
    first = node.handle(Trained(1.0), 1.0)
    assert trains(first)
    [(peer, number)] = asks(first)
    assert not trains(node.handle(Trained(1.0), 2.0)), "it stands still"
    return node, peer, number


def told(node: Pairwise, peer: int, message: Message) -> list[Effect]:
    return node.handle(Received(peer, 1, message), 2.001)


def test_it_trains_on_at_the_reply_and_asks_anew(asking: tuple[Pairwise, int, int]) -> None:
    node, peer, number = asking

    effects = told(node, peer, Answer(number, (X,)))

    assert trains(effects)
    assert len(asks(effects)) == 1
    assert node.deadline() is None


def test_who_is_declined_asks_the_next_and_then_nobody(asking: tuple[Pairwise, int, int]) -> None:
    node, peer, number = asking

    second = told(node, peer, Decline(number))
    assert [asked for asked, _ in asks(second)] == [PEERS[1 - PEERS.index(peer)]]
    assert not trains(second)
    [(other, number)] = asks(second)
    third = told(node, other, Decline(number))

    assert trains(third)


def test_it_trains_on_when_the_neighbor_is_lost(asking: tuple[Pairwise, int, int]) -> None:
    node, peer, _ = asking

    assert trains(node.handle(PeerDown(peer, 1), 2.001))


def test_after_a_while_it_trains_on_and_does_not_stand_still_for_that_ask_again(
    asking: tuple[Pairwise, int, int],
) -> None:
    node, peer, number = asking

    assert node.deadline() == 2.0 + SLICE
    assert trains(node.handle(Tick(), 2.0 + SLICE))
    assert node.deadline() is None
    assert trains(node.handle(Trained(1.0), 3.0)), "it has waited for this ask"
    told(node, peer, Answer(number, (X,)))
    assert len(asks(node.handle(Trained(1.0), 4.0))) == 1
    assert not trains(node.handle(Trained(1.0), 5.0)), "this is another"


def test_an_ask_that_comes_twice_is_answered_once() -> None:
    node = training()

    first, again = (told(node, PEERS[0], Ask(0, (X + 1,))) for _ in range(2))

    assert [type(effect) for effect in first] == [Send, Shift]
    assert again == []
