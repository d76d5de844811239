"""Amounts of `[network]` for edges and nodes: constants, keyed draws, files of numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gossipfl import draw
from gossipfl.config.spreads import Spread, spread
from gossipfl.draw import Purpose
from gossipfl.errors import ConfigError, Problem

Numbers = NDArray[np.float64]

_NORMAL: Final = NormalDist()


def quantile(found: Spread, u: float) -> float:
    """Where a share `u` in [0, 1) of a distribution lies below."""
    match found.kind:
        case "uniform":
            return found.a + (found.b - found.a) * u
        case "exponential":
            return -found.a * math.log1p(-u)
        case "lognormal":
            return found.a * math.exp(found.b * _NORMAL.inv_cdf(max(u, 2.0**-54)))
        case _:
            return found.a


class Amounts:
    """The amounts of one key; `what` tells its draws from those of other keys."""

    def __init__(self, value: float | str, seed: int, what: int) -> None:
        self.spread = spread(value)
        self.fixed = self.spread.kind == "constant"  # is it one number throughout?
        self._seed, self._what = seed, what

    def draw(self, *keys: int) -> float:
        """The amount for some keys; not of a file."""
        if self.fixed:
            return self.spread.a
        *first, last = keys
        before = draw.prefix(self._seed, Purpose.NETWORK, self._what, *first)
        return quantile(self.spread, draw.one(before, last))

    def file(self) -> Numbers | None:
        """The numbers of its file `[rows, columns]`; None where it is none. Raises ConfigError."""
        return read_numbers(Path(self.spread.name)) if self.spread.kind == "file" else None


class OfEdges:
    """An amount for every (sender, receiver). A distribution is drawn once an edge, both ways alike.

    Raises ConfigError for a file that is missing, broken, or not `[n, n]`.
    """

    def __init__(self, amounts: Amounts, n: int) -> None:
        self._amounts, self._table = amounts, amounts.file()
        if self._table is not None and self._table.shape != (n, n):
            raise _shape(amounts, self._table, f"{n} rows of {n} numbers: senders by receivers")

    def __call__(self, sender: int, receiver: int) -> float:
        if self._table is not None:
            return float(self._table[sender, receiver])
        return self._amounts.draw(min(sender, receiver), max(sender, receiver))


def of_nodes(amounts: Amounts, n: int) -> list[float]:
    """An amount for every node. Raises ConfigError for a file that is missing, broken, or not n numbers."""
    table = amounts.file()
    if table is None:
        return [amounts.draw(node) for node in range(n)]
    if table.size != n or 1 not in table.shape:
        raise _shape(amounts, table, f"{n} numbers, one a node")
    return [float(value) for value in table.ravel()]


class OfPhases:
    """An amount for every node and local phase. A file's columns are taken in turn.

    Raises ConfigError for a file that is missing, broken, or has not n rows.
    """

    def __init__(self, amounts: Amounts, n: int) -> None:
        self._amounts, table = amounts, amounts.file()
        if table is not None and len(table) != n:
            raise _shape(amounts, table, f"{n} rows, one a node")
        self._rows = None if table is None else table.tolist()

    def __call__(self, node: int, phase: int) -> float:
        if self._rows is not None:
            row = self._rows[node]
            return float(row[phase % len(row)])
        return self._amounts.draw(node, phase)


def _shape(amounts: Amounts, table: Numbers, right: str) -> ConfigError:
    wrong = f"has {table.shape[0]} rows of {table.shape[1]} numbers"
    return ConfigError(Problem(amounts.spread.name, wrong, right))


def read_numbers(path: Path) -> Numbers:
    """Finite numbers of at least 0, `[rows, columns]`, of an `.npy` file or of lines with commas or spaces
    between them. Raises ConfigError naming file and line."""
    if path.suffix.lower() == ".npy":
        return _array(path)
    rows: list[list[float]] = []
    for line, words in read_lines(path):
        rows.append([_number(path, line, word) for word in words])
        if len(rows[-1]) != len(rows[0]):
            wrong = f"has {len(rows[-1])} numbers, and the first line has {len(rows[0])}"
            raise ConfigError(Problem(f"{path}:{line}", wrong, "as many in every line"))
    if not rows:
        raise ConfigError(Problem(str(path), "holds no numbers", "a line a row, with commas between numbers"))
    return np.array(rows)


def read_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and the words of each line that has any; `#` begins a comment. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        wrong = f"cannot be read: {error.strerror}"
        raise ConfigError(Problem(str(path), wrong, "give an existing file")) from error
    except UnicodeDecodeError as error:
        raise ConfigError(Problem(str(path), "is not UTF-8 text", "save the file as UTF-8")) from error
    for number, line in enumerate(text.splitlines(), start=1):
        body = line.partition("#")[0].strip()
        if body:
            yield number, [word.strip() for word in body.split(",")] if "," in body else body.split()


def _number(path: Path, line: int, word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ConfigError(Problem(f"{path}:{line}", f"cannot be {word!r}", "finite numbers, at least 0"))
    return value


def _array(path: Path) -> Numbers:
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        wrong = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        raise ConfigError(Problem(str(path), wrong, "an array that numpy.save wrote")) from error
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiu" or found.ndim not in (1, 2):
        raise ConfigError(Problem(str(path), "is no array of numbers", "one or two dimensions of numbers"))
    table = np.atleast_2d(found).astype(np.float64)
    if not table.size or not np.isfinite(table).all() or (table < 0).any():
        raise ConfigError(Problem(str(path), "holds other numbers", "finite numbers, at least 0"))
    return table
