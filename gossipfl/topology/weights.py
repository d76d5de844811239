"""Mixing matrices of a graph. Every one is supported on the graph and the diagonal, and its rows sum to one
(`column-stochastic`: its columns)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gossipfl import plugin
from gossipfl.errors import ConfigError, Problem
from gossipfl.topology import convex, mixing, spectrum
from gossipfl.topology.graph import Graph
from gossipfl.topology.mixing import Mixing

KEY = "topology.weights"
DEFAULT = "metropolis"


class Scheme(NamedTuple):
    """How a graph becomes a W: make(graph) -> Mixing; `line` says it in a line; what it is for; where it is
    from.
    """

    make: Callable[[Graph], Mixing]
    line: str
    source: str = ""


def _balanced(graph: Graph, name: str) -> None:
    """A directed graph has a doubly stochastic 1/(1 + degree) only where all degrees are the same."""
    degrees = np.concatenate([graph.in_degrees, graph.out_degrees])
    if graph.directed and graph.n and not (degrees == degrees[0]).all():
        raise ConfigError(
            Problem(
                KEY,
                f"{name} on {graph.name}: a directed graph with unequal degrees has no such weights",
                "column-stochastic, with rule push-sum, or uniform",
            )
        )


def undirected(graph: Graph, name: str) -> None:
    """Raise ConfigError where the graph is directed: these weights are symmetric."""
    if graph.directed:
        raise ConfigError(
            Problem(
                KEY,
                f"{name} on {graph.name}: these weights are symmetric, the graph is directed",
                "column-stochastic, with rule push-sum, or uniform",
            )
        )


def metropolis(graph: Graph) -> Mixing:
    """w_ij = 1 / (1 + max(d_i, d_j)): symmetric, doubly stochastic (Xiao & Boyd 2004, after Metropolis et al.
    1953).
    """
    _balanced(graph, "metropolis")
    senders, receivers = graph.arcs[:, 0], graph.arcs[:, 1]
    degrees = graph.in_degrees
    return mixing.from_entries(
        graph.n, receivers, senders, 1.0 / (1.0 + np.maximum(degrees[senders], degrees[receivers]))
    )


def constant(graph: Graph, alpha: float) -> Mixing:
    """W = I - alpha L, L the graph's Laplacian."""
    undirected(graph, f"constant:{alpha:g}")
    senders, receivers = graph.arcs[:, 0], graph.arcs[:, 1]
    return mixing.from_entries(graph.n, receivers, senders, np.full(len(graph.arcs), alpha))


def max_degree(graph: Graph) -> Mixing:
    """W = I - L / (d_max + 1)."""
    undirected(graph, "max-degree")
    return constant(graph, 1.0 / (1.0 + int(graph.in_degrees.max(initial=0))))


def best_constant(graph: Graph) -> Mixing:
    """W = I - alpha L with alpha = 2 / (lambda_2 + lambda_n) of L: the best of all constants (Xiao & Boyd
    2004, 4.1).
    """
    undirected(graph, "best-constant")
    if len(graph.arcs) == 0:
        return mixing.identity(graph.n)
    second, last = spectrum.laplacian_extremes(graph)
    return constant(graph, 2.0 / (second + last))


def lazy(graph: Graph) -> Mixing:
    """(I + W) / 2 of the Metropolis W: positive semidefinite."""
    return mixing.lazy(metropolis(graph))


def uniform(graph: Graph) -> Mixing:
    """w_ij = 1 / (1 + d_i), d_i those whom i receives from: row-stochastic; the nodes agree on a weighted
    mean.
    """
    senders, receivers = graph.arcs[:, 0], graph.arcs[:, 1]
    values = 1.0 / (1.0 + graph.in_degrees[receivers].astype(np.float64))
    return mixing.from_entries(graph.n, receivers, senders, values)


def column_stochastic(graph: Graph) -> Mixing:
    """a_ij = 1 / (1 + outdegree of j): what push-sum needs (Nedic & Olshevsky 2016)."""
    senders, receivers = graph.arcs[:, 0], graph.arcs[:, 1]
    values = 1.0 / (1.0 + graph.out_degrees[senders].astype(np.float64))
    return mixing.from_entries(graph.n, receivers, senders, values, by="columns")


def by_data(graph: Graph, pi: NDArray[np.float64]) -> Mixing:
    """w_ij = pi_j min(1 / Pi_i, 1 / Pi_j), Pi_i = pi_i + the sum of its neighbors' pi: reversible with
    stationary law pi / sum(pi), so the nodes agree on the mean weighted by pi; on `complete` it is FedAvg's
    row; equal pi: Metropolis.

    pi: positive float64 [n], the nodes' data sizes.
    """
    undirected(graph, "data")
    senders, receivers = graph.arcs[:, 0], graph.arcs[:, 1]
    around = pi + np.bincount(receivers, weights=pi[senders], minlength=graph.n)
    values = pi[senders] * np.minimum(1.0 / around[receivers], 1.0 / around[senders])
    return mixing.from_entries(graph.n, receivers, senders, values)


def _fdla(graph: Graph) -> Mixing:
    undirected(graph, "fdla")
    return convex.fdla(graph)


def _fmmc(graph: Graph) -> Mixing:
    undirected(graph, "fmmc")
    return convex.fmmc(graph)


SCHEMES: Final[Mapping[str, Scheme]] = {
    "metropolis": Scheme(
        metropolis, "1 / (1 + max(d_i, d_j)): needs only the neighbours' degrees", "Xiao & Boyd 2004"
    ),
    "max-degree": Scheme(max_degree, "I - L / (d_max + 1)"),
    "best-constant": Scheme(best_constant, "I - alpha L with the best alpha", "Xiao & Boyd 2004"),
    "fdla": Scheme(_fdla, "the fastest symmetric W, by a convex program", "Xiao & Boyd 2004"),
    "fmmc": Scheme(_fmmc, "the fastest symmetric W >= 0, by a convex program", "Boyd, Diaconis & Xiao 2004"),
    "lazy": Scheme(lazy, "(I + W) / 2 of metropolis: no negative eigenvalue"),
    "uniform": Scheme(uniform, "1 / (1 + d_i): rows only; the mean is weighted by degree"),
    "column-stochastic": Scheme(
        column_stochastic, "1 / (1 + outdegree): for push-sum", "Nedic & Olshevsky 2016"
    ),
}
"""Weights that take the graph alone, by name."""

OTHERS: Final[Mapping[str, str]] = {
    "constant:ALPHA": "I - ALPHA L",
    "data": "by the nodes' data sizes: FedAvg's weighted mean without a server",
}
"""Weights that take more, and what they are; beside them `module:function`."""

NAMES: Final = (*SCHEMES, *OTHERS)


def check_name(name: str) -> None:
    """Raise ConfigError where no weights have this name."""
    if name in SCHEMES or name == "data" or name.startswith("constant:") or plugin.is_plugin(name):
        return
    raise ConfigError(Problem(KEY, f"no weights {name!r}", f"one of {', '.join(NAMES)}, or module:function"))


def weigh(
    graph: Graph, name: str = DEFAULT, pi: Sequence[float] | NDArray[np.float64] | None = None
) -> Mixing:
    """The mixing matrix of a graph.

    A matrix that came with the graph (a weighted file) is taken as it is, unless `name` is other than the
    default. pi: the nodes' data sizes, for `data`. Raises ConfigError naming `topology.weights`.
    """
    check_name(name)
    if graph.matrix is not None and name == DEFAULT:
        return mixing.from_matrix(graph.matrix)
    if name in SCHEMES:
        return SCHEMES[name].make(graph)
    if name == "data":
        return by_data(graph, _sizes(graph, pi))
    if name.startswith("constant:"):
        return constant(graph, _alpha(name))
    return _from_function(graph, name)


def _alpha(name: str) -> float:
    text = name.partition(":")[2]
    try:
        alpha = float(text)
    except ValueError:
        alpha = float("nan")
    if not 0 < alpha < 1e100:
        raise ConfigError(
            Problem(KEY, f"{name}: {text!r} is no positive number", "constant:0.2, for I - 0.2 L")
        )
    return alpha


def _sizes(graph: Graph, pi: Sequence[float] | NDArray[np.float64] | None) -> NDArray[np.float64]:
    if pi is None:
        raise ConfigError(
            Problem("topology.pi", "weights data need the nodes' data sizes", f"{graph.n} positive numbers")
        )
    sizes = np.asarray(pi, dtype=np.float64)
    if sizes.shape != (graph.n,) or not (np.isfinite(sizes) & (sizes > 0)).all():
        wrong = (
            f"{sizes.size} numbers for {graph.n} nodes" if sizes.size != graph.n else "a size is not positive"
        )
        raise ConfigError(Problem("topology.pi", wrong, f"{graph.n} positive numbers"))
    return sizes


def _from_function(graph: Graph, name: str) -> Mixing:
    """W from a person's own function of the graph: checked for shape, rows and support."""
    function = plugin.load(name, KEY)
    try:
        made = function(graph)
        given = np.asarray(made.toarray() if hasattr(made, "toarray") else made)
    except Exception as error:  # whatever a person's own function raises is theirs to read
        wrong = f"{name}: {type(error).__name__}: {error}"
        raise ConfigError(Problem(KEY, wrong, "it is called with (graph) and returns W")) from error
    n = graph.n
    if given.dtype.kind not in "biuf":
        raise ConfigError(Problem(KEY, f"{name} returned {given.dtype}", "a matrix of real numbers"))
    if given.shape != (n, n):
        raise ConfigError(
            Problem(KEY, f"{name} returned shape {given.shape}", f"a matrix of shape ({n}, {n})")
        )
    return checked(mixing.from_matrix(given.astype(np.float64)), graph, KEY, name)


def checked(w: Mixing, graph: Graph, key: str, name: str) -> Mixing:
    """W itself, if its rows sum to one and it is zero off the graph; else ConfigError naming the first bad
    row.
    """
    sums = w.row_sums
    bad = np.flatnonzero(~(np.abs(sums - 1.0) <= mixing.TOLERANCE))
    if len(bad) and not w.column_stochastic:
        wrong = f"{name}: row {bad[0]} sums to {sums[bad[0]]:.6g}"
        raise ConfigError(Problem(key, wrong, "every row must sum to 1 (or, for push-sum, every column)"))
    rows, columns = w.owners, w.indices.astype(np.int64)
    there = np.isin(columns * w.n + rows, graph.arcs[:, 0] * w.n + graph.arcs[:, 1])
    off = (rows != columns) & ~there
    if off.any():
        i, j = int(rows[off][0]), int(columns[off][0])
        raise ConfigError(
            Problem(key, f"{name}: w[{i}, {j}] is not 0, but {j} does not send to {i}", "0 off the graph")
        )
    return w
