"""What a run of real processes leaves, and what a program reads of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import TensorDataset

import gossipfl
from gossipfl.learning.tasks.digits import digits

if TYPE_CHECKING:
    from tests.system.conftest import Running, Start

pytestmark = pytest.mark.system

ROUNDS, NODES, D = 25, 8, 4810
EVALS = [10, 20, 25]
SUMMARY = {
    *("version", "nodes", "rounds", "engine", "graph", "rule", "exchange", "codec", "seed", "finished"),
    *("nodes_finished", "lost", "seconds", "start_seconds", "round_seconds", "rounds_per_second"),
    *("sent_bytes_per_node", "metric", "mean", "min", "max", "std", "mean_model", "per_node"),
    *("consensus_distance", "spectral_gap", "data_hash", "config_hash"),
}
ROUND = {"loss", "train_s", "wait_s", "mix_s", "sent_bytes", "received_bytes", "neighbors", "disagreement"}


@pytest.fixture(scope="module")
def run(start_once: Start) -> Running:
    """Command one of the README, a little shorter."""
    running = start_once("swarm", "--save-models", "--rounds", str(ROUNDS))
    ended = running.end()
    assert (ended.code, ended.stderr) == (0, "")
    assert "accuracy: mean" in ended.stdout
    assert f"report: {running.out / 'report.html'}" in ended.stdout
    assert not running.leftovers()
    return running


def test_a_run_leaves_the_files_it_promises_and_no_others(run: Running) -> None:
    names = {path.name for path in run.out.iterdir()}

    assert names == {
        *("config.toml", "records", "metrics.jsonl", "summary.json", "report.html"),
        *("models.npz", "models"),
    }
    assert {p.name for p in (run.out / "records").iterdir()} == {f"node-{i}.jsonl" for i in range(NODES)}
    assert (run.out / "report.html").read_text().lower().startswith("<!doctype html>")


def test_the_summary_has_its_figures(run: Running) -> None:
    summary = run.summary()
    x = np.load(run.out / "models.npz")["x"].astype(np.float64)

    assert set(summary) >= SUMMARY
    expected = {"nodes": NODES, "rounds": ROUNDS, "engine": "swarm", "graph": "ring", "rule": "dpsgd"}
    expected |= {"finished": True, "nodes_finished": NODES, "lost": [], "seed": 0, "metric": "accuracy"}
    assert {key: summary[key] for key in expected} == expected
    assert summary["mean"] == pytest.approx(np.mean(summary["per_node"]))
    assert summary["min"] == min(summary["per_node"])
    assert summary["max"] == max(summary["per_node"])
    distance = np.sqrt(((x - x.mean(0)) ** 2).sum(1).mean())
    assert summary["consensus_distance"] == pytest.approx(distance, rel=1e-6)
    assert summary["spectral_gap"] == pytest.approx(1 - 0.804737854)
    assert summary["seconds"] > 0
    assert summary["rounds_per_second"] == pytest.approx(ROUNDS / summary["seconds"])
    assert summary["sent_bytes_per_node"] >= ROUNDS * 2 * D * 4


def records(run: Running, kind: str) -> list[dict[str, Any]]:
    lines = (run.out / "metrics.jsonl").read_text().splitlines()
    return [record for line in lines if (record := json.loads(line))["kind"] == kind]


def test_the_records_are_whole_and_merged_in_order_of_time(run: Running) -> None:
    merged = (run.out / "metrics.jsonl").read_text().splitlines()
    own = [line for file in (run.out / "records").iterdir() for line in file.read_text().splitlines()]
    times = [json.loads(line)["time"] for line in merged]

    assert sorted(merged) == sorted(own)
    assert times == sorted(times)
    for line in merged:
        assert list(json.loads(line))[:5] == ["node", "name", "round", "time", "kind"]


def test_every_node_records_every_round(run: Running) -> None:
    rounds = records(run, "round")

    assert sorted((r["node"], r["round"]) for r in rounds) == [
        (i, t) for i in range(NODES) for t in range(1, ROUNDS + 1)
    ]
    assert all(set(r) >= ROUND and r["name"] == f"node-{r['node']}" for r in rounds)
    assert all(r["neighbors"] == 2 and r["sent_bytes"] >= 2 * D * 4 for r in rounds)
    assert sum(r["received_bytes"] for r in rounds) >= NODES * ROUNDS * 2 * D * 4
    assert not records(run, "skip") and not records(run, "correction")


def test_every_node_evaluates_when_it_should(run: Running) -> None:
    evals = records(run, "eval")

    assert sorted((r["node"], r["round"]) for r in evals) == [(i, t) for i in range(NODES) for t in EVALS]
    assert all({"loss", "accuracy", "sketch"} <= set(r) for r in evals)
    last = {r["node"]: r["accuracy"] for r in evals if r["round"] == ROUNDS}
    assert [last[i] for i in range(NODES)] == pytest.approx(run.summary()["per_node"])


def test_the_models_are_what_plain_pytorch_loads(run: Running) -> None:
    stored = np.load(run.out / "models.npz", allow_pickle=False)
    files = {path.stem: load_file(path) for path in (run.out / "models").iterdir()}

    assert stored["x"].shape == (NODES, D) and stored["x"].dtype == np.float32
    assert stored["names"].tolist() == [f"node-{i}" for i in range(NODES)]
    assert set(files) == {*stored["names"], "mean"}
    for name, row in zip(stored["names"], stored["x"], strict=True):
        flat = torch.cat([tensor.flatten() for _, tensor in sorted(files[name].items())])
        assert sorted(flat.tolist()) == sorted(row.tolist())
    net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    net.load_state_dict(files["mean"])


def test_a_run_is_loaded_as_the_result_it_was(run: Running, tmp_path: Path) -> None:
    result = gossipfl.load(run.out)

    assert result.config.swarm.rounds == ROUNDS
    assert result.summary == run.summary()
    assert result.models is not None and result.models.shape == (NODES, D)
    assert result.rounds.tolist() == EVALS
    assert result.accuracy.shape == (3, NODES)
    assert set(result.metrics) == {"loss", "accuracy"}
    assert result.metrics["loss"].shape == (3, NODES)
    assert result.seconds.shape == (3,) and (np.diff(result.seconds) > 0).all()
    assert result.accuracy[-1].tolist() == pytest.approx(result.summary["per_node"])
    assert "\n" not in repr(result) and len(repr(result)) < 100 + len(str(run.out))
    assert result.plot().axes and result.plot("loss").axes
    assert result.to_html(tmp_path / "page.html").stat().st_size > 10_000


def test_a_loaded_model_scores_what_the_run_says(run: Running) -> None:
    result = gossipfl.load(run.out)
    test = digits().test
    assert isinstance(test, TensorDataset)
    images, labels = test.tensors

    def score(node: int | None) -> float:
        model = result.model(node)
        return float((model(images).argmax(1) == labels).float().mean())

    assert [score(i) for i in range(NODES)] == pytest.approx(result.summary["per_node"])
    assert score(None) == pytest.approx(result.summary["mean_model"])


def test_the_config_it_leaves_repeats_the_run(run: Running, start: Start) -> None:
    again = start("swarm", str(run.out / "config.toml"), "--save-models", "--json")
    ended = again.end()

    assert ended.code == 0
    assert json.loads(ended.stdout) == again.summary()
    assert (again.out / "config.toml").read_bytes() == (run.out / "config.toml").read_bytes()
    first, second = (np.load(one.out / "models.npz")["x"] for one in (run, again))
    assert first.tobytes() == second.tobytes()
