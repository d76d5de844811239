"""Node-steps a second of the vector engine, beside what hand-written numpy does with the same work.

The work: the digits perceptron (64-64-10), batch 8, one step and one averaging a round. The limit is a
program that can do nothing else: forward, loss, backward and step written out in numpy for tiles of 64 nodes,
averaging by scipy on rows of a tile, a thread a core.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Final, Literal, cast

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import TensorDataset

from gossipfl.config import load_config
from gossipfl.drivers import vector
from gossipfl.drivers.bench.turns import Pace, Row, Say, Watch, ratios, turns
from gossipfl.drivers.machine import cores
from gossipfl.drivers.plan import plan
from gossipfl.learning.cohort import Cohort
from gossipfl.learning.crew import Crew
from gossipfl.learning.task import Task
from gossipfl.learning.tasks.digits import digits
from gossipfl.learning.workload import Workload, workload

TILE: Final = 64
BATCH: Final = 8
RATE: Final = 0.1
WARM: Final = 6000  # node-steps before the clock starts: the engine traces its gradient on the way

Array = NDArray[np.floating]
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Case:
    """What is measured. rounds: of a turn; 0: as many as take about `seconds`."""

    nodes: int
    graph: str = "regular:4"
    rounds: int = 0
    turns: int = 3
    seconds: float = 0.7
    dtype: Literal["float32", "float64"] = "float32"


class Written:
    """x `[n, 4810]`, trained and averaged as fast as numpy and scipy go."""

    def __init__(self, case: Case, task: Task) -> None:
        made = plan(load_config({"swarm": {"nodes": case.nodes}, "topology": {"graph": case.graph}}))
        matrix = sp.csr_array(made.recipe.schedule.mixing(0).matrix.astype(case.dtype))
        assert isinstance(task.train, TensorDataset)
        inputs, targets = task.train.tensors
        self.inputs, self.targets = inputs.numpy().astype(case.dtype), targets.numpy()
        self.rng = np.random.default_rng(0)
        self.x = (self.rng.standard_normal((case.nodes, 4810)) / 8).astype(case.dtype)
        self.after = np.empty_like(self.x)
        self.tiles = [slice(at, min(case.nodes, at + TILE)) for at in range(0, case.nodes, TILE)]
        self.rows = [_rows(matrix, tile) for tile in self.tiles]
        self.pool = ThreadPoolExecutor(cores())

    def close(self) -> None:
        """End the threads."""
        self.pool.shutdown()

    def round(self) -> None:
        """One step of every node, then one averaging."""
        batches = self.rng.integers(0, len(self.inputs), (len(self.x), BATCH))
        list(self.pool.map(lambda tile: self.step(tile, batches[tile]), self.tiles))
        list(self.pool.map(self.average, self.tiles, self.rows))

    def average(self, tile: slice, rows: sp.csr_array) -> None:
        self.x[tile] = rows @ self.after

    def step(self, tile: slice, batch: Ids) -> Array:
        """The losses `[t]`."""
        x, after, t = self.x[tile], self.after[tile], len(batch)
        samples, labels = self.inputs[batch.ravel()].reshape(t, BATCH, 64), self.targets[batch.ravel()]
        w1, b1, w2, b2 = _layers(x)
        hidden = np.matmul(samples, w1.transpose(0, 2, 1))
        hidden += b1[:, None]
        np.maximum(hidden, 0, out=hidden)
        scores = np.matmul(hidden, w2.transpose(0, 2, 1))
        scores += b2[:, None]
        scores -= scores.max(-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(-1, keepdims=True)
        each = np.arange(t * BATCH)
        losses = -np.log(scores.reshape(-1, 10)[each, labels]).reshape(t, BATCH).mean(1)
        scores.reshape(-1, 10)[each, labels] -= 1
        scores *= RATE / BATCH
        back = np.matmul(scores, w2)
        back *= hidden > 0
        a1, c1, a2, c2 = _layers(after)
        np.matmul(back.transpose(0, 2, 1), samples, out=a1)
        np.subtract(w1, a1, out=a1)
        np.subtract(b1, back.sum(1), out=c1)
        np.matmul(scores.transpose(0, 2, 1), hidden, out=a2)
        np.subtract(w2, a2, out=a2)
        np.subtract(b2, scores.sum(1), out=c2)
        return np.asarray(losses)


class _Timed:
    """A workload that takes the time from a round on until models are evaluated."""

    def __init__(self, load: Workload, first: int) -> None:
        self._load, self._first = load, first
        self.pace = Pace(0.0)

    def __getattr__(self, name: str) -> object:
        return getattr(self._load, name)

    def cohort(self, crew: Crew) -> Cohort:
        cohort = self._load.cohort(crew)
        phase, evaluate = cohort.phase, cohort.evaluate
        watch = Watch()

        def begins(x: Tensor, round: int) -> tuple[Tensor, Tensor, float]:
            nonlocal watch
            watch = Watch() if round == self._first else watch
            return phase(x, round)

        def ends(x: Tensor) -> dict[str, Tensor]:
            self.pace = self.pace if self.pace.wall else watch.pace(1)
            return evaluate(x)

        cohort.phase, cohort.evaluate = begins, ends  # type: ignore[method-assign]
        return cohort


def measure(case: Case, say: Say) -> Row:
    """Both figures and their ratio. Raises ConfigError for a graph that is none."""
    n, task, threads = case.nodes, task_of(case.nodes), torch.get_num_threads()

    warm = max(8, WARM // n)

    def engine(rounds: int) -> Pace:
        config = load_config(
            {
                "swarm": {"nodes": n, "rounds": warm + rounds, "eval_every": warm + rounds},
                "topology": {"graph": case.graph},
                "train": {"lr": RATE, "batch": BATCH, "dtype": case.dtype, "device": "cpu"},
                "data": {"partition": "iid"},
            }
        )
        load = workload(config, task)
        torch.set_num_threads(cores())
        timed = _Timed(load, warm)
        vector.run(plan(config, load.sizes), cast(Workload, timed), lambda record: None, each=False)
        return Pace(n * rounds * timed.pace.wall, n * rounds * timed.pace.cpu)

    with closing(Written(case, task)) as written:

        def limit(rounds: int) -> Pace:
            begun = Watch()
            for _ in range(rounds):
                written.round()
            return begun.pace(n * rounds)

        say(f"steps of {n} nodes")
        try:
            lengths = [case.rounds or _enough(case, way, first) for way, first in ((engine, 8), (limit, 4))]
            ways = {"engine": lambda: engine(lengths[0]), "limit": lambda: limit(lengths[1])}
            found = turns(ways, case.turns, lambda text: say(f"steps of {n} nodes: {text}"))
        finally:
            torch.set_num_threads(threads)
    return {
        "what": "steps",
        "nodes": n,
        "topology": case.graph,
        "parameters": 4810,
        "batch": BATCH,
        "dtype": case.dtype,
        "threads": cores(),
        "turns": case.turns,
        **ratios(found["engine"], found["limit"], "node_steps_per_second"),
    }


def task_of(n: int) -> Task:
    """digits, again and again until there is a sample for each node; hardly anything to test on."""
    base = digits()
    assert isinstance(base.train, TensorDataset) and base.labels is not None
    times = -(-n // len(base.labels))
    inputs, targets = (tensor.repeat(times, *[1] * (tensor.dim() - 1)) for tensor in base.train.tensors)
    train, test = TensorDataset(inputs, targets), TensorDataset(inputs[:8], targets[:8])
    return Task("digits", base.model, train, test, base.loss, base.metrics, targets.numpy())


def _rows(matrix: sp.csr_array, tile: slice) -> sp.csr_array:
    part: sp.csr_array = matrix[tile]
    return part


def _layers(x: Array) -> tuple[Array, Array, Array, Array]:
    t = len(x)
    return (
        x[:, :4096].reshape(t, 64, 64),
        x[:, 4096:4160],
        x[:, 4160:4800].reshape(t, 10, 64),
        x[:, 4800:],
    )


def _enough(case: Case, way: Callable[[int], Pace], first: int) -> int:
    """Rounds that take about so long."""
    return max(first, round(way(max(first, 2000 // case.nodes)).wall * case.seconds / case.nodes))
