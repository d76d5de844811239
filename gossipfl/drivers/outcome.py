"""What a run came to, whatever ran it, and the figures of `summary.json` made from it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

import gossipfl
from gossipfl.drivers.machine import machine
from gossipfl.drivers.plan import Plan
from gossipfl.learning.partition import label_distance, label_table
from gossipfl.learning.workload import ModuleWorkload, Workload


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

    @property
    def finished(self) -> bool:
        """Did every node finish every round?"""
        return not self.lost and self.diverged is None and all(self.present)


def consensus_distance(x: Tensor) -> float:
    """sqrt(mean over nodes of ||x_i - mean x||^2) of x [n, d]."""
    if not len(x):
        return 0.0
    x = x.to(torch.float64)
    return math.sqrt(float(((x - x.mean(0)) ** 2).sum(1).mean()))


def summarize(plan: Plan, workload: Workload, outcome: Outcome) -> dict[str, object]:
    """The figures of `summary.json`, from the models as they are at the end."""
    config = plan.config
    rows = torch.tensor(outcome.present)
    x = outcome.x[rows]
    values: dict[str, list[float]] = {}
    if len(x):
        everything = torch.cat([x, x.mean(0, keepdim=True)])
        values = {name: v.tolist() for name, v in workload.cohort().evaluate(everything).items()}
    headline = values.get(workload.headline, [math.nan])
    per_node: list[float | None] = [None] * plan.n
    for node, value in zip(rows.nonzero().flatten().tolist(), headline[:-1], strict=False):
        per_node[node] = value
    nodes, mean_model = np.array(headline[:-1] or [math.nan]), headline[-1]
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
        "sent_bytes_per_node": sum(outcome.sent_bytes) / plan.n,
        "metric": workload.headline,
        "higher_is_better": workload.higher_is_better,
        "mean": float(nodes.mean()),
        "min": float(nodes.min()),
        "max": float(nodes.max()),
        "std": float(nodes.std()),
        "mean_model": mean_model,
        "per_node": per_node,
        "names": list(config.names),
        "consensus_distance": consensus_distance(x),
        "spectral_gap": gap,
        "parameters": workload.d,
        "data_hash": workload.data_hash,
        "config_hash": config.digest(),
        "machine": machine(),
        "edges": [list(edge) for edge in plan.edges()] if plan.n <= 2048 else [],
        "partition": partition_table(workload),
        "notes": [*plan.recipe.notes, *outcome.notes],
    }


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
