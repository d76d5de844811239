"""Optimizer state that travels: a node's vector is its model, and behind it what the optimizer keeps in the
parameters' shape (momentum and the like), one stretch a state."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from gossipfl.errors import ConfigError, Problem
from gossipfl.learning import optimizers
from gossipfl.learning.flat import Flat
from gossipfl.learning.lean import stepper
from gossipfl.learning.learner import Phase, Steps, Tree, drain
from gossipfl.learning.training import ModuleLearner


def states(make: optimizers.Make, name: str) -> tuple[str, ...]:
    """The optimizer's states that have a parameter's shape, by name, ascending.

    Raises ConfigError where there is none (`name`: what the optimizer is called).
    """
    parameter = torch.zeros(3, 2, requires_grad=True)
    optimizer = make([parameter])
    parameter.grad = torch.zeros_like(parameter)
    if not isinstance(optimizer, torch.optim.LBFGS):
        stepper(optimizer)()
    kept = optimizer.state[parameter]
    found = sorted(k for k, v in kept.items() if isinstance(v, Tensor) and v.shape == parameter.shape)
    if not found:
        wrong = f"the optimizer {name} keeps nothing that could be averaged"
        right = "train.momentum, or an optimizer such as adam, or false"
        raise ConfigError(Problem("algorithm.average_optimizer", wrong, right))
    return tuple(found)


class CarryingLearner:
    """A Learner whose vector `[d + s p]` holds the optimizer's `s` states of the shared parameters `[p]`
    behind x `[d]`. Before the first step they are 0."""

    def __init__(self, learner: ModuleLearner, names: tuple[str, ...]) -> None:
        self.learner, self._names = learner, names
        self._parameters = [s.tensors[0] for s in self.flat.parameters]
        stops = [0, *(s.stop for s in self.flat.parameters)]
        self._places = [slice(*pair) for pair in pairwise(stops)]

    @property
    def flat(self) -> Flat:
        """The model."""
        return self.learner.flat

    @property
    def x(self) -> Tensor:
        """The live model, `[d]`."""
        return self.flat.vector

    @property
    def vector(self) -> Tensor:
        """A copy, `[d + s p]`."""
        shared = self._places[-1].stop
        behind = self.flat.vector.new_zeros(len(self._names), shared)
        for row, name in zip(behind, self._names, strict=True):
            for parameter, place in zip(self._parameters, self._places, strict=True):
                state = self.learner.optimizer.state.get(parameter)
                if state:
                    row[place] = state[name].reshape(-1)
        return torch.cat([self.flat.vector, behind.reshape(-1)])

    def load(self, x: Tensor) -> None:
        """Of `[d + s p]` everything, of `[d]` the model alone."""
        size, shared = self.flat.size, self._places[-1].stop
        self.flat.load(x[:size])
        behind = x[size:].reshape(-1, shared)
        for row, name in zip(behind, self._names, strict=False):
            for parameter, place in zip(self._parameters, self._places, strict=True):
                state = self.learner.optimizer.state.get(parameter)
                if state:
                    state[name].copy_(row[place].view_as(state[name]))

    @property
    def movable(self) -> bool:
        return False

    def move(self, x: Tensor) -> None:
        raise NotImplementedError("what is averaged is a copy")

    @property
    def still(self) -> bool:
        return False

    def steps(self, round: int) -> Steps:
        return self.learner.steps(round)

    def phase(self, round: int) -> Phase:
        return drain(self.steps(round))

    def evaluate(self) -> dict[str, float]:
        return self.learner.evaluate()

    def validate(self, x: Tensor) -> float:
        return self.learner.validate(x[: self.flat.size])

    def state_dict(self) -> dict[str, Tensor]:
        return self.learner.state_dict()

    def kept(self) -> Tree:
        return self.learner.kept()

    def restore(self, kept: Tree) -> None:
        self.learner.restore(kept)
