"""The keystone for rows with needs of their own: trees, one-way arcs, codecs, weights by loss, scaled steps.

Real processes and the event engine give the same bits; the vector engine agrees to ten digits.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import gossipfl

torch.set_num_threads(1)

HERE = Path(__file__).parent
D = 7
Keys = dict[str, object]


class Case(NamedTuple):
    """A row on a graph of n nodes, with the keys that make it; `real`: how real processes run it too."""

    rule: str
    graph: str
    n: int
    keys: Keys = {}  # noqa: RUF012  (never written)
    real: tuple[str, str, str] | None = None  # task, dtype, transport

    def __str__(self) -> str:
        extra = "".join(f" {key.partition('.')[2]}={value}" for key, value in self.keys.items())
        return f"{self.rule} {self.graph}{extra}".replace(":", "-")


CASES = [
    Case("relay-sum", "tree", 7, real=("tardy:digits", "float32", "ipc")),
    Case("relay-sum", "path", 5, {"algorithm.count": True}, real=("quadratic", "float64", "tcp")),
    Case("relay-sum", "star", 6),
    Case("choco", "ring", 8, {"wire.codec": "topk:2"}, real=("quadratic", "float32", "ipc")),
    Case("choco", "torus:3x3", 9, {"wire.codec": "topk:0.3"}, real=("digits", "float64", "tcp")),
    Case("choco", "star", 6),
    Case("choco", "ring", 8, {"algorithm.per_link": False, "wire.codec": "topk:3"}),
    Case("dpsgd", "ring", 8, {"wire.codec": "topk:0.3"}, real=("digits", "float32", "tcp")),
    Case("dpsgd", "ring", 6, {"wire.codec": "own:halves"}, real=("quadratic", "float64", "shm")),
    Case("gradient-tracking", "ring", 8, {"wire.codec": "topk:3"}),
    Case("gradient", "complete", 5, {"wire.codec": "topk:0.5"}),
    Case("push-sum", "directed-ring", 6, real=("tardy:digits", "float32", "tcp")),
    Case("push-sum", "exponential", 7, real=("quadratic", "float64", "shm")),
    Case("push-sum", "one-peer-exponential", 6, real=("quadratic", "float32", "tcp")),
    Case("push-sum", "ring", 6),
    Case("dpsgd", "exponential", 7, real=("tardy:digits", "float32", "shm")),
    Case("dpsgd", "one-peer-exponential", 8, real=("digits", "float64", "tcp")),
    Case("dpsgd-cta", "exponential", 8),
    Case("gradient-tracking", "one-peer-exponential", 8),
    Case("dpsgd", "epidemic:2,local", 7),
    Case("fedavg", "complete", 4, real=("digits", "float32", "ipc")),
    Case("fedsgd", "complete", 4),
    Case("dpsgd", "ring", 6, {"algorithm.aggregate": "by-loss"}, real=("digits", "float32", "tcp")),
    Case("dpsgd-cta", "star", 6, {"algorithm.aggregate": "by-loss"}, real=("quadratic", "float64", "shm")),
    Case("dpsgd", "ring", 6, {"algorithm.aggregate": "own:shy"}),
    Case("dpsgd", "ring", 6, {"train.lr_schedule": "agreement"}, real=("digits", "float32", "ipc")),
    Case("dpsgd-cta", "torus:3x3", 9, {"train.lr_schedule": "agreement"}),
    Case("gradient", "complete", 6, {"train.lr_schedule": "agreement"}),
    Case("dpsgd", "path", 3, real=("tardy:wide", "float32", "shm")),
    Case("qg", "path", 3, real=("tardy:wide", "float32", "tcp")),
    Case("dpsgd", "star", 4, {"algorithm.aggregate": "by-loss"}, real=("tardy:wide", "float32", "shm")),
]
REAL = [case for case in CASES if case.real is not None]


def config(case: Case, task: str, dtype: str, folder: Path) -> Keys:
    keys: Keys = {
        "swarm.nodes": case.n,
        "swarm.rounds": 20 if "wire.codec" in case.keys else 11,
        "swarm.eval_every": 5,
        "swarm.seed": 5,
        "topology.graph": case.graph,
        "algorithm.rule": case.rule,
        "train.task": task,
        "train.dtype": dtype,
        "train.lr": 0.05,
        "train.batch": 8,
        **case.keys,
    }
    if task == "quadratic":
        draw = np.random.default_rng(3)
        path = folder / "quadratic.npz"
        x0 = draw.normal(size=(case.n, D))
        np.savez(path, a=draw.uniform(0.5, 1.5, (case.n, D)), b=draw.normal(size=(case.n, D)), x0=x0)
        keys |= {"task.file": str(path), "algorithm.local_steps": 1 if case.rule == "fedsgd" else 2}
    elif case.rule not in ("fedavg", "fedsgd"):
        keys |= {"algorithm.local_steps": 2, "train.momentum": 0.5}
    return keys


def models(result: gossipfl.Result) -> NDArray[np.floating]:
    assert result.models is not None
    assert np.isfinite(result.models).all()
    return result.models


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(HERE)  # where `tardy` and `own` are


@pytest.mark.parametrize("task", ["digits", "quadratic"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_vector_engine_agrees_to_ten_digits(case: Case, task: str, tmp_path: Path) -> None:
    keys = config(case, task, "float64", tmp_path)

    events, vector = (gossipfl.simulate(keys, engine=engine) for engine in ("events", "vector"))

    assert np.abs(models(events) - models(vector)).max() < 1e-10
    assert vector.summary["sent_bytes_per_node"] == events.summary["sent_bytes_per_node"]
    assert not [record for record in events.records if record["kind"] not in ("round", "eval")]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_time_and_order_of_arrival_change_nothing(case: Case, tmp_path: Path) -> None:
    keys = config(case, "quadratic", "float32", tmp_path)
    networks = [{"network.jitter": 0.5, "network.compute": 0.01}, {"network.latency": 1.0}]

    one, other = (gossipfl.simulate(keys, engine="events", overrides=network) for network in networks)

    assert models(one).tobytes() == models(other).tobytes()
    assert one.summary["seconds"] != other.summary["seconds"]


@pytest.mark.system
@pytest.mark.parametrize("case", REAL, ids=str)
def test_real_processes_and_the_event_engine_give_the_same_bits(case: Case, tmp_path: Path) -> None:
    assert case.real is not None
    task, dtype, transport = case.real
    keys = config(case, task, dtype, tmp_path) | {"wire.transport": transport}

    simulated = gossipfl.simulate(keys, engine="events", overrides={"network.jitter": 0.05})
    real = gossipfl.swarm(keys)

    assert real.summary["finished"]
    assert models(real).tobytes() == models(simulated).tobytes()
    assert real.summary["per_node"] == simulated.summary["per_node"]
