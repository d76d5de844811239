"""What is said before an asynchronous run starts, and what slow nodes cost in virtual time."""

from __future__ import annotations

import pytest
import torch

import gossipfl
from gossipfl.cli.check import recipe_lines
from gossipfl.config import load_config
from gossipfl.drivers.plan import plan
from gossipfl.errors import ConfigError

torch.set_num_threads(1)

PUSH = {"algorithm.exchange": "push", "algorithm.rule": "gossip-learning"}
PAIRWISE = {"algorithm.exchange": "pairwise"}
SLOW = {"network.slow": {"3": 10.0}}


def refused(overrides: dict[str, object]) -> str:
    with pytest.raises(ConfigError) as caught:
        plan(load_config(None, overrides))
    return str(caught.value)


class TestLaws:
    @pytest.mark.parametrize(
        ("overrides", "key", "right"),
        [
            ({**PAIRWISE, "algorithm.rule": "d2"}, "algorithm.rule", '"dpsgd"'),
            ({**PAIRWISE, "algorithm.rule": "gossip-learning"}, "algorithm.rule", 'exchange = "push"'),
            ({"algorithm.exchange": "push"}, "algorithm.rule", '"gossip-learning"'),
            ({"algorithm.rule": "gossip-learning"}, "algorithm.exchange", '"push"'),
            ({**PAIRWISE, "topology.graph": "one-peer-exponential"}, "topology.graph", "a static graph"),
            ({**PUSH, "topology.graph": "epidemic:2"}, "topology.graph", "a static graph"),
            (
                {**PAIRWISE, "topology.graph": "star", "topology.weights": "uniform"},
                "topology.weights",
                "metropolis",
            ),
            ({**PAIRWISE, "algorithm.gamma": 0.5}, "algorithm.gamma", "no keys"),
            ({**PUSH, "algorithm.gamma": 0.5}, "algorithm.gamma", "variant, account, capacity, spend"),
            ({**PUSH, "algorithm.variant": "merge"}, "algorithm.variant", "merge-update"),
            ({**PUSH, "algorithm.account": "bank"}, "algorithm.account", "generalized"),
            ({**PUSH, "algorithm.capacity": 0}, "algorithm.capacity", "at least 1"),
            ({**PUSH, "algorithm.spend": 2.5}, "algorithm.spend", "whole number"),
            ({**PUSH, "algorithm.spend": 20}, "algorithm.spend", "at most algorithm.capacity, 10"),
        ],
    )
    def test_what_does_not_fit_is_told_with_what_would(
        self, overrides: dict[str, object], key: str, right: str
    ) -> None:
        text = refused(overrides)
        assert text.startswith(f"{key}: ")
        assert right in text

    @pytest.mark.parametrize("exchange", [PAIRWISE, PUSH])
    def test_the_vector_engine_says_who_can(self, exchange: dict[str, object]) -> None:
        with pytest.raises(ConfigError, match=r"algorithm\.exchange: .* --engine events, or gossipfl swarm"):
            gossipfl.simulate(None, engine="vector", overrides=exchange)

    def test_keys_of_gossip_learning_are_resolved(self) -> None:
        made = plan(load_config(None, {**PUSH, "algorithm.account": "simple"}))
        assert made.recipe.params == {
            "variant": "merge-update",
            "account": "simple",
            "capacity": 10,
            "spend": 5,
        }


def run(overrides: dict[str, object]) -> dict[str, object]:
    """8 nodes on a ring, digits by Dirichlet 0.5, 300 local phases of 10 steps, unless told otherwise."""
    common = {"swarm.rounds": 300, "swarm.eval_every": 300, "algorithm.local_steps": 10}
    return gossipfl.simulate(None, engine="events", overrides={**common, **overrides}).summary


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (PAIRWISE, "a node and one neighbor take the mean of the two after each local phase; nobody waits"),
        ({**PAIRWISE, "algorithm.every": 3}, "after every 3 local phases"),
        ({**PUSH, "algorithm.period": 0.5}, "to one neighbor every 0.5 of its local phases"),
        ({**PUSH, "algorithm.period": "2s"}, "to one neighbor every 2s; nobody waits"),
    ],
)
def test_check_says_what_a_node_does(overrides: dict[str, object], said: str) -> None:
    config = load_config(None, overrides)
    assert said in "\n".join(recipe_lines(config, plan(config).recipe))


class TestVirtualTime:
    """One node is 10 times slower, where SLOW."""

    def test_rounds_wait_for_the_slow_node(self) -> None:
        settings = {"swarm.rounds": 20}
        ratio = run({**settings, **SLOW})["seconds"] / run(settings)["seconds"]  # type: ignore[operator]
        assert 9 < ratio < 10.5

    @pytest.mark.parametrize(
        "exchange", [PAIRWISE, {**PUSH, "algorithm.period": 0.1}], ids=["pairwise", "push"]
    )
    def test_asynchronous_exchanges_do_not_and_reach_the_ring(self, exchange: dict[str, object]) -> None:
        ring, slow = run({}), run({**exchange, **SLOW})
        assert slow["seconds"] <= 1.15 * ring["seconds"]  # type: ignore[operator]
        assert slow["mean"] >= ring["mean"] - 0.01  # type: ignore[operator]
        assert slow["finished"] and slow["rounds"] == 300

    @pytest.mark.parametrize(
        "exchange", [PAIRWISE, {**PUSH, "algorithm.period": 0.1}], ids=["pairwise", "push"]
    )
    def test_a_slow_node_costs_the_others_no_time(self, exchange: dict[str, object]) -> None:
        settings = {**exchange, "swarm.rounds": 60}
        assert run({**settings, **SLOW})["seconds"] <= 1.15 * run(settings)["seconds"]  # type: ignore[operator]

    @pytest.mark.parametrize("variant", ["merge-update", "update-merge", "random-walk"])
    @pytest.mark.parametrize("account", ["none", "simple", "generalized", "randomized"])
    def test_every_variant_and_account_learns_and_ends(self, variant: str, account: str) -> None:
        own = {"algorithm.variant": variant, "algorithm.account": account, "algorithm.period": 0.5}
        summary = run({**PUSH, **own, "swarm.rounds": 40, "network.jitter": 0.01})
        assert summary["finished"]
        assert summary["mean"] > 0.55  # type: ignore[operator]

    @pytest.mark.parametrize("exchange", [PAIRWISE, PUSH])
    def test_the_same_config_gives_the_same_bits(self, exchange: dict[str, object]) -> None:
        settings = {**exchange, "algorithm.local_steps": 3, "swarm.rounds": 8, "network.jitter": 0.02}
        first, second = (gossipfl.simulate(None, engine="events", overrides=settings) for _ in range(2))
        assert torch.equal(torch.from_numpy(first.models), torch.from_numpy(second.models))

    @pytest.mark.parametrize("exchange", [PAIRWISE, PUSH])
    def test_an_early_end_is_passed_on(self, exchange: dict[str, object]) -> None:
        settings = {**exchange, "stop.target": {"metric": "accuracy", "value": 0.6}, "swarm.eval_every": 1}
        summary = run(settings)
        assert summary["finished"]
        assert summary["rounds"] < 100  # type: ignore[operator]

    def test_alone_a_node_of_push_trains_on(self) -> None:
        summary = run({**PUSH, "topology.graph": "none", "swarm.nodes": 2, "swarm.rounds": 5})
        assert summary["finished"] and summary["rounds"] == 5
