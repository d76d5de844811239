"""What every exchange is: a machine that is told events and answers with effects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from gossipfl.core.events import Effect, Event


class End(Protocol):
    """What every exchange knows of one end of a line."""

    peer: int
    session: int | None
    up: bool  # hello and welcome have passed
    extra: bool  # no edge of the graph: around somebody who has died
    wanted: bool  # an extra one that is not wanted carries nothing that begins here

    @property
    def done(self) -> bool:
        """Has the peer made all its rounds?"""

    @property
    def owes(self) -> bool:
        """Is something under way that the line has to stand for again?"""


class Machine(Protocol):
    """Sans-IO: no clock, socket or thread in here; `now` (seconds, any monotonic origin) is an argument."""

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event in; what has to be done, in order."""

    def deadline(self) -> float | None:
        """When to send a `Tick` at the latest (in the seconds of `now`), or None."""

    @property
    def rounds(self) -> int:
        """How many rounds (asynchronous exchanges: local phases) this node makes, as far as is known."""

    @property
    def begun(self) -> bool:
        """Has training begun?"""

    @property
    def ends(self) -> Mapping[int, End]:
        """This node's ends of its lines, by peer."""

    def missing(self) -> tuple[int, ...]:
        """The neighbours that are not there and may come: who is waited for at the start, and at the end."""

    def silent(self) -> tuple[int, ...]:
        """The neighbours whose word is waited for now."""
