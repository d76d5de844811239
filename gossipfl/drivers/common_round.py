"""The round from which a swarm can go on: at each instant there is one of which every node has a checkpoint
on its disk, whatever is killed in it.

Nodes write checkpoints and let go of old ones by themselves, and where there is a deadline they do not wait
for each other: one may be hundreds of rounds ahead. So what somebody else knows of a node's disk is old, and
a round that all *had* may be gone from one of them before all have heard of it. It takes two steps.

    zygote -> nodes    pin     keep this round, which you all had a moment ago, beside the one before it
    node   -> zygote           what is on its disk, and the last pin of which it has heard
    zygote -> nodes    base    you all have it, and said so after you had heard: what is older may go

**Invariant.** Once a round has been told to be the base, there is at each instant a round that is on the disk
of every node that is not lost. For a node lets go of the base only when it hears of the next one. That is
told when all have said that they have it and keep it, and none lets go of it then: a line keeps its order, so
the pin after it comes after that base. A node whose process has ended, having made all rounds or to be
started again, keeps what it has, and the process that follows it is born with what was asked meanwhile. A
node that is lost is marked so on its disk before the others are asked without it.

Until the first base a node keeps its first checkpoint, too. Nodes that wait for each other have a round in
common in any case, since each keeps as many as one can be ahead of another.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from gossipfl.drivers.checkpoint import KEEP

Word = Mapping[str, int]


class Hold(NamedTuple):
    """What a node keeps for the others. None at all (among machines, and where nobody waits for anybody):
    each goes on from its own newest."""

    base: int = 0  # every node has it; 0: none is known to be such
    pin: int = 0  # asked of all beside it; 0: none is

    def told(self, word: Word) -> Hold:
        """After a word of the zygote."""
        if "base" in word:
            return Hold(word["base"], 0 if self.pin == word["base"] else self.pin)
        return Hold(self.base, word.get("pin", self.pin))


def stay(found: Sequence[int], hold: Hold | None, most: int) -> set[int]:
    """Which of a node's checkpoints (rounds, ascending) stay: the newest two, what it keeps for the others,
    and the newest of those that all may come to have; `most`, and one that is asked for."""
    newest = set(found[-KEEP:])
    if hold is None:
        return newest
    first = hold.base or min(found, default=0)
    later = [r for r in found if r > first]
    return ({first, hold.pin} & set(found)) | newest | set(later[-(most - 1) :])


class CommonRound:
    """The zygote's part: who has what, and what is asked of all. Its words are for every node that lives."""

    def __init__(self, nodes: Iterable[int]) -> None:
        """nodes: all that are not lost."""
        self.hold = Hold()  # what a process that is started now has to keep
        self._has: dict[int, frozenset[int]] = dict.fromkeys(nodes, frozenset())  # as far as they have said
        self._still: set[int] = set()  # nodes whose processes have ended: nothing goes from their disks
        self._sure: set[int] = set()  # those that have said since they were asked that they keep the pin
        self._asked = 0  # the last round that was

    def has(self, node: int, rounds: Collection[int], pin: int) -> list[Word]:
        """A node says what is on its disk, now that it keeps the last pin of which it has heard."""
        self._has[node] = frozenset(rounds)
        return [*self._go_on(node, pin == self.hold.pin)]

    def rests(self, node: int, rounds: Collection[int]) -> list[Word]:
        """A node's process has ended, the node is not lost, and this is on its disk."""
        self._still.add(node)
        return self.has(node, rounds, self.hold.pin)

    def returns(self, node: int, rounds: Collection[int]) -> list[Word]:
        """A node is about to be started again, with this on its disk: its process is born with `hold`."""
        self._still.discard(node)
        return self.has(node, rounds, self.hold.pin)

    def without(self, node: int) -> list[Word]:
        """A node is lost."""
        self._has.pop(node, None)
        return [*self._go_on(node, False)]

    def _go_on(self, node: int, sure: bool) -> Iterator[Word]:
        pin = self.hold.pin
        if pin not in self._has.get(node, {pin}):
            self.hold = Hold(self.hold.base)  # it has let go of it already: there will be a newer one
        elif sure:
            self._sure.add(node)
        while self._has:
            if not self.hold.pin:
                newest = max(frozenset.intersection(*self._has.values()), default=0)
                if newest <= self._asked:
                    return
                self._asked, self._sure = newest, set(self._still)
                self.hold = Hold(self.hold.base, newest)
                yield {"pin": newest}
            if not self._sure >= self._has.keys():
                return
            self.hold = Hold(self.hold.pin)
            yield {"base": self.hold.base}
