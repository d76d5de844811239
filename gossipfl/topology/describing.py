"""What a graph costs and what it buys: the figures of `gossipfl topology show`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gossipfl.topology import mixing, spectrum
from gossipfl.topology import weights as schemes
from gossipfl.topology.graph import Graph
from gossipfl.topology.mixing import Mixing
from gossipfl.topology.schedules import Cyclic, Drawn, Moments, ScheduleSpec, schedule, union
from gossipfl.topology.spec import family_of

GAMMAS: Final = (0.9, 0.99)
CONSENSUS: Final = 1e-3
"""The consensus distance, as a share of the first, that `rounds_to_consensus` predicts the rounds to."""

Figures = dict[str, object]


def describe(
    spec: ScheduleSpec,
    n: int | None = None,
    *,
    weights: str = schemes.DEFAULT,
    seed: int = 0,
    parameters: int | None = None,
    pi: Sequence[float] | NDArray[np.float64] | None = None,
    allow_disconnected: bool = False,
) -> Figures:
    """The figures of a graph or schedule, ready for JSON.

    parameters: numbers in a model, of four bytes each, for `bytes_per_round` (None without). A schedule's
    degrees and messages are means over its rounds; edges, connected and diameter are of all its rounds
    together. rho is the second largest |eigenvalue| of W; of a cycle, the rate a round of the product; of a
    random schedule, the root of `contraction`, the largest expectation of |(W - J) z|^2 / |z|^2. Raises
    ConfigError as `schedule` does.
    """
    made = schedule(spec, n, weights=weights, seed=seed, pi=pi, allow_disconnected=allow_disconnected)
    found = family_of(spec) if not isinstance(spec, Sequence) or isinstance(spec, str) else None
    taken = "file" if weights == schemes.DEFAULT and made.graph(0).matrix is not None else weights
    own = found is not None and (found[0].name == "base" or found[1].text.endswith(",local"))
    heads: Figures = {
        "name": made.graph(0).name if isinstance(made, Drawn) or made.length == 1 else _title(spec, made),
        "family": found[0].name if found else None,
    }
    figures = _cyclic(made) if isinstance(made, Cyclic) else _drawn(made)
    messages = figures["messages_per_round"]
    bytes_ = 4 * parameters * float(str(messages)) if parameters is not None else None
    return {
        **heads,
        **figures,
        "weights": "own" if own else taken,
        "parameters": parameters,
        "bytes_per_round": bytes_ if bytes_ is None else _short(bytes_),
    }


def _title(spec: ScheduleSpec, made: Cyclic | Drawn) -> str:
    return spec if isinstance(spec, str) else made.graph(0).name


def _cyclic(made: Cyclic) -> Figures:
    graphs = [graph for graph, _ in made.turns]
    cycle = [w for _, w in made.turns]
    exact = rounds_to_exact(cycle)
    rate, residual = _rate(cycle)
    return {
        **_shape(union(graphs), graphs),
        "schedule_length": made.length,
        **_pace(rate, exact),
        "residual": residual,
        "contraction": None,
        "effective_neighbours": _effective(cycle, rate),
    }


def _shape(whole: Graph | None, graphs: Sequence[Graph]) -> Figures:
    """Sizes and degrees; whole None: every pair."""
    n = graphs[0].n
    degrees = np.stack([graph.out_degrees for graph in graphs])
    directed = any(graph.directed for graph in graphs)
    pairs = n * (n - 1) if directed else n * (n - 1) // 2
    return {
        "n": n,
        "edges": len(whole.edges()) if whole else pairs,
        "degree_min": int(degrees.min()),
        "degree_mean": _short(float(degrees.mean())),
        "degree_max": int(degrees.max()),
        "diameter": whole.diameter() if whole else min(n - 1, 1),
        "connected": whole.connected() if whole else True,
        "directed": directed,
        "messages_per_round": _short(float(degrees.sum()) / len(graphs)),
    }


def _pace(rate: float | None, exact: int | None) -> Figures:
    """rho, the gap, and the rounds they mean; rate None: unknown."""
    if rate is None:
        return dict.fromkeys(("rho", "spectral_gap", "rounds_to_exact", "rounds_to_consensus"))
    rate = round(rate, 12)
    return {
        "rho": rate,
        "spectral_gap": round(1.0 - rate, 12),
        "rounds_to_exact": exact,
        "rounds_to_consensus": rounds_to_consensus(rate, exact),
    }


def rounds_to_consensus(rate: float, exact: int | None = None) -> int | None:
    """The rounds after which the consensus distance is at most 1e-3 of the first, at this rate a round; None:
    never.
    """
    if exact is not None:
        bound = math.ceil(math.log(CONSENSUS) / math.log(rate)) if 0 < rate < 1 else exact
        return min(exact, bound)
    if rate >= 1.0 - 1e-12:
        return None
    return max(1, math.ceil(math.log(CONSENSUS) / math.log(rate) - 1e-9)) if rate > 0 else 1


def _rate(cycle: list[Mixing]) -> tuple[float, float | None]:
    """rho a round; for a cycle also the spectral norm of its product less J."""
    if len(cycle) == 1:
        return spectrum.rho(cycle[0]), None
    residual, radius = spectrum.product(cycle)
    if residual < 1e-12:
        return 0.0, 0.0
    return radius ** (1.0 / len(cycle)), round(residual, 12)


def rounds_to_exact(cycle: list[Mixing]) -> int | None:
    """After how many rounds, from round 0, every node holds the same; None where never.

    Checked by multiplying out two cycles (a static W: twice as often as it would take to reach everyone by
    doubling): the matrices themselves up to 512 nodes, above with random vectors. For column-stochastic W
    (push-sum) what must be the same is the columns.
    """
    n = cycle[0].n
    if n == 1:
        return 0
    columns = not all(w.row_stochastic for w in cycle)
    enough = 2 * len(cycle) + (2 * (n - 1).bit_length() if len(cycle) == 1 else 0)
    z = np.eye(n) if n <= spectrum.DENSE else np.random.Generator(np.random.Philox(key=n)).normal(size=(n, 4))
    if columns:
        z = z - z.mean(axis=0 if n > spectrum.DENSE else 1, keepdims=True)
    for round in range(1, enough + 1):
        z = np.asarray(cycle[(round - 1) % len(cycle)].matrix @ z)
        if (np.abs(z).max() if columns else np.ptp(z, axis=0).max()) < 1e-12:
            return round
    return None


def _effective(cycle: list[Mixing], rate: float) -> dict[str, float | None]:
    """For each gamma; None where the variance has no steady state, because W grows what the nodes differ
    by."""
    found = {
        str(gamma): spectrum.effective_neighbors(cycle, gamma) if gamma * rate**2 < 1 else None
        for gamma in GAMMAS
    }
    return {gamma: None if value is None else round(value, 9) for gamma, value in found.items()}


def _drawn(made: Drawn) -> Figures:
    """A random schedule: by its second moments, where they have a closed form; else by averaging over
    rounds."""
    graphs = [made.graph(round) for round in range(_sample(made.n) if made.moments is None else 8)]
    contraction = contraction_of(made)
    contraction = contraction if contraction is None else max(contraction, 0.0)  # rounding, where it is exact
    effective: dict[str, float | None] = dict.fromkeys(map(str, GAMMAS))
    if made.moments is not None:
        effective = {str(gamma): round(_steady_neighbors(made.moments, gamma), 9) for gamma in GAMMAS}
    return {
        **_shape(made.support, graphs),
        "schedule_length": None,
        **_pace(None if contraction is None else math.sqrt(contraction), None),
        "residual": None,
        "contraction": None if contraction is None else round(contraction, 12),
        "effective_neighbours": effective,
    }


def _sample(n: int) -> int:
    """Rounds over which a random schedule without a closed form is averaged."""
    return 400 if n <= spectrum.DENSE else 64


def contraction_of(made: Drawn) -> float | None:
    """The largest expectation of |(W - J) z|^2 / |z|^2 over z that sum to zero; None where that is too large
    to find.

    Where relabelling nodes leaves the law alone, E W'W = a I + b J, and with t = E sum_j w_ij^2 a = t - (1 -
    t) / (n - 1); otherwise the mean of W'W over the first rounds stands for the expectation.
    """
    n = made.n
    if n == 1:
        return 0.0
    if made.moments is not None:
        return made.moments.own - (1.0 - made.moments.own) / (n - 1)
    rounds = _sample(n)
    total = mixing.identity(n).matrix * 0.0
    for round in range(rounds):
        w = made.mixing(round).matrix
        total = total + w.T @ w
    mean = mixing.from_matrix((total / rounds).tocsr())
    if mean.row_stochastic:
        return spectrum.rho(mean)
    if n > spectrum.DENSE:
        return None
    centre = np.eye(n) - 1.0 / n
    return float(np.linalg.eigvalsh(centre @ mean.dense() @ centre)[-1])


def _steady_neighbors(moments: Moments, gamma: float) -> float:
    """Effective neighbors of random W with these moments: C <- E W (I + gamma C) W' keeps the form a I + b
    11'."""
    shrink = moments.own - moments.cross
    a = shrink / (1.0 - gamma * shrink)
    b = moments.cross * (1.0 + gamma * a) / (1.0 - gamma)
    return 1.0 / (1.0 - gamma) / (a + b)


def _short(value: float) -> float | int:
    """A whole number as an int."""
    return int(value) if value == int(value) else round(value, 6)
