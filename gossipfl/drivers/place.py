"""Where a node stands, who tells it things, and how its life may be cut short."""

from __future__ import annotations

import select
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from gossipfl.drivers.common_round import Hold
from gossipfl.transport.shared import Commons

#: Seconds that a node that comes back waits for all its neighbours; then one of them is enough.
REJOIN: Final = 3.0
#: Rounds by which a checkpoint may be older than the neighbors are, for its model to be gone on with.
OLD: Final = 10


class Stopped(Exception):
    """The node was told to stop."""


class Stale(Exception):
    """The checkpoint that the node goes on from is older than what its peers know; they are in `round`."""

    def __init__(self, round: int) -> None:
        self.round = round
        super().__init__(round)


class Place(NamedTuple):
    """Where a node stands: its index, the run's folder, where it binds, and the start of the run's clock."""

    node: int
    folder: Path
    scratch: Path  # takes what does not fit into the run's folder
    listen: str
    beats: str
    epoch: float  # time.monotonic() of the start
    resume: int | None = None  # the round of the checkpoint in `folder` that it goes on from
    lost: str = ""  # why it has no part in this run any more: it was lost before the run was stopped
    borrows: bool = False  # does it take a neighbor's model, since its own is none, or old?
    commons: Commons | None = None  # the memory that it shares with the other nodes of its swarm
    anew: bool = False  # another life of this node has left payloads there, which may still be read
    hold: Hold | None = None  # what it keeps for the others
    instance: str = ""  # of a process that follows another one in this run: what tells it from that one
    met: frozenset[int] = frozenset()  # to whom a line stood in an earlier life of this process


class Control(Protocol):
    """A node's line to whoever started it: a `multiprocessing` Connection, or what stands in for one."""

    def fileno(self) -> int: ...
    def poll(self, timeout: float) -> bool: ...
    def recv_bytes(self) -> bytes: ...
    def send_bytes(self, raw: bytes) -> None: ...


def readable(control: Control) -> Callable[[], bool]:
    """Is there a word on the line? Its own `poll` makes a selector each time."""
    if not (isinstance(control, Connection) and hasattr(select, "poll")):
        return lambda: control.poll(0)
    waiting = select.poll()
    waiting.register(control.fileno(), select.POLLIN)
    return lambda: bool(waiting.poll(0))
