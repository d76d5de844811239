"""Optimizer state that is averaged, and buffers that are averaged beside rules that remember."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gossipfl
from gossipfl import ConfigError, Task
from gossipfl.config import load_config
from gossipfl.learning.carrying import CarryingLearner, states
from gossipfl.learning.optimizers import optimizer
from gossipfl.learning.tasks.digits import digits
from gossipfl.learning.workload import workload

torch.set_num_threads(1)


def keys(**others: object) -> dict[str, object]:
    dotted = {key.replace("__", "."): value for key, value in others.items()}
    return {
        "swarm.nodes": 5,
        "swarm.rounds": 7,
        "swarm.eval_every": 7,
        "train.dtype": "float64",
        "train.batch": 8,
        "algorithm.local_steps": 2,
        **dotted,
    }


def models(result: gossipfl.Result) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    assert result.models is not None
    return np.asarray(result.models)


MOMENTUM = {"train__momentum": 0.9, "train__lr": 0.02, "algorithm__average_optimizer": True}
ADAM = {"train__optimizer": "adam", "train__lr": 0.002, "algorithm__average_optimizer": True}


@pytest.mark.parametrize("optimizer_keys", [MOMENTUM, ADAM], ids=["momentum", "adam"])
@pytest.mark.parametrize("rule", ["dpsgd", "gradient-tracking", "push-sum", "choco"])
def test_engines_agree_where_optimizer_state_travels(rule: str, optimizer_keys: dict[str, object]) -> None:
    config = keys(algorithm__rule=rule, **optimizer_keys)

    events, vector = (gossipfl.simulate(config, engine=engine) for engine in ("events", "vector"))

    assert np.abs(models(events) - models(vector)).max() < 1e-10
    assert models(events).shape == (5, events.summary["parameters"])
    assert np.isfinite(models(events)).all()


@pytest.mark.system
def test_real_processes_give_the_event_engines_bits_where_optimizer_state_travels() -> None:
    config = keys(algorithm__rule="gradient-tracking", **ADAM)

    simulated, real = gossipfl.simulate(config, engine="events"), gossipfl.swarm(config)

    assert models(real).tobytes() == models(simulated).tobytes()


def test_bytes_grow_by_what_travels_beside() -> None:
    plain = gossipfl.simulate(keys(train__optimizer="adam", train__lr=0.002))
    beside = gossipfl.simulate(keys(**ADAM))

    assert beside.summary["sent_bytes_per_node"] == 3 * plain.summary["sent_bytes_per_node"]
    assert (models(plain) != models(beside)).any()


def test_on_complete_all_optimizers_hold_the_same_state_after_a_round() -> None:
    load = workload(load_config(keys(swarm__rounds=1, **MOMENTUM)))
    learners = [load.learner(i) for i in range(5)]
    for learner in learners:
        learner.phase(0)
    mean = torch.stack([learner.vector for learner in learners]).mean(0)

    for learner in learners:
        learner.load(mean)

    assert all(torch.equal(learner.vector, mean) for learner in learners)
    assert float(mean[load.d :].abs().max()) > 0
    for learner in learners:
        learner.phase(1)
    momenta = [learner.vector[load.d :] for learner in learners]
    assert not torch.equal(momenta[0], momenta[1])


def test_state_that_travels_does_not_change_training_alone() -> None:
    load = workload(load_config(keys(**ADAM)))
    carrying = load.learner(0)
    assert isinstance(carrying, CarryingLearner)
    alone = workload(load_config(keys(train__optimizer="adam", train__lr=0.002))).learner(0)

    for round in range(4):
        carrying.load(carrying.vector)
        carrying.phase(round)
        alone.phase(round)

    assert torch.equal(carrying.x, alone.x)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"train.momentum": 0.9}, ("momentum_buffer",)),
        ({"train.optimizer": "adam"}, ("exp_avg", "exp_avg_sq")),
        ({"train.optimizer": "rmsprop"}, ("square_avg",)),
    ],
)
def test_the_states_of_an_optimizer_are_found(settings: dict[str, object], expected: tuple[str, ...]) -> None:
    config = load_config(settings)

    assert states(optimizer(config.train)[1], config.train.optimizer) == expected


def test_an_optimizer_without_state_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"sgd keeps nothing that could be averaged; train.momentum"):
        gossipfl.simulate(keys(algorithm__average_optimizer=True))


# ---------------------------------------------------------------------- buffers


class Normed(nn.Sequential):
    """A perceptron with running statistics."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))


def normed() -> Task:
    task = digits("")
    return Task("normed", Normed, task.train, task.test, task.loss, task.metrics, task.labels)


@pytest.mark.parametrize("rule", ["gradient-tracking", "d2", "qg", "gradient", "push-sum", "choco"])
def test_running_statistics_are_averaged_whatever_the_rule_tracks(rule: str) -> None:
    config = keys(algorithm__rule=rule, swarm__rounds=12, topology__graph="complete")

    events = gossipfl.simulate(config, engine="events", task=normed())
    vector = gossipfl.simulate(config, engine="vector", task=normed())

    assert np.abs(models(events) - models(vector)).max() < 1e-10
    statistics: Tensor = torch.from_numpy(models(events)[:, -32:])  # running mean and variance
    assert (statistics[:, 16:] > 0).all()
    torch.testing.assert_close(statistics, statistics.mean(0).expand_as(statistics), rtol=0, atol=1e-12)
