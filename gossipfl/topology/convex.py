"""The fastest mixing matrices of a graph, by convex programs (Xiao & Boyd 2004; Boyd, Diaconis & Xiao 2004).

Both minimise the spectral norm of W - J over symmetric W supported on the graph with rows that sum to one;
`fmmc` also asks W >= 0 (a Markov chain). One variable an edge: W = I - sum_e w_e (e_i - e_j)(e_i - e_j)'. The
solver (cvxpy with Clarabel) is the extra `weights`.
"""

from __future__ import annotations

import importlib
import warnings

import numpy as np

from gossipfl.errors import ConfigError, Problem
from gossipfl.topology import mixing
from gossipfl.topology.graph import Graph
from gossipfl.topology.mixing import Mixing

LARGEST = 100
"""Nodes up to which the program is solved: about a minute at 100, and the time grows with n^4 or so."""


def fdla(graph: Graph) -> Mixing:
    """Fastest distributed linear averaging: weights may be negative (Xiao & Boyd 2004, problem 15)."""
    return _fastest(graph, "fdla", negative=True)


def fmmc(graph: Graph) -> Mixing:
    """Fastest mixing Markov chain: weights are not negative (Boyd, Diaconis & Xiao 2004, problem 6)."""
    return _fastest(graph, "fmmc", negative=False)


def _fastest(graph: Graph, name: str, *, negative: bool) -> Mixing:
    edges = graph.edges()
    n, m = graph.n, len(edges)
    if m == 0:
        return mixing.identity(n)
    if n > LARGEST:
        wrong = f"{name}: {n} nodes are too many for the convex program (up to {LARGEST})"
        raise ConfigError(Problem("topology.weights", wrong, "best-constant or metropolis"))
    try:
        cp = importlib.import_module("cvxpy")
    except ImportError as error:
        right = "pip install 'gossipfl[weights]', or best-constant"
        raise ConfigError(
            Problem("topology.weights", f"{name} needs cvxpy, which is not installed", right)
        ) from error
    import scipy.sparse as sp

    incidence = sp.csr_array(
        (np.concatenate([np.ones(m), -np.ones(m)]), (edges.T.ravel(), np.tile(np.arange(m), 2))), shape=(n, m)
    )
    w, norm = cp.Variable(m), cp.Variable()
    apart = (
        np.eye(n)
        - 1.0 / n
        - incidence.toarray() @ cp.multiply(cp.reshape(w, (m, 1), order="C"), incidence.T.toarray())
    )
    laws = [apart << norm * np.eye(n), apart >> -norm * np.eye(n)]
    if not negative:
        laws += [w >= 0, abs(incidence).toarray() @ w <= 1]
    problem = cp.Problem(cp.Minimize(norm), laws)
    with warnings.catch_warnings():  # nearly solved is fine: any w is a W with rows that sum to one
        warnings.filterwarnings("ignore", message="Solution may be inaccurate")
        problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
    if w.value is None:
        raise ConfigError(
            Problem(
                "topology.weights",
                f"{name}: the solver stopped ({problem.status})",
                "best-constant or metropolis",
            )
        )
    value = np.asarray(w.value) if negative else np.maximum(np.asarray(w.value), 0.0)
    rows, columns = np.concatenate([edges, edges[:, ::-1]]).T
    return mixing.from_entries(n, rows, columns, np.tile(value, 2))
