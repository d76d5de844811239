"""The figures of the field about all nodes together (docs/metrics.md says what each means)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gossipfl.drivers.plan import Plan
from gossipfl.learning.workload import Workload
from gossipfl.topology import spectrum

GAMMA = 0.99  # of the effective number of neighbours


def consensus_distance(x: Tensor) -> float:
    """sqrt(mean over nodes of ‖x_i − x̄‖²) of x `[n, d]`."""
    return math.sqrt(float((distances(x) ** 2).mean())) if len(x) else 0.0


def distances(x: Tensor) -> Tensor:
    """‖x_i − x̄‖₂ of each row of `[n, d]`, float64 `[n]`."""
    x = x.to(torch.float64)
    found: Tensor = torch.linalg.vector_norm(x - x.mean(0), dim=1)
    return found


def spread(values: Sequence[float], higher_is_better: bool) -> dict[str, float]:
    """Mean, extremes and population standard deviation over nodes; `best` and `worst` by which way is better.

    NaN where there are no values."""
    found = np.array(values or [math.nan])
    low, high = float(found.min()), float(found.max())
    worst, best = (low, high) if higher_is_better else (high, low)
    return {
        "mean": float(found.mean()),
        "min": low,
        "max": high,
        "std": float(found.std()),
        "worst": worst,
        "best": best,
    }


def fairness(values: Sequence[float]) -> float:
    """(Σ v)² / (n Σ v²): 1 when all are alike, 1/n when one has everything; 1 where all are 0.

    Jain, Chiu & Hawe 1984, "A quantitative measure of fairness and discrimination for resource allocation",
    equation 1.
    """
    found = np.array(values, dtype=np.float64)
    squares = len(found) * float((found**2).sum())
    return float(found.sum()) ** 2 / squares if squares else 1.0


def effective_neighbors(plan: Plan) -> float | None:
    """Of the schedule's cycle, at γ = .99; None for schedules that do not repeat, for matrices that are not
    doubly stochastic, and for more than 512 nodes."""
    schedule = plan.recipe.schedule
    if schedule.length is None or schedule.n > spectrum.DENSE:
        return None
    cycle = [schedule.mixing(round) for round in range(schedule.length)]
    if not all(w.row_stochastic and w.column_stochastic for w in cycle):
        return None
    return spectrum.effective_neighbors(cycle, GAMMA)


class Gathering:
    """What is known of an evaluation only when all nodes have got there: exact, by one who sees them all."""

    def __init__(self, workload: Workload, n: int) -> None:
        self._workload, self._n = workload, n
        self._seen: dict[int, list[Tensor]] = {}  # of rounds that not all have evaluated

    def add(self, round: int, x: Tensor) -> dict[str, object]:
        """A node's x `[d]` after a round; with the last of the n what `together` says, else nothing."""
        seen = self._seen.setdefault(round, [])
        seen.append(x.detach().clone())
        return self.together(torch.stack(self._seen.pop(round))) if len(seen) == self._n else {}

    def together(self, x: Tensor) -> dict[str, object]:
        """`consensus_distance` of x `[n, d]`, and the metrics of the `mean_model`."""
        return {"consensus_distance": consensus_distance(x), "mean_model": self._workload.scores(x.mean(0))}
