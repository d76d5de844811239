"""Training of vector tasks: separate elementwise operations, so `[d]` and `[n, d]` give the same bits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gossipfl.config import Config
from gossipfl.errors import ConfigError, Problem
from gossipfl.learning import optimizers
from gossipfl.learning.batches import Index
from gossipfl.learning.crew import ALONE, Crew
from gossipfl.learning.flat import Signature, state_dict
from gossipfl.learning.learner import Phase, Steps, Tree, drain
from gossipfl.learning.task import Point, VectorTask, torch_dtype


class Quadratics(NamedTuple):
    """f(x) = ½ Σ_k a_k (x_k − b_k)², or ½ xᵀax − bᵀx; for one node, or for n at once along the first axis."""

    columns: tuple[Tensor, ...] | None  # the matrix form: column k of a, [..., d]
    a: Tensor  # [..., d]; unused by the matrix form
    b: Tensor  # [..., d]

    def gradient(self, x: Tensor) -> Tensor:
        """`[..., d]`; the matrix form sums over columns in order, from +0.0."""
        if self.columns is None:
            difference = x - self.b
            return self.a * difference
        return self._product(self.columns, x) - self.b

    def value(self, x: Tensor) -> Tensor:
        """`[...]`."""
        if self.columns is None:
            difference = x - self.b
            return (self.a * (difference * difference)).sum(-1) * 0.5
        return (x * self._product(self.columns, x)).sum(-1) * 0.5 - (self.b * x).sum(-1)

    def node(self, i: int) -> Quadratics:
        """One node's own."""
        columns = None if self.columns is None else tuple(column[i].clone() for column in self.columns)
        return Quadratics(columns, self.a[i].clone(), self.b[i].clone())

    @staticmethod
    def _product(columns: tuple[Tensor, ...], x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for k, column in enumerate(columns):
            total = total + column * x[..., k : k + 1]
        return total


class Descent(NamedTuple):
    """The local phase of vector tasks: exact gradient descent x − lr·g on `functions`, if any."""

    functions: Quadratics | None
    rate: Callable[[int], float]
    steps: int

    def __call__(self, x: Tensor, round: int) -> tuple[Tensor, Tensor]:
        """x `[..., d]` -> x after and the mean loss of the steps `[...]`."""
        total = torch.zeros_like(x[..., 0])
        if self.functions is None:
            return x, total
        rate = self.rate(round)
        for _ in range(self.steps):
            total = total + self.functions.value(x)
            x = self.step(x, rate)
        return x, total / self.steps

    def step(self, x: Tensor, rate: float) -> Tensor:
        """One step from x `[..., d]`."""
        assert self.functions is not None
        step = rate * self.functions.gradient(x)
        return x - step

    def ratio(self, round: int) -> float:
        return optimizers.ratio(self.rate, round)


def _error(x: Tensor, target: Tensor) -> Tensor:
    difference = x - target
    return (difference * difference).sum(-1)


class VectorLearner:
    """A Learner of one node's vector."""

    def __init__(self, start: Tensor, target: Tensor, descent: Descent) -> None:
        self.point = Point(start)
        self._parameter = self.point.x
        self.x = self.vector = self._parameter.data
        self.target, self.descent = target, descent
        self.still = descent.functions is None  # do local phases change nothing?

    def phase(self, round: int) -> Phase:
        if self.still:
            return Phase(0.0, self.descent.ratio(round), 0)
        return drain(self.steps(round))

    def steps(self, round: int) -> Steps:
        descent, functions = self.descent, self.descent.functions
        if functions is None:
            return Phase(0.0, descent.ratio(round), 0)
        total = torch.zeros_like(self.vector[..., 0])
        rate = descent.rate(round)
        for k in range(descent.steps):
            if k:
                yield
            total = total + functions.value(self.vector)
            self.vector.copy_(descent.step(self.vector, rate))
        return Phase((total / descent.steps).item(), descent.ratio(round), descent.steps)

    def load(self, x: Tensor) -> None:
        self.vector.copy_(x)

    @property
    def movable(self) -> bool:
        return True

    def move(self, x: Tensor) -> None:
        self._parameter.data = self.x = self.vector = x

    def evaluate(self) -> dict[str, float]:
        functions = self.descent.functions
        loss = functions.value(self.vector).item() if functions else 0.0
        return {"loss": loss, "error": _error(self.vector, self.target).item()}

    def validate(self, x: Tensor) -> float:
        """The node's own function at x: there are no samples to keep."""
        functions = self.descent.functions
        return functions.value(x).item() if functions else 0.0

    def state_dict(self) -> dict[str, Tensor]:
        return state_dict(self.point)

    def kept(self) -> Tree:
        return {"model": {"x": self.vector}}

    def restore(self, kept: Tree) -> None:
        self.vector.copy_(kept["model"]["x"])


class VectorCohort:
    """A Cohort of all nodes' vectors."""

    batched = True

    def __init__(self, start: Tensor, target: Tensor, descent: Descent) -> None:
        self._start, self.target, self.descent = start, target, descent

    def start(self) -> Tensor:
        return self._start.clone()

    def phase(self, x: Tensor, round: int) -> tuple[Tensor, Tensor, float]:
        after, loss = self.descent(x, round)
        return after, loss, self.descent.ratio(round)

    def evaluate(self, x: Tensor) -> dict[str, Tensor]:
        """`error` of each row, and `loss`: f_i of row i, or the mean f where the rows are not the n nodes."""
        functions = self.descent.functions
        if functions is None:
            loss = torch.zeros_like(x[..., 0])
        elif len(x) == len(self._start):
            loss = functions.value(x)
        else:
            loss = torch.stack([functions.value(row.expand_as(self._start)).mean() for row in x])
        return {"loss": loss, "error": _error(x, self.target)}

    def validate(
        self, models: Tensor, nodes: NDArray[np.int64], whose: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """The function of each of `nodes` `[e]` at the row `whose` `[e]` of models `[n, d]`: `[e]`."""
        if self.descent.functions is None:
            return np.zeros(len(nodes))
        own = [self.descent.functions.node(i) for i in range(len(self._start))]
        pairs = zip(nodes.tolist(), whose.tolist(), strict=True)
        return np.array([own[i].value(models[j]).item() for i, j in pairs])


class VectorWorkload:
    """A Workload of a vector task. Raises ConfigError where the optimiser is not plain gradient descent."""

    headline = "error"
    higher_is_better = False
    metrics: tuple[str, ...] = ("loss", "error")
    plain = 0
    device = torch.device("cpu")

    def __init__(self, config: Config, task: VectorTask) -> None:
        _require_plain_descent(config, task)
        dtype = torch_dtype(config.train.dtype)

        def tensor(array: NDArray[np.float64]) -> Tensor:
            return torch.from_numpy(np.array(array)).to(dtype)

        functions = None
        if task.a is not None and task.b is not None:
            a, b = tensor(task.a), tensor(task.b)
            columns = tuple(a[..., k].contiguous() for k in range(a.shape[-1])) if a.dim() == 3 else None
            functions = Quadratics(columns, b if columns else a, b)
        self._start, self._target = tensor(task.start), tensor(task.target)
        self._descent = Descent(
            functions, optimizers.rate(config.train, config.swarm.rounds), config.algorithm.local_steps
        )
        n, self.d = task.start.shape
        self.signature: Signature = (("x", (self.d,), config.train.dtype),)
        self.sizes = (1,) * n
        self.parts: tuple[Index, ...] = ()
        sha = hashlib.sha256(task.name.encode())
        for array in (task.start, task.a, task.b):
            if array is not None:
                sha.update(repr(array.shape).encode())
                sha.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
        self.data_hash = sha.hexdigest()[:16]

    def learner(self, node: int) -> VectorLearner:
        functions = self._descent.functions
        own = self._descent._replace(functions=functions.node(node)) if functions else self._descent
        return VectorLearner(self._start[node].clone(), self._target, own)

    def long(self) -> bool:
        return False

    def prepare(self) -> None:
        """A learner is made at once."""

    def cohort(self, crew: Crew = ALONE) -> VectorCohort:
        return VectorCohort(self._start, self._target, self._descent)

    def scores(self, x: Tensor) -> dict[str, float]:
        """The mean function and the error at x `[d]`."""
        functions = self._descent.functions
        loss = functions.value(x.expand_as(self._start)).mean().item() if functions else 0.0
        return {"loss": loss, "error": _error(x, self._target).item()}

    def gradient_norm(self, x: Tensor) -> float:
        """Exact: the mean of all functions' gradients; 0 where nodes only average."""
        functions = self._descent.functions
        if functions is None:
            return 0.0
        return float(functions.gradient(x.expand_as(self._start)).to(torch.float64).mean(0).norm())

    def module(self, x: Tensor) -> nn.Module:
        return Point(x.clone())


def _require_plain_descent(config: Config, task: VectorTask) -> None:
    n, train = config.swarm.nodes, config.train
    problems = []
    if config.algorithm.average_optimizer:
        wrong = f"{task.name} has no optimizer state"
        problems.append(Problem("algorithm.average_optimizer", wrong, "false"))
    if len(task.start) != n:
        wrong = f"is {n} and {task.name} has vectors for {len(task.start)} nodes"
        problems.append(Problem("swarm.nodes", wrong, f"swarm.nodes = {len(task.start)}"))
    if task.a is not None:
        why = f"{task.name} takes exact gradient steps"
        if train.optimizer.lower() != "sgd":
            problems.append(Problem("train.optimizer", f"is {train.optimizer} and {why}", "sgd"))
        numbers = {key: getattr(train, key) for key in ("momentum", "weight_decay", "clip")}
        for key, value in {**numbers, **train.extra}.items():
            if value:
                problems.append(Problem(f"train.{key}", f"is {value} and {why}", "leave it out"))
        if not config.algorithm.local_steps:
            wrong = f"{task.name} has no data to pass over"
            problems.append(Problem("algorithm.local_epochs", wrong, "algorithm.local_steps"))
    if problems:
        raise ConfigError(problems)
