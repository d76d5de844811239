"""Payloads + weights -> one mixed payload, in an order that never depends on who answered first.

The sum runs over nodes by index from +0.0, each term one multiply and one add: bitwise what a sparse matrix
product with sorted columns gives, so that one node and the whole graph as a matrix compute the same numbers.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import exp, inf, isfinite, sqrt
from typing import TYPE_CHECKING, Final, cast

import numpy as np
from numpy.typing import NDArray

from gossipfl import plugin
from gossipfl.errors import ConfigError, Problem

if TYPE_CHECKING:
    from torch import Tensor

Reweigh = Callable[[Sequence[float], Sequence[float]], Sequence[float]]
"""(weights of a row, the models' losses on this node's validation data) -> weights, in the row's order."""

Array = NDArray[np.floating]

#: The smallest normal number of float32: what is shorter than this is as good as 0.
TINY: Final = 2.0**-126
#: Elements summed at a time: a block of every payload stays in cache while it is added (measured on 5M
#: float32).
BLOCK = 131_072
#: Elements up to which all are looked at to tell how far two vectors are from each other.
WHOLE = 2**20
#: Elements from which scipy's sparse product is loaded for a sum: 10 MB, which a small node does without.
BIG: Final = 2**20
#: Elements of a term that are multiplied at a time where it is not.
PIECE: Final = 16_384
#: Elements up to which a call costs more than its arithmetic: all terms are the rows of one array then, which
#: numpy adds up from the first to the last.
SMALL = 8_192


@dataclass(frozen=True)
class Row:
    """A node's row of the mixing matrix in one round: (neighbor, weight) ascending, itself included.

    out: whom it sends to and what they give it, where those are not the ones it takes from (its column,
    itself left out); None: the graph is undirected.
    """

    node: int
    weights: tuple[tuple[int, float], ...]
    out: tuple[tuple[int, float], ...] | None = None

    @cached_property
    def neighbors(self) -> tuple[int, ...]:
        """Whose payload enters here, ascending."""
        return tuple(j for j, _ in self.weights if j != self.node)

    @cached_property
    def receivers(self) -> tuple[int, ...]:
        """Whom the own payload goes to, ascending."""
        return self.neighbors if self.out is None else tuple(j for j, _ in self.out)

    @cached_property
    def active(self) -> tuple[int, ...]:
        """Everyone a word passes to or from in this round, ascending."""
        return self.neighbors if self.out is None else tuple(sorted({*self.neighbors, *self.receivers}))

    def weight(self, neighbor: int) -> float:
        """w_ij; 0 where there is none."""
        return self._weights.get(neighbor, 0.0)

    @cached_property
    def _weights(self) -> Mapping[int, float]:
        return dict(self.weights)

    def without(self, missing: frozenset[int]) -> Row:
        """The same row when some neighbours do not count: what they were given goes to the node itself (the
        matrix stays symmetric and doubly stochastic if both ends do it)."""
        if not missing:
            return self
        return self._only(missing, sum((w for j, w in self.weights if j in missing), 0.0))

    def withholding(self, missing: frozenset[int], withheld: frozenset[int]) -> Row:
        """The same row of a column-stochastic matrix: what did not arrive is with its sender, and what was
        not sent stays here (columns still sum to one, so nothing is lost)."""
        if not missing and not withheld:
            return self
        return self._only(missing, sum((w for j, w in self.out or self.weights if j in withheld), 0.0))

    def _only(self, missing: frozenset[int], extra: float) -> Row:
        kept = self.weight(self.node) + extra
        weights = tuple((j, kept if j == self.node else w) for j, w in self.weights if j not in missing)
        return replace(self, weights=weights)


class Departure:
    """‖given − got‖₂ / ‖given‖₂, a block after the other: the difference never leaves the cache.

    Of more than `WHOLE` elements a quarter is looked at, the first of each block, so that every part of a
    model has its share. What was got is looked at whole all the same: a result that is finite proves that all
    of it is, if all that was given is.
    """

    def __init__(self, given: Tensor) -> None:
        self._given = _array(given)
        self._sampled = self._given.size > WHOLE
        self._difference = np.empty(min(BLOCK, self._given.size), self._given.dtype)
        self._apart = self._own = 0.0

    def see(self, begin: int, got: Array) -> None:
        """A block of what was got, from element `begin` on."""
        given = self._given
        if self._sampled:
            if not isfinite(np.dot(got, got)):
                self._apart = inf
            got = got[: -(-got.size // 4)]
        if got.size < given.size:
            given = given[begin : begin + got.size]
        difference = np.subtract(given, got, out=self._difference[: got.size])
        self._apart += float(np.dot(difference, difference))
        self._own += float(np.dot(given, given))

    def value(self) -> float:
        """Of all blocks seen."""
        return sqrt(self._apart) / max(sqrt(self._own), TINY)


def departure(given: Tensor, got: Tensor) -> float:
    """‖given − got‖₂ / ‖given‖₂."""
    found = Departure(given)
    _show(_array(got), found)
    return found.value()


def _show(got: Array, seen: Departure) -> None:
    for begin in range(0, got.size, BLOCK):
        seen.see(begin, got[begin : begin + BLOCK])


def _array(value: Tensor) -> Array:
    """All elements in a row; of bfloat16, which numpy does not know, as float32. No copy of what lies so."""
    array: Array
    if value.dim() == 1 and value.dtype.itemsize >= 4 and value.is_cpu:
        array = value.numpy()  # nothing in between: another tensor costs ten times as much
    else:
        wide = value if value.dtype.itemsize >= 4 else value.float()
        array = wide.cpu().reshape(-1).numpy()
    return array


def ordered_sum(
    terms: Sequence[tuple[float, Tensor]], into: Tensor | None = None, seen: Departure | None = None
) -> Tensor:
    """sum of weight * value in the order given, from +0.0; of bfloat16 in float32, rounded once.

    into: memory of the values' shape and dtype that takes the sum, and is none of the values; None: new.
    seen: is shown the sum block by block, while it is in the cache.
    """
    like = terms[0][1]
    if like.dtype.itemsize < 4:
        wide = ordered_sum([(weight, value.float()) for weight, value in terms])
        total = wide.to(like.dtype) if into is None else into.copy_(wide)
    elif not like.is_cpu:
        total = _on_device(terms) if into is None else into.copy_(_on_device(terms))
    else:
        flat = like.dim() == 1
        shape = like.numel() if flat else like.shape  # a number is read ten times as quickly
        total = like.new_empty(shape) if into is None else into
        if flat:  # so are all of them
            _sum_into(total.numpy(), [(weight, value.numpy()) for weight, value in terms], seen)
        else:
            _sum_into(_array(total), [(weight, _array(value)) for weight, value in terms], seen)
        return total
    if seen is not None:
        _show(_array(total), seen)
    return total


@lru_cache(maxsize=1024)
def _scalar(value: float, char: str) -> Array:
    """A number as an array of one; char: of which type."""
    return np.array([value], char)


#: One row with one entry, in the first column.
_ROW: Final = (np.array([0, 1], np.int32), np.array([0], np.int32))

Add = Callable[[Array, Array, Array], None]
"""total += weight [1] * value: one multiply and one add an element."""


def _by_numpy(total: Array, weight: Array, value: Array) -> None:
    """A piece after the other, through memory that stays in the cache."""
    scratch = np.empty(min(PIECE, total.size), total.dtype)
    for begin in range(0, total.size, PIECE):
        part = total[begin : begin + PIECE]
        term = np.multiply(value[begin : begin + PIECE], weight, out=scratch[: part.size])
        np.add(part, term, out=part)


def hasten(size: int) -> None:
    """Load scipy's sparse product, if sums of so many elements gain by it: for a process that sums for many
    nodes, or is forked into them."""
    if size > SMALL:
        importlib.import_module("scipy.sparse")


def _adder(size: int) -> Add:
    """What adds terms of so many elements: scipy's sparse product, which needs no memory of its own for a
    term, where it is loaded anyhow or the model is big; else numpy. The bits are the same (a test holds them
    to that)."""
    return _by_numpy if "scipy.sparse" not in sys.modules and size < BIG else _by_scipy()


@lru_cache(maxsize=1)
def _by_scipy() -> Add:
    from scipy.sparse._sparsetools import csr_matvecs

    ends, columns = _ROW
    return lambda total, weight, value: csr_matvecs(1, 1, total.size, ends, columns, weight, value, total)


def _sum_into(total: Array, terms: Sequence[tuple[float, Array]], seen: Departure | None) -> None:
    """Only a sum whose every term is -0.0 tells whether it began at +0.0: adding that at the end gives the
    same."""
    if total.size <= SMALL:
        rows = np.array([value for _, value in terms])
        rows *= np.array([weight for weight, _ in terms], rows.dtype)[:, np.newaxis]
        np.add.reduce(rows, axis=0, initial=0.0, out=total)
        if seen is not None:
            seen.see(0, total)
        return
    (first, value), *rest = terms
    add = _adder(total.size)
    weights = [_scalar(weight, total.dtype.char) for weight, _ in rest]
    for begin in range(0, total.size, BLOCK):
        block = total[begin : begin + BLOCK]
        np.multiply(value[begin : begin + BLOCK], first, out=block)
        for weight, (_, other) in zip(weights, rest, strict=True):
            add(block, weight, other[begin : begin + BLOCK])
        block += 0.0
        if seen is not None:
            seen.see(begin, block)


def _on_device(terms: Sequence[tuple[float, Tensor]]) -> Tensor:
    """The same on a device."""
    total = terms[0][1].new_zeros(terms[0][1].shape)
    for weight, value in terms:
        total += value * weight
    return total


def by_loss(weights: Sequence[float], losses: Sequence[float]) -> list[float]:
    """w_j exp(-loss_j) / sum: a row's weights times each model's likelihood of a sample of this node's own
    (Bayesian model averaging, Hoeting et al. 1999; neighbours weighed by validation loss: Zhang et al. 2021,
    "Personalized Federated Learning with First Order Model Optimization")."""
    best = min(losses)
    raw = [w * exp(best - loss) for w, loss in zip(weights, losses, strict=True)]
    return [w / sum(raw) for w in raw]


AGGREGATES: Final[Mapping[str, tuple[Reweigh | None, str]]] = {
    "mean": (None, "the weights of W"),
    "by-loss": (by_loss, "W times exp(-loss) of each model on this node's validation data"),
}


def aggregate(name: str) -> Reweigh | None:
    """What `algorithm.aggregate` names; None: the plain mean. A user's own `module:function` is a `Reweigh`;
    what it returns is checked when it is used. Raises ConfigError."""
    if name in AGGREGATES:
        return AGGREGATES[name][0]
    if not plugin.is_plugin(name):
        right = f"one of {', '.join(AGGREGATES)}, or module:function"
        raise ConfigError(Problem("algorithm.aggregate", f"no aggregate {name!r}", right))
    function = cast(Reweigh, plugin.load(name, "algorithm.aggregate"))

    def checked(weights: Sequence[float], losses: Sequence[float]) -> list[float]:
        found = [float(w) for w in function(weights, losses)]
        if len(found) != len(weights) or not all(isfinite(w) and w >= 0 for w in found) or not sum(found) > 0:
            wrong = f"{name} returned {found} for {len(weights)} models"
            raise ConfigError(
                Problem("algorithm.aggregate", wrong, "a weight of at least 0 for each, not all 0")
            )
        return [w / sum(found) for w in found]

    return checked
