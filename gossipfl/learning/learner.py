"""What a node's learner is, whatever it learns."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Phase(NamedTuple):
    """What a local phase was: the mean loss of its steps, eta_t / eta_{t-1}, and the number of steps."""

    loss: float
    ratio: float
    steps: int


Steps = Generator[None, None, Phase]

#: A tree of dicts, lists, numbers, texts, None and tensors.
Tree = Any


class Learner(Protocol):
    """One node's model and data, behind one vector."""

    @property
    def x(self) -> Tensor:
        """The live model, `[d]`."""
        ...

    @property
    def vector(self) -> Tensor:
        """What is averaged: x itself, or, where optimizer state travels too, a copy of x and of that."""
        ...

    def phase(self, round: int) -> Phase:
        """The local phase of a round (from 0), in place. A loss that is not finite is returned."""
        ...

    def steps(self, round: int) -> Steps:
        """The same phase, one optimiser step at a time: it pauses between two of them, where `vector` may be
        written."""
        ...

    def load(self, x: Tensor) -> None:
        """Copies x `[d]` into `vector`."""
        ...

    @property
    def movable(self) -> bool:
        """May `vector` be other memory from one round to the next, and does that cost less than a copy?"""
        ...

    def move(self, x: Tensor) -> None:
        """x `[d]` is `vector` from here on: its memory, which nobody else may write. What was `vector` is
        not written again. Only of a learner that is `movable`."""
        ...

    @property
    def still(self) -> bool:
        """Do local phases change nothing?"""
        ...

    def evaluate(self) -> dict[str, float]:
        """`loss` and the task's metrics on the test set."""
        ...

    def validate(self, x: Tensor) -> float:
        """The loss of the model x `[d]` on the samples that this node keeps from training; 0 without any."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """The model's state, for safetensors."""
        ...

    def kept(self) -> Tree:
        """All that a later phase depends on, as a tree of plain values and tensors: for a checkpoint."""
        ...

    def restore(self, kept: Tree) -> None:
        """Go on from what was kept. Raises KeyError, ValueError where it is not of this model."""
        ...


def drain(steps: Steps, stepped: Callable[[], None] | None = None) -> Phase:
    """Take all steps of a phase without a pause; `stepped` is called after each."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            phase: Phase = end.value
            return phase
        if stepped is not None:
            stepped()
