"""A sweep from its first cell to its last, on whatever runs the cells; one process writes what comes."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, NamedTuple

from gossipfl.drivers.machine import cores
from gossipfl.drivers.sweep.grid import MANY, Cell, Sweep
from gossipfl.drivers.sweep.pool import Hands, Job, Pool
from gossipfl.drivers.sweep.store import opened, write_csv
from gossipfl.errors import ConfigError, Problem
from gossipfl.records import number

#: Rounds that an estimate runs of a few cells.
PROBE: Final = 12
#: Seconds after which an estimate tries no further cell.
PATIENCE: Final = 20.0


class Progress(NamedTuple):
    """Where a sweep stands. `last` is the cell that was just finished, if one was, and `error` how it
    failed."""

    total: int
    finished: int  # failed ones included
    failed: int
    resumed: int  # were there when the sweep began
    seconds_left: float | None  # None: not known yet
    last: Cell | None = None
    error: str = ""


class Options(NamedTuple):
    """How a sweep is run. jobs: cells at a time (None: one a core; one in all for the engine `swarm`, whose
    cells are many processes); on: "" or "ray"; retry: run failed cells again."""

    jobs: int | None = None
    on: str = ""
    retry: bool = False


def run(sweep: Sweep, folder: Path, options: Options | None = None) -> Generator[Progress]:
    """Run what is not there yet; the first word says what there is. Close the iterator to stop early: what is
    finished is kept, and `results.csv` written.

    Raises ConfigError: the sweep or its folder.
    """
    options = options or Options()
    if options.jobs is not None and options.jobs < 1:
        raise ConfigError(Problem("--jobs", f"cannot be {options.jobs}", "a whole number, at least 1"))
    cells = sweep.cells()
    with opened(folder) as store:
        known = store.begin(sweep, cells)
        kept = {h for h, status in known.items() if status == "ok" or not options.retry}
        failed = sum(known[h] == "failed" for h in kept)
        todo = [k for k, cell in enumerate(cells) if cell.hash not in kept]
        clock = _Clock(sum(cells[k].cost for k in todo))
        finished = resumed = len(kept)
        yield Progress(len(cells), finished, failed, resumed, clock.left())
        try:
            for k in [k for k in todo if cells[k].wrong]:
                store.add(k, cells[k], {"error": cells[k].wrong})
                finished, failed = finished + 1, failed + 1
                yield Progress(len(cells), finished, failed, resumed, None, cells[k], cells[k].wrong)
            jobs = [Job(k, sweep.base, cells[k].settings, sweep.engine) for k in todo if not cells[k].wrong]
            if not jobs:
                return
            with _hands(sweep, options, len(jobs), folder) as hands:
                for answer in hands.run(jobs):
                    if answer is None:
                        yield Progress(len(cells), finished, failed, resumed, clock.left())
                        continue
                    k = int(number(answer["cell"]))
                    store.add(k, cells[k], answer)
                    clock.did(cells[k].cost)
                    error = str(answer.get("error") or "")
                    finished, failed = finished + 1, failed + bool(error)
                    yield Progress(len(cells), finished, failed, resumed, clock.left(), cells[k], error)
        finally:
            write_csv(folder)


def _hands(sweep: Sweep, options: Options, cells: int, folder: Path) -> AbstractContextManager[Hands]:
    if options.on == "ray":
        from gossipfl.drivers.sweep.cluster import Cluster

        return Cluster(options.jobs)
    return Pool(min(jobs_of(sweep, options), cells), folder / "log.txt")


class _Clock:
    """How long the rest will take, from the cost of what is done and how long that took.

    It begins with the first result: starting the workers says nothing about the cells.
    """

    def __init__(self, total: float) -> None:
        self._left, self._done, self._begun = total, 0.0, 0.0

    def did(self, cost: float) -> None:
        self._left -= cost
        if self._begun:
            self._done += cost
        else:
            self._begun = time.monotonic()

    def left(self) -> float | None:
        if self._left <= 0:
            return 0.0
        return (time.monotonic() - self._begun) / self._done * self._left if self._done else None


def jobs_of(sweep: Sweep, options: Options) -> int:
    """How many cells run at a time on this machine."""
    if options.jobs is not None:
        return options.jobs
    return 1 if sweep.engine == "swarm" else cores()


def check_count(sweep: Sweep, yes: bool) -> None:
    """Raise ConfigError for more than a million cells that nobody has said are meant."""
    if sweep.count > MANY and not yes:
        raise ConfigError(Problem("grid", f"has {sweep.count:,} cells", "fewer, or say --yes"))


def estimate(sweep: Sweep, cells: Sequence[Cell], jobs: int) -> float:
    """About how many seconds these cells take, from a few rounds of up to three of them; NaN if none runs.

    By processor time, which what else the machine does at the moment hardly changes; by the clock where the
    cells are processes of their own. Once PATIENCE seconds have gone, what is known by then must do.
    """
    fine = sorted((cell for cell in cells if not cell.wrong), key=lambda cell: cell.cost)
    if not fine:
        return 0.0
    chosen = {fine[k].hash: fine[k] for k in (len(fine) // 2, 0, -1)}
    end = time.monotonic() + PATIENCE
    ratios: list[float] = []
    for cell in chosen.values():
        if ratios and time.monotonic() > end:
            break
        ratio = _seconds(sweep, cell, warm=bool(ratios)) / cell.cost
        ratios += [ratio] if math.isfinite(ratio) else []
    return sum(cell.cost for cell in fine) * sum(ratios) / len(ratios) / jobs if ratios else float("nan")


def _seconds(sweep: Sweep, cell: Cell, *, warm: bool) -> float:
    """About how long a cell takes, from one run of few rounds and one of a few more; NaN if they fail.

    The first run of all (`warm` is false) also loads what is loaded lazily: it is not counted.
    """
    from gossipfl.drivers.sweep.cell import run_cell

    clock = time.perf_counter if sweep.engine == "swarm" else time.process_time
    rounds = sweep.config(cell).swarm.rounds
    few, more = min(2, rounds), min(PROBE, rounds)
    took = []
    for some in (few, more) if warm else (few, few, more):
        settings = {**cell.settings, "swarm.rounds": some, "swarm.eval_every": some}
        begun = clock()
        if run_cell({"base": sweep.base, "settings": settings, "engine": sweep.engine})["error"]:
            return float("nan")
        took.append(clock() - begun)
    a_round = max(took[-1] - took[-2], 0.0) / max(more - few, 1)
    return took[-1] + a_round * max(rounds - more, 0)
