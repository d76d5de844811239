"""How fast a mixing matrix mixes: rho, the spectral gap, effective neighbors. Dense up to 512 nodes, sparse
above.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from gossipfl.topology.graph import Graph
from gossipfl.topology.mixing import Mixing

if TYPE_CHECKING:
    import scipy.sparse as sp

DENSE: Final = 512
PROBES: Final = 500_000
"""Random signs with which traces of large matrices are estimated (Hutchinson 1989): n vectors of them in
all."""

Array = NDArray[np.float64]


def rho(w: Mixing) -> float:
    """The second largest |eigenvalue| of W: one eigenvalue 1 is left out. 0 for a single node."""
    if w.n == 1:
        return 0.0
    doubly = w.row_stochastic and w.column_stochastic
    if w.symmetric and doubly:
        if w.n <= DENSE:
            return float(np.abs(np.linalg.eigvalsh(w.dense() - 1.0 / w.n)).max())
        largest, smallest = _extremes(w.matrix, 1.0)
        return max(abs(largest), abs(smallest))
    values = np.linalg.eigvals(w.dense()) if w.n <= DENSE else _leading(w.matrix)
    return float(np.abs(np.delete(values, np.abs(values - 1.0).argmin())).max(initial=0.0))


def product(cycle: list[Mixing]) -> tuple[float, float]:
    """Of the product of a cycle, less J: its spectral norm and its spectral radius."""
    n = cycle[0].n

    def apply(x: Array) -> Array:
        z = x
        for w in cycle:
            z = np.asarray(w.matrix @ z)
        return np.asarray(z - x.mean(axis=0))

    def adjoint(x: Array) -> Array:
        z = x
        for w in reversed(cycle):
            z = np.asarray(w.matrix.T @ z)
        return np.asarray(z - x.mean(axis=0))

    if n <= DENSE:
        apart = apply(np.eye(n))
        return float(np.linalg.norm(apart, 2)), float(np.abs(np.linalg.eigvals(apart)).max())
    start = np.cos(np.arange(n) * 1.7)
    if np.abs(apply(start)).max() < 1e-12:
        return 0.0, 0.0
    from scipy.sparse import linalg

    operator = linalg.LinearOperator((n, n), matvec=apply, rmatvec=adjoint, dtype=np.float64)
    norm = float(linalg.svds(operator, k=1, v0=start, return_singular_vectors=False)[0])
    values = linalg.eigs(operator, k=1, which="LM", v0=start, ncv=48, tol=1e-9, return_eigenvectors=False)
    return norm, float(np.abs(values[0]))


def laplacian_extremes(graph: Graph) -> tuple[float, float]:
    """The second smallest and the largest eigenvalue of a graph's Laplacian."""
    import scipy.sparse as sp

    laplacian = sp.csr_array(
        sp.diags_array(graph.in_degrees.astype(np.float64)) - graph.adjacency.astype(np.float64)
    )
    if graph.n <= DENSE:
        values = np.linalg.eigvalsh(laplacian.toarray())
        return float(values[1]), float(values[-1])
    largest, smallest = _extremes(-laplacian, 0.0)
    return -largest, -smallest


def _extremes(a: sp.csr_array, top: float) -> tuple[float, float]:
    """The largest and the smallest eigenvalue on 1's complement of a symmetric A with A 1 = top 1.

    Lanczos on both ends, with 1's own eigenvalue moved between them; where the gap is too small for that
    (long rings), by shift and invert.
    """
    n = a.shape[0]
    inside = (float(a.diagonal().sum()) - top) / (n - 1)

    def apply(x: Array) -> Array:
        moved: Array = a @ x + (inside - top) * x.mean()
        return moved

    from scipy.sparse import linalg

    operator = linalg.LinearOperator((n, n), matvec=apply, dtype=np.float64)
    start = np.cos(np.arange(n) * 1.7)
    try:
        values = linalg.eigsh(
            operator, k=2, which="BE", v0=start, ncv=48, maxiter=60, tol=1e-11, return_eigenvectors=False
        )
    except linalg.ArpackNoConvergence:
        bound = float((a.diagonal() - (abs(a).sum(axis=1) - abs(a.diagonal()))).min())
        scale = max(abs(bound), abs(top), 1.0)
        high = linalg.eigsh(a.tocsc(), k=2, sigma=top + 1e-7 * scale, v0=start, return_eigenvectors=False)
        low = linalg.eigsh(a.tocsc(), k=1, sigma=bound - 1e-7 * scale, v0=start, return_eigenvectors=False)
        return float(high.min()), float(low[0])
    return float(values.max()), float(values.min())


def _leading(a: sp.csr_array) -> NDArray[np.complex128]:
    """The few eigenvalues of largest modulus, 1 among them.

    Where they are too near to each other for Arnoldi's method (long directed rings), those nearest to 1: by
    Gershgorin's circles no others of W >= 0 with a positive diagonal come near the unit circle.
    """
    from scipy.sparse import linalg

    start = np.cos(np.arange(a.shape[0]) * 1.7) + 1.1
    try:
        values = linalg.eigs(
            a, k=3, which="LM", v0=start, ncv=48, maxiter=60, tol=1e-11, return_eigenvectors=False
        )
    except linalg.ArpackNoConvergence:
        values = linalg.eigs(a.tocsc(), k=5, sigma=1.0 + 1e-7, v0=start, return_eigenvectors=False)
    return np.asarray(values, dtype=np.complex128)


def effective_neighbors(cycle: list[Mixing], gamma: float) -> float | None:
    """The effective number of neighbors (Vogels, Hendrikx & Jaggi 2022, "Beyond spectral gap", equation 4).

    1 / (1 - gamma) over the mean variance, in the steady state, of z <- W (sqrt(gamma) z + noise); for a
    cycle of matrices the mean is over its rounds too. Past 512 nodes it is estimated (to about 1 %) for
    doubly stochastic W, and None for others.
    """
    n = cycle[0].n
    if n > DENSE:
        return (
            _estimated(cycle, gamma) if all(w.row_stochastic and w.column_stochastic for w in cycle) else None
        )
    if len(cycle) == 1 and cycle[0].symmetric:
        squares = np.linalg.eigvalsh(cycle[0].dense()) ** 2
        variance = float((squares / (1.0 - gamma * squares)).mean())
    else:
        variance = _steady_variance([w.dense() for w in cycle], gamma)
    return 1.0 / (1.0 - gamma) / variance


def _steady_variance(cycle: list[Array], gamma: float) -> float:
    """Mean variance over nodes and rounds: the fixed point of C <- W (I + gamma C) W', by doubling over
    cycles.
    """
    n = cycle[0].shape[0]
    product, settled = np.eye(n), np.zeros((n, n))
    for w in cycle:
        product, settled = w @ product, w @ (np.eye(n) + gamma * settled) @ w.T
    factor = gamma ** len(cycle)
    while factor > 1e-18:
        settled = settled + factor * product @ settled @ product.T
        product, factor = product @ product, factor * factor
    total = 0.0
    for w in cycle:
        settled = w @ (np.eye(n) + gamma * settled) @ w.T
        total += float(np.trace(settled)) / n
    return total / len(cycle)


def _estimated(cycle: list[Mixing], gamma: float) -> float:
    """The same for large doubly stochastic W: traces of (W_t ... W_s)(W_t ... W_s)' from random signs."""
    n, k = cycle[0].n, len(cycle)
    probes = max(32, PROBES // n)
    rng = np.random.Generator(np.random.Philox(key=n))
    total = 0.0
    for end in range(k):
        z = rng.choice((-1.0, 1.0), size=(n, probes))
        z -= z.mean(axis=0)
        factor, variance = 1.0, 1.0 / (n * (1.0 - gamma))
        for back in range(100_000):
            z = np.asarray(cycle[(end - back) % k].matrix.T @ z)
            term = factor * float((z * z).sum()) / (n * probes)
            variance += term
            factor *= gamma
            if term * gamma / (1.0 - gamma) < 1e-7 * variance:
                break
        total += variance
    return 1.0 / (1.0 - gamma) / (total / k)
