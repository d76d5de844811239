"""One node's local training: what the real node and the event engine run, bit for bit the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from gossipfl.config import Config
from gossipfl.core.draw import Purpose, seed64
from gossipfl.learning import optimizers
from gossipfl.learning.batches import Samples, Stream
from gossipfl.learning.flat import Flat, state_dict
from gossipfl.learning.models import Traits, evaluate, set_mode
from gossipfl.learning.task import Task


class Phase(NamedTuple):
    """What a local phase was: the mean loss of its steps, eta_t / eta_{t-1}, and the number of steps."""

    loss: float
    ratio: float
    steps: int


class Learner(Protocol):
    """One node's model and data, behind one vector."""

    vector: Tensor  # the live x, [d]

    def phase(self, round: int) -> Phase:
        """The local phase of a round (from 0), in place. A loss that is not finite is returned."""
        ...

    def load(self, x: Tensor) -> None:
        """Copies x `[d]` into `vector`."""
        ...

    def evaluate(self) -> dict[str, float]:
        """`loss` and the task's metrics on the test set."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """The model's state, for safetensors."""
        ...


@dataclass(frozen=True)
class Regimen:
    """How nodes train: optimiser, rate, batch and length of a phase; the same for all of them."""

    make: optimizers.Make
    elementwise: bool  # may n nodes run as one [n, d] parameter?
    rate: Callable[[int], float]  # round -> learning rate
    batch: int
    local_steps: int  # 0: counted by local_epochs
    local_epochs: int
    clip: float  # largest 2-norm of a node's gradient; 0: off

    def steps(self, samples: int) -> int:
        """Optimiser steps in a phase of a node that holds so many samples; an epoch's last batch is full."""
        return self.local_steps or -(-self.local_epochs * samples // self.batch)


def regimen(config: Config) -> Regimen:
    """The regimen of a config. Raises ConfigError where the optimiser does not fit its keywords."""
    train, algorithm = config.train, config.algorithm
    kind, make = optimizers.optimizer(train)
    return Regimen(
        make=make,
        elementwise=kind.__name__ in optimizers.ELEMENTWISE,
        rate=optimizers.rate(train, config.swarm.rounds),
        batch=train.batch,
        local_steps=algorithm.local_steps,
        local_epochs=algorithm.local_epochs,
        clip=train.clip,
    )


class Lesson(NamedTuple):
    """What all nodes learn from: the task, its data on a device, how to train, and how the model behaves."""

    task: Task
    train: Samples
    test: Samples
    regimen: Regimen
    traits: Traits


class ModuleLearner:
    """A Learner of a PyTorch module. The optimiser's state stays here, whatever is loaded."""

    def __init__(self, flat: Flat, stream: Stream, lesson: Lesson) -> None:
        self.flat, self.stream, self.lesson = flat, stream, lesson
        self.vector = flat.vector
        self._trainable = flat.trainable()
        self.optimizer: Optimizer = lesson.regimen.make(self._trainable)
        self.steps = lesson.regimen.steps(len(stream.part))

    def phase(self, round: int) -> Phase:
        regimen, stream = self.lesson.regimen, self.stream
        rate = regimen.rate(round)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        set_mode(self.flat.module, training=True)
        index = stream.take(round * self.steps * regimen.batch, self.steps * regimen.batch)
        with _seeded(self.lesson.traits.stochastic, stream.seed, stream.node, round):
            total = self._step(*self.lesson.train.batch(index[: regimen.batch]))
            for k in range(1, self.steps):
                batch = index[k * regimen.batch : (k + 1) * regimen.batch]
                total = total + self._step(*self.lesson.train.batch(batch))
        return Phase(total.item() / self.steps, optimizers.ratio(regimen.rate, round), self.steps)

    def _step(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """One optimiser step; the loss before it (a scalar)."""
        if isinstance(self.optimizer, torch.optim.LBFGS):  # the one that asks for the loss again and again
            losses: list[Tensor] = []

            def closure() -> Tensor:
                losses.append(self._gradient(inputs, targets))
                return losses[-1]

            self.optimizer.step(closure)  # type: ignore[no-untyped-call]
            return losses[0]
        loss = self._gradient(inputs, targets)
        self.optimizer.step()
        return loss

    def _gradient(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Leaves the (clipped) gradient in the parameters; the loss."""
        for parameter in self._trainable:
            parameter.grad = None
        loss = self.lesson.task.loss(self.flat.module(inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.lesson.regimen.clip:
            clip_grad_norm_(self._trainable, self.lesson.regimen.clip)
        return loss.detach()

    def load(self, x: Tensor) -> None:
        self.flat.load(x)

    def evaluate(self) -> dict[str, float]:
        return evaluate(self.flat.module, self.lesson.task, self.lesson.test)

    def state_dict(self) -> dict[str, Tensor]:
        return state_dict(self.flat.module)


@contextmanager
def _seeded(stochastic: bool, seed: int, node: int, round: int) -> Iterator[None]:
    """Inside, torch's generator is keyed by node and round, if the model draws from it at all."""
    if not stochastic:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed64(seed, Purpose.PHASE, node, round))
        yield
