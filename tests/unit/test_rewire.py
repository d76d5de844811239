"""Nodes that die are got around: in the event engine, and at one machine."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

import gossipfl
from gossipfl.config import load_config
from gossipfl.drivers.plan import plan
from gossipfl.errors import ConfigError

N = 6


def run(graph: str, dead: list[int], on_death: str, rounds: int, **more: object) -> gossipfl.Result:
    config: Mapping[str, object] = {
        "train.task": "consensus",
        "task.dimension": 4,
        "train.dtype": "float64",
        "swarm.nodes": N,
        "swarm.rounds": rounds,
        "swarm.seed": 1,
        "topology.graph": graph,
        "algorithm.on_death": on_death,
        "fault": [{"kind": "kill", "round": 3 + k, "node": node} for k, node in enumerate(dead)],
        **more,
    }
    return gossipfl.simulate(config, engine="events")


def living(result: gossipfl.Result, dead: list[int]) -> np.ndarray:
    assert result.models is not None
    return np.asarray(result.models[[i for i in range(N) if i not in dead]])


@pytest.mark.parametrize("more", [{}, {"wire.deadline": 0.05}, {"swarm.checkpoint_every": 1}])
@pytest.mark.parametrize(
    ("graph", "dead"), [("star", [0]), ("path", [2]), ("path", [3, 2]), ("ring", [0, 3])]
)
def test_the_living_agree_when_those_between_them_are_dead(
    graph: str, dead: list[int], more: dict[str, object]
) -> None:
    early, late = (run(graph, dead, "rewire", rounds, **more) for rounds in (40, 300))

    assert np.ptp(living(late, dead), axis=0).max() < 1e-12
    # and what they hold together has stayed the same since
    assert np.abs(living(early, dead).sum(0) - living(late, dead).sum(0)).max() < 1e-12


@pytest.mark.parametrize(("graph", "dead"), [("star", [0]), ("path", [2])])
def test_they_do_not_where_the_weight_stays_with_the_neighbors(graph: str, dead: list[int]) -> None:
    result = run(graph, dead, "self", 300)

    assert np.ptp(living(result, dead), axis=0).max() > 1e-2


def test_a_node_that_begins_again_meets_those_around_the_dead_too() -> None:
    # given a death, and then one of those who got around it
    faults = [
        {"kind": "kill", "round": 3, "node": 2},
        {"kind": "kill", "round": 30, "node": 1, "for": 0.05},
    ]

    early, late = (
        run("path", [2], "rewire", rounds, fault=faults, **{"swarm.checkpoint_every": 1})
        for rounds in (60, 400)
    )

    assert np.ptp(living(late, [2]), axis=0).max() < 1e-12
    assert np.abs(living(early, [2]).sum(0) - living(late, [2]).sum(0)).max() < 1e-12


def test_messages_may_be_lost_meanwhile() -> None:
    faults = [
        {"kind": "kill", "round": 3, "node": 0},
        {"kind": "drop", "at": 0, "share": 0.02, "for": 600},
    ]

    result = run("star", [0], "rewire", 300, fault=faults)

    assert np.ptp(living(result, [0]), axis=0).max() < 1e-9


def test_the_trackers_still_find_the_optimum_of_the_living() -> None:
    more = {"algorithm.rule": "gradient-tracking", "train.lr": 0.05}

    result = run("star", [0], "rewire", 300, **more)

    assert np.ptp(living(result, [0]), axis=0).max() < 1e-9


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"algorithm.rule": "d2"}, "d2 needs"),
        ({"algorithm.rule": "choco"}, "choco needs"),
        ({"algorithm.rule": "relay-sum", "topology.graph": "path"}, "relay-sum needs"),
        ({"algorithm.rule": "push-sum"}, "push-sum needs"),
        ({"algorithm.rule": "none"}, "exchanges nothing"),
        ({"topology.graph": "one-peer-exponential"}, "the same W in every round"),
        ({"algorithm.every": 2}, "the same W in every round"),
        ({"topology.graph": "directed-ring", "topology.weights": "uniform"}, "count both ways"),
        ({"topology.weights": "uniform", "topology.graph": "star"}, "symmetric, doubly stochastic"),
        (
            {
                "node": [
                    {"name": f"n{i}", "address": f"127.0.0.1:{7000 + i}" if i > 1 else ""} for i in range(8)
                ]
            },
            "n0 and n1 have no address",
        ),
    ],
)
def test_where_it_cannot_be_done_the_reason_is_told(keys: dict[str, object], why: str) -> None:
    nodes = {} if "node" in keys else {"swarm.nodes": 8}

    with pytest.raises(ConfigError) as caught:
        plan(load_config({"algorithm.on_death": "rewire", **nodes, **keys}))

    assert [p for p in caught.value.problems if p.key == "algorithm.on_death" and why in p.wrong]


PAIRWISE: Mapping[str, object] = {"algorithm.exchange": "pairwise"}
PUSH: Mapping[str, object] = {"algorithm.exchange": "push", "algorithm.rule": "gossip-learning"}


@pytest.mark.parametrize("more", [PAIRWISE, PUSH], ids=["pairwise", "push"])
@pytest.mark.parametrize(("graph", "dead"), [("star", [0]), ("path", [3, 2])])
def test_in_asynchronous_exchanges_those_around_the_dead_meet_too(
    more: Mapping[str, object], graph: str, dead: list[int]
) -> None:
    late = run(graph, dead, "rewire", 600, **more)

    assert np.ptp(living(late, dead), axis=0).max() < 1e-6
    assert np.ptp(living(run(graph, dead, "self", 600, **more), dead), axis=0).max() > 1e-2
    # and what pairwise holds together has stayed the same since
    if more is PAIRWISE:
        early = run(graph, dead, "rewire", 60, **more)
        assert np.abs(living(early, dead).sum(0) - living(late, dead).sum(0)).max() < 1e-12


def test_push_goes_around_the_dead_of_a_directed_graph() -> None:
    result = run("directed-ring", [2], "rewire", 600, **PUSH, **{"topology.weights": "uniform"})

    assert np.ptp(living(result, [2]), axis=0).max() < 1e-6
