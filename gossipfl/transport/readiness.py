"""Which of a node's sockets can be read, asked of the system alone.

libzmq's own poll asks every socket twice, and one that has nothing costs a system call each time: a dozen of
them a round for a node with two neighbors. libzmq wakes whoever waits for a socket by a file descriptor, and
forgets that it did as soon as anything is done on the socket. So a line, on which this thread sends too, is
asked before a wait if anything has been done on lines since the last one; a monitor, which is only ever read
to its end, when its descriptor says so.
"""

from __future__ import annotations

import math
import select
import time
from typing import Final, Protocol

import zmq

Socket = zmq.Socket[bytes]

EVENTS: Final = int(zmq.EVENTS)
POLLIN: Final = int(zmq.POLLIN)


class Poller(Protocol):
    """Waits for sockets and file descriptors."""

    stirred: bool  # has anything been done on a socket since the last `poll`? Whoever does it says so
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
        self._lines: list[Socket] = []
        self._others: set[int] = set()  # numbers of what is no line
        self._new: list[Socket] = []  # told of, perhaps, before anyone waited
        self.stirred = self.news = True

    def register(self, item: Socket | int, *, told: bool = False) -> None:
        number = item if isinstance(item, int) else int(item.get(zmq.FD))
        self._items[number], self._numbers[item], self.stirred = item, number, True
        self._system.register(number, select.POLLIN)
        if told or isinstance(item, int):
            self._others.add(number)
        if not isinstance(item, int):
            (self._new if told else self._lines).append(item)

    def unregister(self, item: Socket | int) -> None:
        number = self._numbers.pop(item)
        self._system.unregister(number)
        del self._items[number]
        self._others.discard(number)
        self._lines = [line for line in self._lines if line is not item]
        self._new = [line for line in self._new if line is not item]

    def poll(self, timeout: float | None) -> set[Socket | int]:
        end = None if timeout is None else time.monotonic() + timeout
        ready: set[Socket | int] = set()
        while True:
            self.news = bool(self._new)
            if self.stirred:
                for line in self._lines + self._new if self._new else self._lines:
                    if line.get(EVENTS) & POLLIN:  # type: ignore[operator]
                        ready.add(line)
                self._new, self.stirred = [], bool(ready)
            woken = self._system.poll(0 if ready else _milliseconds(timeout))
            for number, _ in woken:
                item = self._items[number]
                if type(item) is int:
                    ready.add(item)
                elif item.get(EVENTS) & POLLIN:  # type: ignore[union-attr, operator]
                    ready.add(item)
                    self.stirred = True
                self.news = self.news or number in self._others
            if ready or not woken:
                return ready
            if end is not None:  # it was about something else
                timeout = max(0.0, end - time.monotonic())


class Libzmq:
    """A Poller where the system has no such call."""

    def __init__(self) -> None:
        self._poller = zmq.Poller()
        self.stirred = self.news = True

    def register(self, item: Socket | int, *, told: bool = False) -> None:
        self._poller.register(item, zmq.POLLIN)

    def unregister(self, item: Socket | int) -> None:
        self._poller.unregister(item)

    def poll(self, timeout: float | None) -> set[Socket | int]:
        return {item for item, _ in self._poller.poll(_milliseconds(timeout))}


def poller() -> Poller:
    """The best that there is here."""
    return Descriptors() if hasattr(select, "poll") else Libzmq()


def more(socket: Socket) -> bool:
    """Has a socket something that can be read? Asking takes longer than reading."""
    return bool(socket.get(EVENTS) & POLLIN)  # type: ignore[operator]


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else math.ceil(max(seconds, 0.0) * 1000)
