"""All nodes at once: the same training as one node after the other."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from gossipfl.config import load_config
from gossipfl.learning import tiles as tiling
from gossipfl.learning.cohort import BatchedCohort, LoopCohort
from gossipfl.learning.optimizers import ELEMENTWISE
from gossipfl.learning.task import Task, accuracy
from gossipfl.learning.workload import Workload, workload

torch.set_num_threads(1)

STORED = json.loads((Path(__file__).parents[1] / "data" / "digits.json").read_text())
N = 5


def data(rows: int = 60) -> TensorDataset:
    x = torch.randn(rows, 4, generator=torch.Generator().manual_seed(5))
    return TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long())


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.frozen = nn.Parameter(torch.ones(4), requires_grad=False)
        self.register_buffer("shift", torch.full((4,), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x) * self.frozen + self.shift)) * self.scale


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))


def branching() -> nn.Module:
    class Branching(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.sum().item() > 0 else super().forward(-x)

    return Branching(4, 3)


def ready(model: Callable[[], nn.Module] = perceptron, **overrides: object) -> Workload:
    base: dict[str, object] = {
        "swarm.nodes": N,
        "data.partition": "iid",
        "train.batch": 4,
        "train.dtype": "float64",
    }
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    own = Task("own", model, data(), data(30), cross_entropy, {"accuracy": accuracy})
    return workload(load_config(None, base | dotted), own)


def run(load: Workload, rounds: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x and losses of the cohort and of learners after some rounds of local phases and a mixing between."""
    cohort, learners = load.cohort(), [load.learner(node) for node in range(N)]
    x = cohort.start()
    losses, theirs = torch.zeros(0), torch.zeros(0)
    for round in range(rounds):
        x, losses, ratio = cohort.phase(x, round)
        phases = [learner.phase(round) for learner in learners]
        assert {phase.ratio for phase in phases} == {ratio}
        theirs = torch.tensor([phase.loss for phase in phases], dtype=x.dtype)
        x = (x + x.roll(1, 0)) / 2
        vectors = torch.stack([learner.vector for learner in learners])
        for learner, mixed in zip(learners, (vectors + vectors.roll(1, 0)) / 2, strict=True):
            learner.load(mixed)
    return x, torch.stack([learner.vector for learner in learners]), losses, theirs


def assert_same_training(load: Workload) -> None:
    ours, theirs, losses, expected = run(load)

    assert (ours - theirs).abs().max() < 1e-10
    assert (losses - expected).abs().max() < 1e-10


def refuse_batching(load: Workload, why: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        cohort = load.cohort()

    assert isinstance(cohort, LoopCohort)
    assert not cohort.batched
    assert f"nodes are trained one after the other, not batched: {why}" in caplog.text


@pytest.mark.parametrize("optimizer", sorted(ELEMENTWISE))
def test_every_elementwise_optimizer_trains_as_node_by_node(optimizer: str) -> None:
    load = ready(train__optimizer=optimizer, train__lr=0.01, algorithm__local_steps=2)

    assert load.cohort().batched
    assert_same_training(load)


@pytest.mark.parametrize(
    "overrides",
    [
        {"train__momentum": 0.9, "train__nesterov": True, "train__weight_decay": 0.01},
        {"train__clip": 0.1},
        {"train__lr_schedule": "cosine", "swarm__rounds": 4},
        {"swarm__same_start": False},
        {"data__partition": "quantity", "algorithm__local_epochs": 1, "train__momentum": 0.5},
        {"algorithm__share": ["0.*"], "train__momentum": 0.5, "train__clip": 0.2},
        {"algorithm__share": ["2.*"], "swarm__same_start": False},
        {"train__batch": 50},
    ],
    ids=["momentum", "clip", "cosine", "own-starts", "epochs", "share", "share-own-starts", "large-batch"],
)
def test_every_way_to_train_is_the_same_as_node_by_node(overrides: dict[str, object]) -> None:
    load = ready(**overrides)

    assert load.cohort().batched
    assert_same_training(load)


@pytest.mark.parametrize("buffers", ["average", "local"])
def test_tied_and_frozen_parameters_and_constant_buffers_are_batched(buffers: str) -> None:
    load = ready(Tied, algorithm__buffers=buffers, train__weight_decay=0.1)

    assert load.cohort().batched
    assert load.d == 16 + 4 + 4 + 1 + (4 if buffers == "average" else 0)
    assert_same_training(load)


def test_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling, "BYTES", 2 * 51 * 8)
    load = ready(train__momentum=0.9, data__partition="quantity", algorithm__local_epochs=1)

    cohort = load.cohort()

    assert isinstance(cohort, BatchedCohort)
    assert len(cohort._tiles) > 2
    assert_same_training(load)


def test_a_phase_leaves_what_it_was_given() -> None:
    cohort = ready().cohort()
    x = cohort.start()
    before = x.clone()

    after, _, _ = cohort.phase(x, 0)

    assert torch.equal(x, before)
    assert (after != before).any(dim=1).all()


@pytest.mark.parametrize("optimizer", ["sgd", "lbfgs"])
def test_the_start_stays_the_start(optimizer: str) -> None:
    cohort = ready(train__optimizer=optimizer, swarm__same_start=False).cohort()
    first = cohort.start()
    cohort.phase(first, 0)

    assert torch.equal(cohort.start(), first)


def test_rounds_may_come_in_any_order() -> None:
    cohort, again = ready().cohort(), ready().cohort()
    x = cohort.start()

    first = {round: cohort.phase(x, round)[0] for round in (0, 1, 70, 200)}

    for round in (200, 1, 70, 0):
        assert torch.equal(again.phase(x, round)[0], first[round])


def test_a_loss_that_is_no_number_stays_with_its_node() -> None:
    cohort = ready().cohort()
    x = cohort.start()
    x[2, 0] = float("nan")

    after, losses, _ = cohort.phase(x, 0)

    assert losses.isnan().tolist() == [False, False, True, False, False]
    assert after.isnan().any(dim=1).tolist() == [False, False, True, False, False]
    assert cohort.evaluate(after)["loss"].isnan().tolist() == [False, False, True, False, False]


@pytest.mark.parametrize(
    "keys", [{"train__optimizer": "lbfgs"}, {"train__optimizer": "adam", "train__fused": True}]
)
def test_optimizers_that_are_not_elementwise_go_node_by_node(
    keys: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    load = ready(**keys)

    refuse_batching(load, "the optimizer is fused, or not elementwise", caplog)
    assert_same_training(load)


def test_dropout_goes_node_by_node(caplog: pytest.LogCaptureFixture) -> None:
    load = ready(lambda: nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 3)))

    refuse_batching(load, "the model draws random numbers while it trains", caplog)
    assert_same_training(load)


@pytest.mark.parametrize("buffers", ["average", "local"])
def test_batch_norm_goes_node_by_node(buffers: str, caplog: pytest.LogCaptureFixture) -> None:
    load = ready(normed, algorithm__buffers=buffers)

    refuse_batching(load, "the model changes its buffers while it trains", caplog)
    assert_same_training(load)


def test_a_model_that_vmap_rejects_goes_node_by_node(caplog: pytest.LogCaptureFixture) -> None:
    load = ready(branching)

    refuse_batching(load, "RuntimeError: ", caplog)
    assert_same_training(load)


def test_frozen_parameters_that_differ_go_node_by_node(caplog: pytest.LogCaptureFixture) -> None:
    def half_frozen() -> nn.Module:
        model = perceptron()
        model[0].requires_grad_(False)  # type: ignore[index]
        return model

    load = ready(half_frozen, swarm__same_start=False)

    refuse_batching(load, "frozen parameters or local buffers differ from node to node", caplog)
    assert_same_training(load)
    assert ready(half_frozen).cohort().batched


class TestEvaluation:
    def scores(self, load: Workload) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
        cohort, learners = load.cohort(), [load.learner(node) for node in range(N)]
        x, _, _ = cohort.phase(cohort.start(), 0)
        for learner in learners:
            learner.phase(0)
        return cohort.evaluate(x), [learner.evaluate() for learner in learners]

    @pytest.mark.parametrize("model", [perceptron, Tied, normed, branching])
    def test_nodes_score_as_they_do_one_by_one(self, model: Callable[[], nn.Module]) -> None:
        ours, theirs = self.scores(ready(model, swarm__same_start=model is not Tied))

        assert set(ours) == {"loss", "accuracy"}
        for name, values in ours.items():
            assert values.tolist() == pytest.approx([score[name] for score in theirs], abs=1e-12)

    def test_nodes_score_with_what_they_do_not_share(self) -> None:
        ours, theirs = self.scores(ready(algorithm__share=["0.*"], swarm__same_start=False))

        assert ours["loss"].tolist() == pytest.approx([score["loss"] for score in theirs], abs=1e-12)

    @pytest.mark.parametrize("optimizer", ["sgd", "lbfgs"])
    def test_other_rows_take_the_mean_of_what_nodes_do_not_share(self, optimizer: str) -> None:
        load = ready(algorithm__share=["0.*"], swarm__same_start=False, train__optimizer=optimizer)
        cohort, learners = load.cohort(), [load.learner(node) for node in range(N)]
        mean = cohort.start().mean(0, keepdim=True)

        scores = cohort.evaluate(mean)

        learners[0].load(mean[0])
        flat = learners[0].flat  # type: ignore[attr-defined]
        own = torch.stack([one.flat.buffer[load.d :] for one in learners])  # type: ignore[attr-defined]
        flat.buffer[load.d :] = own.mean(0)
        assert scores["loss"].tolist() == pytest.approx([learners[0].evaluate()["loss"]], abs=1e-12)
        after, _, _ = cohort.phase(cohort.start(), 0)
        expected, _, _ = load.cohort().phase(cohort.start(), 0)
        assert torch.equal(after, expected)

    def test_a_metric_that_cannot_be_batched_is_taken_row_by_row(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        own = Task(
            "own",
            perceptron,
            data(),
            data(30),
            cross_entropy,
            {"hits": lambda o, t: torch.tensor(len(o) + o.sum().item())},
        )
        load = workload(load_config({"swarm": {"nodes": N}, "data": {"partition": "iid"}}), own)
        cohort = load.cohort()
        x = cohort.start()

        scores = cohort.evaluate(x)

        assert "models are evaluated one after the other" in caplog.text
        assert scores["hits"].tolist() == pytest.approx([load.learner(0).evaluate()["hits"]] * N)
        assert torch.equal(cohort.start(), x)


@pytest.mark.parametrize("split", ["iid", "dirichlet0.1"])
def test_digits_without_exchange_land_in_the_reference_band(split: str, tmp_path: Path) -> None:
    accuracies = []
    for k, parts in enumerate(STORED["partitions"][split]):
        (tmp_path / f"{k}.json").write_text(json.dumps(parts))
        config = load_config(
            {
                "swarm": {"nodes": 16, "rounds": 200, "seed": k},
                "train": {"lr": 0.1, "batch": 8},
                "data": {"partition": "file", "file": str(tmp_path / f"{k}.json")},
            }
        )
        cohort = workload(config).cohort()
        x = cohort.start()
        for round in range(200):
            x, _, _ = cohort.phase(x, round)
        accuracies.append(cohort.evaluate(x)["accuracy"].mean().item())

    low, high = STORED["cells"][f"{split}/none"]["wide_band"]
    assert low <= np.mean(accuracies) <= high
