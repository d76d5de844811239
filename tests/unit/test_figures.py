"""The figures of the field: each against its definition, and in what a run leaves."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from gossipfl.api import simulate
from gossipfl.config import load_config
from gossipfl.drivers.figures import (
    consensus_distance,
    distances,
    effective_neighbors,
    fairness,
    spread,
)
from gossipfl.drivers.plan import plan
from gossipfl.learning.supervised import ModuleWorkload
from gossipfl.learning.workload import workload

torch.set_num_threads(1)

SMALL = {"swarm": {"nodes": 6, "rounds": 7, "eval_every": 3}, "train": {"batch": 8}}


def test_consensus_distance_is_the_root_mean_square_of_the_distances() -> None:
    x = torch.tensor([[0.0, 0.0], [6.0, 8.0]])

    assert distances(x).tolist() == [5.0, 5.0]
    assert consensus_distance(x) == 5.0
    assert consensus_distance(x[:0]) == 0.0


@pytest.mark.parametrize(("higher", "worst", "best"), [(True, 1.0, 4.0), (False, 4.0, 1.0)])
def test_which_node_is_worst_depends_on_which_way_is_better(higher: bool, worst: float, best: float) -> None:
    found = spread([1.0, 4.0, 4.0], higher)

    assert (found["worst"], found["best"]) == (worst, best)
    assert (found["min"], found["max"], found["mean"]) == (1.0, 4.0, 3.0)
    assert found["std"] == pytest.approx(math.sqrt(2))
    assert all(math.isnan(value) for value in spread([], higher).values())


def test_fairness_is_jains_index() -> None:
    assert fairness([3.0, 3.0, 3.0]) == pytest.approx(1)
    assert fairness([1.0, 0.0, 0.0, 0.0]) == 0.25
    assert fairness([1.0, 2.0]) == 0.9
    assert fairness([0.0, 0.0]) == 1.0


@pytest.mark.parametrize(
    ("graph", "expected"), [("complete", 8.0), ("none", 1.0), ("ring", None), ("epidemic:2", math.nan)]
)
def test_effective_neighbours_run_from_one_alone_to_all(graph: str, expected: float | None) -> None:
    made = plan(
        load_config({"swarm": {"nodes": 8}, "topology": {"graph": graph, "allow_disconnected": True}})
    )

    found = effective_neighbors(made)

    if graph == "epidemic:2":
        assert found is None
    elif expected is None:
        assert found is not None and 1 < found < 8
    elif graph == "complete":
        # W (sqrt(γ) z + noise) keeps the mean alone, whose variance is 1/n: 1 / (1 − γ) over 1 / (n (1 − γ))
        assert found == pytest.approx(8)
    else:
        assert found == pytest.approx(1)


class TestGradientNorm:
    @pytest.mark.parametrize("partition", ["iid", "dirichlet", "shards"])
    def test_it_is_that_of_the_mean_of_the_nodes_losses(self, partition: str) -> None:
        load = workload(load_config({**SMALL, "data": {"partition": partition}}))
        assert isinstance(load, ModuleWorkload)
        x = load.cohort().start()[0] + 0.1
        module = load.module(x)
        losses = [cross_entropy(module(a), b) for a, b in map(load.lesson.train.batch, load.parts)]
        torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad.flatten() for p in module.parameters() if p.grad is not None]

        assert load.gradient_norm(x) == pytest.approx(torch.cat(gradients).norm().item(), rel=1e-4)

    def test_of_many_samples_some_are_looked_at(self, monkeypatch: pytest.MonkeyPatch) -> None:
        load = workload(load_config({**SMALL, "data": {"partition": "iid"}}))
        x = load.cohort().start()[0]
        exact = load.gradient_norm(x)
        monkeypatch.setattr("gossipfl.learning.gradient.SAMPLES", 6 * 60)
        monkeypatch.setattr("gossipfl.learning.gradient.CHUNK", 50)

        found = load.gradient_norm(x)

        assert found != exact
        assert found == pytest.approx(exact, rel=0.3)

    def test_it_vanishes_at_the_minimum_of_quadratics(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        a, b = rng.uniform(1, 2, (6, 3)), rng.normal(size=(6, 3))
        np.savez(tmp_path / "q.npz", a=a, b=b)
        config = {
            **SMALL,
            "train": {"task": "quadratic", "dtype": "float64"},
            "task": {"file": str(tmp_path / "q.npz")},
        }
        load = workload(load_config(config))
        minimum = torch.from_numpy((a * b).sum(0) / a.sum(0))

        assert load.gradient_norm(minimum) < 1e-12
        assert load.gradient_norm(minimum + 1) == pytest.approx(np.linalg.norm(a.mean(0)))
        assert load.scores(minimum)["error"] < 1e-20


@pytest.mark.parametrize(("rule", "exchange"), [("dpsgd", "pairwise"), ("gossip-learning", "push")])
def test_asynchronous_runs_tell_of_all_nodes_when_the_last_has_done_as_many_phases(
    rule: str, exchange: str
) -> None:
    config = {**SMALL, "algorithm": {"rule": rule, "exchange": exchange}}

    result = simulate(config, engine="events")

    for round in (3, 6, 7):
        told = [r for r in result.records if r["kind"] == "eval" and r["round"] == round]
        assert ["mean_model" in r for r in told] == [False] * 5 + [True]
    assert result.summary["sent_messages_per_node"] == (
        result.summary["sent_bytes_per_node"] / 4810 / 4  # type: ignore[operator]
    )


@pytest.mark.parametrize("engine", ["vector", "events"])
class TestRuns:
    def test_the_last_record_of_an_evaluation_tells_of_all_nodes(self, engine: str) -> None:
        result = simulate(SMALL, engine=engine)  # type: ignore[arg-type]

        for round in (3, 6, 7):
            told = [r for r in result.records if r["kind"] == "eval" and r["round"] == round]
            assert len(told) == 6
            assert ["consensus_distance" in r for r in told] == [False] * 5 + [True]
        assert told[-1]["consensus_distance"] == pytest.approx(result.summary["consensus_distance"])
        mean = told[-1]["mean_model"]
        assert isinstance(mean, dict)
        assert mean["accuracy"] == pytest.approx(result.summary["mean_model"])
        assert set(result.metrics) == {"loss", "accuracy"}

    def test_the_summary_has_the_figures_of_the_field(self, engine: str) -> None:
        summary = simulate(SMALL, engine=engine).summary  # type: ignore[arg-type]

        per_node, away = summary["per_node"], summary["distance_per_node"]
        assert isinstance(per_node, list) and isinstance(away, list) and len(away) == 6
        assert (summary["worst"], summary["best"]) == (min(per_node), max(per_node))
        assert summary["fairness"] == pytest.approx(fairness(per_node))
        squares = np.mean(np.square(away))
        assert math.sqrt(squares) == pytest.approx(summary["consensus_distance"])
        assert summary["sent_messages_per_node"] == 2 * 7
        assert summary["sent_bytes_per_node"] == 2 * 7 * 4810 * 4
        assert (summary["virtual_seconds"] is None) == (engine == "vector")
        effective, steepness = summary["effective_neighbors"], summary["gradient_norm"]
        assert isinstance(effective, float) and 1 < effective < 6
        assert isinstance(steepness, float) and 0 < steepness < 10
        metrics = summary["metrics"]
        assert isinstance(metrics, dict) and set(metrics) == {"loss", "accuracy"}
        assert metrics["accuracy"]["mean_model"] == summary["mean_model"]
        assert metrics["loss"]["worst"] == metrics["loss"]["max"]
