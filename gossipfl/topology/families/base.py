"""What a family of graphs is: a name, its arguments, and how to make one of n nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from gossipfl.errors import ConfigError, Problem
from gossipfl.topology.graph import Graph

KEY = "topology.graph"
Number = TypeVar("Number", int, float)


def wrong(what: str, right: str) -> ConfigError:
    """The graph cannot be made: what is wrong, and the nearest that works."""
    return ConfigError(Problem(KEY, what, right))


@dataclass(frozen=True)
class Arguments:
    """What stands after the colon of `name:arguments`."""

    spec: str
    text: str = ""

    def numbers(self, kind: type[Number], separator: str, count: int, form: str) -> list[Number]:
        """At most `count` numbers with a separator between; `form` is what would be right."""
        if not self.text:
            return []
        parts = self.text.split(separator)
        try:
            values = [kind(part) for part in parts]
        except ValueError:
            values = []
        if not values or len(values) > count:
            raise wrong(f"{self.spec}: cannot read {self.text!r}", form)
        return values

    def whole(self, default: int, least: int, form: str) -> int:
        """One whole number of at least `least`."""
        value = (self.numbers(int, ",", 1, form) or [default])[0]
        if value < least:
            raise wrong(f"{self.spec}: {value} is less than {least}", form)
        return value


@dataclass(frozen=True)
class Family:
    """A kind of graph, or (make is None) of schedule.

    make(n, arguments, seed) -> Graph; size(arguments) -> the n that the arguments fix, or None.
    """

    name: str
    line: str
    example: str
    make: Callable[[int, Arguments, int], Graph] | None = None
    arguments: str = ""
    size: Callable[[Arguments], int | None] = lambda arguments: None
    source: str = ""


def either(sizes: Iterable[int]) -> str:
    """`8 or 16`: for the end of a message."""
    return " or ".join(str(size) for size in sizes)
