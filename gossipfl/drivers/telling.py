"""What nodes record of rounds and evaluations; the same fields whichever driver runs them."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gossipfl.config import Config
from gossipfl.core import sketch
from gossipfl.core.aggregate import departure
from gossipfl.core.events import Adopt
from gossipfl.core.stopping import Criteria
from gossipfl.errors import ConfigError, Problem
from gossipfl.learning.learner import Learner, Phase
from gossipfl.learning.workload import Assignment
from gossipfl.records import Form


def round_fields(adopt: Adopt, phase: Phase, neighbors: int) -> dict[str, object]:
    """`loss`, `neighbors` and `disagreement` = ||x_i - mixed_i|| / ||x_i|| of what was given to the
    average."""
    return {"loss": phase.loss, "neighbors": neighbors, "disagreement": disagreement(adopt)}


def disagreement(adopt: Adopt) -> float:
    """||x_i - mixed_i|| / ||x_i|| of what was given to the average."""
    known = adopt.departure
    if known is None:
        return departure(adopt.sent[0], adopt.mixed[0]) if adopt.sent else 0.0
    return known


#: What a real node says of a round.
ROUND: Final = Form(
    "round",
    {
        "loss": float,
        "neighbors": int,
        "disagreement": float,
        "train_s": float,
        "wait_s": float,
        "mix_s": float,
        "sent_bytes": int,
        "received_bytes": int,
    },
)


def eval_fields(learner: Learner, seed: int | None) -> dict[str, object]:
    """The task's metrics and a sketch of x, from which a reader estimates the consensus distance; seed None:
    no sketch."""
    if seed is None:
        return {**learner.evaluate()}
    buckets = sketch.sketch(plain(learner.x), seed)
    return {**learner.evaluate(), "sketch": sketch.encode(buckets)}


def plain(x: Tensor) -> NDArray[np.floating]:
    """x as an array; bfloat16, which numpy does not know, as float32."""
    wide = x if x.element_size() >= 4 else x.float()
    array: NDArray[np.floating] = wide.detach().cpu().numpy()
    return array


def criteria(config: Config, workload: Assignment) -> Criteria | None:
    """When a node of this run has seen enough; None: never. Raises ConfigError for a metric that the task
    does not have."""
    stop = config.stop
    if not stop.wanted:
        return None
    metric = stop.target.metric or workload.headline
    if metric not in workload.metrics:
        wrong = f"{config.train.task} has no metric {metric!r}"
        raise ConfigError(Problem("stop.target", wrong, f"one of {', '.join(workload.metrics)}"))
    higher = metric != "loss" and workload.higher_is_better
    target = stop.target.value if stop.target.metric else None
    return Criteria(metric, higher, target, stop.patience, stop.seconds)


def due(round: int, every: int, rounds: int) -> bool:
    """Is the state after `round` rounds evaluated? Every `every` rounds and at the end."""
    return round % every == 0 or round == rounds


def jumped(before: int, after: int, every: int, rounds: int) -> list[int]:
    """A node goes on from `before` finished rounds to `after`: the evaluations on that way, in which it has
    the model that it has now."""
    return [round for round in range(before + 1, after + 1) if due(round, every, rounds)]


def wrong(phase: Phase, after: Tensor) -> str | None:
    """What is not finite after a local phase that ended at `after` [d], or None; nothing of that may reach a
    neighbour."""
    if not math.isfinite(phase.loss):
        return f"the loss became {phase.loss}"
    if math.isfinite(after.sum().item()):  # proves it; only another sum needs a look at each
        return None
    return None if bool(finite(after)) else "a parameter became NaN or infinite"


def sound(adopt: Adopt) -> bool:
    """Is it known already that all of x is finite? How far it is from what was given, which is, has told."""
    known = adopt.departure is not None and math.isfinite(adopt.departure)
    return known and adopt.x is adopt.mixed[0]


def finite(x: Tensor) -> Tensor:
    """Is all of the last axis finite? [..., d] -> bool [...]."""
    proven = torch.isfinite(x.sum(-1))  # a finite sum proves it in one pass; only another needs the second
    return proven if bool(proven.all()) else torch.isfinite(x).all(-1)
