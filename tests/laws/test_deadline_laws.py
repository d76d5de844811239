"""What deadlines may not change, in virtual time: the mean over nodes, and where exact rules end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gossipfl.config import load_config
from gossipfl.drivers import virtual
from gossipfl.drivers.plan import plan
from gossipfl.learning.workload import workload
from gossipfl.records import Record, number

N = 6
LATE = {"network.compute": "lognormal:0.1,0.3"}
SLOW = {"network.slow": {"3": 10.0}}
EVEN = {"train.task": "consensus", "network.compute": 0.1, "network.latency": 0.001}


def simulated(*tables: Mapping[str, object]) -> tuple[NDArray[np.float64], list[Record], float]:
    """A run of the event engine: the models, its records, and its virtual seconds."""
    keys: dict[str, object] = {
        "swarm.nodes": N,
        "topology.graph": "ring",
        "train.dtype": "float64",
        "swarm.eval_every": 1_000_000,
        "network.latency": 0.005,
    }
    for table in tables:
        keys |= dict(table)
    config, records = load_config(None, keys), list[Record]()
    outcome = virtual.run(plan(config), workload(config), records.append)
    return outcome.x.numpy(), records, outcome.seconds


def peers(records: list[Record], kind: str, *nodes: int) -> list[object]:
    """Whom records of a kind are about, by some nodes."""
    return [record["peer"] for record in records if record["kind"] == kind and record["node"] in nodes]


@pytest.mark.parametrize(
    ("rule", "graph"), [("dpsgd", "ring"), ("dpsgd-cta", "ring"), ("choco", "ring"), ("dpsgd", "base:1")]
)
def test_a_straggler_and_late_payloads_keep_the_sum(rule: str, graph: str, tmp_path: Path) -> None:
    starts = np.random.default_rng(1).normal(size=(N, 4))
    np.savez(tmp_path / "x0.npz", x0=starts)
    task = {"train.task": "consensus", "task.file": str(tmp_path / "x0.npz"), "algorithm.rule": rule}

    x, records, _ = simulated(
        LATE, SLOW, {**task, "swarm.rounds": 120, "topology.graph": graph, "wire.deadline": 0.03}
    )

    kinds = Counter(record["kind"] for record in records)
    assert kinds["correction"] > 10 and kinds["skip"] > 50 and kinds["slow"]
    assert abs(x.mean(0) - starts.mean(0)).max() < 1e-12
    apart = abs(x - starts.mean(0)).max() / abs(starts - starts.mean(0)).max()
    assert apart < (0.9 if rule == "choco" else 0.1)


@pytest.mark.parametrize("rule", ["d2", "gradient-tracking"])
@pytest.mark.parametrize("slow", [False, True], ids=["late", "straggler"])
def test_exact_rules_reach_the_optimum_of_all_nodes(rule: str, slow: bool, tmp_path: Path) -> None:
    """Also with a node that makes a tenth of the rounds: where it ends does not depend on its pace."""
    draw = np.random.default_rng(0)
    a, b = draw.random((N, 4)) + 0.5, draw.normal(size=(N, 4))
    np.savez(tmp_path / "quadratic.npz", a=a, b=b)
    rounds = 600 if slow else 300
    keys: dict[str, object] = {"train.task": "quadratic", "task.file": str(tmp_path / "quadratic.npz")}
    keys |= {"train.lr": 0.1, "algorithm.rule": rule, "swarm.rounds": rounds, "wire.deadline": 0.08}
    keys |= {"topology.weights": "lazy"} if rule == "d2" else {}

    x, records, _ = simulated(LATE, keys, SLOW if slow else {})

    late = sum(record["kind"] == "correction" for record in records) / (2 * N * rounds)
    assert late > 0.03
    assert ((x - (a * b).sum(0) / a.sum(0)) ** 2).sum(1).mean() < 1e-10


@pytest.mark.parametrize("limit", ["wire.deadline", "wire.patience"])
def test_a_straggler_costs_its_neighbors_a_few_deadlines(limit: str) -> None:
    value = 0.05 if limit == "wire.deadline" else 0.5
    _, records, seconds = simulated(EVEN, SLOW, {"swarm.rounds": 100, limit: value})

    first = 5 if limit == "wire.patience" else 0  # rounds of a second, until it is known how long one is
    assert 10.0 < seconds < 11.5 + first  # 100 without a limit
    assert 3 in (slow := peers(records, "slow", 2, 4)) and (first or {*slow} == {3})
    made = Counter(record["node"] for record in records if record["kind"] == "round")
    assert 8 <= made[3] <= 16 and (first or made[2] == made[4] == 100)


def test_a_node_that_stops_for_a_while_is_soon_back_in_step(tmp_path: Path) -> None:
    """A pause of 1.5 s, before anyone takes its lines for broken, in rounds of 0.1 s."""
    (tmp_path / "trace.csv").write_text("3, 5.0, 6.5\n")
    trace = {"network.trace": str(tmp_path / "trace.csv")}
    keys = {"swarm.rounds": 200, "wire.deadline": 0.05, "wire.heartbeat": 2.0}

    _, records, _ = simulated(EVEN, trace, keys)

    skipped = [number(record["time"]) for record in records if record["kind"] == "skip"]
    assert skipped and min(skipped) > 4.9 and max(skipped) < 9.0
    assert peers(records, "slow", 2, 4) and not peers(records, "peer_down", 2, 4)
