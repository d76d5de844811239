"""What a config and its task give every engine: a learner for each node, or all of them as one cohort."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from gossipfl.config import Config
from gossipfl.errors import ConfigError, Problem
from gossipfl.learning.crew import ALONE, Crew
from gossipfl.learning.flat import Signature
from gossipfl.learning.learner import Learner
from gossipfl.learning.task import Task, VectorTask
from gossipfl.learning.tasks import load_task

if TYPE_CHECKING:
    from gossipfl.learning.batches import Index
    from gossipfl.learning.cohort import Cohort


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
    if isinstance(task, VectorTask):  # one of the two alone is loaded
        from gossipfl.learning.vectors import VectorWorkload

        return VectorWorkload(config, task)
    from gossipfl.learning.supervised import ModuleWorkload

    return ModuleWorkload(config, task)
