"""What a run came to, whatever ran it, and the figures of `summary.json` made from it."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

import gossipfl
from gossipfl.drivers.figures import consensus_distance, distances, effective_neighbors, fairness, spread
from gossipfl.drivers.machine import machine
from gossipfl.drivers.plan import Plan
from gossipfl.learning.partition import label_distance, label_table
from gossipfl.learning.supervised import ModuleWorkload
from gossipfl.learning.workload import Workload

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """The end of a run. Rows of nodes that left nothing behind are zero, and `present` is False for them."""

    engine: str
    x: Tensor  # [n, d], the last parameters
    present: tuple[bool, ...]
    rounds: tuple[int, ...]  # finished by each node
    sent_bytes: tuple[int, ...]
    lost: tuple[int, ...]
    seconds: float  # from the first round to the end of the last; virtual in the event engine
    start_seconds: float = 0.0
    diverged: tuple[int, int, str] | None = None  # node, round, what
    end: int | None = None  # after how many rounds the swarm ended, where that was decided on the way
    notes: tuple[str, ...] = field(default=())
    sent_messages: tuple[int, ...] | None = None  # payloads, where they were counted

    @property
    def finished(self) -> bool:
        """Did every node finish every round?"""
        return not self.lost and self.diverged is None and all(self.present)


def _gradient_norm(workload: Workload, x: Tensor) -> float | None:
    """At x [d]; None where the task's own code fails on it, which costs this figure and no other."""
    try:
        return workload.gradient_norm(x)
    except Exception as error:
        log.warning("no gradient norm at the mean model (%s: %s)", type(error).__name__, error)
        return None


@torch.enable_grad()
def summarize(plan: Plan, workload: Workload, outcome: Outcome) -> dict[str, object]:
    """The figures of `summary.json`, from the models as they are at the end."""
    config = plan.config
    rows = torch.tensor(outcome.present)
    x = outcome.x[rows]
    values: dict[str, list[float]] = {name: [] for name in workload.metrics}
    mean_model: dict[str, float] = {}
    steepness: float | None = None
    if len(x):
        mean = x.mean(0)
        scores = workload.cohort().evaluate(torch.cat([x, mean.unsqueeze(0)]))
        values = {name: v[:-1].tolist() for name, v in scores.items()}
        mean_model = {name: float(v[-1]) for name, v in scores.items()}
        steepness = _gradient_norm(workload, mean)
    headline = values[workload.headline]
    per_node = _by_node(headline, outcome.present)
    spreads = {name: spread(v, name != "loss" and workload.higher_is_better) for name, v in values.items()}
    for name, value in mean_model.items():
        spreads[name]["mean_model"] = value
    of_headline = spread(headline, workload.higher_is_better)
    rounds = max(outcome.rounds, default=0)
    goal = plan.rounds if outcome.end is None else outcome.end
    done = [r >= goal and p for r, p in zip(outcome.rounds, outcome.present, strict=True)]
    gap = spectral_gap(plan)
    return {
        "version": gossipfl.__version__,
        "nodes": plan.n,
        "rounds": rounds,
        "engine": outcome.engine,
        "graph": config.topology.title,
        "rule": config.algorithm.rule,
        "exchange": config.algorithm.exchange,
        "codec": config.wire.codec,
        "seed": config.swarm.seed,
        "finished": outcome.finished and all(done),
        "nodes_finished": sum(done),
        "lost": [config.names[i] for i in outcome.lost],
        "seconds": outcome.seconds,
        "start_seconds": outcome.start_seconds,
        "round_seconds": outcome.seconds / rounds if rounds else 0.0,
        "rounds_per_second": rounds / outcome.seconds if outcome.seconds > 0 else 0.0,
        "virtual_seconds": outcome.seconds if outcome.engine == "events" else None,
        "sent_bytes_per_node": sum(outcome.sent_bytes) / plan.n,
        "sent_messages_per_node": None
        if outcome.sent_messages is None
        else sum(outcome.sent_messages) / plan.n,
        "metric": workload.headline,
        "higher_is_better": workload.higher_is_better,
        **of_headline,
        "mean_model": mean_model.get(workload.headline, math.nan),
        "fairness": fairness(headline) if headline else math.nan,
        "metrics": spreads,
        "per_node": per_node,
        "names": list(config.names),
        "consensus_distance": consensus_distance(x),
        "distance_per_node": _by_node(distances(x).tolist(), outcome.present),
        "gradient_norm": steepness,
        "spectral_gap": gap,
        "effective_neighbors": effective_neighbors(plan),
        "parameters": workload.d,
        "data_hash": workload.data_hash,
        "config_hash": config.digest(),
        "machine": machine(),
        "edges": [list(edge) for edge in plan.edges()] if plan.n <= 2048 else [],
        "partition": partition_table(workload),
        "notes": [*plan.recipe.notes, *outcome.notes],
    }


def _by_node(values: Sequence[float], present: Sequence[bool]) -> list[float | None]:
    """The values of the nodes that are present, in node order, None for the others."""
    found = iter(values)
    return [next(found) if there else None for there in present]


def partition_table(workload: Workload) -> dict[str, object]:
    """Who holds what: sizes, and where the task has labels the table [n, classes] and each node's
    total-variation distance to the whole; empty for tasks without data."""
    if not workload.parts:
        return {}
    table: dict[str, object] = {"sizes": list(workload.sizes)}
    labels = workload.task.labels if isinstance(workload, ModuleWorkload) else None
    if labels is not None and len(workload.parts) <= 1024:
        classes, counts = label_table(labels, workload.parts)
        table["classes"] = classes.tolist()
        table["labels"] = counts.tolist()
        table["tv"] = label_distance(labels, workload.parts).tolist()
    return table


def spectral_gap(plan: Plan) -> float | None:
    """1 - rho of a static W; None where W changes from round to round."""
    from gossipfl.topology import spectrum

    if plan.recipe.schedule.length != 1:
        return None
    return 1.0 - spectrum.rho(plan.recipe.schedule.mixing(0))
