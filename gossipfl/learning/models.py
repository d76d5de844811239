"""Models as a swarm needs them: built from the seed, probed once, evaluated on the test set."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gossipfl.draw import Purpose, seed64
from gossipfl.errors import ConfigError, Problem
from gossipfl.learning.batches import Index, Samples, Stream
from gossipfl.learning.task import Task, torch_dtype

#: Floating-point operations of an optimizer step from which on a GPU pays: below, telling it what to do takes
#: longer than one core takes to do it (about a millisecond and 10^11 operations a second).
WORTH = 1e8
CHUNK = 4096  # test samples in one forward
_TRIED = 256  # test samples that metrics are tried on


class Traits(NamedTuple):
    """What a model does in training mode beside its gradient."""

    stochastic: bool  # draws from torch's generator (dropout)
    moving: bool  # changes its buffers (running statistics)


def evaluate(module: nn.Module, task: Task, test: Samples) -> dict[str, float]:
    """`loss` and the task's metrics of a module on all of `test`, in chunks of bounded memory."""
    set_mode(module, training=False)
    return _scores(module, task, *test.all())


@torch.no_grad()
def _scores(module: nn.Module, task: Task, inputs: Tensor, targets: Tensor) -> dict[str, float]:
    chunks = torch.split(inputs, CHUNK)
    outputs = module(inputs) if len(chunks) == 1 else torch.cat([module(chunk) for chunk in chunks])
    scores = {"loss": task.loss(outputs, targets)}
    scores |= {name: metric(outputs, targets) for name, metric in task.metrics.items()}
    return {name: float(score) for name, score in scores.items()}


def build(task: Task, seed: int, node: int | None, dtype: str) -> nn.Module:
    """The task's model with the starting weights of the seed (`node` None: those that all nodes share).

    The caller's generator is left as it was. Raises ConfigError when the task makes no module.
    """
    keys = () if node is None else (node,)
    with torch.random.fork_rng(devices=[]):
        sow(seed64(seed, Purpose.START, *keys))
        try:
            module: object = task.model()
        except Exception as error:  # the user's model: whatever it raises is theirs to read
            wrong = f"{task.name}: the model cannot be made ({type(error).__name__}: {error})"
            raise ConfigError(Problem("train.task", wrong)) from error
    if not isinstance(module, nn.Module):
        wrong = f"{task.name}: its model() makes a {type(module).__name__}"
        raise ConfigError(Problem("train.task", wrong, "a torch.nn.Module"))
    return module.to(torch_dtype(dtype))


def sow(seed: int) -> None:
    """torch.manual_seed; without a device that could draw, only what it does to the CPU's generator. It also
    writes down who called it, for a device that may come: that takes 2 MB, and milliseconds."""
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def probe(task: Task, module: nn.Module, train: Samples, test: Samples, batch: int) -> Traits:
    """Trains and evaluates a throw-away module once, but for the step, and says what it did beside.

    Raises ConfigError where the model, the loss, the metrics and the data do not fit together.
    """
    index = _first(train, batch)
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    with torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        try:
            inputs, targets = train.batch(index)
            loss = task.loss(module.train()(inputs), targets)
            loss.backward()  # type: ignore[no-untyped-call]
            stochastic = not torch.equal(before, torch.get_rng_state())
            moving = any(not torch.equal(buffers[name], buffer) for name, buffer in module.named_buffers())
            _scores(module.eval(), task, *test.batch(np.arange(min(_TRIED, len(test)))))
        except ConfigError:
            raise
        except Exception as error:  # the user's model, loss and metrics: what they raise is theirs to read
            wrong = f"{task.name} fails on its first batch ({type(error).__name__}: {error})"
            right = "the model takes a batch of inputs; the loss and each metric give a scalar"
            raise ConfigError(Problem("train.task", wrong, right)) from error
    return Traits(stochastic, moving)


def device(name: str, work: Callable[[], float]) -> torch.device:
    """`train.device` as a torch device; `auto` is CUDA where there is one and a step, of so much `work`, is
    worth it, else the CPU."""
    if name == "auto":
        there = torch.cuda.is_available() and work() >= WORTH
        return torch.device("cuda" if there else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        wrong = f"{name} is not there ({str(error).splitlines()[0]})"
        raise ConfigError(Problem("train.device", wrong, "cpu, or auto")) from error
    return torch.device(name)


def _first(train: Samples, batch: int) -> Index:
    """The samples of a batch on which something is tried."""
    return Stream(0, 0, np.arange(min(batch, len(train)))).take(0, batch)


def work(task: Task, module: nn.Module, train: Samples, batch: int) -> float:
    """Floating-point operations of a loss and its gradient on one batch, as PyTorch counts them: of products
    and convolutions."""
    from torch.utils.flop_counter import FlopCounterMode

    index = _first(train, batch)
    with torch.random.fork_rng(devices=[]), FlopCounterMode(display=False) as counter:
        inputs, targets = train.batch(index)
        task.loss(module.train()(inputs), targets).backward()  # type: ignore[no-untyped-call]
    return float(counter.get_total_flops())


def set_mode(module: nn.Module, *, training: bool) -> None:
    """Training or evaluation mode, without a walk over the modules when it is already that."""
    if module.training is not training:
        module.train(training)
