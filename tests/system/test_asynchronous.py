"""Pairwise and push as real processes: a slow node holds nobody up, nor does a dead one; Ctrl-C ends all."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.system.conftest import Start, Until

pytestmark = pytest.mark.system

EXCHANGES = {
    "pairwise": ("--set", "algorithm.exchange=pairwise"),
    "push": (
        *("--set", "algorithm.exchange=push", "--set", "algorithm.rule=gossip-learning"),
        *("--set", "algorithm.period=0.2"),
    ),
}
#: Seconds that an optimiser step takes at least.
STEP = 0.004
LAGGING = {"PYTHONPATH": str(Path(__file__).parents[1]), "LAGGING_STEP": str(STEP)}
TASK = ("--task", "lagging:digits")
each_exchange = pytest.mark.parametrize("exchange", sorted(EXCHANGES))


@each_exchange
def test_a_slow_node_holds_nobody_up(exchange: str, start: Start) -> None:
    # given: 60 local phases of 10 steps, each step asleep for STEP seconds, at node 3 for ten times as long
    rounds, steps, factor = 60, 10, 10
    arguments = ("--rounds", str(rounds), "--set", f"algorithm.local_steps={steps}")
    environment = {**LAGGING, "LAGGING_FACTOR": str(factor)}

    # when
    running = start("swarm", *TASK, *arguments, *EXCHANGES[exchange], environment=environment)
    ended = running.end()

    # then
    assert ended.code == 0, ended.stderr
    summary = running.summary()
    phases = {r["name"]: r["round"] for r in running.records("round")}
    assert summary["finished"] and not summary["lost"]
    assert all(phases[f"node-{i}"] == rounds for i in range(8) if i != 3)
    assert phases["node-3"] < rounds / 2, "it ended with its neighbors, who took half of its time or less"
    assert summary["mean"] > 0.85, "the synchronous ring has 0.925 after as many rounds"


@each_exchange
def test_when_a_node_is_killed_the_others_finish(exchange: str, start: Start, until: Until) -> None:
    running = start("swarm", *TASK, "--rounds", "400", *EXCHANGES[exchange], environment=LAGGING)
    until(lambda: running.over() or running.reached(20), "round 20")
    victim = running.nodes()[3]

    os.kill(victim, signal.SIGKILL)
    ended = running.end()

    assert ended.code == 0, ended.stderr
    summary = running.summary()
    assert summary["lost"] == ["node-3"]
    assert summary["nodes_finished"] == 7
    assert "node-3" in ended.stdout + ended.stderr
    assert {r["peer"] for r in running.records("peer_down")} == {3}


@each_exchange
def test_ctrl_c_ends_it_and_keeps_the_records(exchange: str, start: Start, until: Until) -> None:
    running = start("swarm", *TASK, "--rounds", "30000", *EXCHANGES[exchange], environment=LAGGING)
    until(lambda: running.over() or running.reached(5), "round 5")

    running.signal(signal.SIGINT)
    begun = time.monotonic()
    ended = running.end()

    assert ended.code == 130
    assert "Traceback" not in ended.stderr
    assert time.monotonic() - begun < 30
    assert len((running.out / "metrics.jsonl").read_text().splitlines()) == len(running.records())


@each_exchange
def test_a_run_shows_its_evaluations_and_leaves_a_page(exchange: str, start: Start) -> None:
    running = start("swarm", "--rounds", "20", "--nodes", "4", *EXCHANGES[exchange])
    ended = running.end()

    assert ended.code == 0, ended.stderr
    lines = [line for line in ended.stdout.splitlines() if line.startswith("round ")]
    assert [line.split()[1] for line in lines] == ["10/20", "20/20"]
    assert (running.out / "report.html").stat().st_size > 10_000
    phases, exchanges = [], 0
    for path in (running.out / "records").glob("*.jsonl"):
        rounds = [r for r in map(json.loads, path.read_text().splitlines()) if r["kind"] == "round"]
        assert [r["round"] for r in rounds] == list(range(1, len(rounds) + 1))
        phases.append(len(rounds))  # fewer than 20 where a node was far behind when its neighbors were done
        exchanges += sum(r["neighbors"] for r in rounds)
        assert {
            "loss",
            "train_s",
            "wait_s",
            "mix_s",
            "sent_bytes",
            "received_bytes",
            "disagreement",
        } <= rounds[0].keys()
    assert max(phases) == 20
    assert exchanges >= 8, "two a node, however short its phases are"
