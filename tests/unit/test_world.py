"""Virtual time: what happens first, and that it does not matter in which order nodes are looked at."""

from __future__ import annotations

from collections import defaultdict

import pytest

from gossipfl.config import load_config
from gossipfl.core.events import Event, Received
from gossipfl.core.messages import Nothing
from gossipfl.drivers.plan import plan
from gossipfl.drivers.world import Traveller, World


class Diary(World):
    """Nodes that only write down what happens to them."""

    def __init__(self, **network: object) -> None:
        config = {"swarm": {"nodes": 4}, "train": {"task": "consensus"}, "network": network}
        super().__init__(plan(load_config(config)), lambda record: None)
        self.travellers = [Traveller() for _ in range(4)]
        self.heard: defaultdict[int, list[tuple[float, int]]] = defaultdict(list)

    def hear(self, node: int, event: Event, now: float) -> None:
        assert isinstance(event, Received)
        assert isinstance(event.message, Nothing)
        self.heard[node].append((now, event.message.round))
        if event.message.round == 100:  # an answer in no time, to another node
            self.say(now, (node + 1) % 4, 101)

    def say(self, at: float, node: int, number: int) -> None:
        self.put(at, node, Received((node + 1) % 4, 1, Nothing(number, -1)))


@pytest.mark.parametrize("one_by_one", [True, False])
def test_a_node_s_events_happen_by_time_and_at_one_time_as_they_were_put(one_by_one: bool) -> None:
    world = Diary()
    for number, (at, node) in enumerate(
        [(2.0, 3), (1.0, 3), (2.0, 0), (1.0, 0), (2.0, 3), (1.0, 3), (1.0, 0)]
    ):
        world.say(at, node, number)

    if one_by_one:
        while world.going:
            world.pop()
    else:
        assert world.flow() == 2.0

    assert world.heard[3] == [(1.0, 1), (1.0, 5), (2.0, 0), (2.0, 4)]
    assert world.heard[0] == [(1.0, 3), (1.0, 6), (2.0, 2)]


@pytest.mark.parametrize("one_by_one", [True, False])
def test_what_is_put_at_the_present_time_happens_before_anything_later(one_by_one: bool) -> None:
    world = Diary()
    world.say(1.0, 2, 100)
    world.say(2.0, 3, 7)
    world.say(1.0, 1, 100)

    if one_by_one:
        while world.going:
            world.pop()
    else:
        world.flow()

    assert world.heard == {2: [(1.0, 100), (1.0, 101)], 1: [(1.0, 100)], 3: [(1.0, 101), (2.0, 7)]}


def test_nothing_happens_any_more_when_the_run_is_halted() -> None:
    world = Diary()

    def halt(now: float) -> None:
        world.halted = True

    world.say(1.0, 0, 1)
    world.put(1.0, 1, halt)
    world.say(1.0, 2, 2)
    world.say(2.0, 0, 3)

    assert world.flow() == 1.0
    assert world.heard == {0: [(1.0, 1)]}
