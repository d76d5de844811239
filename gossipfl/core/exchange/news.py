"""What passes from node to node and concerns all: when the swarm ends, and when all begin their rule anew."""

from __future__ import annotations

from gossipfl.core.events import Effect, Note
from gossipfl.core.exchange.edge import Edge
from gossipfl.core.exchange.edges import Edges
from gossipfl.core.exchange.resets import Resets, Word
from gossipfl.core.messages import LAST, Reset, Stop


class News:
    """What one node knows, and passes on."""

    def __init__(self, ends: Edges) -> None:
        self.stop = LAST  # the swarm ends after so many rounds, as far as is known
        self.resets = Resets()
        self._ends = ends

    def halt(self, round: int, heard_from: int = -1) -> list[Effect]:
        """The swarm ends after `round` rounds, if nothing earlier is known."""
        if round >= self.stop:
            return []
        self.stop = round
        return self._ends.spread(Stop(round), heard_from)

    def reset(self, round: int, begun: int, heard_from: int = -1) -> list[Effect]:
        """All begin their rule anew at the start of `round`; this node has begun `begun`. Late: whoever
        drives this machine has to name another round."""
        match self.resets.hear(round, begun):
            case Word.KNOWN:
                return []
            case Word.LATE:
                return [Note("late", heard_from, round=round)]
            case Word.NEWS:
                note = Note("reset", heard_from, "all begin their rule anew in this round", round)
                return [note, *self._ends.spread(Reset(round), heard_from)]

    def told(self, edge: Edge) -> list[Effect]:
        """What a neighbour that is met has to hear."""
        effects = self._ends.say(edge, Stop(self.stop)) if self.stop < LAST else []
        for round in self.resets.told():
            effects += self._ends.say(edge, Reset(round))
        return effects
