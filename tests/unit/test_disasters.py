"""What a fault script does in the event engine."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch

import gossipfl
from gossipfl.config import load_config
from gossipfl.core.quarantine import FIRST
from gossipfl.learning.workload import workload

torch.set_num_threads(1)

EXCHANGES: Mapping[str, Mapping[str, object]] = {
    "rounds": {},
    "pairwise": {"algorithm.exchange": "pairwise"},
    "push": {"algorithm.exchange": "push", "algorithm.rule": "gossip-learning"},
}
N = 5


def keys(*faults: Mapping[str, object], **more: object) -> dict[str, object]:
    return {
        "train.task": "consensus",
        "task.dimension": 4,
        "train.dtype": "float64",
        "swarm.nodes": N,
        "swarm.rounds": 60,
        "fault": list(faults),
        **more,
    }


def run(config: Mapping[str, object]) -> gossipfl.Result:
    return gossipfl.simulate(config, engine="events")


def kinds(result: gossipfl.Result) -> Counter[str]:
    return Counter(str(record["kind"]) for record in result.records)


def drift(config: Mapping[str, object], result: gossipfl.Result) -> float:
    """How far the mean over the nodes is from where it was."""
    load = workload(load_config(config))
    before = np.stack([load.learner(node).x.numpy() for node in range(N)]).mean(0)
    assert result.models is not None
    return float(np.abs(result.models.mean(0) - before).max())


def agreement(result: gossipfl.Result) -> float:
    return float(str(result.summary["consensus_distance"]))


PACE: Mapping[str, object] = {"kind": "slow", "at": 0, "node": 0, "factor": 20.0}
MESSAGES = ["drop", "duplicate", "reorder", "corrupt"]


@pytest.mark.parametrize("exchange", ["rounds", "pairwise"])
@pytest.mark.parametrize("kind", MESSAGES)
def test_whatever_befalls_messages_the_mean_is_kept(kind: str, exchange: str) -> None:
    config = keys({"kind": kind, "at": 0.1, "share": 0.1, "for": 0.3}, **EXCHANGES[exchange])

    result = run(config)

    assert result.summary["finished"]
    assert drift(config, result) < 1e-14
    seen = kinds(result)
    assert seen["fault"] == 1
    assert (seen["peer_down"] > 0) == (kind != "duplicate")
    assert (seen["rejected"] > 0) == (kind == "corrupt")


@pytest.mark.parametrize("exchange", ["rounds", "pairwise"])
def test_who_is_left_alone_at_the_end_is_waited_for_and_the_mean_is_kept(exchange: str) -> None:
    # given messages of which so many are changed that lines stay down for a quarantine, to the end and beyond
    config = keys({"kind": "corrupt", "at": 0.1, "share": 0.3, "for": 0.3}, **EXCHANGES[exchange])

    result = run(config)

    assert kinds(result)["quarantined"] >= 3
    back = [float(str(r["time"])) for r in result.records if r["kind"] == "peer_up"]
    assert max(back) > FIRST
    assert result.summary["finished"] and drift(config, result) < 1e-13


@pytest.mark.parametrize("kind", MESSAGES)
def test_without_a_time_one_message_is_struck(kind: str) -> None:
    result = run(keys({"kind": kind, "at": 0.1, "edge": [1, 2]}))

    downs = [r for r in result.records if r["kind"] == "peer_down"]
    assert {(r["node"], r["peer"]) for r in downs} == (set() if kind == "duplicate" else {(1, 2), (2, 1)})
    assert len(downs) == (0 if kind == "duplicate" else 2)
    assert result.summary["finished"]


def test_a_message_that_is_delivered_twice_changes_no_bit() -> None:
    plain = run(keys())

    result = run(keys({"kind": "duplicate", "at": 0.0, "share": 0.5, "for": 1.0}))

    assert result.models is not None and plain.models is not None
    assert result.models.tobytes() == plain.models.tobytes()


@pytest.mark.parametrize("seed", range(3))
def test_an_ask_that_was_declined_is_not_answered_when_it_comes_again(seed: int) -> None:
    # given copies that come while a node may be free that was busy before
    fault = {"kind": "duplicate", "at": 0, "share": 0.5, "for": 9}
    config = keys(fault, **{**EXCHANGES["pairwise"], "swarm.seed": seed, "network.jitter": 0.004})

    assert drift(config, run(config)) < 1e-13


@pytest.mark.parametrize("exchange", list(EXCHANGES))
def test_both_halves_of_a_partition_go_on_and_agree_again(exchange: str) -> None:
    # given a partition from the first round on
    config = keys(
        {"kind": "partition", "at": 0.0, "groups": [[0, 1]], "for": 0.4},
        **{"swarm.rounds": 300, "swarm.eval_every": 10, **EXCHANGES[exchange]},
    )

    result = run(config)

    # then nobody stands still, and in the end all are of one mind
    rounds = [r for r in result.records if r["kind"] == "round" and 0.15 < float(str(r["time"])) < 0.38]
    assert {r["node"] for r in rounds} == set(range(N))
    assert result.summary["finished"] and agreement(result) < 1e-9
    if exchange != "push":
        assert drift(config, result) < 1e-14
        # in the middle each half agreed with itself alone
        distances = [float(str(r["consensus_distance"])) for r in result.records if "consensus_distance" in r]
        if exchange == "rounds":
            assert distances[2] > 1e-2 and distances[2] == pytest.approx(distances[3], rel=0.1)


def test_a_hang_that_is_short_is_a_pause_and_a_long_one_is_noticed() -> None:
    short = run(keys({"kind": "hang", "at": 0.1, "node": 2, "for": 0.2}, **{"wire.heartbeat": 0.1}))
    long = run(keys({"kind": "hang", "at": 0.1, "node": 2, "for": 2.0}, **{"wire.heartbeat": 0.1}))

    assert short.models is not None
    assert kinds(short)["peer_down"] == 0 and kinds(long)["peer_down"] == 4
    assert short.summary["finished"] and long.summary["finished"]


@pytest.mark.parametrize("exchange", list(EXCHANGES))
def test_lines_that_stay_down_are_not_waited_for_for_ever(exchange: str) -> None:
    # given a partition that outlasts the run, in the middle of exchanges
    fault = {"kind": "partition", "at": 0.05, "groups": [[0, 1]], "for": 400.0}

    result = run(keys(fault, **EXCHANGES[exchange]))

    assert result.summary["finished"]
    assert max(float(str(record["time"])) for record in result.records) < 100.0


@pytest.mark.parametrize("graph", ["ring", "complete"])
def test_who_has_hung_goes_on_in_the_round_of_its_neighbors(graph: str) -> None:
    # given a node that stands still for 2 s, while the others make 170 rounds
    fault = {"kind": "hang", "at": 0.1, "node": 2, "for": 2.0}
    config = keys(fault, **{"wire.heartbeat": 0.02, "topology.graph": graph, "swarm.rounds": 300})

    result = run(config)

    made = [int(str(r["round"])) for r in result.records if r["kind"] == "round" and r["node"] == 2]
    left_out = [after - before - 1 for before, after in itertools.pairwise(made) if after > before + 1]
    assert len(left_out) == 1 and left_out[0] > 150
    assert made[-1] == 300 and result.summary["finished"]
    assert drift(config, result) < 1e-13


def test_a_slow_node_takes_so_many_times_longer() -> None:
    result = run(keys({"kind": "slow", "at": 0.2, "node": 1, "factor": 7, "for": 1.0}))

    times = sorted({round(float(str(r["train_s"])), 6) for r in result.records if r["kind"] == "round"})
    assert times == [0.01, 0.07]


@pytest.mark.parametrize("exchange", list(EXCHANGES))
def test_who_is_killed_for_good_is_lost_and_the_others_finish(exchange: str) -> None:
    result = run(keys({"kind": "kill", "at": 0.1, "node": 1}, **EXCHANGES[exchange]))

    assert result.summary["lost"] == ["node-1"]
    assert result.summary["nodes_finished"] == N - 1


@pytest.mark.parametrize("exchange", list(EXCHANGES))
def test_who_is_killed_twice_at_a_time_begins_again_when_both_kills_are_over(exchange: str) -> None:
    kills = ({"kind": "kill", "at": at, "node": 1, "for": 0.1} for at in (0.1, 0.15))

    result = run(keys(*kills, **EXCHANGES[exchange]))

    told = [r for r in result.records if "begins anew" in str(r.get("text"))]
    struck = [float(str(r["time"])) for r in result.records if r["kind"] == "fault"]
    assert [float(str(r["time"])) for r in told] == [pytest.approx(struck[1] + 0.1)]
    assert result.summary["finished"]


@pytest.mark.parametrize("exchange", ["rounds", "pairwise"])
def test_an_exact_state_that_comes_back_at_once_keeps_the_mean(exchange: str) -> None:
    config = keys({"kind": "restart", "at": 0.1, "node": 1}, **EXCHANGES[exchange])

    exact = run({**config, "swarm.checkpoint_every": 1})
    lost = run(config)

    assert exact.summary["finished"] and lost.summary["finished"]
    assert drift(config, lost) > 1e-4
    if exchange == "rounds":
        assert drift(config, exact) < 1e-14


@pytest.mark.parametrize("every", [0, 15])
def test_who_comes_back_with_no_model_or_an_old_one_takes_that_of_a_neighbor(every: int) -> None:
    """As real nodes do: its first model, or that of long ago, would undo what the others have agreed on."""
    # given five nodes that have agreed by the time at which one of them dies
    fault = {"kind": "kill", "round": 44, "node": 2, "for": 0.05}
    config = keys(
        fault, **{"swarm.rounds": 80, "swarm.checkpoint_every": every, "topology.graph": "complete"}
    )

    result = run(config)

    # then it takes the model of the lowest, and the mean stays where it was
    said = [str(r["text"]) for r in result.records if r["kind"] == "note" and r["node"] == 2]
    assert any(text.startswith("takes the model that node-0 has after round 4") for text in said)
    assert drift(config, result) < 1e-9 and agreement(result) < 1e-9


def test_a_model_that_is_a_little_old_is_gone_on_with() -> None:
    fault = {"kind": "kill", "round": 34, "node": 2, "for": 0.05}
    config = keys(fault, **{"swarm.checkpoint_every": 15})

    result = run(config)

    said = " ".join(str(r["text"]) for r in result.records if r["kind"] == "note" and r["node"] == 2)
    assert "its checkpoint is older" in said and "takes the model" not in said


@pytest.mark.parametrize("every", [0, 1, 7])
@pytest.mark.parametrize("rule", ["d2", "gradient-tracking", "push-sum", "choco", "relay-sum", "qg"])
def test_every_rule_goes_on_with_a_node_that_comes_back(rule: str, every: int) -> None:
    # given a node that dies in its 20th round and is back 0.1 s later, with what it has kept
    fault = {"kind": "kill", "round": 20, "node": 1, "for": 0.1}
    more: dict[str, object] = {"algorithm.rule": rule, "swarm.checkpoint_every": every, "swarm.rounds": 200}
    if rule == "relay-sum":
        more["topology.graph"] = "tree"
    if rule == "choco":
        more |= {"wire.codec": "topk:0.5", "swarm.rounds": 600}

    result = run(keys(fault, **more))

    # then all finish and are of one mind; where its state was not exact, all began the rule anew
    assert result.summary["finished"] and result.summary["lost"] == []
    assert agreement(result) < 1e-6
    if every != 1 and rule in ("d2", "gradient-tracking"):
        assert {r["node"] for r in result.records if r["kind"] == "reset"} == set(range(N))


def test_the_same_script_gives_the_same_bits() -> None:
    faults: list[Mapping[str, object]] = [
        {"kind": "drop", "at": 0.0, "share": 0.2, "until": 0.4},
        {"kind": "kill", "at": 0.1, "node": 1, "for": 0.1},
        {"kind": "hang", "at": 0.2, "node": 3, "for": 0.2},
    ]
    config = keys(*faults, **{"swarm.checkpoint_every": 5, "wire.heartbeat": 0.02})

    first, second = run(config), run(config)

    assert first.models is not None and second.models is not None
    assert first.models.tobytes() == second.models.tobytes()
    assert kinds(first) == kinds(second)


def test_a_round_that_closes_without_somebody_says_so_under_its_own_number() -> None:
    # given a node that dies, and others whose payloads come late
    config = keys(
        {"kind": "kill", "round": 10, "node": 4},
        {"kind": "hang", "round": 20, "node": 1, "for": 0.3},
        **{"wire.deadline": 0.02},
    )

    result = run(config)

    require_numbers(list(result.records), neighbors=2)
    assert kinds(result)["correction"]


def require_numbers(records: Sequence[Mapping[str, object]], neighbors: int) -> None:
    """Rounds count from 1 where they are done, and from 0 where something is said of one that is being
    closed."""
    gone = {(r["node"], r["round"], r["peer"]) for r in records if r["kind"] == "skip"}
    skips = Counter((node, round) for node, round, _ in gone)
    made = {(r["node"], r["round"]): r["neighbors"] for r in records if r["kind"] == "round"}
    assert skips
    for (node, round), counted in made.items():
        assert counted == neighbors - skips[node, int(str(round)) - 1]
    for r in records:
        if r["kind"] == "correction":
            assert int(str(r["of"])) <= int(str(r["round"]))


def test_a_node_that_begins_again_has_forgotten_whom_it_left_alone() -> None:
    # given two nodes, of which one is sent what it cannot take, three times, and then begins again
    junk = [{"kind": "corrupt", "at": 0.1 * k, "edge": [0, 1]} for k in (1, 2, 3)]
    config = keys(*junk, {"kind": "kill", "at": 0.6, "node": 1, "for": 0.5}, PACE, **{"swarm.nodes": 2})

    result = run({**config, "swarm.checkpoint_every": 1})

    alone = [r for r in result.records if r["kind"] == "quarantined"]
    back = [float(str(r["time"])) for r in result.records if r["kind"] == "peer_up"]
    assert [r["node"] for r in alone] == [1]
    assert 0.6 < max(back) < 2.0 < FIRST
