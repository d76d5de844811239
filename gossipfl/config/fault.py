"""`[[fault]]`: disasters that are to happen, in the event engine or to real processes."""

from __future__ import annotations

from typing import Annotated, Final, Literal, get_args

from pydantic import BeforeValidator, ConfigDict, Field

from gossipfl.config.sections import Expected, Section, _sequence

MOST: Final = 10_000  # faults in a script

Kind = Literal["kill", "restart", "hang", "partition", "slow", "drop", "duplicate", "reorder", "corrupt"]
KINDS: Final[tuple[str, ...]] = get_args(Kind)
#: What befalls a node's process, and what befalls the messages of a line.
OF_NODES: Final = frozenset({"kill", "restart", "hang", "slow"})
OF_MESSAGES: Final = frozenset({"drop", "duplicate", "reorder", "corrupt"})


def _lists(value: object) -> object:
    return tuple(map(_sequence, value)) if isinstance(value, list | tuple) else value


Named = Annotated[int | str, Expected("a node: its index or its name")]
Ends = Annotated[
    tuple[int | str, int | str],
    BeforeValidator(_sequence),
    Expected("a list of two nodes, by index or name, such as [0, 1]"),
]
Groups = Annotated[
    tuple[tuple[int | str, ...], ...],
    BeforeValidator(_lists),
    Expected("lists of nodes, such as [[0, 1], [2, 3]]"),
]


class Fault(Section):
    """One disaster: when, to whom, what, and for how long."""

    model_config = ConfigDict(populate_by_name=True)

    kind: Kind = Field(description="What happens.")
    at: float | None = Field(None, ge=0, description="When: seconds from the start of training.")
    round: int | None = Field(
        None, ge=1, description="Or: as soon as one of the nodes concerned has made so many rounds."
    )
    node: Named | None = Field(
        None, description="kill, restart, hang, slow: whom. Messages: those on this node's lines."
    )
    edge: Ends | None = Field(
        None, description="partition: the line that is down. Messages: those on this line; neither: all."
    )
    groups: Groups = Field(
        (),
        description="partition: who can still reach whom; nodes in no list form one more group together.",
    )
    until: float | None = Field(
        None, gt=0, description="When it is over: seconds from the start of training."
    )
    lasts: float | None = Field(None, alias="for", gt=0, description="Or: for how many seconds.")
    factor: float = Field(10.0, gt=0, description="slow: how many times longer the node's steps take.")
    share: float = Field(
        1.0, gt=0, le=1, description="Messages: which share of them, drawn, while the fault lasts."
    )


Faults = Annotated[tuple[Fault, ...], BeforeValidator(lambda value: _tables(value))]


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
    found = fault.model_dump(by_alias=True, exclude_defaults=True)
    return {"kind": found.pop("kind"), **found}
