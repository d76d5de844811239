"""One mixing matrix W: w_ij is what node i gives node j's value. Rows sum to one (or columns, for
push-sum).

It is kept as three arrays, so that a node which only needs its row loads no sparse algebra: scipy's takes
10 MB.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import scipy.sparse as sp

TOLERANCE = 1e-9
"""How far a sum given by a person or a solver may be from one."""


@dataclass(frozen=True, eq=False)
class Mixing:
    """W by rows (CSR): columns ascending in each row, the diagonal always stored (also where it is 0).

    indptr: int32 [n + 1], where each row begins. indices: int32, the columns. data: float64, the weights.
    """

    indptr: NDArray[np.int32]
    indices: NDArray[np.int32]
    data: NDArray[np.float64]

    @property
    def n(self) -> int:
        return len(self.indptr) - 1

    @cached_property
    def matrix(self) -> sp.csr_array:
        """The same as scipy's CSR [n, n]; the arrays are shared."""
        import scipy.sparse as sp

        return sp.csr_array((self.data, self.indices, self.indptr), shape=(self.n, self.n))

    @cached_property
    def owners(self) -> NDArray[np.int64]:
        """int64: whose row each entry stands in."""
        return np.repeat(np.arange(self.n), np.diff(self.indptr))

    def row(self, i: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Node i's neighbors and itself, ascending, int64 [k]; their weights, float64 [k]."""
        first, last = self.indptr[i], self.indptr[i + 1]
        return self.indices[first:last].astype(np.int64), self.data[first:last]

    def column(self, j: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Who takes node j's value, ascending, int64 [k]; with which weights, float64 [k]."""
        order, begins = self._turned
        there = order[begins[j] : begins[j + 1]]
        return self.owners[there], self.data[there]

    @cached_property
    def _turned(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The entries by columns, rows ascending in each; where each column begins."""
        order = np.argsort(self.indices, kind="stable")
        return order, np.searchsorted(self.indices[order], np.arange(self.n + 1))

    def diagonal(self) -> NDArray[np.float64]:
        """float64 [n]: what each node keeps."""
        kept = self.owners == self.indices
        return np.bincount(self.owners[kept], weights=self.data[kept], minlength=self.n).astype(np.float64)

    def dense(self) -> NDArray[np.float64]:
        """float64 [n, n]."""
        full = np.zeros((self.n, self.n))
        full[self.owners, self.indices] = self.data
        return full

    @cached_property
    def symmetric(self) -> bool:
        """w_ij = w_ji, to 1e-12."""
        keys = self.owners * self.n + self.indices  # ascending
        turned = self.indices.astype(np.int64) * self.n + self.owners
        at = np.searchsorted(keys, turned).clip(max=len(keys) - 1)
        other = np.where(keys[at] == turned, self.data[at], 0.0)
        return bool(np.all(np.abs(self.data - other) <= 1e-12))

    @cached_property
    def row_sums(self) -> NDArray[np.float64]:
        """float64 [n]: what each row sums to."""
        return np.bincount(self.owners, weights=self.data, minlength=self.n).astype(np.float64)

    @cached_property
    def row_stochastic(self) -> bool:
        """Every row sums to one, to 1e-9."""
        return bool(np.all(np.abs(self.row_sums - 1.0) <= TOLERANCE))

    @cached_property
    def column_stochastic(self) -> bool:
        """Every column sums to one, to 1e-9: what push-sum needs, and, with the rows, what keeps the mean."""
        sums = np.bincount(self.indices, weights=self.data, minlength=self.n)
        return bool(np.all(np.abs(sums - 1.0) <= TOLERANCE))


def from_entries(
    n: int,
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    values: NDArray[np.float64],
    *,
    by: str = "rows",
) -> Mixing:
    """W from its off-diagonal entries; the diagonal is what each row (or column) lacks to one.

    A rest of rounding size (under 1e-15) is taken as zero. The entries need no order, but each stands once.
    """
    whose = rows if by == "rows" else columns
    rest = 1.0 - np.bincount(whose, weights=values, minlength=n).astype(np.float64)
    rest[np.abs(rest) < 1e-15] = 0.0
    return from_all_entries(n, rows, columns, values, rest)


def from_all_entries(
    n: int,
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    values: NDArray[np.float64],
    diagonal: NDArray[np.float64],
) -> Mixing:
    """W from its off-diagonal entries and its diagonal, float64 [n]."""
    nodes = np.arange(n)
    all_rows, all_columns = np.concatenate([rows, nodes]), np.concatenate([columns, nodes])
    order = np.lexsort((all_columns, all_rows))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(all_rows, minlength=n))]).astype(np.int32)
    data = np.concatenate([values, diagonal]).astype(np.float64)[order]
    return Mixing(indptr, all_columns[order].astype(np.int32), data)


def from_matrix(matrix: NDArray[np.float64] | sp.csr_array) -> Mixing:
    """W from a dense or sparse matrix: zeros are not stored, the diagonal is."""
    if not isinstance(matrix, np.ndarray):
        coo = matrix.tocoo()
        off = (coo.row != coo.col) & (coo.data != 0.0)
        rows, columns = coo.row[off].astype(np.int64), coo.col[off].astype(np.int64)
        return from_all_entries(coo.shape[0], rows, columns, coo.data[off], np.asarray(coo.diagonal()))
    kept = matrix != 0.0
    np.fill_diagonal(kept, False)
    rows, columns = np.nonzero(kept)
    return from_all_entries(len(matrix), rows, columns, matrix[rows, columns], matrix.diagonal())


def identity(n: int) -> Mixing:
    """W = I: everyone keeps its own."""
    nothing = np.empty(0, np.int64)
    return from_all_entries(n, nothing, nothing, np.empty(0), np.ones(n))


def lazy(w: Mixing) -> Mixing:
    """(I + W) / 2."""
    off = (w.owners != w.indices) & (w.data != 0.0)
    return from_all_entries(
        w.n, w.owners[off], w.indices[off].astype(np.int64), w.data[off] * 0.5, (w.diagonal() + 1.0) * 0.5
    )
