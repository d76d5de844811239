"""When to end early, decided by nobody in particular.

The first node that has seen enough names a round by whose end word of it can have reached everyone, over the
graphs of the rounds to come (it can derive them all), and tells its neighbours; each passes it on, and the
smallest number that is about wins. So all nodes end in the same round, at most the graph's diameter after the
one in which the first had enough; where lines were cut meanwhile, as soon as they hear of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from gossipfl.topology import Schedule


class Criteria(NamedTuple):
    """What is enough, for a node by itself."""

    metric: str  # of target and patience
    higher: bool  # is more of it better?
    target: float | None = None
    patience: int = 0  # evaluations without a better value; 0: off
    seconds: float = 0.0  # since the first round; 0: off


class Vigil:
    """One node's eye on its criteria."""

    def __init__(self, criteria: Criteria) -> None:
        self._criteria = criteria
        self._best: float | None = None
        self._stale = 0
        self._enough = False

    def kept(self) -> list[object]:
        """What it has seen, for a checkpoint."""
        return [self._best, self._stale]

    def restore(self, kept: Sequence[Any]) -> None:
        """Go on from what was kept."""
        self._best, self._stale = kept

    def enough(self, seconds: float, values: Mapping[str, object]) -> bool:
        """Has this node seen enough, for the first time? Asked after each round, with the values of its
        evaluation, if there was one; `seconds` since the first round."""
        if self._enough:
            return False
        limit = self._criteria.seconds
        value = values.get(self._criteria.metric)
        reached = isinstance(value, float) and self._reached(value)
        self._enough = reached or (limit > 0 and seconds >= limit)
        return self._enough

    def _reached(self, value: float) -> bool:
        criteria, sign = self._criteria, 1.0 if self._criteria.higher else -1.0
        if self._best is None or sign * value > sign * self._best:
            self._best, self._stale = value, 0
        else:
            self._stale += 1
        if criteria.target is not None and sign * value >= sign * criteria.target:
            return True
        return 0 < criteria.patience <= self._stale


def end_of(schedule: Schedule, node: int, rounds: int, early: bool, limit: int) -> int:
    """The number of rounds after which all nodes end, if `node` has seen enough after `rounds`: every node
    that can hear of it has by then, or `limit`. early: the payload of the next round is on its way."""
    n, at = schedule.n, rounds + early
    known = np.zeros(n, dtype=bool)
    known[node] = True
    still = 0  # rounds in which nobody new heard
    while at < limit and not known.all() and (schedule.length is None or still < schedule.length):
        w = schedule.mixing(at)
        before = int(known.sum())
        known[w.owners[known[w.indices]]] = True
        still = still + 1 if int(known.sum()) == before else 0
        at += 1
    return max(rounds + 1, at - still)
