"""A PyTorch task made ready for n nodes: split, seeded, checked."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from gossipfl.config import Config
from gossipfl.draw import Purpose, permutation
from gossipfl.errors import ConfigError, Problem
from gossipfl.learning.batches import NOTHING, Index, Samples, Stream
from gossipfl.learning.crew import ALONE, Crew
from gossipfl.learning.flat import Flat
from gossipfl.learning.learner import Learner
from gossipfl.learning.models import WORTH, build, device, evaluate, probe, work
from gossipfl.learning.partition import Source, digest, partition
from gossipfl.learning.task import Task, torch_dtype
from gossipfl.learning.training import Lesson, ModuleLearner, regimen

if TYPE_CHECKING:
    from gossipfl.learning.carrying import CarryingLearner
    from gossipfl.learning.cohort import Cohort


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
        self._states: tuple[str, ...] = ()
        if carries:
            from gossipfl.learning.carrying import states

            self._states = states(plan.make, train.optimizer)
        self.plain = self.d - shared + len(self._states) * shared
        self.signature = flat.signature()
        self.data_hash = _schema(task) if config.data.partition == "local" else _data_hash(task, self.parts)
        self._ready: ModuleLearner | None = None

    def learner(self, node: int) -> Learner:
        learner = self._own(node)
        if self.device.type == "cpu":
            return learner
        from gossipfl.learning.mirror import Mirrored

        return Mirrored(learner)

    def _own(self, node: int) -> ModuleLearner | CarryingLearner:
        """A node's learner, where the model is."""
        learner, self._ready = self._ready or self._made(node), None
        learner.follow(self._stream(node))
        if not self._states:
            return learner
        from gossipfl.learning.carrying import CarryingLearner

        return CarryingLearner(learner, self._states)

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
        from gossipfl.learning.cohort import LoopCohort, module_cohort

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
        from gossipfl.learning import gradient

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
