"""How very many nodes share a few cores."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Final

from gossipfl.drivers.machine import cores

#: Nodes a core up to which one that is woken interrupts another: with so few, a core would be idle otherwise.
CROWD: Final = 16


def take_turns(nodes: int) -> None:
    """Among very many nodes, let this process, one of them, not interrupt what runs when it is woken: whoever
    is interrupted finds less of its own in the cache, and somebody always has something to do. Its threads to
    come do the same."""
    if sys.platform == "linux" and nodes > CROWD * cores():
        with suppress(OSError):
            if os.sched_getscheduler(0) == os.SCHED_OTHER:
                os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
