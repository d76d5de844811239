"""Phases computed together: the bits of each node's own learner, or one after the other."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from gossipfl.config import load_config
from gossipfl.drivers import virtual
from gossipfl.drivers.plan import plan
from gossipfl.learning import abreast
from gossipfl.learning.abreast import Abreast, Made, Work, alone
from gossipfl.learning.optimizers import ELEMENTWISE
from gossipfl.learning.task import Task, accuracy
from gossipfl.learning.tracing import Gradient, gradient_of_each
from gossipfl.learning.workload import Workload, workload
from gossipfl.records import Record

torch.set_num_threads(1)

N = 19  # a tile and three more


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 3))


def convolution() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)
    )


def dropping() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 12), nn.Dropout(0.5), nn.Linear(12, 3))


class Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


def task(model: Callable[[], nn.Module]) -> Task:
    x = torch.randn(190, 6, generator=torch.Generator().manual_seed(5))
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    train, test = TensorDataset(x, y), TensorDataset(x[:20], y[:20])
    return Task("own", model, train, test, cross_entropy, {"accuracy": accuracy})


def ready(overrides: Mapping[str, object], model: Callable[[], nn.Module] = perceptron) -> Workload:
    keys = {"swarm.nodes": N, "data.partition": "iid", "train.batch": 4, **overrides}
    return workload(load_config(None, keys), task(model))


class OneByOne:
    """The reference: every phase by the node's own learner."""

    def __init__(self, load: Workload) -> None:
        self.learners = [load.learner(node) for node in range(N)]

    def kind(self, node: int, round: int) -> Hashable:
        return None

    def phases(self, works: Sequence[Work]) -> list[Made]:
        return [alone(self.learners[work.node], work.x, work.round) for work in works]


def all_of(load: Workload) -> Abreast:
    found = abreast.abreast([load.learner(node) for node in range(N)], abreast.WORTH)
    assert found is not None
    return found


def phases(nodes: Abreast | OneByOne, works: list[Work]) -> list[Made]:
    """Asked for by kind, as they must be; in the order given."""
    made: dict[int, Made] = {}
    for kind in dict.fromkeys(nodes.kind(work.node, work.round) for work in works):
        alike = [work for work in works if nodes.kind(work.node, work.round) == kind]
        made.update(zip([work.node for work in alike], nodes.phases(alike), strict=True))
    return [made[work.node] for work in works]


def train(nodes: Abreast | OneByOne, rounds: int = abreast.CHECKED + 3) -> list[Made]:
    """Phases with an averaging between them; of some rounds only a part of the nodes is asked for at once."""
    made: list[Made] = []
    x = [learner.vector.clone() for learner in nodes.learners]
    for round in range(rounds):
        works = [Work(node, x[node], round) for node in range(N)]
        first = N if round % 2 else 8
        found = [*phases(nodes, works[:first]), *phases(nodes, works[first:])]
        x = [(one.after + other.after) / 2 for one, other in zip(found, [*found[1:], found[0]], strict=True)]
        made += found
    return made


def narrow() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def assert_same_bits(load: Workload) -> None:
    together = all_of(load)

    ours = train(together)

    theirs = train(OneByOne(load))
    assert together._ways
    assert [made.phase for made in ours] == [made.phase for made in theirs]
    assert all(torch.equal(a.after, b.after) for a, b in zip(ours, theirs, strict=True))
    assert any(made.sound for made in ours)


@pytest.mark.parametrize("optimizer", sorted(ELEMENTWISE))
def test_every_optimizer_gives_the_bits_of_one_node_after_the_other(optimizer: str) -> None:
    assert_same_bits(ready({"train.optimizer": optimizer, "train.lr": 0.01}))


@pytest.mark.parametrize(
    "overrides",
    [
        {"train.momentum": 0.9, "train.nesterov": True, "train.weight_decay": 0.01},
        {"train.lr_schedule": "cosine", "swarm.rounds": 6, "algorithm.local_steps": 3},
        {"swarm.same_start": False, "train.dtype": "float64"},
        {"data.partition": "quantity", "algorithm.local_epochs": 1, "train.momentum": 0.5},
        {"algorithm.share": ["0.*"], "train.momentum": 0.5},
    ],
    ids=["momentum", "cosine", "float64", "epochs", "share"],
)
def test_every_way_to_train_gives_the_bits_of_one_node_after_the_other(overrides: dict[str, object]) -> None:
    assert_same_bits(ready(overrides))


def test_convolutions_give_the_bits_of_one_node_after_the_other_or_are_not_batched() -> None:
    load = ready({}, convolution)

    ours, theirs = train(all_of(load)), train(OneByOne(load))

    assert all(torch.equal(a.after, b.after) for a, b in zip(ours, theirs, strict=True))


def test_phases_of_different_rounds_are_of_one_kind_unless_the_rate_or_the_optimizer_counts_them() -> None:
    plain, counting = all_of(ready({})), all_of(ready({"train.optimizer": "adam"}))
    falling = all_of(ready({"train.lr_schedule": "cosine"}))

    assert plain.kind(0, 1) == plain.kind(1, 7)
    before = counting.kind(0, 1)
    counting.phases([Work(0, counting.learners[0].vector.clone(), 1)])
    assert counting.kind(0, 2) != counting.kind(1, 2) == before
    assert falling.kind(0, 1) != falling.kind(1, 7)


def test_kernels_that_round_otherwise_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def otherwise(module: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> Gradient:
        gradient = gradient_of_each(module, loss)

        def rounded(*arguments: object) -> tuple[dict[str, Tensor], Tensor]:
            found, losses = gradient(*arguments)  # type: ignore[arg-type]
            return {name: value * (1 + 2**-23) for name, value in found.items()}, losses

        return rounded

    monkeypatch.setattr(abreast, "gradient_of_each", otherwise)
    load = ready({"train.momentum": 0.9})
    nodes = all_of(load)

    ours, theirs = train(nodes), train(OneByOne(load))

    assert [way.__name__ for way in nodes._ways] == ["unrolled_gradient"]
    assert all(torch.equal(a.after, b.after) for a, b in zip(ours, theirs, strict=True))


def test_what_is_not_finite_is_left_to_a_closer_look() -> None:
    load = ready({})
    nodes = all_of(load)
    train(nodes, abreast.CHECKED + 1)  # past what is made both ways
    x = [learner.vector.clone() for learner in nodes.learners]
    x[3] = x[3] * torch.nan

    made = nodes.phases([Work(node, x[node], 20) for node in range(16)])

    assert not any(one.sound for one in made)
    assert [node for node in range(16) if not made[node].after.isfinite().all()] == [3]


@pytest.mark.parametrize(
    ("model", "overrides"),
    [
        (perceptron, {"train.clip": 0.1}),
        (dropping, {}),
        (lambda: nn.Sequential(Scaled(6, 3)), {}),
        (lambda: nn.Linear(6, 3, bias=False).requires_grad_(True), {"train.optimizer": "lbfgs"}),
        (perceptron, {"algorithm.average_optimizer": True, "train.momentum": 0.9}),
    ],
    ids=["clip", "dropout", "own-module", "lbfgs", "carrying"],
)
def test_what_is_not_known_to_batch_goes_one_after_the_other(
    model: Callable[[], nn.Module], overrides: dict[str, object]
) -> None:
    load = ready(overrides, model)

    assert abreast.abreast([load.learner(node) for node in range(N)], abreast.WORTH) is None


def test_short_runs_go_one_after_the_other() -> None:
    load = ready({})

    assert abreast.abreast([load.learner(node) for node in range(N)], abreast.WORTH - 1) is None


def test_the_event_engine_gives_the_same_records_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {
        "swarm": {"nodes": N, "rounds": 8, "eval_every": 3},
        "topology": {"graph": "regular:4"},
        "train": {"batch": 4},
        "data": {"partition": "iid"},
        "network": {
            "latency": "lognormal:0.01,0.5",
            "compute": "lognormal:0.01,0.5",
            "loss": 0.05,
            "uptime": "exponential:0.5",
            "downtime": "exponential:5",
        },
    }
    config = load_config(keys)

    def run(worth: int) -> tuple[list[Record], Tensor]:
        monkeypatch.setattr(abreast, "WORTH", worth)
        records: list[Record] = []
        load = workload(config, task(perceptron))
        return records, virtual.run(plan(config, load.sizes), load, records.append).x

    (ours, x), (theirs, y) = run(0), run(10**9)

    assert any(record["kind"] == "away" for record in ours)
    assert ours == theirs
    assert torch.equal(x, y)
