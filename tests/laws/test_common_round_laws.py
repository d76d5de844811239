"""Laws of the round from which a swarm can go on: in whatever order checkpoints are written, words arrive and
processes are killed, there is one of which all have a checkpoint; and each part of it is needed for that."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossipfl.drivers.common_round import CommonRound, Hold, Word, stay

MOST = 4
UNTIMED = settings(deadline=None, max_examples=300)


class Broken(Exception):
    """The nodes have no round in common."""


class Node:
    """What a node has on its disk, and the two directions of its line."""

    def __init__(self) -> None:
        self.round = 0
        self.disk: set[int] = set()
        self.hold = Hold()
        self.up: deque[tuple[list[int], int]] = deque()
        self.down: deque[Word] = deque()
        self.alive = self.heard = True  # its process; and that is known, if not
        self.fate = ""  # how it ended: done, away or lost


class World:
    """A zygote, and nodes of which the first is slow: it goes on where the others are, who never wait."""

    def __init__(self, n: int, seed: int) -> None:
        self.draw = np.random.default_rng(seed)
        self.common = self.zygote(n)
        self.nodes = [Node() for _ in range(n)]

    # ------------------------------------------------------------------ what is taken away below

    def zygote(self, n: int) -> CommonRound:
        return CommonRound(range(n))

    def told(self, node: Node, word: Word) -> Hold:
        return node.hold.told(word)

    def born(self) -> Hold:
        return self.common.hold

    def said(self, pin: int) -> int:
        return pin

    def done(self, i: int) -> list[Word]:
        return self.common.rests(i, self.nodes[i].disk)

    # ------------------------------------------------------------------ what happens

    def act(self) -> None:
        i = int(self.draw.integers(len(self.nodes)))
        node, die = self.nodes[i], self.draw.random()
        if not node.alive:
            if node.up:
                self.hear(i)
            elif not node.heard:
                self.end(i)
            elif node.fate == "away" and die < 0.3:
                self.restart(i)
        elif die < 0.25:
            if i > 0 or self.draw.random() < 0.2:
                self.save(i)
        elif die < 0.65 and node.up:
            self.hear(i)
        elif die < 0.96 and node.down:
            self.deliver(i)
        elif die > 0.985:
            self.kill(i)
        self.check()

    def save(self, i: int, round: int = 0) -> None:
        """A checkpoint is written, old ones go one by one, and that is said; a kill may come in between."""
        node = self.nodes[i]
        front = max(other.round for other in self.nodes)
        node.round = round or (max(front, node.round + 1) if i == 0 else node.round + 1)
        node.disk.add(node.round)
        for old in sorted(node.disk - stay(sorted(node.disk), node.hold, MOST)):
            node.disk.remove(old)
            if not round and self.draw.random() < 0.01:
                self.kill(i)
                return
        self.say(node)

    def say(self, node: Node) -> None:
        node.up.append((sorted(node.disk), node.hold.pin))

    def hear(self, i: int) -> None:
        rounds, pin = self.nodes[i].up.popleft()
        self.send(self.common.has(i, rounds, self.said(pin)))

    def send(self, words: list[Word]) -> None:
        for node in self.nodes:
            if node.alive:
                node.down.extend(words)

    def deliver(self, i: int) -> None:
        node = self.nodes[i]
        word = node.down.popleft()
        node.hold = self.told(node, word)
        if "pin" in word:
            node.up.append((sorted(node.disk), word["pin"]))

    def kill(self, i: int) -> None:
        node = self.nodes[i]
        node.alive = node.heard = False
        node.down.clear()
        fates = ["away", "away", "done", "lost"]
        node.fate = str(self.draw.choice(fates if len(self.members()) > 2 else ["away"]))

    def end(self, i: int) -> None:
        node = self.nodes[i]
        node.heard = True
        match node.fate:
            case "lost":
                self.send(self.common.without(i))
            case "done":
                self.send(self.done(i))
            case _:
                self.send(self.common.rests(i, node.disk))

    def restart(self, i: int) -> None:
        node = self.nodes[i]
        self.send(self.common.returns(i, node.disk))
        node.alive, node.hold, node.fate = True, self.born(), ""

    # ------------------------------------------------------------------ what holds

    def members(self) -> list[Node]:
        return [node for node in self.nodes if not (node.fate == "lost" and node.heard)]

    def check(self) -> None:
        if self.common.hold.base and not set.intersection(*(node.disk for node in self.members())):
            raise Broken

    def settle(self) -> None:
        """All that is under way arrives, and who is away comes back."""
        while any(node.up or node.down or not node.heard or node.fate == "away" for node in self.nodes):
            for i, node in enumerate(self.nodes):
                while node.up:
                    self.hear(i)
                if not node.alive and not node.heard:
                    self.end(i)
                if node.fate == "away":
                    self.restart(i)
                while node.down:
                    self.deliver(i)
            self.check()


@UNTIMED
@given(st.integers(2, 5), st.integers(0, 2**32))
def test_there_is_always_a_round_that_all_have_and_it_comes_to_be_the_newest(n: int, seed: int) -> None:
    world = World(n, seed)
    for _ in range(400):
        world.act()

    # and: where all make the same rounds again, what is older than the newest two goes
    world.settle()
    living = [i for i, node in enumerate(world.nodes) if node.alive]
    newest = max(node.round for node in world.nodes)
    for round in (newest + 1, newest + 2, newest + 3):
        for i in living:
            world.save(i, round)
        world.settle()
    if len(living) == len(world.members()):
        assert world.common.hold == Hold(newest + 3)
        assert all(world.nodes[i].disk >= {newest + 2, newest + 3} for i in living)
        assert all(len(world.nodes[i].disk) <= 3 for i in living)
    assert all(len(node.disk) <= MOST + 1 for node in world.nodes)


class Hasty(World):
    """Tells what all had to be the base at once."""

    def zygote(self, n: int) -> CommonRound:
        class Zygote(CommonRound):
            def _go_on(self, node: int, sure: bool) -> Iterator[Word]:
                for word in super()._go_on(node, sure):
                    yield word
                    self._sure = set(self._has)

        return Zygote(range(n))


class Early(World):
    """Takes what was said before a node heard of the pin for an answer to it."""

    def said(self, pin: int) -> int:
        return self.common.hold.pin


class Careless(World):
    """Nodes do not keep what is asked for."""

    def told(self, node: Node, word: Word) -> Hold:
        return node.hold._replace(base=word.get("base", node.hold.base))


class Forgetful(World):
    """A process that follows another one is not told what that had to keep."""

    def born(self) -> Hold:
        return Hold()


class Unfinished(World):
    """Nodes that have made all rounds do not count any more."""

    def done(self, i: int) -> list[Word]:
        return self.common.without(i)


@pytest.mark.parametrize("without", [Hasty, Early, Careless, Forgetful, Unfinished])
def test_without_any_part_of_it_there_is_none_once(without: type[World]) -> None:
    def breaks(seed: int) -> bool:
        world = without(3, seed)
        try:
            for _ in range(400):
                world.act()
        except Broken:
            return True
        return False

    assert any(breaks(seed) for seed in range(400))
