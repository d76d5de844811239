"""One mixing matrix W: w_ij is what node i gives node j's value. Rows sum to one (or columns, for
push-sum).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

TOLERANCE = 1e-9
"""How far a sum given by a person or a solver may be from one."""


@dataclass(frozen=True, eq=False)
class Mixing:
    """matrix: float64 CSR [n, n], columns ascending in each row, the diagonal always stored (also where it is
    0).
    """

    matrix: sp.csr_array

    @property
    def n(self) -> int:
        return int(self.matrix.shape[0])

    def row(self, i: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Node i's neighbors and itself, ascending, int64 [k]; their weights, float64 [k]."""
        first, last = self.matrix.indptr[i], self.matrix.indptr[i + 1]
        return self.matrix.indices[first:last].astype(np.int64), self.matrix.data[first:last]

    def dense(self) -> NDArray[np.float64]:
        """float64 [n, n]."""
        return np.asarray(self.matrix.toarray())

    @cached_property
    def symmetric(self) -> bool:
        """w_ij = w_ji, to 1e-12."""
        gap = abs(self.matrix - self.matrix.T)
        return bool(gap.nnz == 0 or gap.max() <= 1e-12)

    @cached_property
    def row_stochastic(self) -> bool:
        """Every row sums to one, to 1e-9."""
        return bool(np.all(np.abs(self.matrix.sum(axis=1) - 1.0) <= TOLERANCE))

    @cached_property
    def column_stochastic(self) -> bool:
        """Every column sums to one, to 1e-9: what push-sum needs, and, with the rows, what keeps the mean."""
        return bool(np.all(np.abs(self.matrix.sum(axis=0) - 1.0) <= TOLERANCE))


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
    return Mixing(sp.csr_array((data, all_columns[order].astype(np.int32), indptr), shape=(n, n)))


def from_matrix(matrix: NDArray[np.float64] | sp.csr_array) -> Mixing:
    """W from a dense or sparse matrix: zeros are not stored, the diagonal is."""
    coo = sp.coo_array(matrix)
    off = (coo.row != coo.col) & (coo.data != 0.0)
    return from_all_entries(
        int(coo.shape[0]),
        coo.row[off].astype(np.int64),
        coo.col[off].astype(np.int64),
        coo.data[off].astype(np.float64),
        np.asarray(coo.diagonal(), dtype=np.float64),
    )


def identity(n: int) -> Mixing:
    """W = I: everyone keeps its own."""
    return from_matrix(sp.csr_array(sp.identity(n, dtype=np.float64, format="csr")))
