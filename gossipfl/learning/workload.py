"""What a config and its task give every engine: a learner for each node, or all of them as one cohort."""

from __future__ import annotations

import hashlib
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from gossipfl.config import Config
from gossipfl.draw import Purpose, permutation
from gossipfl.errors import ConfigError, Problem
from gossipfl.learning import gradient
from gossipfl.learning.batches import NOTHING, Index, Samples, Stream
from gossipfl.learning.carrying import CarryingLearner, states
from gossipfl.learning.cohort import Cohort, LoopCohort, module_cohort
from gossipfl.learning.crew import ALONE, Crew
from gossipfl.learning.flat import Flat, Signature
from gossipfl.learning.mirror import Mirrored
from gossipfl.learning.models import WORTH, build, device, evaluate, probe, work
from gossipfl.learning.partition import Source, digest, partition
from gossipfl.learning.task import Task, VectorTask, torch_dtype
from gossipfl.learning.tasks import load_task
from gossipfl.learning.training import Learner, Lesson, ModuleLearner, regimen
from gossipfl.learning.vectors import VectorWorkload


class Assignment(Protocol):
    """What one node needs to know of its part."""

    headline: str  # the metric that summaries name
    higher_is_better: bool
    metrics: tuple[str, ...]  # names of what an evaluation gives
    signature: Signature  # what x is made of: peers compare it
    data_hash: str  # 16 hexadecimal digits: the data and who holds which
    sizes: tuple[int, ...]  # samples of each node, as far as they are known

    def learner(self, node: int) -> Learner:
        """One node, with a model of its own, at its start."""
        ...


class Workload(Assignment, Protocol):
    """A task made ready for n nodes: split, seeded, checked."""

    d: int  # the size of x
    device: torch.device  # where nodes train
    plain: int  # the last so many elements of what travels are no parameters: buffers, optimizer state
    parts: tuple[Index, ...]  # indices of each node's samples; empty for vector tasks

    def long(self) -> bool:
        """Are optimizer steps so long that a GPU pays?"""
        ...

    def prepare(self) -> None:
        """Make the next learner's model ahead: every process that is forked from this one finds it made."""
        ...

    def cohort(self, crew: Crew = ALONE) -> Cohort:
        """All nodes at once, at their start; `crew` are the threads that may train them."""
        ...

    def scores(self, x: Tensor) -> dict[str, float]:
        """`loss` and the task's metrics of one model x `[d]` that is no node's own."""
        ...

    def gradient_norm(self, x: Tensor) -> float:
        """‖∇f(x)‖₂ at x `[d]`, f the mean over nodes of their losses (of many samples, of a part of them)."""
        ...

    def module(self, x: Tensor) -> nn.Module:
        """A fresh module on the CPU that holds x `[d]`; what is not in x is as at the start of node 0."""
        ...


@torch.enable_grad()  # whoever calls may be inside no_grad
def workload(config: Config, task: Task | VectorTask | None = None, node: int | None = None) -> Workload:
    """The workload of a config; `task` stands in for what `train.task` names. `node`: the only one of this
    process, which may read files of its own (`data.partition = "local"`).

    Raises ConfigError: a task, a partition or an optimiser that does not fit.
    """
    if config.data.partition == "local" and node is None:
        wrong = 'is "local": each node reads its own files, and here one process would be all of them'
        raise ConfigError(
            Problem("data.partition", wrong, "gossipfl node CONFIG --name NAME, on each machine")
        )
    task = task or load_task(config)
    if isinstance(task, VectorTask):
        return VectorWorkload(config, task)
    return ModuleWorkload(config, task)


class ModuleWorkload:
    """A Workload of a PyTorch task."""

    def __init__(self, config: Config, task: Task) -> None:
        self.config, self.task = config, task
        train, seed = config.train, config.swarm.seed
        dtype = torch_dtype(train.dtype)
        local = [Samples(data, dtype, torch.device("cpu"), name) for data, name in _datasets(task)]
        plan = regimen(config)
        traits = probe(task, self._build(0), local[0], local[1], train.batch)
        self._train = local[0]
        where = device(train.device, self._work)
        on = local if where.type == "cpu" else [Samples(s.dataset, dtype, where, s.where) for s in local]
        self.lesson = Lesson(task, on[0], on[1], plan, traits)
        self.device = where
        source = Source(len(local[0]), task.labels, task.groups)
        self.parts = partition(source, config.swarm.nodes, config.data, seed)
        self.sizes = tuple(len(part) for part in self.parts)
        self.headline = next(iter(task.metrics), "loss")
        self.metrics = ("loss", *(name for name in task.metrics if name != "loss"))
        self.higher_is_better = task.higher_is_better and bool(task.metrics)
        flat = self._flat(self._build(0))
        self.d, shared = flat.size, flat.parameters[-1].stop
        carries = config.algorithm.average_optimizer
        self._states = states(plan.make, train.optimizer) if carries else ()
        self.plain = self.d - shared + len(self._states) * shared
        self.signature = flat.signature()
        self.data_hash = _schema(task) if config.data.partition == "local" else _data_hash(task, self.parts)
        self._ready: ModuleLearner | None = None

    def learner(self, node: int) -> Learner:
        learner = self._own(node)
        return learner if self.device.type == "cpu" else Mirrored(learner)

    def _own(self, node: int) -> ModuleLearner | CarryingLearner:
        """A node's learner, where the model is."""
        learner, self._ready = self._ready or self._made(node), None
        learner.follow(self._stream(node))
        return CarryingLearner(learner, self._states) if self._states else learner

    def long(self) -> bool:
        return self._work() >= WORTH

    def _work(self) -> float:
        """Floating-point operations of an optimizer step."""
        return work(self.task, self._build(0), self._train, self.config.train.batch)

    def prepare(self) -> None:
        if self.config.swarm.same_start:
            self._ready = self._made(0)

    def _made(self, node: int) -> ModuleLearner:
        flat = self._flat(self._build(node).to(self.device))
        return ModuleLearner(flat, self._stream(node), self.lesson)

    def cohort(self, crew: Crew = ALONE) -> Cohort:
        nodes = range(self.config.swarm.nodes)
        if self._states:
            return LoopCohort([self._own(node) for node in nodes])
        own = range(1) if self.config.swarm.same_start else nodes
        flats = [self._flat(self._build(node).to(self.device)) for node in own]
        streams = [self._stream(node) for node in nodes]
        return module_cohort(flats, streams, self.lesson, self._own, crew)

    def scores(self, x: Tensor) -> dict[str, float]:
        flat = self._flat(self._build(0).to(self.device))
        flat.load(x)
        return evaluate(flat.module, self.task, self.lesson.test)

    def gradient_norm(self, x: Tensor) -> float:
        flat = self._flat(self._build(0).to(self.device))
        flat.load(x)
        return gradient.norm(flat, self.lesson, self.parts)

    def module(self, x: Tensor) -> nn.Module:
        flat = self._flat(self._build(0))
        flat.load(x)
        return flat.module

    def _build(self, node: int) -> nn.Module:
        swarm = self.config.swarm
        return build(self.task, swarm.seed, None if swarm.same_start else node, self.config.train.dtype)

    def _flat(self, module: nn.Module) -> Flat:
        algorithm = self.config.algorithm
        return Flat(module, share=algorithm.share, buffers=algorithm.buffers)

    def _stream(self, node: int) -> Stream:
        part, held = self._split(node)
        return Stream(self.config.swarm.seed, node, part, held)

    def _split(self, node: int) -> tuple[Index, Index]:
        """What a node trains on, and what it keeps to judge models by (where they are weighed by loss)."""
        part, algorithm = self.parts[node], self.config.algorithm
        if algorithm.aggregate == "mean":
            return part, NOTHING
        if len(part) < 2:
            wrong = f"{self.config.names[node]} holds {len(part)} sample: none is left to judge models by"
            right = "data.min_size = 2, another partition, or fewer nodes"
            raise ConfigError(Problem("algorithm.validation", wrong, right))
        count = min(len(part) - 1, max(1, round(algorithm.validation * len(part))))
        order = permutation(self.config.swarm.seed, Purpose.VALIDATION, node, size=len(part))
        return part[np.sort(order[count:])], part[np.sort(order[:count])]


def _datasets(task: Task) -> list[tuple[Dataset[object], str]]:
    return [(task.train, f"{task.name}: train"), (task.test, f"{task.name}: test")]


def _schema(task: Task) -> str:
    """What the data of different nodes have in common: types, and the shape of a sample."""
    sha = hashlib.sha256(task.name.encode())
    for data, _ in _datasets(task):
        for value in data[0]:  # type: ignore[attr-defined]
            tensor = torch.as_tensor(value)
            sha.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    return sha.hexdigest()[:16]


def _data_hash(task: Task, parts: tuple[Index, ...]) -> str:
    """Of the tensors' bytes (of another dataset's length alone) and the partition."""
    sha = hashlib.sha256(task.name.encode())
    for data, _ in _datasets(task):
        if type(data) is TensorDataset:
            for tensor in data.tensors:
                sha.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
                sha.update(np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
        else:
            sha.update(str(len(data)).encode())  # type: ignore[arg-type]
    sha.update(digest(parts))
    return sha.hexdigest()[:16]
