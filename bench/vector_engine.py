"""Node-steps a second of the vector engine, beside what hand-written numpy does with the same work.

The work: the digits perceptron (64-64-10), batch 8, one step and one averaging over regular:4 a round. The
limit is a program that can do nothing else: forward, loss, backward and step written out in numpy for tiles
of 64 nodes, averaging by scipy on rows of a tile, two threads. Both run in turns, so that their ratio stands
on a machine that is busy or throttled.

    python bench/vector_engine.py [--nodes 100 1000 4096] [--turns 5] [--seconds 1] [--dtype float32] [--json]
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # of the numpy program: its threads are its own

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch.utils.data import TensorDataset

from gossipfl.config import load_config
from gossipfl.drivers import vector
from gossipfl.drivers.plan import plan
from gossipfl.learning.task import Task
from gossipfl.learning.tasks.digits import digits
from gossipfl.learning.workload import workload

TILE, BATCH, RATE = 64, 8, 0.1
Array = NDArray[np.floating]
Ids = NDArray[np.int64]


class Limit:
    """x `[n, 4810]`, trained and averaged as fast as numpy and scipy go."""

    def __init__(self, n: int, task: Task, dtype: str, threads: int) -> None:
        made = plan(load_config({"swarm": {"nodes": n}, "topology": {"graph": "regular:4"}}))
        matrix = made.recipe.schedule.mixing(0).matrix.astype(dtype)
        assert isinstance(task.train, TensorDataset)
        inputs, targets = task.train.tensors
        self.inputs, self.targets = inputs.numpy().astype(dtype), targets.numpy()
        self.rng = np.random.default_rng(0)
        self.x = (self.rng.standard_normal((n, 4810)) / 8).astype(dtype)
        self.after = np.empty_like(self.x)
        self.tiles = [slice(first, min(n, first + TILE)) for first in range(0, n, TILE)]
        self.rows = [matrix[tile] for tile in self.tiles]  # type: ignore[index]
        self.pool = ThreadPoolExecutor(threads)

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


def _layers(x: Array) -> tuple[Array, Array, Array, Array]:
    t = len(x)
    return (
        x[:, :4096].reshape(t, 64, 64),
        x[:, 4096:4160],
        x[:, 4160:4800].reshape(t, 10, 64),
        x[:, 4800:],
    )


def task_of(n: int) -> Task:
    """digits, again and again until there is a sample for each node; hardly anything to test on."""
    base = digits()
    assert isinstance(base.train, TensorDataset) and base.labels is not None
    times = -(-n // len(base.labels))
    inputs, targets = (tensor.repeat(times, *[1] * (tensor.dim() - 1)) for tensor in base.train.tensors)
    train, test = TensorDataset(inputs, targets), TensorDataset(inputs[:8], targets[:8])
    return Task("digits", base.model, train, test, base.loss, base.metrics, targets.numpy())


def measure(n: int, dtype: str, turns: int, seconds: float, threads: int, each: bool) -> dict[str, object]:
    """Both figures and their ratio, the medians over the turns."""
    task = task_of(n)
    limit = Limit(n, task, dtype, threads)

    def engine(rounds: int) -> float:
        config = load_config(
            {
                "swarm": {"nodes": n, "rounds": rounds, "eval_every": rounds},
                "topology": {"graph": "regular:4"},
                "train": {"lr": RATE, "batch": BATCH, "dtype": dtype, "device": "cpu"},
                "data": {"partition": "iid"},
            }
        )
        load = workload(config, task)
        torch.set_num_threads(threads)
        return vector.run(plan(config, load.sizes), load, lambda record: None, each=each).seconds

    def bare(rounds: int) -> float:
        begun = time.perf_counter()
        for _ in range(rounds):
            limit.round()
        return time.perf_counter() - begun

    engine(10), bare(3)
    lengths = [
        _enough(engine, seconds, max(10, 50_000 // n)),
        _enough(bare, seconds, max(5, 20_000 // n)),
    ]
    found = []
    for _ in range(turns):
        found.append([n * rounds / run(rounds) for run, rounds in zip((engine, bare), lengths, strict=True)])
    ratios = [ours / theirs for ours, theirs in found]
    return {
        "nodes": n,
        "dtype": dtype,
        "threads": threads,
        "node_steps_per_second": median(ours for ours, _ in found),
        "limit_node_steps_per_second": median(theirs for _, theirs in found),
        "ratio": median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "turns": turns,
    }


def _enough(run: Callable[[int], float], seconds: float, first: int) -> int:
    """Rounds that take about so long."""
    return max(first, round(first * seconds / run(first)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[100, 1000, 4096])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn of each")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--each", action="store_true", help="a record a node and round")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    for n in given.nodes:
        row = measure(n, given.dtype, given.turns, given.seconds, given.threads, given.each)
        if given.json:
            print(json.dumps(row), flush=True)
        else:
            print(
                f"{n:6} nodes  {row['node_steps_per_second']:10,.0f} node-steps/s  limit "
                f"{row['limit_node_steps_per_second']:10,.0f}  ratio {row['ratio']:.2f} "
                f"({row['ratio_min']:.2f} to {row['ratio_max']:.2f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
