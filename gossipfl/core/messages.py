"""What two nodes say to each other, as values: the wire's bytes are made of these in `transport`, their
meaning is in `exchange`. The fields are those of the edge protocol (docs/protocol.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

PROTOCOL_VERSION: Final = 1

#: The round of a `Nothing` that is a goodbye: no data will ever follow.
LAST: Final = 2**62

Vectors = tuple["Tensor", ...]


@dataclass(frozen=True, slots=True)
class Hello:
    """The first word of a session, sent by the end that dialled; `Welcome` is the same from the other end.

    `about` maps the names of what both ends must agree on (protocol, swarm, graph, model, data, config keys)
    to values.
    """

    session: int  # monotone a dialling node
    inc: int  # incarnation of the sender: changes when it comes back without its exact state
    peer_inc: int | None  # the receiver's incarnation, as the sender last knew it
    heard: int  # the last round of the receiver's that the sender has heard of
    acked: int  # the last round of the sender's that the receiver is known to have counted through
    sent: int  # the last round the sender has emitted
    about: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Welcome(Hello):
    """The answer to a `Hello` that is accepted."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """The answer to a `Hello` that is not: one line that names the first key that differs and both values."""

    session: int
    reason: str


class Data(NamedTuple):
    """A payload of a round. `counted`: the sender has counted the receiver's rounds through this one (and
    kept it)."""

    round: int
    counted: int
    payload: Vectors


class Nothing(NamedTuple):
    """The sender has decided to send nothing in this round (`none` on the wire); round `LAST` says
    goodbye."""

    round: int
    counted: int


@dataclass(frozen=True, slots=True)
class Ask:
    """Pairwise: shall we take the mean of the two? The payload is the sender's parameters, its `number`-th
    ask."""

    number: int
    payload: Vectors


@dataclass(frozen=True, slots=True)
class Answer:
    """Pairwise: done at this end, with these parameters; the exchange counts."""

    number: int
    payload: Vectors


@dataclass(frozen=True, slots=True)
class Decline:
    """Pairwise: the sender is busy; nothing has happened."""

    number: int


@dataclass(frozen=True, slots=True)
class Push:
    """The sender's parameters, which have seen `age` local phases; its `number`-th push."""

    number: int
    age: int
    payload: Vectors


@dataclass(frozen=True, slots=True)
class Stop:
    """The swarm ends after so many rounds, as far as the sender knows; whoever hears of it passes it on."""

    round: int


@dataclass(frozen=True, slots=True)
class Reset:
    """Every node begins its rule anew at the start of this round; whoever hears of it passes it on."""

    round: int


@dataclass(frozen=True, slots=True)
class Want:
    """The sender comes back, and has no model of this time: may it have the receiver's?"""


@dataclass(frozen=True, slots=True)
class Model:
    """The sender's parameters after `round` rounds, for who wants them; they count nowhere."""

    round: int
    payload: Vectors


class Fate(NamedTuple):
    """What is believed of a node has turned so many times: it is gone for good if that is odd, and lives if
    it is even; the highest number holds. Whoever hears of it passes it on."""

    node: int
    turns: int


Message = (
    Hello
    | Welcome
    | Refuse
    | Data
    | Nothing
    | Ask
    | Answer
    | Decline
    | Push
    | Stop
    | Reset
    | Want
    | Model
    | Fate
)
