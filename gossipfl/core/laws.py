"""What a rule needs of the graph, of W, of codec and aggregate: each law once, with its reason and the
nearest choice that works. A rule says what it needs by name, in `needs`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from gossipfl.core.codecs import KEY as CODEC
from gossipfl.core.codecs import Codec
from gossipfl.core.rules.base import Rule, sends_models
from gossipfl.errors import Problem
from gossipfl.topology import Graph, Mixing, Schedule
from gossipfl.topology.mixing import identity
from gossipfl.topology.mixing import lazy as halfway
from gossipfl.topology.spectrum import rho

#: What the names in a rule's `needs` mean, in a few words.
NEEDS: Final[Mapping[str, str]] = {
    "mean": "columns of W that sum to 1, for the exact mean",
    "doubly-stochastic": "columns of W that sum to 1",
    "column-stochastic": "columns of W that sum to 1; one-way arcs are fine",
    "symmetric": "a symmetric W",
    "lambda-min": "eigenvalues of W above -1/3, else (I+W)/2 is taken",
    "static": "the same W in every round",
    "tree": "a tree: tree, path or star",
    "complete": "the graph complete",
}

RULE, WEIGHTS, GRAPH = "algorithm.rule", "topology.weights", "topology.graph"


@dataclass
class Findings:
    """What is broken, and what was chosen on the user's behalf or is worth knowing."""

    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def broken(self, key: str, wrong: str, right: str) -> None:
        """A law is broken."""
        self.problems.append(Problem(key, wrong, right))


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


def every(schedule: Schedule, k: int) -> Schedule:
    """The schedule that mixes after each k-th local phase and stays home in between."""
    if k == 1:
        return schedule

    def change(round: int, mixing: Mixing) -> Mixing:
        return mixing if (round + 1) % k == 0 else identity(schedule.n)

    return Mapped(schedule, change, k if schedule.length == 1 else None)


def lazy(schedule: Schedule) -> Schedule:
    """(I + W) / 2 in every round."""

    def change(round: int, mixing: Mixing) -> Mixing:
        return halfway(mixing)

    return Mapped(schedule, change, schedule.length)


def smallest_eigenvalue(mixing: Mixing) -> float:
    """lambda_min of a symmetric W; dense up to 512 nodes, Lanczos above."""
    n = mixing.n
    if n <= 512:
        return float(np.linalg.eigvalsh(mixing.dense())[0])
    from scipy.sparse.linalg import eigsh

    start = np.linspace(1.0, 2.0, n)
    return float(eigsh(mixing.matrix, k=1, which="SA", v0=start, return_eigenvectors=False, tol=1e-6)[0])


# ---------------------------------------------------------------------- graph and W


def check_graph(name: str, rule: Rule, schedule: Schedule, first: Mixing, found: Findings) -> None:
    """What a rule needs of its schedule; `first`: the matrix of a round that mixes."""
    needs, conserves = rule.needs, _conserves(schedule)
    if "static" in needs and schedule.length != 1:
        why = f"{name} remembers what its neighbors sent, so it needs the same mixing matrix in every round"
        found.broken(RULE, why, "a static graph and algorithm.every = 1, or gradient-tracking")
    if needs & {"symmetric", "lambda-min"} and not first.symmetric:
        why = f"{name} needs a symmetric mixing matrix: what flows over an edge must cancel"
        found.broken(WEIGHTS, why, "metropolis, max-degree or best-constant on an undirected graph")
    if "doubly-stochastic" in needs and not conserves:
        why = f"{name} needs columns of W that sum to 1, else the trackers' mean is not the mean displacement"
        found.broken(WEIGHTS, why, "metropolis, max-degree or best-constant, or rule dpsgd")
    if "mean" in needs and not conserves:
        found.notes.append(
            f"{name}: the columns of W do not sum to 1: the nodes agree on a weighted mean, not the plain one"
        )
    if "column-stochastic" in needs and not conserves:
        why = f"{name} needs columns of W that sum to 1, so that no mass is lost"
        found.broken(WEIGHTS, why, "column-stochastic, or rule dpsgd on these weights")
    if rule.sends and not needs & {"column-stochastic", "tree"}:
        _check_means(name, needs, first, found)
    if "tree" in needs and not _is_tree(schedule):
        why = f"{name} relays sums along a tree, and this graph has cycles, or directions, or changes"
        found.broken(GRAPH, why, "tree, path or star with algorithm.every = 1, or rule dpsgd")
    if "complete" in needs and len(first.data) != first.n**2:
        why = f"{name} is the mean over all nodes in every round, so all must be neighbors"
        right = f"complete, or rule {'gradient' if name == 'fedsgd' else 'dpsgd'} on this graph"
        found.broken(GRAPH, why, right)
    if name == "gradient" and len(first.data) != first.n**2:
        found.notes.append(
            "gradient: models drift apart on every graph but complete; dpsgd averages the models too"
        )


def _check_means(name: str, needs: frozenset[str], first: Mixing, found: Findings) -> None:
    """Rows are weights of means; and where some are negative, differences between nodes may grow."""
    if not first.row_stochastic:
        why = f"{name} takes means, and the rows of W do not sum to 1"
        found.broken(WEIGHTS, why, "metropolis or uniform, or rule push-sum on column-stochastic weights")
    elif needs and first.data.min() < 0 and (largest := rho(first)) > 1 + 1e-9:
        why = f"an eigenvalue of W is {largest:.4f} in size, so differences between nodes grow in every round"
        found.broken(WEIGHTS, why, "metropolis, best-constant, or weights whose rho is below 1")


def _conserves(schedule: Schedule) -> bool:
    """Do the columns sum to one, in every round (of a drawn schedule: in its first)?"""
    return all(schedule.mixing(t).column_stochastic for t in range(schedule.length or 1))


def _is_tree(schedule: Schedule) -> bool:
    if schedule.length != 1:
        return False
    graph = schedule.graph(0)
    return not graph.directed and graph.connected() and len(graph.edges()) == graph.n - 1


def positive_enough(
    name: str, schedule: Schedule, first: Mixing, insist: object, coding: Codec, found: Findings
) -> Schedule:
    """D2 diverges where lambda_min <= -1/3 (Tang et al. 2018, assumption 1): then (I + W) / 2 is taken; and
    always where parts of a model do not travel. `insist`, algorithm.lazy: True or False decides, None
    looks."""
    if coding.lossy:
        if insist is False:
            why = f"{name} diverges where {coding.name} leaves parts out, unless (I+W)/2 is taken"
            found.broken("algorithm.lazy", why, 'true, or wire.codec = "none", or rule choco')
        elif insist is None:
            found.notes.append(f"{name}: {coding.name} leaves parts out: (I+W)/2 is taken, W itself diverges")
        return lazy(schedule)
    if insist is False:
        return schedule
    smallest = smallest_eigenvalue(first)
    if insist is None:
        if smallest > -1 / 3 + 1e-12:
            return schedule
        found.notes.append(
            f"{name}: the smallest eigenvalue of W is {smallest:.4f}, not above -1/3: (I+W)/2 is taken"
            " (algorithm.lazy = false insists on W)"
        )
    return lazy(schedule)


# ---------------------------------------------------------------------- what goes over an edge


def check_codec(name: str, rule: Rule, coding: Codec, found: Findings) -> None:
    """What a codec that drops something does to a rule."""
    remembers = any(part.kind == "difference" for part in rule.sends)
    if remembers and not coding.lossy:
        found.notes.append(
            f"{name} sends differences whole: set wire.codec, such as topk:0.1, to send less of them"
        )
    if not coding.lossy or remembers or not rule.sends:
        return
    if rule.per_link or "column-stochastic" in rule.needs:
        why = f"{coding.name} drops parts of a sum that {name} never sends again"
        found.broken(CODEC, why, "none, or rule choco, which sends later what was dropped")
    else:
        found.notes.append(
            f"{name} with {coding.name}: what is dropped stays with the node, so the nodes stop short of"
            " agreement; rule choco sends it later"
        )


def check_aggregate(aggregate: str, name: str, rule: Rule, coding: Codec, found: Findings) -> None:
    """Weights that depend on the models need models, whole ones, and a rule that has no memory of them."""
    key = "algorithm.aggregate"
    if not sends_models(rule):
        why = f"{aggregate} weighs models by their loss, and {name} "
        why += "sends something else" if not rule.keeps else "remembers what was mixed, and diverges"
        found.broken(key, why, 'rule dpsgd or dpsgd-cta, or aggregate = "mean"')
    elif coding.lossy:
        why = f"{aggregate} weighs models by their loss, and {coding.name} leaves parts of them out"
        found.broken(key, why, 'wire.codec = "none", or aggregate = "mean"')


def check_on_death(name: str, rule: Rule, schedule: Schedule, first: Mixing, found: Findings) -> None:
    """Edges around the dead change W on the way, and what they weigh is made for one that keeps the mean."""
    key, right = "algorithm.on_death", '"self"'
    others = rule.needs & {"static", "tree", "complete", "lambda-min", "column-stochastic"}
    if not rule.sends:
        found.broken(key, f"{name} exchanges nothing", right)
    elif rule.per_link or others:
        why = f"rewire gives W other edges while it runs, and {name} needs "
        needs = [NEEDS[need] for need in NEEDS if need in others - {"lambda-min", "column-stochastic"}]
        if "column-stochastic" in others:
            why = f"{name} needs a weight for what it is sent, also from whom it does not expect it yet"
        else:
            why += needs[0] if needs else "the edges it began with"
        found.broken(key, why, f"{right}, or rule dpsgd")
    elif schedule.length != 1:
        found.broken(
            key, "rewire needs the same W in every round", f"{right}, or a static graph and every = 1"
        )
    elif schedule.graph(0).directed or not (first.symmetric and first.column_stochastic):
        why = "the edges of rewire count both ways, so it needs a symmetric, doubly stochastic W"
        found.broken(key, why, f"{right}, or metropolis weights on an undirected graph")
    elif first.data.min() < 0:
        why = "rewire gives away what a node keeps, and some weights of W are negative"
        found.broken(key, why, f"{right}, or metropolis weights")


def check_agreement(name: str, rule: Rule, found: Findings) -> None:
    """Scales differ from node to node, so no displacement may be carried into another round."""
    if not rule.sends or rule.keeps:
        why = f'"agreement" scales each node\'s displacement by its own, and {name} '
        why += "carries displacements on" if rule.sends else "exchanges nothing"
        found.broken("train.lr_schedule", why, "rule dpsgd, dpsgd-cta or gradient, or another schedule")


def check_average_optimizer(name: str, rule: Rule, found: Findings) -> None:
    """Optimizer state is known after the local phase only."""
    key, right = "algorithm.average_optimizer", "rule dpsgd, or false"
    if not rule.sends:
        found.broken(key, f"{name} exchanges nothing", right)
    elif rule.early:
        found.broken(
            key, f"{name} sends before it trains, and the state it would send is the last one's", right
        )
