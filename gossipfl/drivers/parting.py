"""How long a node that is done waits for neighbors that are not there.

Nobody says of who hangs, or is on another machine, that it is gone for good: after a while, it is. The while
begins anew with each absence, since a line that breaks is dialled again, and when a quarantine is over, since
who is left alone cannot come sooner. What was counted at one end alone would stay so if it were given up
before. All absences of a neighbor together last no longer than the longest quarantine, so that nobody is kept
for ever by one that is left alone again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from gossipfl.core.quarantine import LONGEST

#: Seconds that a neighbor whose line is down is waited for by a node that is done.
PARTING: Final = 30.0


class Parting:
    """Whom a node still waits for, after its last round."""

    def __init__(self) -> None:
        self._since: dict[int, float] = {}  # who is missing, and since when
        self._before: dict[int, float] = {}  # seconds of each one's absences that are over

    def given_up(self, missing: Iterable[int], apart: Callable[[int], float], now: float) -> list[int]:
        """Who is gone for good by now, of those that are missing; to be asked again and again.

        apart: when the last quarantine between this node and one of them is over.
        """
        since = {j: self._since.get(j, now) for j in missing}
        for j in self._since.keys() - since.keys():
            self._before[j] = self._before.get(j, 0.0) + now - self._since[j]
        self._since = since
        return [
            j
            for j, at in since.items()
            if now - max(at, apart(j)) > PARTING or self._before.get(j, 0.0) + now - at > LONGEST + PARTING
        ]
