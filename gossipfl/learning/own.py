"""A model and an optimizer of somebody's own: what a node needs of a training loop that it does not run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gossipfl.config import Config
from gossipfl.errors import ConfigError, Problem
from gossipfl.learning.flat import Flat, state_dict
from gossipfl.learning.learner import Phase, Steps, Tree, drain
from gossipfl.learning.training import keep, put_back

#: Numbers that are averaged as they are; of shorter ones, copies in float32 are.
EXACT = (torch.float32, torch.float64)


class OwnLearner:
    """A Learner whose optimizer steps are taken elsewhere: `steps` is advanced once after each of them.

    `vector` `[d]` is in the CPU's memory. It is the model itself where that is there too, in float32 or
    float64; otherwise it is a copy (pinned, on CUDA), brought up to date by `pull` and given back by `push`.
    """

    def __init__(self, flat: Flat, optimizer: Optimizer, count: int) -> None:
        """count: optimizer steps in a local phase."""
        self.flat, self.optimizer, self.count = flat, optimizer, count
        self.x = live = flat.vector
        self.exact = live.dtype in EXACT
        self._stream: torch.cuda.Stream | None = None
        self.mirrored = not (self.exact and live.device.type == "cpu")
        if self.mirrored:
            on_cuda = live.device.type == "cuda"
            dtype = live.dtype if self.exact else torch.float32
            self.vector = torch.empty(live.shape, dtype=dtype, pin_memory=on_cuda)
            if on_cuda:
                self._stream = torch.cuda.Stream(live.device)  # type: ignore[no-untyped-call]
            self.pull()
        else:
            self.vector = live
        self._rate = 0.0  # of the last local phase

    # ------------------------------------------------------------------ where the model is

    @contextlib.contextmanager
    def _copying(self) -> Iterator[None]:
        """Copies made in here come after what the loop has asked of the device, and before what it asks
        next."""
        if self._stream is None:
            yield
            return
        current = torch.cuda.current_stream(self.x.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            yield
        current.wait_stream(self._stream)

    def _settle(self) -> None:
        """Wait until the copies are made."""
        if self._stream is not None:
            self._stream.synchronize()

    def pull(self) -> None:
        """Bring `vector` up to date with the model."""
        if self.mirrored:
            with self._copying():
                self.vector.copy_(self.x.detach(), non_blocking=True)
            self._settle()

    def push(self) -> None:
        """Give `vector` back to the model."""
        if self.mirrored:
            with self._copying(), torch.no_grad():
                self.x.copy_(self.vector, non_blocking=True)
            if not self.exact:
                self.pull()  # the model holds rounded numbers

    def load(self, x: Tensor) -> None:
        self._settle()
        with torch.no_grad():
            self.vector.copy_(x)
        self.push()

    @property
    def movable(self) -> bool:
        return False

    def move(self, x: Tensor) -> None:
        raise NotImplementedError("the model stays where its owner's loop has it")

    @property
    def still(self) -> bool:
        return False

    # ------------------------------------------------------------------ steps

    def steps(self, round: int) -> Steps:
        rates: list[float] = []
        for k in range(self.count):
            if k:
                yield
            rates.append(self._lr())
        same = min(rates) == max(rates)
        rate = rates[0] if same else sum(rates) / len(rates)
        before, self._rate = self._rate, rate
        return Phase(float("nan"), rate / before if before else 1.0, self.count)

    def _lr(self) -> float:
        """The learning rate of the step just taken: of the group with most numbers, if there are several."""
        groups = self.optimizer.param_groups
        group = groups[0] if len(groups) == 1 else max(groups, key=_size)
        return float(group.get("lr", 1.0))

    def phase(self, round: int) -> Phase:
        return drain(self.steps(round))

    # ------------------------------------------------------------------ what the loop judges for itself

    def evaluate(self) -> dict[str, float]:
        return {}

    def validate(self, x: Tensor) -> float:
        return 0.0

    def state_dict(self) -> dict[str, Tensor]:
        return state_dict(self.flat.module)

    def kept(self) -> Tree:
        return keep(self.flat.module, self.optimizer, self.flat.trainable())

    def restore(self, kept: Tree) -> None:
        put_back(kept, self.flat.module, self.optimizer, self.flat.trainable())
        self.pull()

    def state_dict_of(self, x: Tensor) -> dict[str, Tensor]:
        """The model's state with x `[d]` in place of what is shared."""
        state = self.state_dict()
        for segment in (*self.flat.parameters, *self.flat.buffers):
            value = x[segment.start : segment.stop].reshape(segment.shape)
            for name, _ in segment.homes:
                if name in state:
                    state[name] = value.to(state[name].dtype, copy=True)
        return state


def _size(group: dict[str, Sequence[Tensor]]) -> int:
    return sum(parameter.numel() for parameter in group["params"])


class OwnWorkload:
    """What drivers ask of a task, where the task is a loop of somebody's own: it has no data to show."""

    data_hash = ""

    def __init__(self, config: Config, model: nn.Module, optimizer: Optimizer, samples: int | None) -> None:
        """samples: how many this node trains on, if it is told. Raises ConfigError: a model that has no
        single vector, an optimizer that is not of this model."""
        algorithm = config.algorithm
        _require_meaning(config, samples)
        module = _plain(model)
        _require_one_device(module)
        try:
            self.flat = Flat(module, share=algorithm.share, buffers=algorithm.buffers)
        except ConfigError as error:
            renamed = [p._replace(key="model") if p.key.startswith("train.") else p for p in error.problems]
            raise ConfigError(renamed) from None
        self.optimizer, self.samples = optimizer, samples
        _require_steps(self.flat, optimizer)
        self.count = _count(config, samples)
        self.d = self.flat.size
        self.plain = self.d - self.flat.parameters[-1].stop
        self.signature = self.flat.signature()
        self.sizes: tuple[int, ...] = ()
        self.headline = config.stop.target.metric or "loss"
        self.metrics: tuple[str, ...] = (self.headline,)
        self.higher_is_better = not lower_is_better(self.headline)

    def learner(self, node: int) -> OwnLearner:
        """The one that there is."""
        return OwnLearner(self.flat, self.optimizer, self.count)


#: Parts of the names of metrics that are good when they are low.
LOWER = ("loss", "error", "mse", "mae", "perplexity", "nll")


def lower_is_better(metric: str) -> bool:
    """Is a metric of this name good when it is low?"""
    return any(part in metric.lower() for part in LOWER)


def _plain(model: nn.Module) -> nn.Module:
    """The module itself, whatever torch.compile has wrapped around it."""
    if not isinstance(model, nn.Module):
        raise ConfigError(Problem("model", f"is a {type(model).__name__}", "a torch.nn.Module"))
    inner = getattr(model, "_orig_mod", model)
    return inner if isinstance(inner, nn.Module) else model


def _require_one_device(module: nn.Module) -> None:
    """Raises ConfigError naming two tensors of the model that are on different devices, or one on `meta`."""
    first: tuple[str, torch.device] | None = None
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_meta:
            raise ConfigError(Problem("model", f"{name} is on the device meta", "a model that holds numbers"))
        first = first or (name, tensor.device)
        if tensor.device != first[1]:
            wrong = f"{first[0]} is on {first[1]}, {name} on {tensor.device}"
            raise ConfigError(Problem("model", wrong, "one device: model.to(device)"))


def _require_steps(flat: Flat, optimizer: Optimizer) -> None:
    if not isinstance(optimizer, Optimizer) or not hasattr(optimizer, "_optimizer_step_post_hooks"):
        wrong = f"is a {type(optimizer).__name__}, which has no hooks after its steps"
        right = "a torch.optim.Optimizer (of a wrapper, what it wraps)"
        raise ConfigError(Problem("optimizer", wrong, right))
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(p) in stepped for segment in flat.parameters for p in segment.tensors):
        wrong = "steps no parameter of the model that is shared"
        raise ConfigError(Problem("optimizer", wrong, "one made of model.parameters()"))


def _require_meaning(config: Config, samples: int | None) -> None:
    """Raises ConfigError for what needs data that a loop of one's own does not show."""
    algorithm, problems = config.algorithm, list[Problem]()
    if algorithm.aggregate != "mean":
        wrong = (
            f"is {algorithm.aggregate}, which judges models on validation data that the loop keeps to itself"
        )
        problems.append(Problem("algorithm.aggregate", wrong, '"mean"'))
    if algorithm.average_optimizer:
        wrong = "is not there for an optimizer of one's own"
        problems.append(Problem("algorithm.average_optimizer", wrong, "false"))
    if samples is not None and (isinstance(samples, bool) or not isinstance(samples, int) or samples < 1):
        problems.append(Problem("samples", f"cannot be {samples!r}", "a whole number, at least 1"))
    if problems:
        raise ConfigError(problems)


def _count(config: Config, samples: int | None) -> int:
    """Optimizer steps in a local phase."""
    algorithm = config.algorithm
    if algorithm.local_steps:
        return algorithm.local_steps
    if samples is None:
        wrong = f"is {algorithm.local_epochs}, and nobody says how many steps an epoch has"
        right = "samples=len(dataset), with train.batch as in the loop; or algorithm.local_steps"
        raise ConfigError(Problem("algorithm.local_epochs", wrong, right))
    return -(-algorithm.local_epochs * samples // config.train.batch)
