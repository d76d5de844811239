"""`[[fault]]`: disasters that are to happen, in the event engine or to real processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal, get_args

from gossipfl.config.kinds import sequence
from gossipfl.config.section import Before, Expected, Section, key, required

MOST: Final = 10_000  # faults in a script

Kind = Literal["kill", "restart", "hang", "partition", "slow", "drop", "duplicate", "reorder", "corrupt"]
KINDS: Final[tuple[str, ...]] = get_args(Kind)
#: What befalls a node's process, and what befalls the messages of a line.
OF_NODES: Final = frozenset({"kill", "restart", "hang", "slow"})
OF_MESSAGES: Final = frozenset({"drop", "duplicate", "reorder", "corrupt"})


def _lists(value: object) -> object:
    return tuple(map(sequence, value)) if isinstance(value, list | tuple) else value


Named = Annotated[int | str, Expected("a node: its index or its name")]
Ends = Annotated[
    tuple[int | str, int | str],
    Before(sequence),
    Expected("a list of two nodes, by index or name, such as [0, 1]"),
]
Groups = Annotated[
    tuple[tuple[int | str, ...], ...],
    Before(_lists),
    Expected("lists of nodes, such as [[0, 1], [2, 3]]"),
]


@dataclass(frozen=True, kw_only=True)
class Fault(Section):
    """One disaster: when, to whom, what, and for how long."""

    kind: Kind = required("What happens.")
    at: float | None = key(None, "When: seconds from the start of training.", ge=0)
    round: int | None = key(None, "Or: as soon as one of the nodes concerned has made so many rounds.", ge=1)
    node: Named | None = key(None, "kill, restart, hang, slow: whom. Messages: those on this node's lines.")
    edge: Ends | None = key(
        None, "partition: the line that is down. Messages: those on this line; neither: all."
    )
    groups: Groups = key(
        (), "partition: who can still reach whom; nodes in no list form one more group together."
    )
    until: float | None = key(None, "When it is over: seconds from the start of training.", gt=0)
    lasts: float | None = key(None, "Or: for how many seconds.", alias="for", gt=0)
    factor: float = key(10.0, "slow: how many times longer the node's steps take.", gt=0)
    share: float = key(1.0, "Messages: which share of them, drawn, while the fault lasts.", gt=0, le=1)

    given: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    """The keys that somebody has set, by Python's names for them."""


Faults = Annotated[tuple[Fault, ...], Before(lambda value: _tables(value))]


def as_table(value: object) -> object:
    """`[[fault]]` tables as one table by number, from 1; what is not of that form is left as it is."""
    if isinstance(value, list) and all(isinstance(v, dict) for v in value):
        return {str(number): v for number, v in enumerate(value, start=1)}
    return value


def as_list(value: object) -> object:
    """Tables by number, as `to_dict` gives them, as a list again; anything else as it is."""
    if isinstance(value, dict) and all(isinstance(v, dict) for v in value.values()):
        return list(value.values())
    return value


def _tables(value: object) -> object:
    value = as_list(value)
    return tuple(value) if isinstance(value, list) else value


def table(fault: Fault) -> dict[str, object]:
    """A fault as it would stand in a file."""
    found = {
        fault.about(name).alias or name: getattr(fault, name)
        for name, key in fault.fields().items()
        if getattr(fault, name) != key.default
    }
    return {"kind": found.pop("kind"), **found}


def from_table(table: Mapping[str, object]) -> Fault:
    """The reverse of `table`; nothing is checked."""
    named = {Fault.about(name).alias or name: name for name in Fault.fields()}
    return Fault.of({named[key]: value for key, value in table.items()})
