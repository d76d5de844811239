"""How a zygote heeds whoever asked for the swarm, whatever it is doing: loading for seconds, or nothing, as
somebody has stopped it.

The system sends it SIGCONT with each word on standard input, and at its end. A process that is stopped goes
on then, and reads what there is; any other does not notice.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def wakes(end: int, process: int) -> None:
    """From now on a process goes on when there is something at this end of a pipe, or the other one is gone.
    Only Linux can do that."""
    if sys.platform == "linux":
        import fcntl

        fcntl.fcntl(end, fcntl.F_SETOWN, process)
        fcntl.fcntl(end, fcntl.F_SETSIG, signal.SIGCONT)
        fcntl.fcntl(end, fcntl.F_SETFL, fcntl.fcntl(end, fcntl.F_GETFL) | os.O_ASYNC)


@contextmanager
def or_ending(tidy: Callable[[], None]) -> Iterator[None]:
    """What is done inside, this process does for somebody: once they are gone it tidies up, and ends. (Where
    it has nodes to look after, it reads what there is.)"""

    def look(*_: object) -> None:
        if _is_alone():
            tidy()
            os._exit(0)

    signal.signal(signal.SIGCONT, look)
    look()  # it may have been before
    try:
        yield
    finally:
        signal.signal(signal.SIGCONT, signal.SIG_DFL)


def _is_alone() -> bool:
    asked = select.poll()
    asked.register(0, 0)  # of its end one is told in any case
    return bool(asked.poll(0))
