"""The keystone: the same config and seed give the same bits, whatever runs them and whatever comes late.

Real processes over ZeroMQ and the event engine run the same machines and learners; the vector engine the same
rules on all nodes at once.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
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

#: The rules that run on any graph. Those that ask for graphs or codecs of their own have tests of their own
#: (test_agreement_rows.py).
RULES = ("none", "dpsgd", "dpsgd-cta", "gradient", "qg", "d2", "gradient-tracking", "diging")
#: A graph of each kind: even cycle, lattice with an odd side, hub, one that changes in a period, one that is
#: drawn anew in every round, and one whose arcs lead one way.
GRAPHS = {"ring": 8, "torus:3x3": 9, "star": 6, "base:2": 7, "epidemic:2": 8, "one-peer-exponential": 8}
CHANGING = ("base:2", "epidemic:2", "one-peer-exponential")
#: d2 needs the same mixing matrix in every round.
PAIRS = [(r, g) for r, g in product(RULES, GRAPHS) if r != "d2" or g not in CHANGING]


class Run(NamedTuple):
    """A run of real processes that is compared with the event engine's."""

    rule: str
    graph: str
    task: str
    dtype: str
    transport: str

    def __str__(self) -> str:
        return " ".join(self).replace(":", "-")


RUNS = [
    Run("dpsgd", "ring", "digits", "float32", "ipc"),
    Run("dpsgd", "torus:3x3", "quadratic", "float64", "tcp"),
    Run("dpsgd-cta", "star", "tardy:digits", "float64", "ipc"),
    Run("dpsgd-cta", "base:2", "quadratic", "float32", "tcp"),
    Run("none", "torus:3x3", "tardy:digits", "float32", "tcp"),
    Run("none", "ring", "quadratic", "float64", "ipc"),
    Run("gradient", "one-peer-exponential", "digits", "float64", "ipc"),
    Run("gradient", "star", "quadratic", "float32", "tcp"),
    Run("qg", "epidemic:2", "tardy:digits", "float32", "tcp"),
    Run("qg", "torus:3x3", "quadratic", "float64", "ipc"),
    Run("d2", "ring", "tardy:digits", "float32", "tcp"),
    Run("d2", "star", "quadratic", "float64", "ipc"),
    Run("gradient-tracking", "star", "tardy:digits", "float64", "tcp"),
    Run("gradient-tracking", "epidemic:2", "quadratic", "float32", "ipc"),
    Run("diging", "torus:3x3", "digits", "float32", "ipc"),
    Run("diging", "epidemic:2", "quadratic", "float64", "tcp"),
]


def _quadratic(folder: Path, n: int, seed: int = 3) -> str:
    draw = np.random.default_rng(seed)
    path = folder / f"quadratic-{n}.npz"
    np.savez(path, a=draw.uniform(0.5, 1.5, (n, D)), b=draw.normal(size=(n, D)), x0=draw.normal(size=(n, D)))
    return str(path)


Configured = Callable[..., dict[str, object]]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configured:
    """The config of a rule on a graph and a task; short, with momentum, several steps and a changing rate."""
    monkeypatch.chdir(HERE)  # where `tardy` is

    def make(rule: str, graph: str, task: str, dtype: str, **others: object) -> dict[str, object]:
        n = GRAPHS[graph]
        keys: dict[str, object] = {
            "swarm.nodes": n,
            "swarm.rounds": 11,
            "swarm.eval_every": 5,
            "swarm.seed": 5,
            "topology.graph": graph,
            "algorithm.rule": rule,
            "train.task": task,
            "train.dtype": dtype,
            "train.lr": 0.05,
            "train.lr_schedule": "cosine",
            "train.batch": 8,
            **others,
        }
        if task == "quadratic":
            keys["task.file"] = _quadratic(tmp_path, n)
        elif task != "consensus":
            keys |= {"algorithm.local_steps": 2, "train.momentum": 0.5}
        return keys

    return make


def models(result: gossipfl.Result) -> NDArray[np.floating]:
    assert result.models is not None
    assert np.isfinite(result.models).all()
    return result.models


def assert_on_the_way(result: gossipfl.Result) -> None:
    """Nodes moved and do not agree yet: otherwise equal bits would say little."""
    first, last = (result.metrics["loss"][k] for k in (0, -1))
    assert (first != last).any()
    assert len(np.unique(models(result), axis=0)) > 1


def same_bits(ours: gossipfl.Result, theirs: gossipfl.Result) -> bool:
    a, b = models(ours), models(theirs)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.system
@pytest.mark.parametrize("run", RUNS, ids=str)
def test_real_processes_and_the_event_engine_give_the_same_bits(run: Run, config: Configured) -> None:
    # given: a network that delays every message in virtual time by another amount than the real one does
    keys = config(run.rule, run.graph, run.task, run.dtype, **{"wire.transport": run.transport})
    late = {"network.latency": 0.02, "network.jitter": 0.05}

    # when
    simulated = gossipfl.simulate(keys, engine="events", overrides=late)
    real = gossipfl.swarm(keys)

    # then
    assert real.summary["finished"] and real.summary["engine"] == "swarm"
    assert models(real).dtype == run.dtype
    assert same_bits(real, simulated)
    assert_on_the_way(real)
    for name, curve in simulated.metrics.items():
        assert real.metrics[name].tobytes() == curve.tobytes()
    assert real.summary["per_node"] == simulated.summary["per_node"]
    assert real.summary["config_hash"] == simulated.summary["config_hash"]
    assert real.summary["data_hash"] == simulated.summary["data_hash"]


def test_the_runs_of_real_processes_cover_every_pair_of_choices() -> None:
    rules = set(RULES)
    graphs = {"ring", "torus:3x3", "star", "changing"}
    kinds = [
        (
            run.rule,
            "changing" if run.graph in CHANGING else run.graph,
            run.task.removeprefix("tardy:"),
            run.dtype,
            run.transport,
        )
        for run in RUNS
    ]
    axes: list[set[str]] = [rules, graphs, {"digits", "quadratic"}, {"float32", "float64"}, {"ipc", "tcp"}]

    missing = [
        pair
        for i, j in product(range(5), repeat=2)
        if i < j and (i, j) != (0, 1)  # all rules on all graphs: without processes, below
        for pair in product(axes[i], axes[j])
        if pair not in {(kind[i], kind[j]) for kind in kinds}
    ]

    assert not missing


@pytest.mark.parametrize(("rule", "graph"), PAIRS)
def test_time_and_order_of_arrival_change_nothing(rule: str, graph: str, config: Configured) -> None:
    # given
    keys = config(rule, graph, "quadratic", "float32")
    networks = [
        {"network.latency": 0.0, "network.compute": 0.0},
        {"network.latency": 0.001, "network.jitter": 0.5, "network.compute": 0.01},
        {"network.latency": 1.0, "network.jitter": 0.1, "network.compute": 0.001},
    ]

    # when
    first, *rest = [gossipfl.simulate(keys, engine="events", overrides=network) for network in networks]

    # then
    assert all(same_bits(first, result) for result in rest)
    assert len({str(result.summary["seconds"]) for result in (first, *rest)}) == 3
    assert_on_the_way(first)


@pytest.mark.parametrize("task", ["digits", "quadratic"])
@pytest.mark.parametrize(("rule", "graph"), PAIRS)
def test_the_vector_engine_agrees_to_ten_digits(rule: str, graph: str, task: str, config: Configured) -> None:
    keys = config(rule, graph, task, "float64")

    events, vector = (gossipfl.simulate(keys, engine=engine) for engine in ("events", "vector"))

    assert np.abs(models(events) - models(vector)).max() < 1e-10
    assert_on_the_way(vector)
    for name, curve in events.metrics.items():
        assert np.abs(vector.metrics[name] - curve).max() < 1e-9


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("task", ["consensus", "quadratic"])
@pytest.mark.parametrize("graph", GRAPHS)
def test_the_vector_engine_gives_the_same_bits_on_exact_tasks(
    graph: str, task: str, dtype: str, config: Configured
) -> None:
    keys = config("dpsgd", graph, task, dtype)

    events, vector = (gossipfl.simulate(keys, engine=engine) for engine in ("events", "vector"))

    assert same_bits(events, vector)
