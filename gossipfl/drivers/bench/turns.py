"""Figures beside their limits on a machine that is busy with other things: in turns, with medians, and by
processor time too, which what else runs there hardly touches."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Final, NamedTuple

PLACES: Final = 4  # significant digits of a figure
MB: Final = 1e6

Say = Callable[[str], None]
"""Is told what is measured now."""

Row = dict[str, object]


class Pace(NamedTuple):
    """How fast something went: units a second, and a second of processor time (0: not known)."""

    wall: float
    cpu: float = 0.0


class Watch:
    """Takes the time of this process, from when it is made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    @property
    def seconds(self) -> float:
        """Seconds passed."""
        return time.perf_counter() - self._wall

    def pace(self, units: float) -> Pace:
        """Of so many units done since."""
        cpu = max(time.process_time() - self._cpu, 1e-9)
        return Pace(units / max(self.seconds, 1e-9), units / cpu)


def turns(ways: Mapping[str, Callable[[], Pace]], count: int, say: Say) -> dict[str, list[Pace]]:
    """What each way gives, `count` times in turns."""
    found: dict[str, list[Pace]] = {name: [] for name in ways}
    for turn in range(count):
        say(f"turn {turn + 1} of {count}")
        for name, way in ways.items():
            found[name].append(way())
    return found


def ratios(figures: Sequence[Pace], limits: Sequence[Pace], unit: str) -> Row:
    """The medians of both, named `unit`, and of their ratio turn by turn, with its range: a turn's two
    figures were taken one after the other, so what else the machine did has slowed both. `cpu_ratio`: the
    same of the work done in a second of processor time; None where that is not known."""
    each = [a.wall / b.wall for a, b in zip(figures, limits, strict=True)]
    cpu = [a.cpu / b.cpu for a, b in zip(figures, limits, strict=True) if a.cpu and b.cpu]
    return {
        unit: rounded(median(a.wall for a in figures)),
        f"limit_{unit}": rounded(median(b.wall for b in limits)),
        "ratio": rounded(median(each)),
        "ratio_min": rounded(min(each)),
        "ratio_max": rounded(max(each)),
        "cpu_ratio": rounded(median(cpu)) if cpu else None,
    }


def calls(way: Callable[[], object], within: float) -> Pace:
    """Calls a second, as many as fit: of the quickest one by the clock, of all by the processor."""
    whole, best, count = Watch(), float("inf"), 0
    while not count or whole.seconds < within:
        one = Watch()
        way()
        best, count = min(best, one.seconds), count + 1
    return Pace(1 / best, whole.pace(count).cpu)


def rounded(value: float) -> float:
    """To the digits that mean something."""
    return float(f"{value:.{PLACES}g}")


def load() -> float | None:
    """Processes that wanted to run in the last minute, on average; None where the system does not say."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None
