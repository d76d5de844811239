"""A node's upload in virtual time: the lines that have something to send share it evenly, as TCP's do."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Waiting(Generic[T]):
    """A message that is not out yet."""

    rest: float  # bytes
    since: float  # when the first of them left
    what: T


class Uplink(Generic[T]):
    """Bytes leave at `rate` a second. Each line's messages leave one after the other; of the lines that have
    any, each gets as much as any other (processor sharing)."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.turn = 0  # of the state: what was due in an earlier one is not
        self._lines: dict[int, deque[_Waiting[T]]] = {}
        self._at = 0.0  # time that bytes have left up to

    def put(self, now: float, line: int, size: float, what: T) -> None:
        """A message of so many bytes is to go out on a line."""
        self._leave(now)
        self._lines.setdefault(line, deque()).append(_Waiting(size, now, what))
        self.turn += 1

    def due(self) -> float | None:
        """When the next message is out, if nothing else is put."""
        if not self._lines:
            return None
        return self._at + min(line[0].rest for line in self._lines.values()) * len(self._lines) / self.rate

    def take(self, now: float) -> list[tuple[float, T]]:
        """The messages that are out at the time that `due` told, each with when it began to leave."""
        least = min(line[0].rest for line in self._lines.values())
        done = [j for j, line in self._lines.items() if line[0].rest <= least]
        self._leave(now)
        found = []
        for j in done:
            line = self._lines[j]
            message = line.popleft()
            found.append((message.since, message.what))
            if line:
                line[0].since = now
            else:
                del self._lines[j]
        self.turn += 1
        return found

    def _leave(self, now: float) -> None:
        if self._lines:
            each = self.rate * (now - self._at) / len(self._lines)
            for line in self._lines.values():
                line[0].rest = max(0.0, line[0].rest - each)
        self._at = now
