"""z -> W z for all nodes at once, by blocks of rows that threads take turns at.

Every element is the sum that its node would make: over neighbours by index from +0.0, one multiply and one
add each. scipy's CSR product adds sorted columns so (tests/laws guards it), and however the rows are cut. It
is called where it adds to memory that is there: a product of its own would be new memory, written twice.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.sparse._sparsetools import csr_matvecs
from torch import Tensor

from gossipfl.learning.crew import ALONE, Crew
from gossipfl.learning.memory import Shelf
from gossipfl.topology import Mixing

BLOCK = 2**21  # bytes of a block: what a thread writes stays in its cache, and scipy is called seldom enough
KEPT = 64  # matrices whose blocks are kept: a schedule comes back to them

Block = tuple[slice, sp.csr_array]  # rows of W


class Mixer:
    """W z for z `[n, d]`, in z's number type and on its device."""

    def __init__(self, crew: Crew = ALONE) -> None:
        self._crew, self._shelf = crew, Shelf()
        self._made: dict[tuple[int, torch.dtype, int], tuple[Mixing, list[Block]]] = {}

    def __call__(self, mixing: Mixing, z: Tensor) -> Tensor:
        if z.device.type != "cpu":
            return on_device(mixing, z)
        if z.element_size() < 4:  # summed in float32 and rounded once, as nodes do
            return self(mixing, z.float()).to(z.dtype)
        values = np.ascontiguousarray(z.detach().numpy())
        mixed = self._shelf.empty_like(z)
        out = mixed.numpy()

        def multiply(block: Block) -> None:
            product(block[1], values, out[block[0]])

        self._crew.map(multiply, self._blocks(mixing, z))
        return mixed

    def _blocks(self, mixing: Mixing, z: Tensor) -> list[Block]:
        key = (id(mixing), z.dtype, z.shape[-1])
        if key not in self._made or self._made[key][0] is not mixing:
            if len(self._made) >= KEPT:
                self._made.clear()
            matrix = mixing.matrix.astype(z[:0].numpy().dtype)
            rows = max(1, BLOCK // max(1, z.shape[-1] * z.element_size()))
            whole = len(z) <= 2 * rows
            self._made[key] = (mixing, [(slice(0, len(z)), matrix)] if whole else _cut(matrix, rows))
        return self._made[key][1]


def product(rows: sp.csr_array, values: NDArray[np.floating], out: NDArray[np.floating]) -> None:
    """Some rows `[r, n]` of W times values `[n, d]` into out `[r, d]`; all of one type, in C order."""
    out.fill(0)
    r, n = rows.shape
    csr_matvecs(r, n, values.shape[1], rows.indptr, rows.indices, rows.data, values.ravel(), out.ravel())


def on_device(mixing: Mixing, z: Tensor) -> Tensor:
    """W z where z `[n, d]` is; the same up to rounding, the sums are that device's own."""
    coo = mixing.matrix.tocoo()
    places = torch.from_numpy(np.stack([coo.row, coo.col]).astype(np.int64))
    with torch.sparse.check_sparse_tensor_invariants(False):  # type: ignore[no-untyped-call]
        matrix = torch.sparse_coo_tensor(
            places, torch.from_numpy(coo.data), size=coo.shape, is_coalesced=True, check_invariants=False
        )
        mixed: Tensor = torch.sparse.mm(matrix.to(device=z.device, dtype=z.dtype), z)
    return mixed


def departure(given: Tensor, got: Tensor, crew: Crew = ALONE) -> Tensor:
    """‖given_i − got_i‖₂ / ‖given_i‖₂ of each row of `[n, d]`, `[n]`."""
    found = given.new_empty(len(given))
    tiny = torch.finfo(given.dtype).tiny
    rows = max(1, BLOCK // max(1, given.shape[-1] * given.element_size()))

    def measure(first: int) -> None:
        some = slice(first, first + rows)
        norm = given[some].norm(dim=1).clamp_min(tiny)
        found[some] = (given[some] - got[some]).norm(dim=1) / norm

    crew.map(measure, range(0, len(given), rows))
    return found


def _cut(matrix: sp.csr_array, rows: int) -> list[Block]:
    """Blocks of so many rows, made of the matrix' own memory."""
    blocks = []
    for first in range(0, matrix.shape[0], rows):
        start = matrix.indptr[first : first + rows + 1]
        span = slice(start[0], start[-1])
        parts = (matrix.data[span], matrix.indices[span], start - start[0])
        shape = (len(start) - 1, matrix.shape[1])
        blocks.append((slice(first, first + rows), sp.csr_array(parts, shape=shape)))
    return blocks
