"""Word of payloads through shared memory: what a `here` says, without a socket.

For each direction of an edge there is a box, in memory that was mapped before the fork; for each node a bell,
an eventfd. A sender writes a word into its box and rings; a receiver that is rung looks into its boxes. No
thread of libzmq is woken for it at either end.

*A torn word is none.* The fields of a word are written first, then its number, with one store of eight
aligned bytes; it is read in the opposite order, and only what bears the number that is due is a word. That is
enough where a processor shows its stores to others in the order in which they were made, as x86 does; there
are boxes nowhere else. A sender that is killed between two stores has said nothing.

*An unread word is not written over.* The receiver says how many it has taken, and a box that is full is left
alone: what does not fit goes over the socket.

*All that is said on a line keeps its order.* A word says how many messages went over the socket of its
session before it, and is not taken before they are; before a message of the socket is read, the words that
were there before it are.

*A session begins with empty boxes.* Nobody writes a word before the other end has greeted, so what is in a
box then is of an earlier session, and goes unread; so does what somebody who has not yet seen the end of one
writes after that.
"""

from __future__ import annotations

import mmap
import os
import platform
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final

import numpy as np

#: Words that a box holds. Two payloads of an edge are under way at most, and as many again after a line that
#: broke.
HOLDS: Final = 4
#: Where things are, in eight bytes: a word has a cache line of its own, and so has what the receiver says.
LINE: Final = 8
BOX: Final = (HOLDS + 1) * LINE
#: Bytes of a word.
SIZE: Final = 48

_FIELDS: Final = Struct("=5q")


Word = tuple[int, int, int, int, int]
"""(peer, session, round, counted, slot): a payload of that round lies in this slot of the peer's (`Data`)."""


def possible() -> bool:
    """Are there such bells here, and a processor that keeps stores in order?"""
    ordered = platform.machine() in ("x86_64", "AMD64")
    return sys.platform == "linux" and ordered and hasattr(os, "eventfd")


class Boxes:
    """All boxes and bells of a swarm, made before its nodes are forked."""

    def __init__(self, nodes: int, edges: Sequence[tuple[int, int]]) -> None:
        """Raises OSError: there is not so much memory, or not so many files may be open."""
        self._edges = np.array(edges, np.int32).reshape(-1, 2)  # whole: a node that looks writes nothing
        memory = mmap.mmap(-1, 8 * (2 * BOX * len(self._edges) + nodes))
        self.raw, self.cells = memoryview(memory), memoryview(memory).cast("q")
        self.listens = (
            2 * BOX * len(self._edges)
        )  # where it is said of each node whether it looks into its boxes
        self.bells = array("i")
        for _ in range(nodes):
            self.bells.append(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))

    def close(self) -> None:
        """Let go of the bells."""
        for bell in self.bells:
            os.close(bell)
        del self.bells[:]

    def of(self, node: int) -> dict[int, tuple[int, int]]:
        """The boxes of a node: by neighbor, where that one's words to it begin, and where its own do."""
        found: dict[int, tuple[int, int]] = {}
        for k in np.flatnonzero((self._edges == node).any(axis=1)).tolist():
            low, high = self._edges[k].tolist()
            to_high, to_low = 2 * k * BOX, (2 * k + 1) * BOX
            found[high if node == low else low] = (to_low, to_high) if node == low else (to_high, to_low)
        return found

    def listen(self, node: int, *, on: bool) -> None:
        """Say whether a node looks into its boxes; before any session of it begins."""
        self.cells[self.listens + node] = on

    def keep(self, node: int) -> None:
        """Let go of the bells that this node neither hears nor rings."""
        near = self.of(node)
        for other, bell in enumerate(self.bells):
            if other != node and other not in near:
                os.close(bell)


@dataclass(slots=True)
class _Pair:
    """The two boxes between this node and a neighbor."""

    into: int  # where the neighbor's words begin, in cells
    out: int  # where this node's do
    bell: int  # the neighbor's
    put: int = 0  # words written, ever
    taken: int = 0  # words read, ever
    session: int = -1
    said: int = 0  # messages that went over the socket of this session
    heard: int = 0  # messages that came


class Mail:
    """One node's boxes, into which it looks from now on."""

    def __init__(self, boxes: Boxes, node: int) -> None:
        self._raw, self._cells, self._listens = boxes.raw, boxes.cells, boxes.listens
        self.bell = boxes.bells[node]
        self._pairs = {j: _Pair(into, out, boxes.bells[j]) for j, (into, out) in boxes.of(node).items()}
        boxes.listen(node, on=True)

    def begin(self, peer: int, session: int) -> None:
        """A session begins at this end: nothing of it has been said yet."""
        pair = self._pairs.get(peer)
        if pair is not None:
            pair.session = -1
            self._due(peer, pair)
            pair.session, pair.said, pair.heard = session, 0, 0

    def end(self, peer: int, session: int) -> None:
        """A session is over at this end."""
        pair = self._pairs.get(peer)
        if pair is not None and pair.session == session:
            pair.session = -1

    # ------------------------------------------------------------------ words

    def say(self, peer: int, session: int, round: int, counted: int, slot: int) -> bool:
        """Leave word of a payload, and ring. False: it has to go over the socket."""
        pair = self._pairs.get(peer)
        if pair is None or pair.session != session:
            return False
        cells, put = self._cells, pair.put
        if not cells[self._listens + peer] or put - cells[pair.out + HOLDS * LINE] >= HOLDS:
            return False
        at = pair.out + put % HOLDS * LINE
        _FIELDS.pack_into(self._raw, 8 * at + 8, session, pair.said, round, counted, slot)
        pair.put = cells[at] = put + 1  # now it is a word
        os.eventfd_write(pair.bell, 1)
        return True

    def take(self, rung: bool = False) -> list[Word]:
        """All words that are due; by sender. rung: the bell has been heard, and rings again for what comes
        from here on."""
        if rung:
            os.eventfd_read(self.bell)
        found: list[Word] = []
        cells = self._cells
        for peer, pair in self._pairs.items():
            taken = pair.taken
            if cells[pair.into + taken % HOLDS * LINE] == taken + 1:
                found += self._due(peer, pair)
        return found

    # ------------------------------------------------------------------ beside a socket

    def said(self, peer: int, session: int) -> None:
        """A message has gone over a session's socket."""
        pair = self._pairs.get(peer)
        if pair is not None and pair.session == session:
            pair.said += 1

    def before(self, peer: int, session: int) -> list[Word]:
        """A message has come over a session's socket: the words that its sender said before it."""
        pair = self._pairs.get(peer)
        if pair is None or pair.session != session:
            return []
        found = self._due(peer, pair)
        pair.heard += 1
        return found

    def _due(self, peer: int, pair: _Pair) -> list[Word]:
        """Take out the words of a box whose turn it is; those of earlier sessions go unread."""
        found: list[Word] = []
        cells, taken = self._cells, pair.taken
        while cells[at := pair.into + taken % HOLDS * LINE] == taken + 1:
            session, after, round, counted, slot = _FIELDS.unpack_from(self._raw, 8 * at + 8)
            if session == pair.session:
                if after > pair.heard:
                    break
                found.append((peer, session, round, counted, slot))
            pair.taken = taken = taken + 1
            cells[pair.into + HOLDS * LINE] = taken  # it may be written over
        return found
