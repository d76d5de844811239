"""Ending early: nobody decides for all, and all end in the same round."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import gossipfl
from gossipfl import ConfigError, topology
from gossipfl.config import load_config
from gossipfl.core.aggregate import Row
from gossipfl.core.events import Adopt, Begin, Effect, Halt, PeerUp, Received, Send, Stepped
from gossipfl.core.exchange.rounds import Rounds
from gossipfl.core.messages import LAST, Data, Hello, Nothing, Stop
from gossipfl.core.rules import averaging
from gossipfl.core.stopping import Criteria, Vigil, end_of
from gossipfl.drivers.plan import plan

torch.set_num_threads(1)


def quadratic(folder: Path, n: int, **others: object) -> dict[str, object]:
    """Node i pulls towards i; the error falls towards a floor."""
    b = np.arange(n, dtype=np.float64)[:, None]
    path = folder / f"quadratic-{n}.npz"
    np.savez(path, a=np.ones((n, 1)), b=b)
    return {
        "swarm.nodes": n,
        "swarm.rounds": 300,
        "swarm.eval_every": 1,
        "train.task": "quadratic",
        "train.dtype": "float64",
        "task.file": str(path),
        **others,
    }


def first_enough(result: gossipfl.Result, value: float) -> tuple[int, int]:
    """The first evaluation at which a node's error was at most `value`: its round, and the node."""
    found = [
        (int(r["round"]), int(r["node"]))
        for r in result.records
        if r["kind"] == "eval" and float(r["error"]) <= value
    ]
    return min(found)


# ---------------------------------------------------------------------- one node's eye


def test_a_target_is_reached_from_its_better_side() -> None:
    rising = Vigil(Criteria("accuracy", higher=True, target=0.9))
    falling = Vigil(Criteria("loss", higher=False, target=0.1))

    assert [rising.enough(0.0, {"accuracy": v}) for v in (0.5, 0.9)] == [False, True]
    assert [falling.enough(0.0, {"loss": v}) for v in (0.5, 0.1)] == [False, True]


def test_patience_counts_evaluations_without_a_better_value() -> None:
    vigil = Vigil(Criteria("loss", higher=False, patience=2))

    seen = [vigil.enough(0.0, {"loss": v}) for v in (3.0, 2.0, 2.0, 1.0, 1.5, 1.0)]

    assert seen == [False, False, False, False, False, True]


def test_rounds_without_an_evaluation_cost_no_patience_and_enough_is_said_once() -> None:
    vigil = Vigil(Criteria("loss", higher=False, patience=1, seconds=5.0))

    assert [vigil.enough(t, {}) for t in (1.0, 4.9, 5.0, 6.0)] == [False, False, True, False]


# ---------------------------------------------------------------------- the round that is named


@pytest.mark.parametrize(
    ("graph", "n", "node", "reach"),
    [
        ("ring", 8, 3, 4),
        ("path", 5, 0, 4),
        ("path", 5, 2, 2),
        ("star", 6, 0, 1),
        ("complete", 4, 1, 1),
        ("directed-ring", 5, 2, 4),
        ("one-peer-exponential", 8, 0, 3),
    ],
)
def test_word_has_reached_everyone_by_the_round_that_is_named(
    graph: str, n: int, node: int, reach: int
) -> None:
    schedule = topology.schedule(graph, n)

    assert end_of(schedule, node, 10, False, 1000) == 10 + reach
    assert end_of(schedule, node, 12, True, 1000) == 13 + reach


def test_the_named_round_is_never_the_one_that_is_over_nor_beyond_the_last() -> None:
    assert end_of(topology.schedule("none", 1), 0, 7, False, 1000) == 8
    assert end_of(topology.schedule("path", 30), 0, 7, False, 20) == 20


def test_parts_that_cannot_hear_of_it_are_not_waited_for() -> None:
    split = topology.schedule("none", 4, allow_disconnected=True)

    assert end_of(split, 0, 7, False, 1000) == 8


# ---------------------------------------------------------------------- a machine


def sends(effects: list[Effect]) -> list[tuple[int, object]]:
    return [(e.peer, e.message) for e in effects if isinstance(e, Send)]


def middle(rounds: int = 50) -> Rounds:
    """Node 1 between 0 and 2, both met, in round 0."""
    row = Row(1, ((0, 1 / 3), (1, 1 / 3), (2, 1 / 3)))
    m = Rounds(averaging.dpsgd(), lambda t: row, (0, 2), rounds, {})
    m.handle(Received(0, 1, Hello(1, 0, None, -1, -1, -1, {})), 0.0)
    m.handle(PeerUp(2, 1), 0.0)
    m.handle(Received(2, 1, Hello(1, 0, None, -1, -1, -1, {})), 0.0)
    m.handle(Begin(torch.zeros(1)), 0.0)
    return m


def test_word_of_the_end_is_passed_on_once_and_the_smallest_wins() -> None:
    m = middle()

    assert sends(m.handle(Received(0, 1, Stop(20)), 0.0)) == [(2, Stop(20))]
    assert sends(m.handle(Received(2, 1, Stop(20)), 0.0)) == []
    assert sends(m.handle(Received(2, 1, Stop(15)), 0.0)) == [(0, Stop(15))]
    assert sends(m.handle(Halt(30), 0.0)) == []
    assert m.rounds == 15


def test_the_named_round_is_the_last() -> None:
    m = middle()
    m.handle(Halt(1), 0.0)

    m.handle(Stepped(torch.zeros(1), torch.ones(1)), 0.0)
    m.handle(Received(0, 1, Data(0, -1, (torch.ones(1),))), 0.0)
    effects = m.handle(Received(2, 1, Data(0, -1, (torch.ones(1),))), 0.0)

    assert [e.round for e in effects if isinstance(e, Adopt)] == [0]
    assert [message.round for _, message in sends(effects) if isinstance(message, Nothing)] == [LAST, LAST]


def test_whoever_was_cut_off_hears_of_it_when_the_line_is_back() -> None:
    m = middle()
    m.handle(Halt(9), 0.0)

    answer = sends(m.handle(Received(0, 2, Hello(2, 0, 0, -1, -1, -1, {})), 0.0))

    assert (0, Stop(9)) in answer


# ---------------------------------------------------------------------- whole runs


@pytest.mark.parametrize(
    ("rule", "graph", "n", "reach"),
    [
        ("dpsgd", "ring", 8, 4),
        ("dpsgd-cta", "ring", 7, 4),
        ("push-sum", "exponential", 8, 3),
        ("dpsgd", "star", 5, 2),
    ],
)
def test_all_nodes_end_in_the_same_round_whichever_engine(
    rule: str, graph: str, n: int, reach: int, tmp_path: Path
) -> None:
    keys = quadratic(tmp_path, n, **{"algorithm.rule": rule, "topology.graph": graph})
    keys |= {"stop.target": {"metric": "error", "value": 1.0}, "network.jitter": 0.02}

    events, vector = (gossipfl.simulate(keys, engine=engine) for engine in ("events", "vector"))

    round, _ = first_enough(vector, 1.0)
    assert round < vector.summary["rounds"] <= round + reach
    assert events.summary["rounds"] == vector.summary["rounds"]
    for result in (events, vector):
        ends = {r["node"]: r["round"] for r in result.records if r["kind"] == "eval"}
        assert set(ends.values()) == {vector.summary["rounds"]}
        assert result.summary["finished"] and result.summary["nodes_finished"] == n
    assert events.models is not None and vector.models is not None
    assert np.array_equal(events.models, vector.models)


@pytest.mark.parametrize("rule", ["dpsgd", "dpsgd-cta"])
def test_so_do_those_that_have_got_around_one_that_died(rule: str, tmp_path: Path) -> None:
    """Without its centre a star is a ring, and word has further to go."""
    n = 14
    keys = quadratic(tmp_path, n, **{"algorithm.rule": rule, "topology.graph": "star"})
    keys |= {"stop.target": {"metric": "error", "value": 1.0}, "network.jitter": 0.02}
    keys |= {"algorithm.on_death": "rewire", "fault": [{"kind": "kill", "round": 3, "node": 0}]}

    result = gossipfl.simulate(keys, engine="events")

    ends = {r["node"]: r["round"] for r in result.records if r["kind"] == "round"}
    assert {ends[i] for i in range(1, n)} == {result.summary["rounds"]}
    assert plan(load_config(keys)).end_of(1, 10, frozenset({0})) == 10 + (rule == "dpsgd-cta") + (n - 1) // 2


def test_patience_ends_a_run_that_gets_no_better(tmp_path: Path) -> None:
    keys = quadratic(tmp_path, 6, **{"stop.patience": 3})

    result = gossipfl.simulate(keys)

    assert 3 < result.summary["rounds"] < 300


def test_seconds_are_virtual_in_the_event_engine(tmp_path: Path) -> None:
    keys = quadratic(tmp_path, 6, **{"stop.seconds": 1.0, "network.compute": 0.125, "network.latency": 0.0})

    result = gossipfl.simulate(keys, engine="events")

    assert result.summary["rounds"] == 8 + 3  # and three rounds for word to go half round the ring


def test_a_metric_that_the_task_does_not_have_is_refused(tmp_path: Path) -> None:
    keys = quadratic(tmp_path, 6, **{"stop.target": {"metric": "accuracy", "value": 1.0}})

    with pytest.raises(ConfigError, match=r"no metric 'accuracy'; one of loss, error"):
        gossipfl.simulate(keys)
