"""How a node's process begins: forked from one that has loaded everything, or spawned where that is not safe
(no fork, macOS, CUDA in use)."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection

from gossipfl.config import load_config
from gossipfl.drivers.life import live
from gossipfl.drivers.place import Place
from gossipfl.drivers.plan import Plan, plan
from gossipfl.drivers.turns import take_turns
from gossipfl.learning.workload import Workload, workload


def can_fork(load: Workload) -> bool:
    """Is a fork safe here? Not on macOS and Windows, and not with an accelerator in use."""
    return sys.platform.startswith("linux") and load.device.type == "cpu"


def _settle_in() -> None:
    """A node's process does not take the terminal's Ctrl-C: whoever started it decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def born(made: Plan, load: Workload, place: Place, control: Connection) -> None:
    """The life of a node that was forked."""
    _settle_in()
    take_turns(made.n)
    live(made, load, place, control)


def spawned(config: Mapping[str, object], place: Place, control: Connection) -> None:
    """The life of a node that was spawned: it loads everything itself."""
    _settle_in()
    loaded = load_config(config)
    load = workload(loaded)
    live(plan(loaded, load.sizes, load.plain), load, place, control)
