"""The extra edges of one node, where nodes that die are got around (`algorithm.on_death = "rewire"`).

Which there are, and what they weigh, says `topology/rewire.py`. What a node believes of who is dead decides
only whether an edge rests: one that it does not want (any more, or not yet: the other end may have heard of
a death first) carries none each round, so it counts at neither end. So nobody needs to agree with anyone,
and no edge is ever closed.

An edge that is opened in the middle of a round begins with the next: of the rounds before, this end has
said none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from gossipfl.core.aggregate import Row
from gossipfl.core.exchange.edge import Edge
from gossipfl.core.exchange.edges import Edges

if TYPE_CHECKING:
    from gossipfl.topology.rewire import Rewiring


class Detours:
    """What one node makes of the news of who is gone. `row(t)`: its row of the mixing matrix as it was."""

    def __init__(self, rewiring: Rewiring, row: Callable[[int], Row], ends: Edges) -> None:
        self._rewiring, self._base, self._ends = rewiring, row, ends
        self._node = row(0).node
        self._own = frozenset((*ends.by_peer, self._node))
        self.dead: frozenset[int] = frozenset()  # as far as this node knows
        self._wanted: frozenset[int] = frozenset()
        self._row: Row | None = None

    def row(self, round: int) -> Row:
        """The row with the extra edges that there were when the round began. What an edge that does not count
        weighs stays with the node, so all of them can stand in it."""
        return self._base(round) if self._row is None else self._row

    def turn(self) -> None:
        """A round begins: the edges that have been opened since the last one did are part of it."""
        extra = [j for j, edge in self._ends.by_peer.items() if edge.extra]
        if not extra or (self._row is not None and len(self._row.weights) == len(self._own) + len(extra)):
            return
        base = self._base(0)  # W is the same in every round
        given = {j: self._rewiring.weight(self._node, j) for j in extra}
        weights = dict(base.weights) | given
        weights[self._node] = base.weight(self._node) - sum(given.values())
        self._row = replace(base, weights=tuple(sorted(weights.items())))

    def lost(self, dead: Collection[int], said: int) -> None:
        """These nodes are gone for good, and no others. said: the last round of which no word is to come."""
        self.dead = frozenset(dead)
        self._wanted = frozenset(self._rewiring.peers(self._node, dead))
        for j in self._wanted:
            self.meet(j, said)
        for j, edge in self._ends.by_peer.items():
            if edge.extra:
                edge.wanted = j in self._wanted

    def back(self, peer: int, said: int) -> None:
        """This node has a line to another, which is there again, if it was gone: what is around it carries
        nothing any more from the next decision on, since its own edge may."""
        if peer in self.dead:
            self.lost(self.dead - {peer}, said)

    def meet(self, peer: int, said: int) -> None:
        """Have an end of an edge to this node, whether it is wanted or not."""
        if peer in self._own or peer in self._ends.by_peer or not 0 <= peer < self._rewiring.n:
            return
        edge = Edge(peer)
        edge.heard = edge.counted = edge.acked = edge.sent = said
        self.add(edge)

    def add(self, edge: Edge) -> None:
        """An end of an extra edge, as it is."""
        edge.extra, edge.wanted = True, edge.peer in self._wanted
        found = self._ends.by_peer
        found[edge.peer] = edge
        for j in sorted(found):  # ascending, as it is everywhere
            found[j] = found.pop(j)
