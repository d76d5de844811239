"""What nodes record of rounds and evaluations; the same fields whichever driver runs them."""

from __future__ import annotations

import math

import torch

from gossipfl.core import sketch
from gossipfl.core.events import Adopt
from gossipfl.learning.training import Learner, Phase


def round_fields(adopt: Adopt, phase: Phase, neighbors: int) -> dict[str, object]:
    """`loss`, `neighbors` and `disagreement` = ||x_i - mixed_i|| / ||x_i|| of what was given to the
    average."""
    disagreement = 0.0
    if adopt.sent:
        given, got = adopt.sent[0], adopt.mixed[0]
        disagreement = float((given - got).norm() / given.norm().clamp_min(torch.finfo(given.dtype).tiny))
    return {"loss": phase.loss, "neighbors": neighbors, "disagreement": disagreement}


def eval_fields(learner: Learner, seed: int) -> dict[str, object]:
    """The task's metrics and a sketch of x, from which a reader estimates the consensus distance."""
    buckets = sketch.sketch(learner.vector.detach().cpu().numpy(), seed)
    return {**learner.evaluate(), "sketch": sketch.encode(buckets)}


def due(round: int, every: int, rounds: int) -> bool:
    """Is the state after `round` rounds evaluated? Every `every` rounds and at the end."""
    return round % every == 0 or round == rounds


def wrong(phase: Phase) -> str | None:
    """What is not finite after a local phase, or None."""
    return None if math.isfinite(phase.loss) else f"the loss became {phase.loss}"
