"""A schedule that somebody else has made: its matrices as plain data, which cross processes as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import numpy as np

from gossipfl.topology.graph import Graph
from gossipfl.topology.mixing import Mixing

if TYPE_CHECKING:
    from gossipfl.topology.schedules import Schedule

#: Entries of all matrices up to which they are handed on: a megabyte of text.
MOST: Final = 20_000


class Turn(NamedTuple):
    """A round's matrix, and whether its graph is directed."""

    mixing: Mixing
    directed: bool


class Given:
    """The rounds of a schedule that comes back to its first after its last."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        self.n, self.length = turns[0].mixing.n, len(turns)
        self._turns = tuple(turns)

    @classmethod
    def of(cls, tables: Sequence[Mapping[str, Any]]) -> Self:
        """What `told` has told."""
        return cls(
            [
                Turn(
                    Mixing(
                        np.array(table["indptr"], np.int32),
                        np.array(table["indices"], np.int32),
                        np.array(table["data"], np.float64),
                    ),
                    table["directed"],
                )
                for table in tables
            ]
        )

    def graph(self, round: int) -> Graph:
        """Who takes whose value in this round."""
        mixing, directed = self._turns[round % self.length]
        off = mixing.owners != mixing.indices
        arcs = np.stack([mixing.indices[off].astype(np.int64), mixing.owners[off]], axis=1)
        return Graph("given", self.n, arcs[np.lexsort(arcs.T[::-1])], directed)

    def mixing(self, round: int) -> Mixing:
        """How much of whom each node takes in this round."""
        return self._turns[round % self.length].mixing


def told(schedule: Schedule) -> list[dict[str, object]] | None:
    """A schedule as plain data; None for one that never comes back to its first round, or is too long."""
    if schedule.length is None:
        return None
    mixings = [schedule.mixing(t) for t in range(schedule.length)]
    if sum(len(w.data) for w in mixings) > MOST:
        return None
    return [
        {
            "indptr": w.indptr.tolist(),
            "indices": w.indices.tolist(),
            "data": w.data.tolist(),
            "directed": schedule.graph(t).directed,
        }
        for t, w in enumerate(mixings)
    ]
