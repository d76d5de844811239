"""A sweep from its first cell to its last, on whatever runs the cells; one process writes what comes."""

from __future__ import annotations

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
    """About how many seconds these cells take, from a few rounds of three of them; NaN if none runs."""
    from gossipfl.drivers.sweep.cell import run_cell

    fine = sorted((cell for cell in cells if not cell.wrong), key=lambda cell: cell.cost)
    if not fine:
        return 0.0
    chosen = {fine[k].hash: fine[k] for k in (0, len(fine) // 2, -1)}
    ratios = []
    for warm, cell in enumerate([fine[0], *chosen.values()]):
        rounds = sweep.config(cell).swarm.rounds
        walls = []
        for some in (min(2, rounds), min(PROBE, rounds)):
            settings = {**cell.settings, "swarm.rounds": some, "swarm.eval_every": some}
            done = run_cell({"base": sweep.base, "settings": settings, "engine": sweep.engine})
            walls.append(number(done["wall"]))
            if done["error"]:
                break
        if len(walls) == 2 and warm:  # the very first run also loads what is loaded lazily
            a_round = max(walls[1] - walls[0], 0.0) / max(min(PROBE, rounds) - 2, 1)
            ratios.append((walls[1] + a_round * max(rounds - PROBE, 0)) / cell.cost)
    return sum(cell.cost for cell in fine) * sum(ratios) / len(ratios) / jobs if ratios else float("nan")
