"""What a machine is told (events) and what it asks for (effects). Plain values: whoever drives it owns clock
and sockets. What is made for every message or round is a tuple: made in a third of the time of a frozen
dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from gossipfl.core.messages import Message, Vectors

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Begin:
    """The neighbours this node waits for are there: training begins at `x` [d].

    In asynchronous exchanges `x` is the live vector: the machine reads it whenever it handles an event.
    """

    x: Tensor


class Stepped(NamedTuple):
    """The local phase of the current round is done.

    `x` and `after` are the parameters [d] before and after it. Neither may be written again by the caller:
    the payload made of them is kept until every neighbour has counted it. `ratio`: this phase's learning rate
    over the last one's.
    """

    x: Tensor
    after: Tensor
    ratio: float = 1.0


@dataclass(frozen=True, slots=True)
class Trained:
    """A local phase that a `Train` asked for is done, in `seconds`; the live x holds its result."""

    seconds: float


@dataclass(frozen=True, slots=True)
class PeerUp:
    """A connection that this end dialled is open."""

    peer: int
    session: int


class Received(NamedTuple):
    """A message came in on a session with a peer."""

    peer: int
    session: int
    message: Message


@dataclass(frozen=True, slots=True)
class PeerDown:
    """A session is closed; `gone`: the peer is known not to come back (its process ended)."""

    peer: int
    session: int | None
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Halt:
    """This node has seen enough: the swarm may end after `round` rounds."""

    round: int


@dataclass(frozen=True, slots=True)
class Leave:
    """This node makes no more rounds; the others go on without it."""


@dataclass(frozen=True, slots=True)
class Renew:
    """Some node has come back without its exact state: all begin their rule anew at the start of `round`."""

    round: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has reached the machine's deadline."""


@dataclass(frozen=True, slots=True)
class Lost:
    """These nodes, neighbors or not, are known not to come back, and no others (rounds that get around the
    dead)."""

    nodes: frozenset[int]


Event = Begin | Stepped | Trained | PeerUp | Received | PeerDown | Halt | Leave | Renew | Tick | Lost


class Send(NamedTuple):
    """Put a message on a session with a peer."""

    peer: int
    session: int
    message: Message


class Adopt(NamedTuple):
    """The round is closed: `x` [d] is the parameters from here on.

    `sent` and `mixed` are what this node gave to the average and what the average gave back (equal length;
    empty where the rule sends nothing); `counted`: the neighbours whose payload of this round is in it,
    ascending. `departure`: ‖sent − mixed‖₂ / ‖sent‖₂ of the first of them, if that is known already.
    """

    round: int
    x: Tensor
    sent: Vectors
    mixed: Vectors
    counted: tuple[int, ...]
    departure: float | None = None


@dataclass(frozen=True, slots=True)
class Shift:
    """Add `delta` [d] to the parameters, between two optimiser steps (in `rounds`: a payload that came after
    the last round)."""

    delta: Tensor


@dataclass(frozen=True, slots=True)
class Take:
    """`x` [d] replaces the parameters, between two local phases (asynchronous exchanges)."""

    x: Tensor


@dataclass(frozen=True, slots=True)
class Train:
    """Begin a local phase; a `Trained` tells its end (asynchronous exchanges)."""


@dataclass(frozen=True, slots=True)
class Note:
    """Something for the records: `kind` as in the run's files, about `peer`, with fields of its own."""

    kind: str
    peer: int
    text: str = ""
    round: int = -1


@dataclass(frozen=True, slots=True)
class Finished:
    """All rounds are done and every neighbour that lives has counted what it was sent: the node may leave."""


Effect = Send | Adopt | Shift | Take | Train | Note | Finished
