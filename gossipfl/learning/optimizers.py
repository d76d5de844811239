"""The local optimiser: any class of torch.optim by name, and its learning rate as a function of the round."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

import torch
from torch import Tensor
from torch.optim import Optimizer

from gossipfl.config import Train
from gossipfl.errors import ConfigError, Problem
from gossipfl.learning.lean import stepper, uncompiled

ELEMENTWISE = frozenset(
    {"ASGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD"}
)
"""Optimisers in which no element of a parameter sees another: n nodes run as one `[n, d]` parameter."""

Make = Callable[[Iterable[Tensor]], Optimizer]


def rate(train: Train, rounds: int) -> Callable[[int], float]:
    """round (from 0) -> learning rate, by `train.lr_schedule`; constant after the last of `rounds`."""

    def at(round: int) -> float:
        if train.lr_schedule == "constant":
            return train.lr
        t = min(max(round, 0), rounds - 1)
        if train.lr_schedule == "warmup":
            return train.lr * min(1.0, (t + 1) / train.warmup_rounds)
        if train.lr_schedule == "step":
            return train.lr * train.step_factor ** (t // train.step_every)
        if train.lr_schedule == "cosine":
            fallen = 0.5 * (1.0 - math.cos(math.pi * t / max(1, rounds - 1)))
            return train.lr + (train.cosine_min - train.lr) * fallen
        return train.lr

    return at


def ratio(rate: Callable[[int], float], round: int, last: int | None = None) -> float:
    """eta_t / eta_{t-1}, what rules scale carried displacements by; 1 in the first round. `last`: the round
    before, where some were left out."""
    before = rate(max(round - 1, 0) if last is None else last)
    return rate(round) / before if before else 1.0


def optimizer(train: Train) -> tuple[type[Optimizer], Make]:
    """The class that `train.optimizer` names and a function that makes one for given parameters.

    Momentum and weight decay are passed where the optimiser takes them. Raises ConfigError for an unknown
    name, a keyword that the optimiser does not take, or a value that it refuses; so does the function, for
    parameters that it refuses.
    """
    kind = _kind(train.optimizer)
    known = set(inspect.signature(kind.__init__).parameters) - {"self", "params", "lr"}
    keywords: dict[str, object] = {}
    problems = []
    for key, value in train.extra.items():
        if key in known:
            keywords[key] = tuple(value) if isinstance(value, list) else value
        else:
            near = get_close_matches(key, known, 1)
            right = f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(known))}"
            problems.append(
                Problem(f"train.{key}", f"the optimizer {kind.__name__} has no such keyword", right)
            )
    for key, number in (("momentum", train.momentum), ("weight_decay", train.weight_decay)):
        if key in known:
            keywords[key] = number
        elif number:
            problems.append(
                Problem(f"train.{key}", f"the optimizer {kind.__name__} has none", "leave it at 0")
            )
    if keywords.get("capturable"):
        problems.append(Problem("train.capturable", "is for CUDA graphs, and none are made", "leave it out"))
    if problems:
        raise ConfigError(problems)

    def make(parameters: Iterable[Tensor]) -> Optimizer:
        with _refusals(kind), uncompiled():
            made: Optimizer = kind(parameters, lr=train.lr, **keywords)  # type: ignore[arg-type, call-arg]
            return made

    weight = torch.zeros(2, 2, requires_grad=True)
    tried = make([weight])
    weight.grad = torch.zeros(2, 2)
    if not isinstance(tried, torch.optim.LBFGS):
        with _refusals(kind):
            stepper(tried)()
    return kind, make


def elementwise(train: Train, kind: type[Optimizer]) -> bool:
    """May n nodes run as one `[n, d]` parameter? Fused kernels ask for parameters without gaps, and take
    others wrongly."""
    return kind.__name__ in ELEMENTWISE and not train.extra.get("fused")


def keeps(make: Make) -> bool:
    """Does an optimizer keep anything between steps?"""
    weight = torch.zeros(2, 2, requires_grad=True)
    optimizer = make([weight])
    weight.grad = torch.zeros(2, 2)
    if not isinstance(optimizer, torch.optim.LBFGS):
        stepper(optimizer)()
    return bool(optimizer.state[weight])


@contextmanager
def _refusals(kind: type[Optimizer]) -> Iterator[None]:
    """What torch has against an optimiser, its keywords or the parameters it is given, as a ConfigError."""
    try:
        yield
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        why = f"{kind.__name__}: {(str(error).splitlines() or [''])[0]}"
        raise ConfigError(Problem("train.optimizer", why, "see torch.optim")) from error


def _kind(name: str) -> type[Optimizer]:
    kinds = {
        key.lower(): value
        for key, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, Optimizer) and value is not Optimizer
    }
    if (kind := kinds.get(name.lower())) is None:
        names = ", ".join(sorted(kinds))
        raise ConfigError(Problem("train.optimizer", f"torch.optim has no {name}", f"one of {names}"))
    return kind
