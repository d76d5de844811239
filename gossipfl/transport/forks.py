"""Processes that are forked from a node's, as the workers of a DataLoader are.

They have copies of its connections. The system takes a connection for open, and a port for taken, as long as
any process has one: a node that is killed would be missed by its silence alone, and could not come back
until the last worker has ended. So a fork closes its copies. (What is executed, not forked, has none.)
"""

from __future__ import annotations

import contextlib
import os
import socket
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Protocol

from gossipfl.transport.descriptor import Descriptor

_NUMBERS: Final = Path("/dev/fd")


class Connected(Protocol):
    """What has connections."""

    @property
    def address(self) -> str:
        """Where it listens; empty: nowhere."""
        ...

    def dialled(self) -> Iterable[Descriptor]:
        """The connections that it has made."""
        ...


_open: weakref.WeakSet[Connected] = weakref.WeakSet()


def close_in_forks(owner: Connected) -> None:
    """Let processes that are forked from now on close their copies of its connections."""
    _open.add(owner)


def _let_go() -> None:
    owners = list(_open)
    _open.clear()
    for owner in owners:
        with contextlib.suppress(OSError):
            dialled = (line.number for line in owner.dialled() if line.stands)
            for number in {*_listening(owner.address), *dialled}:
                os.close(number)


def _listening(address: str) -> Iterator[int]:
    """The socket that listens there, and what has come in on it."""
    if not address:
        return
    place = address.partition("://")[2]
    port = place.rpartition(":")[2]
    for name in [path.name for path in _NUMBERS.iterdir()]:
        with contextlib.suppress(OSError, ValueError):
            line = socket.socket(fileno=int(name))
            try:
                own = line.getsockname()
            finally:
                line.detach()
            if own == place if isinstance(own, str) else str(own[1]) == port:
                yield int(name)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
