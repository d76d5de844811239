"""What the exchanges have in common in which nobody waits for anybody: a node makes local phases, and what
comes meanwhile is taken in between two optimizer steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from gossipfl.core.exchange.line import Line, Lines, Post

if TYPE_CHECKING:
    from torch import Tensor


class Phased:
    """A node's machine, as far as it only counts phases and knows its lines."""

    def __init__(self, post: Post) -> None:
        self.left = False
        self.lines = Lines(post)
        self._post = post
        self._x: Tensor | None = None  # live, [d]; None: training has not begun
        self._training = False

    @property
    def phases(self) -> int:
        """Local phases made."""
        return self.lines.phases

    @property
    def rounds(self) -> int:
        """Local phases that this node makes, as far as is known."""
        return self.lines.rounds()

    @property
    def begun(self) -> bool:
        """Has training begun?"""
        return self._x is not None

    @property
    def ends(self) -> Mapping[int, Line]:
        """This node's ends of its lines, by peer."""
        return self.lines.by_peer

    def missing(self) -> tuple[int, ...]:
        """The neighbours that are neither up nor known to be gone: who is waited for at the start."""
        return self.lines.missing()

    def silent(self) -> tuple[int, ...]:
        """Who is waited for at the end."""
        return self.lines.silent()
