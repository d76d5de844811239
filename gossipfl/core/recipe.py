"""Every algorithm is a row: which rule, on which schedule, under which laws. `recipe()` states the laws once,
with the reason, before anything starts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, cast

import numpy as np
import scipy.sparse as sp

from gossipfl import plugin
from gossipfl.core.aggregate import Row
from gossipfl.core.rules import averaging, tracking
from gossipfl.core.rules.base import Rule
from gossipfl.errors import ConfigError, Problem
from gossipfl.topology import Graph, Mixing, Schedule


class Entry(NamedTuple):
    """A rule by name: how to make it (its keywords are the rule's own config keys) and what to say of it."""

    make: Callable[..., Rule]
    line: str
    source: str


RULES: Final[Mapping[str, Entry]] = {
    "none": Entry(averaging.none, "every node alone: the baseline", "-"),
    "dpsgd": Entry(averaging.dpsgd, "train, then average with the neighbors", "Sayed 2014; Lian et al. 2017"),
    "dpsgd-cta": Entry(averaging.dpsgd_cta, "average while training: x leaves first", "Lian et al. 2017"),
    "gradient": Entry(
        averaging.gradient, "exchange gradients instead of models (FedSGD)", "McMahan et al. 2017"
    ),
    "qg": Entry(averaging.qg, "momentum along the averaged path", "Lin et al. 2021"),
    "d2": Entry(
        tracking.d2, "exact for data that differ between nodes", "Tang et al. 2018; Yuan et al. 2018"
    ),
    "gradient-tracking": Entry(
        tracking.gradient_tracking, "track the mean gradient, then average", "Di Lorenzo & Scutari 2016"
    ),
    "diging": Entry(tracking.diging, "track the mean gradient beside the average", "Nedic et al. 2017"),
}


@dataclass(frozen=True)
class Recipe:
    """A rule with its mixing matrices, checked; `notes` say what was chosen on the user's behalf."""

    name: str
    rule: Rule
    schedule: Schedule
    params: Mapping[str, object]
    notes: tuple[str, ...] = ()

    def row(self, node: int, round: int) -> Row:
        """Node's row of W in a round."""
        columns, weights = self.schedule.mixing(round).row(node)
        return Row(node, tuple(zip(columns.tolist(), weights.tolist(), strict=True)))


class Mapped:
    """A schedule with every mixing matrix changed by a function."""

    def __init__(self, base: Schedule, change: Callable[[int, Mixing], Mixing], length: int | None) -> None:
        self.n, self.length = base.n, length
        self._base, self._change = base, change
        self._last: tuple[int, Mixing] | None = None

    def graph(self, round: int) -> Graph:
        return self._base.graph(round)

    def mixing(self, round: int) -> Mixing:
        key = round % self.length if self.length else round
        if self._last is None or self._last[0] != key:
            self._last = (key, self._change(round, self._base.mixing(round)))
        return self._last[1]


def _identity(n: int) -> Mixing:
    return Mixing(sp.csr_array(sp.identity(n, dtype=np.float64, format="csr")))


def every(schedule: Schedule, k: int) -> Schedule:
    """The schedule that mixes after each k-th local phase and stays home in between."""
    if k == 1:
        return schedule

    def change(round: int, mixing: Mixing) -> Mixing:
        return mixing if (round + 1) % k == 0 else _identity(schedule.n)

    return Mapped(schedule, change, k if schedule.length == 1 else None)


def lazy(schedule: Schedule) -> Schedule:
    """(I + W) / 2 in every round."""

    def change(round: int, mixing: Mixing) -> Mixing:
        half = (_identity(schedule.n).matrix + mixing.matrix) * 0.5
        half.sort_indices()
        return Mixing(sp.csr_array(half))

    return Mapped(schedule, change, schedule.length)


def smallest_eigenvalue(mixing: Mixing) -> float:
    """lambda_min of a symmetric W; dense up to 512 nodes, Lanczos above."""
    n = mixing.matrix.shape[0]
    if n <= 512:
        return float(np.linalg.eigvalsh(mixing.dense())[0])
    from scipy.sparse.linalg import eigsh

    start = np.linspace(1.0, 2.0, n)
    return float(eigsh(mixing.matrix, k=1, which="SA", v0=start, return_eigenvectors=False, tol=1e-6)[0])


def _symmetric(mixing: Mixing) -> bool:
    difference = abs(mixing.matrix - mixing.matrix.T)
    return bool(difference.nnz == 0 or difference.max() < 1e-12)


def _columns_sum_to_one(mixing: Mixing) -> bool:
    return bool(np.abs(np.asarray(mixing.matrix.sum(axis=0)) - 1.0).max() < 1e-9)


def make_rule(name: str, params: Mapping[str, object]) -> tuple[Rule, dict[str, object]]:
    """The rule of this name with its own keys, and all of them resolved. Raises ConfigError naming the
    key."""
    if plugin.is_plugin(name):
        make = cast("Callable[..., Rule]", plugin.load(name, "algorithm.rule"))
    elif name in RULES:
        make = RULES[name].make
    else:
        raise ConfigError(Problem("algorithm.rule", f"no rule {name!r}", f"one of {', '.join(RULES)}"))
    accepted = {
        key: p.default
        for key, p in inspect.signature(make).parameters.items()
        if p.default is not inspect.Parameter.empty
    }
    problems = []
    for key, value in params.items():
        if key not in accepted:
            own = f"its own keys are {', '.join(accepted)}" if accepted else "it has no keys of its own"
            problems.append(Problem(f"algorithm.{key}", f"unknown key for rule {name}", own))
        elif isinstance(value, bool) != isinstance(accepted[key], bool) or not isinstance(value, int | float):
            problems.append(
                Problem(f"algorithm.{key}", f"{value!r} is not a number", f"the default is {accepted[key]}")
            )
    if problems:
        raise ConfigError(problems)
    resolved = {**accepted, **params}
    rule = make(**resolved)
    if not isinstance(rule, Rule):
        raise ConfigError(
            Problem("algorithm.rule", f"{name} returned {type(rule).__name__}", "a gossipfl Rule is needed")
        )
    return rule, resolved


def recipe(name: str, params: Mapping[str, object], schedule: Schedule, mix_every: int = 1) -> Recipe:
    """Put a rule on a schedule. Raises ConfigError naming the law that is broken and the nearest working
    choice."""
    own = dict(params)
    insist = own.pop("lazy", None) if name == "d2" else None
    rule, resolved = make_rule(name, own)
    notes: list[str] = []
    problems: list[Problem] = []
    schedule = every(schedule, mix_every)
    first = schedule.mixing(0) if mix_every == 1 else schedule.mixing(mix_every - 1)
    needs = rule.needs
    if rule.per_link or any(p.kind != "vector" for p in rule.sends):
        why = f"{name} sends what the exchange `rounds` does not carry"
        problems.append(Problem("algorithm.rule", why, "a rule whose payload is vectors"))
    if "static" in needs and schedule.length != 1:
        why = (
            f"{name} remembers its neighbors' last values, so it needs the same mixing matrix in every round"
        )
        problems.append(
            Problem("algorithm.rule", why, "a static graph and algorithm.every = 1, or gradient-tracking")
        )
    if needs & {"symmetric", "lambda-min"} and not _symmetric(first):
        why = f"{name} needs a symmetric mixing matrix"
        problems.append(Problem("topology.weights", why, "metropolis, max-degree or best-constant"))
    elif "lambda-min" in needs and not problems:
        smallest = smallest_eigenvalue(first)
        if insist is True or (insist is None and smallest <= -1 / 3 + 1e-12):
            schedule = lazy(schedule)
            if insist is None:
                notes.append(
                    f"{name}: the smallest eigenvalue of W is {smallest:.4f}, not above -1/3, so (I+W)/2 is taken"
                    " (algorithm.lazy = false insists on W)"
                )
    if "doubly-stochastic" in needs and not _columns_sum_to_one(first):
        notes.append(
            f"{name}: the columns of W do not sum to 1: the nodes agree on a weighted mean, not the plain one"
        )
    if name == "gradient" and first.matrix.nnz != first.matrix.shape[0] ** 2:
        notes.append(
            "gradient: models drift apart on every graph but complete; dpsgd averages the models too"
        )
    if problems:
        raise ConfigError(problems)
    if insist is not None:
        resolved["lazy"] = insist
    return Recipe(name, rule, schedule, resolved, tuple(notes))
