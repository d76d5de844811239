"""The rounds at whose start every node begins its rule anew, because some node came back without its exact
state: rules that carry sums (tracking, corrections, copies) would otherwise stay wrong for ever.

A reset is announced ahead and passed on from node to node, like the end of a run.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

#: Resets to come that a node remembers; more at a time mean that nodes restart faster than word travels.
MOST: Final = 8


class Word(Enum):
    """What word of a reset is to the node that hears it."""

    KNOWN = auto()
    NEWS = auto()
    LATE = auto()  # that round has begun here: another one is needed


class Resets:
    """What one node knows."""

    def __init__(self, ahead: tuple[int, ...] = (), last: int = -1) -> None:
        self.ahead, self.last = ahead, last  # rounds to come, ascending; the last one that is behind

    def hear(self, round: int, begun: int) -> Word:
        """Somebody says that all begin anew at the start of `round`; `begun` is the node's own newest."""
        if round in self.ahead or round <= self.last:
            return Word.KNOWN
        if round <= begun:
            return Word.LATE
        self.ahead = tuple(sorted({*self.ahead, round}))[-MOST:]
        return Word.NEWS

    def due(self, round: int) -> bool:
        """A round begins: does the rule begin anew with it? (Also where its own round was jumped over.)"""
        if not self.ahead:
            return False
        behind = [r for r in self.ahead if r <= round]
        if not behind:
            return False
        self.ahead, self.last = tuple(r for r in self.ahead if r > round), behind[-1]
        return True

    def told(self) -> tuple[int, ...]:
        """What a node that is met has to hear."""
        return ((self.last,) if self.last >= 0 else ()) + self.ahead
