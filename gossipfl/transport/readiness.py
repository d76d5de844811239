"""Which of a node's sockets can be read, asked of the system alone.

libzmq's own poll asks every socket twice, and one that has nothing costs a system call each time: a dozen of
them a round for a node with two neighbors. libzmq wakes whoever waits for a socket by a file descriptor, and
forgets that it did as soon as anything is done on the socket. So a line, on which this thread sends too, is
asked before a wait if anything has been done on it since it was asked last; a monitor, which is only ever
read to its end, when its descriptor says so.
"""

from __future__ import annotations

import math
import select
import time
from typing import Final, Protocol

import zmq
from zmq.backend import Socket as Backend

Socket = zmq.Socket[bytes]

#: `Socket.get`, found at once: what a socket does not have by that name would be an option of it.
_get: Final = Backend.get
EVENTS: Final = int(zmq.EVENTS)
POLLIN: Final = int(zmq.POLLIN)


class Poller(Protocol):
    """Waits for sockets and file descriptors."""

    stirred: set[
        Socket
    ]  # those on which something has been done since they were asked: whoever does it adds them
    news: bool  # may something of what the last `poll` found be no line's?

    def register(self, item: Socket | int, *, told: bool = False) -> None:
        """Wait for this one too. told: nothing is ever sent on it, and it is read to its end each time."""

    def unregister(self, item: Socket | int) -> None:
        """The reverse."""

    def poll(self, timeout: float | None) -> set[Socket | int]:
        """Those that can be read, within so many seconds (None: however long it takes)."""


class Descriptors:
    """A Poller by the descriptors."""

    def __init__(self) -> None:
        self._system = select.poll()
        self._items: dict[int, Socket | int] = {}
        self._numbers: dict[Socket | int, int] = {}
        self._lines: set[Socket] = set()
        self.stirred: set[Socket] = set()
        self.news = False

    def register(self, item: Socket | int, *, told: bool = False) -> None:
        number = item if isinstance(item, int) else int(item.get(zmq.FD))
        self._items[number], self._numbers[item] = item, number
        self._system.register(number, select.POLLIN)
        if not isinstance(item, int):
            self.stirred.add(item)  # told of, perhaps, before anyone waited
            if not told:
                self._lines.add(item)

    def unregister(self, item: Socket | int) -> None:
        number = self._numbers.pop(item)
        self._system.unregister(number)
        del self._items[number]
        if not isinstance(item, int):
            self._lines.discard(item)
            self.stirred.discard(item)

    def poll(self, timeout: float | None) -> set[Socket | int]:
        end = None if timeout is None else time.monotonic() + timeout
        ready: set[Socket | int] = set()
        while True:
            if self.stirred:
                self.stirred = {socket for socket in self.stirred if more(socket)}
                ready.update(self.stirred)
            # the system takes less than nothing for ever
            pause = None if timeout is None else math.ceil(timeout * 1000) if timeout > 0 else 0
            woken = self._system.poll(0 if ready else pause)
            for number, _ in woken:
                item = self._items[number]
                if isinstance(item, int):
                    ready.add(item)
                elif item not in ready and more(item):
                    ready.add(item)
                    self.stirred.add(item)
            if ready or not woken:
                self.news = not self._lines.issuperset(ready)
                return ready
            if end is not None:  # it was about something else
                timeout = max(0.0, end - time.monotonic())


class Libzmq:
    """A Poller where the system has no such call."""

    def __init__(self) -> None:
        self._poller = zmq.Poller()
        self.stirred: set[Socket] = set()
        self.news = True

    def register(self, item: Socket | int, *, told: bool = False) -> None:
        self._poller.register(item, zmq.POLLIN)

    def unregister(self, item: Socket | int) -> None:
        self._poller.unregister(item)

    def poll(self, timeout: float | None) -> set[Socket | int]:
        pause = None if timeout is None else math.ceil(max(timeout, 0.0) * 1000)
        return {item for item, _ in self._poller.poll(pause)}


def poller() -> Poller:
    """The best that there is here."""
    return Descriptors() if hasattr(select, "poll") else Libzmq()


def more(socket: Socket) -> bool:
    """Has a socket something that can be read? Asking takes longer than reading."""
    return bool(_get(socket, EVENTS) & POLLIN)  # type: ignore[operator]
