"""One node's local training: what the real node and the event engine run, bit for bit the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from gossipfl.config import Config
from gossipfl.draw import Purpose, seed64
from gossipfl.learning import optimizers
from gossipfl.learning.batches import Samples, Stream
from gossipfl.learning.flat import Flat, named_tensors, state_dict
from gossipfl.learning.lean import stepper
from gossipfl.learning.learner import Phase, Steps, Tree, drain
from gossipfl.learning.models import Traits, evaluate, set_mode, sow
from gossipfl.learning.task import Task


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
        elementwise=optimizers.elementwise(train, kind),
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
        self.flat, self.lesson = flat, lesson
        self.x = self.vector = flat.vector
        self.trainable = flat.trainable()
        self.optimizer: Optimizer = lesson.regimen.make(self.trainable)
        self._advance = stepper(self.optimizer)
        self.follow(stream)

    def follow(self, stream: Stream) -> None:
        """Train on this node's samples."""
        self.stream = stream
        self.count = self.lesson.regimen.steps(len(stream.part))  # optimiser steps in a phase

    def phase(self, round: int) -> Phase:
        return drain(self.steps(round))

    def steps(self, round: int) -> Steps:
        regimen, stream = self.lesson.regimen, self.stream
        rate = regimen.rate(round)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        set_mode(self.flat.module, training=True)
        index = stream.take(round * self.count * regimen.batch, self.count * regimen.batch)
        dice = _Dice(self.lesson.traits.stochastic, stream.seed, stream.node, round, self.flat.buffer.device)
        total: Tensor | None = None
        for k in range(self.count):
            if k:
                yield
            batch = index[k * regimen.batch : (k + 1) * regimen.batch]
            with dice.rolled():
                loss = self._step(*self.lesson.train.batch(batch))
            total = loss if total is None else total + loss
        assert total is not None
        return Phase(total.item() / self.count, optimizers.ratio(regimen.rate, round), self.count)

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
        self._advance()
        return loss

    def _gradient(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Leaves the (clipped) gradient in the parameters; the loss."""
        for parameter in self.trainable:
            parameter.grad = None
        loss = self.lesson.task.loss(self.flat.module(inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.lesson.regimen.clip:
            clip_grad_norm_(self.trainable, self.lesson.regimen.clip)
        return loss.detach()

    def load(self, x: Tensor) -> None:
        self.flat.load(x)

    @property
    def movable(self) -> bool:
        return self.flat.movable

    def move(self, x: Tensor) -> None:
        self.flat.move(x)
        self.x = self.vector = self.flat.vector

    @property
    def still(self) -> bool:
        return False

    def evaluate(self) -> dict[str, float]:
        return evaluate(self.flat.module, self.lesson.task, self.lesson.test)

    @torch.no_grad()
    def validate(self, x: Tensor) -> float:
        held = self.stream.held
        if not len(held):
            return 0.0
        set_mode(self.flat.module, training=False)
        inputs, targets = self.lesson.train.batch(held)
        with self.flat.elsewhere(x):  # `vector` may be on its way to a neighbour: it is not written
            return float(self.lesson.task.loss(self.flat.module(inputs), targets))

    def state_dict(self) -> dict[str, Tensor]:
        return state_dict(self.flat.module)

    def kept(self) -> Tree:
        return keep(self.flat.module, self.optimizer, self.trainable)

    def restore(self, kept: Tree) -> None:
        put_back(kept, self.flat.module, self.optimizer, self.trainable)


def keep(module: nn.Module, optimizer: Optimizer, trainable: Sequence[Tensor]) -> Tree:
    """All tensors of a module, and the optimizer's state of its trainable parameters."""
    own = optimizer.state
    return {
        "model": dict(named_tensors(module)),
        "optimizer": [dict(own[p]) if p in own else None for p in trainable],
    }


@torch.no_grad()
def put_back(kept: Tree, module: nn.Module, optimizer: Optimizer, trainable: Sequence[Tensor]) -> None:
    """The reverse of `keep`, in place. Raises KeyError, ValueError where it is not of this model."""
    for name, tensor in named_tensors(module):
        saved = kept["model"][name]
        if saved.shape != tensor.shape or saved.dtype != tensor.dtype:
            was, now = (f"{t.dtype} {tuple(t.shape)}" for t in (saved, tensor))
            raise ValueError(f"{name} is {now}, and {was} was kept")
        tensor.copy_(saved)
    # The optimiser's own `load_state_dict` would cast what it keeps, and with that change bits.
    for parameter, state in zip(trainable, kept["optimizer"], strict=True):
        if state is not None:
            at = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
            everything = bool(at.get("capturable") or at.get("fused"))  # else it counts steps on the CPU
            optimizer.state[parameter] = {
                name: value if name == "step" and not everything else _at(value, parameter.device)
                for name, value in state.items()
            }


def _at(value: Any, device: torch.device) -> Any:
    """A value of an optimizer's state, on this device."""
    if isinstance(value, Tensor):
        return value.to(device)
    return [_at(one, device) for one in value] if isinstance(value, list) else value


class _Dice:
    """torch's generators for one phase, keyed by node and round, if the model draws from them at all.

    Between two steps it is put aside, so that phases may take turns in one process.
    """

    def __init__(self, stochastic: bool, seed: int, node: int, round: int, device: torch.device) -> None:
        self._seed = seed64(seed, Purpose.PHASE, node, round) if stochastic else None
        self._state: Tensor | None = None
        self._device = device if device.type == "cuda" else None
        self._there: Tensor | None = None

    @contextmanager
    def rolled(self) -> Iterator[None]:
        """Inside, torch draws this phase's numbers; outside, whatever it drew before."""
        if self._seed is None:
            yield
            return
        with torch.random.fork_rng(devices=[] if self._device is None else [self._device]):
            if self._state is None:
                sow(self._seed)
            else:
                torch.set_rng_state(self._state)
                if self._device is not None and self._there is not None:
                    torch.cuda.set_rng_state(self._there, self._device)
            yield
            self._state = torch.get_rng_state()
            if self._device is not None:
                self._there = torch.cuda.get_rng_state(self._device)
