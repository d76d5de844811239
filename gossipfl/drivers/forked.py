"""A process forked from this one, with no more to it than a node needs.

`multiprocessing` asks after every earlier child at each start, and leaves in each child an open file of every
one before it: of a thousand nodes, half a million each.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
from array import array
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

log = logging.getLogger(__name__)


class Life(NamedTuple):
    """What a child is for."""

    run: Callable[[], None]  # all that it does
    name: str  # what its log calls it
    line: int  # the one of its parent's files that it needs


class Forked:
    """A child, alive from when it is made; `multiprocessing.Process` as far as it goes."""

    def __init__(self, life: Life, ends: array[int]) -> None:
        """ends: files of its parent that it closes, but for its line: by number, since it would copy the
        memory of every object it touches. Raises OSError."""
        self.exitcode: int | None = None
        _flush()  # or the child has it too
        self.pid = os.fork()
        if self.pid == 0:
            _live(life, ends)

    def is_alive(self) -> bool:
        """Does it run?"""
        if self.exitcode is None:
            self._wait(os.WNOHANG)
        return self.exitcode is None

    def join(self) -> None:
        """Wait for its end."""
        if self.exitcode is None:
            self._wait(0)

    def kill(self) -> None:
        """SIGKILL, if it is still there."""
        if self.exitcode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def _wait(self, how: int) -> None:
        try:
            pid, status = os.waitpid(self.pid, how)
        except ChildProcessError:  # somebody else has asked for it
            self.exitcode = 0
            return
        if pid:
            self.exitcode = os.waitstatus_to_exitcode(status)


def _live(life: Life, ends: array[int]) -> None:
    code = 1
    try:
        for end in ends:
            if end != life.line:
                os.close(end)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        multiprocessing.current_process().name = life.name
        life.run()
        code = 0
    except BaseException:
        log.exception("%s ended", life.name)
    finally:
        _flush()
        os._exit(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError, OSError):  # there may be none, and it may be closed
            stream.flush()
