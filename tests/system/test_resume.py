"""Real swarms that are killed, all of them at once, and go on to the bits of one that never stopped."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import gossipfl
from gossipfl.drivers import checkpoint

if TYPE_CHECKING:
    from tests.system.conftest import Running, Start, Until

pytestmark = pytest.mark.system

Keys = dict[str, Any]
BASE: Keys = {"swarm.nodes": 5, "swarm.rounds": 160, "swarm.eval_every": 40, "swarm.checkpoint_every": 8}
CASES: list[Keys] = [
    {"algorithm.rule": "d2", "train.momentum": 0.9, "train.lr": 0.02, "wire.transport": "tcp"},
    {"algorithm.rule": "choco", "wire.codec": "topk:0.2", "topology.graph": "star"},
    {
        "algorithm.rule": "dpsgd-cta",
        "train.optimizer": "adam",
        "train.lr": 0.005,
        "swarm.checkpoint_every": 1,
    },
]


def settings(keys: Keys) -> list[str]:
    shown = {key: value if isinstance(value, str) else json.dumps(value) for key, value in keys.items()}
    return [word for key, value in shown.items() for word in ("--set", f"{key}={value}")]


def resume(start: Start, out: Path, *words: str) -> Running:
    from tests.system.conftest import GOSSIPFL

    return start(command=[GOSSIPFL, "swarm", "--resume", str(out), *words], out=out)


def assert_counted_once(running: Running, nodes: int, rounds: int) -> None:
    told = [(r["node"], r["round"]) for r in running.records("round")]
    assert sorted(told) == [(i, t + 1) for i in range(nodes) for t in range(rounds)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["algorithm.rule"])
def test_a_swarm_that_is_killed_whole_goes_on_to_the_same_bits(
    case: Keys, start: Start, until: Until
) -> None:
    # given
    keys = BASE | case
    never = gossipfl.simulate(keys, engine="events")
    running = start("swarm", "--quiet", *settings(keys))
    until(lambda: running.reached(30) or running.over(), "round 30")

    # when
    running.kill()
    assert not (running.out / "summary.json").exists(), "it was too fast for this test"
    again = resume(start, running.out, "--save-models", "--quiet")
    ended = again.end()

    # then
    assert ended.code == 0, ended.stderr
    assert "goes on from round" in ended.stderr
    on = gossipfl.load(running.out)
    assert on.models is not None and never.models is not None
    assert on.models.tobytes() == never.models.tobytes()
    assert on.summary["finished"] and on.summary["rounds"] == keys["swarm.rounds"]
    assert on.summary["per_node"] == never.summary["per_node"]
    assert_counted_once(again, keys["swarm.nodes"], keys["swarm.rounds"])
    assert (running.out / "report.html").exists()


def test_a_swarm_that_was_interrupted_goes_on_and_one_that_is_over_for_more_rounds(
    start: Start, until: Until
) -> None:
    # given
    keys = BASE | {"swarm.nodes": 3, "swarm.rounds": 120}
    running = start("swarm", "--quiet", *settings(keys))
    until(lambda: running.reached(20) or running.over(), "round 20")
    running.signal(signal.SIGSTOP)  # it can neither end meanwhile, nor be disturbed
    refused = resume(start, running.out).end()
    running.signal(signal.SIGCONT)
    assert (refused.code, refused.stderr.splitlines()[-1]) == (
        2,
        f"gossipfl: error: --resume: a run is going on in {running.out}; wait for its end, or stop it",
    )
    running.signal(signal.SIGINT)
    assert running.end().code == 130

    # when
    assert resume(start, running.out, "--quiet").end().code == 0
    again = resume(start, running.out, "--quiet", "--save-models", "--set", "swarm.rounds=140")
    assert again.end().code == 0

    # then
    never = gossipfl.simulate(keys | {"swarm.rounds": 140}, engine="events")
    on = gossipfl.load(running.out)
    assert on.models is not None and never.models is not None
    assert on.models.tobytes() == never.models.tobytes()
    assert_counted_once(again, 3, 140)

    # and: what cannot be gone on with is said in a line each
    for words, said in (
        ((), "swarm.rounds: is 140, and the run in"),
        (("--set", "train.lr=0.3"), "train.lr: is 0.3, and was 0.1 in"),
        (("--out", "elsewhere"), "--out: cannot be given with --resume"),
    ):
        ended = resume(start, running.out, *words).end()
        assert (ended.code, ended.stderr.count("gossipfl: error: ")) == (2, 1), ended.stderr
        assert said in ended.stderr


@pytest.mark.parametrize("exchange", ["pairwise", "push"])
def test_asynchronous_exchanges_go_on_from_where_each_node_was(
    exchange: str, start: Start, until: Until
) -> None:
    # given: nodes that learn with or without the others, since how often they meet is not theirs to say
    rule = "gossip-learning" if exchange == "push" else "dpsgd"
    extra = {"algorithm.exchange": exchange, "algorithm.rule": rule, "data.partition": "iid"}
    keys = BASE | extra | {"swarm.nodes": 3, "swarm.rounds": 400, "swarm.eval_every": 8}
    running = start("swarm", "--quiet", *settings(keys))

    def kept() -> list[int]:
        folders = [running.out / "checkpoints" / f"node-{i}" for i in range(3)]
        return [max(checkpoint.rounds(folder), default=0) for folder in folders]

    until(lambda: min(kept()) >= 120 or running.over(), "phase 120 of all")

    # when
    running.kill()
    assert not (running.out / "summary.json").exists(), "it was too fast for this test"
    rounds = kept()
    again = resume(start, running.out, "--quiet")
    ended = again.end()

    # then: each is as good a little later as it was, which takes a new model a hundred phases
    assert ended.code == 0, ended.stderr
    if exchange == "pairwise":
        assert_counted_once(again, 3, 400)
    assert again.summary()["rounds"] == 400
    found = {(r["node"], r["round"]): r["accuracy"] for r in again.records("eval")}
    assert max(found[i, rounds[i]] for i in range(3)) > 0.5
    assert all(found[i, min(rounds[i] + 8, 400)] > found[i, rounds[i]] - 0.2 for i in range(3))


def test_a_node_that_was_lost_long_before_stays_lost(start: Start, until: Until) -> None:
    import os

    keys = BASE | {"swarm.nodes": 4, "swarm.rounds": 400, "swarm.checkpoint_every": 2}
    running = start("swarm", "--quiet", *settings(keys))
    until(lambda: running.reached(10) or running.over(), "round 10")
    os.kill(running.nodes()[1], signal.SIGKILL)
    until(lambda: running.reached(60) or running.over(), "round 60")
    running.kill()

    ended = resume(start, running.out, "--quiet").end()

    assert ended.code == 0, ended.stderr
    assert "lost node-1: was lost before the run was stopped" in ended.stderr
    summary = running.summary()
    assert summary["lost"] == ["node-1"] and summary["nodes_finished"] == 3


def test_a_swarm_whose_nodes_were_far_apart_when_it_was_killed_goes_on(start: Start, until: Until) -> None:
    import os

    # given a node that hangs while the others, who wait for nobody for long, leave it far behind
    keys = {"swarm.nodes": 4, "swarm.rounds": 2000, "swarm.checkpoint_every": 1, "wire.deadline": 0.01}
    running = start("swarm", "--quiet", *settings(BASE | keys))
    until(lambda: running.reached(10) or running.over(), "round 10")
    os.kill(running.nodes()[0], signal.SIGSTOP)
    until(lambda: running.reached(120) or running.over(), "round 120")

    running.kill()
    assert not (running.out / "summary.json").exists(), "it was too fast for this test"
    kept = {path.name: len([*path.iterdir()]) for path in (running.out / "checkpoints").iterdir()}
    ended = resume(start, running.out, "--quiet", "--set", "swarm.rounds=200").end()

    assert ended.code == 0, ended.stderr
    assert "goes on from round" in ended.stderr
    assert max(kept.values()) < 10  # not one a round
