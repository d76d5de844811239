"""Peers that send what cannot be taken: after a few times they are left alone for a while, and then taken
again.

A machine whose memory is failing, or a program with a mistake, sends wrong numbers now and then; a hostile
one sends them on purpose. Each is rejected where it comes in. What is here keeps a node from meeting such a
peer again and again. It is told so by a `Refuse` whose reason says for how long (`reason`), so that it knows
that its line will be back, and when.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Final

from gossipfl.core.events import Note

#: Rejections until a peer is left alone, and seconds after which one of them is forgotten.
STRIKES: Final = 3
MEMORY: Final = 600.0
#: Seconds for which it is left alone: from the first time to the longest, doubling.
FIRST: Final = 10.0
LONGEST: Final = 600.0

_ALONE: Final = re.compile(r"leaves this node alone for ([0-9]{1,4}) s: ")


def reason(seconds: float) -> str:
    """What a peer is told that is left alone for so long."""
    return f"leaves this node alone for {math.ceil(seconds)} s: what it sent was rejected"


def alone(reason: str) -> float | None:
    """For how long a peer leaves this node alone, by the reason of its `Refuse`; None: it has another one."""
    found = _ALONE.match(reason)
    return None if found is None else min(float(found[1]), LONGEST)


@dataclass(slots=True)
class _Record:
    strikes: list[float] = field(default_factory=list)  # when each was
    times: int = 0  # that it has been in quarantine
    until: float = 0.0
    told: float = 0.0  # until when it leaves this node alone, as it has said


class Quarantine:
    """Who is left alone, and until when. Seconds of any clock that does not go back."""

    def __init__(self) -> None:
        self._records: dict[int, _Record] = {}

    def reject(self, peer: int, now: float) -> list[Note]:
        """Something of a peer has been rejected; what there is to tell, if it is left alone from now on.

        That is for FIRST * 2 ** k seconds, k the number of quarantines before, at most `LONGEST`.
        """
        record = self._records.setdefault(peer, _Record())
        record.strikes = [at for at in record.strikes if now - at < MEMORY] + [now]
        if len(record.strikes) < STRIKES:
            return []
        seconds = min(FIRST * 2**record.times, LONGEST)
        record.strikes, record.times, record.until = [], record.times + 1, now + seconds
        return [Note("quarantined", peer, f"is left alone for {seconds:g} s: what it sends is rejected")]

    def left(self, peer: int, now: float) -> float:
        """Seconds for which a peer is still left alone; 0: it is not."""
        record = self._records.get(peer)
        return 0.0 if record is None else max(0.0, record.until - now)

    def told(self, peer: int, reason: str, now: float) -> list[Note]:
        """A peer has said that it leaves this node alone (`alone`); what there is to tell, if that is new."""
        seconds, record = alone(reason), self._records.setdefault(peer, _Record())
        assert seconds is not None
        new, record.told = now >= record.told, now + seconds
        return [Note("quarantined", peer, reason)] if new else []

    def over(self, peer: int) -> float:
        """When neither of the two leaves the other alone any more, as far as is known; 0: neither did."""
        record = self._records.get(peer)
        return 0.0 if record is None else max(record.until, record.told)
