"""Cells on processes of this machine: each worker loads PyTorch once and runs one cell after the other."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Final, NamedTuple, Protocol, Self

from gossipfl.drivers.swarm import kill_group, undisturbed
from gossipfl.drivers.sweep.worker import GRACE

#: Seconds of silence after which whoever waits for results gets a word nevertheless.
SILENCE: Final = 0.5


class Job(NamedTuple):
    """A cell as whoever runs it needs it."""

    cell: int
    base: Mapping[str, object]
    settings: Mapping[str, object]
    engine: str


Answer = Mapping[str, object]
"""What `cell.run_cell` returns, and `cell`."""


class Hands(Protocol):
    """Whatever runs cells."""

    def run(self, jobs: Iterable[Job]) -> Iterator[Answer | None]:
        """Answers as they come, in any order; a None now and then while none comes."""
        ...


class Pool:
    """Up to `size` workers on this machine, inside a `with`; `log` takes what they say on standard error.

    A worker that dies in a cell fails that cell, and another takes its place.
    """

    def __init__(self, size: int, log: Path) -> None:
        self._size, self._log_path = size, log
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        self._log = self._log_path.open("ab")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.dismiss()
        until = time.monotonic() + GRACE
        for worker in self._workers:
            worker.end(until)
        self._log.close()
        with suppress(OSError):
            if not self._log_path.stat().st_size:
                self._log_path.unlink()

    def run(self, jobs: Iterable[Job]) -> Iterator[Answer | None]:
        waiting = iter(jobs)
        with selectors.DefaultSelector() as selector:
            for job in waiting:
                self._hire(selector, job)
                if len(self._workers) == self._size:
                    break
            while any(worker.job for worker in self._workers):
                ready = selector.select(SILENCE)
                if not ready:
                    yield None
                for key, _ in ready:
                    worker: _Worker = key.data
                    answers = worker.answers()
                    yield from answers or ()
                    if answers is None:
                        selector.unregister(key.fileobj)
                        self._workers.remove(worker)
                        yield worker.obituary()
                    free = answers is None or worker.job is None
                    more = next(waiting, None) if free else None
                    if more is not None and answers is None:
                        self._hire(selector, more)
                    elif more is not None:
                        worker.give(more)

    def _hire(self, selector: selectors.BaseSelector, job: Job) -> None:
        with undisturbed():
            worker = _Worker(self._log)
            self._workers.append(worker)
        selector.register(worker.stdout, selectors.EVENT_READ, worker)
        worker.give(job)


class _Worker:
    """One process, and the cell it has."""

    def __init__(self, log: IO[bytes]) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gossipfl.drivers.sweep.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # the terminal's Ctrl-C is for the one who started the sweep
            env=environment,
            bufsize=0,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self.stdout = self._process.stdin, self._process.stdout
        self.job: Job | None = None
        self._rest = b""

    def give(self, job: Job) -> None:
        self.job = job
        with suppress(BrokenPipeError):  # it has died: the end of its output says so
            self._stdin.write(json.dumps(job._asdict()).encode() + b"\n")

    def answers(self) -> list[Answer] | None:
        """What it has said, whole lines; None when it is dead."""
        data = os.read(self.stdout.fileno(), 1 << 20)
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        if lines:
            self.job = None
        return [json.loads(line) for line in lines]

    def obituary(self) -> Answer | None:
        """The answer for the cell it died in."""
        code = self._process.wait()
        self.end(0.0)
        if self.job is None:
            return None
        how = f"by signal {-code}" if code < 0 else f"with exit status {code}"
        hint = "; it may have run out of memory: fewer --jobs" if code == -9 else ""
        return {"cell": self.job.cell, "error": f"the process that ran it ended {how}{hint}"}

    def dismiss(self) -> None:
        """No more cells; the one it has is not to be finished."""
        with suppress(OSError):
            self._stdin.close()

    def end(self, until: float) -> None:
        """Wait for it until then; after that nothing is left of it."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, until - time.monotonic()))
        kill_group(self._process.pid)
        self._process.wait()
        for stream in (self._stdin, self.stdout):
            with suppress(OSError):
                stream.close()
