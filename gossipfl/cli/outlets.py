"""Where a command's lines go. A stream that is closed is like /dev/null, and one that fails costs the lines
that follow, never a run that somebody waits for.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO, cast

_STREAMS = ("stdin", "stdout", "stderr")  # by number


class Outlet:
    """A text stream that never raises for what becomes of its lines. `broken`: why there are no more."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.broken: OSError | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, as far as that can be done."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        """Send what is held back, as far as that can be done."""
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """From now on nothing is written; what is held back goes nowhere too, at the interpreter's end."""
        self.broken = self.broken or error
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextmanager
def outlets() -> Iterator[None]:
    """Standard output and standard error are outlets inside; all three standard streams are there."""
    for number, name in enumerate(_STREAMS):
        if getattr(sys, name) is None:
            setattr(sys, name, _nowhere(number))
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, Outlet(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stdout, sys.stderr = before


def _nowhere(number: int) -> TextIO:
    """/dev/null for a stream that was closed before we began (a daemon's parent, cron does so): under its own
    number, or the next file that is opened would be what libraries print to."""
    file = os.open(os.devnull, os.O_RDWR)
    try:
        os.fstat(number)
    except OSError:
        os.dup2(file, number)
    return os.fdopen(file, "w" if number else "r", encoding="utf-8")


def unheard() -> bool:
    """Does nobody hear any more what is said on standard output?"""
    return getattr(sys.stdout, "broken", None) is not None


def unwritten() -> OSError | None:
    """What has befallen standard output, such as a full disk; None too where its reader has had enough."""
    sys.stdout.flush()
    broken = getattr(sys.stdout, "broken", None)
    return broken if isinstance(broken, OSError) and broken.errno != errno.EPIPE else None
