"""Who is gone for good, as one node among machines believes it, and how word of that goes round.

Nobody there can know. A node turns its belief of a neighbor when the line to it has been down for a while,
and turns it back when the line stands; it tells all with whom it has a line, and they pass it on. How often
the belief of a node has been turned is its number: even, it lives; odd, it is gone; the highest number
holds. Whoever has a line to a node that is said to be gone, and that node itself, turn the number on at once:
a sign of life is worth more than its absence.

So the living believe the same after a while, and meanwhile they need not: an edge counts at both ends or at
neither (`exchange/detours.py`). They all come to be connected. Look at those who have heard of each other: of
all that they believe dead, the rule of `topology/rewire.py` makes edges on which these and everyone else but
the dead are connected. So if there is anyone else, one of them has an edge to somebody outside: who is dead
will be believed dead, and who lives will be met, and there is nobody outside any more.

A node to which only some others have no line is said to be gone by them, is not believed to be by the rest,
and is said to be again after twice the time, then four times, up to `RARELY`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from gossipfl.core.messages import Fate

#: The longest time between two words of the same node that others do not believe, in times of the first.
RARELY: Final = 64
#: Seconds of such a time at least.
LEAST: Final = 1.0


@dataclass(slots=True)
class _Absence:
    """The line to a node is down."""

    seconds: float = 0.0  # since then, or since others knew better
    times: int = 1  # how much longer it takes now than at first
    said: bool = False  # it is believed to be gone


class Fates:
    """What one node believes of all."""

    def __init__(self, node: int) -> None:
        self._node = node
        self._turns: dict[int, int] = {}
        self._absences: dict[int, _Absence] = {}

    @property
    def gone(self) -> frozenset[int]:
        """Who is believed to be gone for good."""
        return frozenset(j for j, turns in self._turns.items() if turns % 2)

    def told(self) -> list[Fate]:
        """What a node that is met has to hear."""
        return [Fate(j, turns) for j, turns in sorted(self._turns.items())]

    def hear(self, word: Fate, up: Collection[int]) -> list[Fate]:
        """Somebody says something of a node; what to pass on. up: those to whom this node has a line."""
        if word.turns <= self._turns.get(word.node, 0):
            return []
        self._turns[word.node] = word.turns
        if word.turns % 2 and (word.node == self._node or word.node in up):
            return [self._turn(word.node)]
        return [word]

    def look(self, up: Collection[int], down: Mapping[int, float], seconds: float) -> list[Fate]:
        """So many seconds have passed; what to tell everyone. up: those to whom this node has a line; down:
        those to whom it should have one, and after how many seconds they are believed to be gone."""
        words = [self._turn(j) for j in sorted({*up, self._node} & self.gone)]
        for j, absence in list(self._absences.items()):
            if j in up:
                del self._absences[j]
            elif j not in down:
                absence.seconds = 0.0
        for j, limit in sorted(down.items()):
            absence = self._absences.setdefault(j, _Absence())
            if self._turns.get(j, 0) % 2:
                absence.said, absence.seconds = True, 0.0
                continue
            if absence.said:  # others know better
                absence.said, absence.times = False, min(2 * absence.times, RARELY)
            absence.seconds += seconds
            if absence.times > 1:
                limit = absence.times * max(limit, LEAST)
            if absence.seconds > limit:
                words.append(self._turn(j))
                absence.said, absence.seconds = True, 0.0
        return words

    def _turn(self, node: int) -> Fate:
        self._turns[node] = turns = self._turns.get(node, 0) + 1
        return Fate(node, turns)
