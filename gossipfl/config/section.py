"""What a section of swarm.toml is: a frozen dataclass, whose every key tells what is known of it.

Nothing in here checks anything: what does takes 10 MB (`checking.py`), and a process that is handed a checked
config needs none of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, Final, NamedTuple, Self, TypedDict, TypeVar, Unpack, cast

T = TypeVar("T")

_ABOUT: Final = "about"


class Bounds(TypedDict, total=False):
    """Between what a number lies, and how many entries a list has at most."""

    gt: float
    ge: float
    lt: float
    le: float
    max_length: int


class About(NamedTuple):
    """What is told about a key beside its type and default."""

    description: str
    local: bool  # this machine's own: peers do not compare it
    alias: str  # its name in the file, where Python has another use for that; else empty
    bounds: Bounds


# ---------------------------------------------------------------------- notes of types, in Annotated


class Expected(NamedTuple):
    """What a value would look like, where its type and range do not say it."""

    text: str


class Pattern(NamedTuple):
    """What a text must match."""

    expression: str


class Shortest(NamedTuple):
    """How many letters, or entries, there are at least."""

    length: int


class Above(NamedTuple):
    """A number is greater than this."""

    bound: float


class Before(NamedTuple):
    """What makes of a value, as it stands in the file, one of the type."""

    change: Callable[[object], object]


class After(NamedTuple):
    """What looks at a value of the type, and gives it back. Raises ValueError."""

    check: Callable[[Any], object]


# ---------------------------------------------------------------------- keys


def key(default: T, description: str, *, local: bool = False, alias: str = "", **bounds: Unpack[Bounds]) -> T:
    """A key with its default."""
    about = {_ABOUT: About(description, local, alias, bounds)}
    made: Any
    if isinstance(default, dict):
        made = field(default_factory=default.copy, metadata=about)
    else:
        made = field(default=default, metadata=about)
    return cast(T, made)


def required(description: str) -> Any:
    """A key without a default."""
    return field(metadata={_ABOUT: About(description, False, "", {})})


@dataclass(frozen=True, kw_only=True)
class Section:
    """A table of swarm.toml."""

    @classmethod
    def fields(cls) -> dict[str, Field[Any]]:
        """The keys, by Python's names for them."""
        return {found.name: found for found in fields(cls) if _ABOUT in found.metadata}

    @classmethod
    def about(cls, name: str) -> About:
        """What is told about a key."""
        found = cls.fields()[name].metadata[_ABOUT]
        assert isinstance(found, About)
        return found

    @classmethod
    def prepared(cls, table: dict[str, object]) -> dict[str, object]:
        """A table as it is checked: what some keys mean for others is filled in."""
        return table

    @classmethod
    def of(cls, table: Mapping[str, object]) -> Self:
        """The section of which `table()` gave this, through JSON or not. Nothing is checked."""
        own = cls.fields()
        return cls(**{name: _back(own[name].default, value) for name, value in table.items()})

    def table(self) -> dict[str, object]:
        """Key -> value, the extra keys after the section's own. A copy."""
        return {name: _copy(getattr(self, name)) for name in self.fields()}


@dataclass(frozen=True, kw_only=True)
class OpenSection(Section):
    """A table that also takes keys of what is chosen in it, as a rule's gamma or an optimizer's betas."""

    extra: Mapping[str, object] = field(default_factory=dict)
    """The keys beside the section's own, as given."""

    @classmethod
    def of(cls, table: Mapping[str, object]) -> Self:
        own = cls.fields()
        known = {name: _back(own[name].default, value) for name, value in table.items() if name in own}
        return cls(**known, extra={name: value for name, value in table.items() if name not in own})

    def table(self) -> dict[str, object]:
        return {**super().table(), **{name: _copy(value) for name, value in self.extra.items()}}


def _copy(value: object) -> object:
    """As deep as values of a config go."""
    if isinstance(value, Section):
        return value.table()
    if isinstance(value, Mapping):
        return {key: _copy(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_copy, value))
    return value


def _back(default: object, value: object) -> object:
    """The reverse of `_copy`, for a key with this default; no key of a section's own holds lists."""
    if isinstance(default, Section) and isinstance(value, Mapping):
        return default.of(value)
    return tuple(_back(None, inner) for inner in value) if isinstance(value, list | tuple) else value
