"""A model on an accelerator, and its vector in the CPU's memory, where it is averaged and sent."""

from __future__ import annotations

import torch
from torch import Tensor

from gossipfl.learning.carrying import CarryingLearner
from gossipfl.learning.learner import Phase, Steps, Tree
from gossipfl.learning.training import ModuleLearner


class Mirrored:
    """A Learner whose `x` and `vector` are copies on the CPU (pinned, of a model on CUDA).

    They are brought up to date when they are asked for, after a step; each is the same memory every time.
    """

    def __init__(self, learner: ModuleLearner | CarryingLearner) -> None:
        self._learner = learner
        self._vector = _copy(learner.vector)
        self._x = self._vector[: learner.flat.size]
        self._old = False

    @property
    def vector(self) -> Tensor:
        """What is averaged."""
        if self._old:
            self._vector.copy_(self._learner.vector.detach())
            self._old = False
        return self._vector

    @property
    def x(self) -> Tensor:
        """The model, `[d]`."""
        _ = self.vector
        return self._x

    def phase(self, round: int) -> Phase:
        self._old = True
        return self._learner.phase(round)

    def steps(self, round: int) -> Steps:
        inner = self._learner.steps(round)
        while True:
            self._old = True
            try:
                next(inner)
            except StopIteration as end:
                phase: Phase = end.value
                return phase
            yield

    def load(self, x: Tensor) -> None:
        with torch.no_grad():
            self._learner.load(x)
        self._old = isinstance(self._learner, CarryingLearner)  # of which not all that is loaded has a place
        if not self._old:
            self._vector.copy_(x.detach())

    @property
    def movable(self) -> bool:
        return False

    def move(self, x: Tensor) -> None:
        raise NotImplementedError("the model is not in the CPU's memory")

    @property
    def still(self) -> bool:
        return False

    def evaluate(self) -> dict[str, float]:
        return self._learner.evaluate()

    def validate(self, x: Tensor) -> float:
        return self._learner.validate(x.to(self._learner.flat.buffer.device))

    def state_dict(self) -> dict[str, Tensor]:
        return self._learner.state_dict()

    def kept(self) -> Tree:
        return self._learner.kept()

    def restore(self, kept: Tree) -> None:
        self._learner.restore(kept)
        self._old = True


def _copy(there: Tensor) -> Tensor:
    made = torch.empty(there.shape, dtype=there.dtype, pin_memory=there.device.type == "cuda")
    return made.copy_(there.detach())
