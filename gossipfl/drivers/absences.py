"""Who is away when, in the network that the event engine pretends: drawn sessions, or a trace of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from gossipfl import draw
from gossipfl.config import Config
from gossipfl.draw import Purpose
from gossipfl.drivers.amounts import Amounts, of_nodes, read_lines
from gossipfl.errors import ConfigError, Problem

_UPTIME, _DOWNTIME, _SINCE = 20, 21, 22
#: Seconds that a session and an absence last at least: none is nothing.
SHORTEST: Final = 1e-3


class Absence(NamedTuple):
    """Seconds from the start at which a node goes away, and comes back (infinite: never)."""

    goes: float
    back: float


class Absences:
    """The absences of every node, ascending.

    Raises ConfigError for a trace or a file of numbers that is missing or broken.
    """

    def __init__(self, config: Config) -> None:
        network, n = config.network, config.swarm.nodes
        self._seed, self.any = config.swarm.seed, bool(network.uptime or network.trace)
        self._trace = read_trace(Path(network.trace), config.names) if network.trace else None
        self._stays = Amounts(network.uptime, self._seed, _UPTIME)
        self._away = Amounts(network.downtime, self._seed, _DOWNTIME)
        # a file holds a number a node
        files = [of_nodes(a, n) if a.file() is not None else None for a in (self._stays, self._away)]
        self._by_node = files
        for amounts, found in zip((self._stays, self._away), files, strict=True):
            if found is not None and not all(found):
                raise ConfigError(Problem(amounts.spread.name, "holds a 0", "seconds above 0, one a node"))

    def of(self, node: int) -> Iterator[Absence]:
        """A node's absences, without an end where they are drawn.

        The first session has begun before the start: a share of it, drawn, is over. Else all would go at
        once where sessions are equally long.
        """
        if self._trace is not None:
            yield from self._trace.get(node, [])
            return
        if not self.any:
            return
        now = 0.0
        for k in itertools.count():
            stays = self._seconds(0, node, k)
            if not k:
                stays *= 1.0 - draw.one(draw.prefix(self._seed, Purpose.NETWORK, _SINCE), node)
            goes = now + max(stays, SHORTEST)
            now = goes + max(self._seconds(1, node, k), SHORTEST)
            yield Absence(goes, now)

    def _seconds(self, which: int, node: int, k: int) -> float:
        by_node = self._by_node[which]
        return by_node[node] if by_node is not None else (self._stays, self._away)[which].draw(node, k)


def read_trace(path: Path, names: tuple[str, ...]) -> dict[int, list[Absence]]:
    """Node -> its absences, of a CSV file with lines `node, goes, back`; the node by index or name, `back`
    empty where it does not come back. Raises ConfigError naming file and line."""
    found: dict[int, list[Absence]] = {}
    for line, words in read_lines(path):
        where = f"{path}:{line}"
        if len(words) != 3:
            raise ConfigError(Problem(where, f"has {len(words)} values", "node, goes, back"))
        node = names.index(words[0]) if words[0] in names else _index(words[0])
        if node is None or node >= len(names):
            right = f"a name, or an index from 0 to {len(names) - 1}"
            raise ConfigError(Problem(where, f"there is no node {words[0]!r}", right))
        goes, back = _time(where, words[1]), _time(where, words[2]) if words[2] else math.inf
        before = found.setdefault(node, [])
        if back <= goes:
            raise ConfigError(Problem(where, f"comes back at {back:g}, and goes at {goes:g}", "later"))
        if before and goes < before[-1].back:
            wrong = f"node {words[0]} goes at {goes:g}, and is away until {before[-1].back:g}"
            raise ConfigError(Problem(where, wrong, "each node's absences one after the other"))
        before.append(Absence(goes, back))
    if not found:
        raise ConfigError(Problem(str(path), "holds no absence", "lines such as 3, 10.0, 20.0"))
    return found


def _index(word: str) -> int | None:
    return int(word) if word.isascii() and word.isdecimal() else None


def _time(where: str, word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ConfigError(Problem(where, f"cannot be {word!r}", "seconds from the start, at least 0"))
    return value
