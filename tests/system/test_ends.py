"""How a swarm ends when somebody or something ends it: Ctrl-C, and SIGKILL for each kind of process."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gossipfl.config.toml import toml_document

if TYPE_CHECKING:
    from tests.system.conftest import Running, Start, Until

pytestmark = pytest.mark.system

NODES = 8
#: Seconds after Ctrl-C until no node may live.
GONE = 2.0
#: Moments that are recognised, and moments drawn blindly from the seconds that start-up and a short run take.
MOMENTS = ["folder", "zygote", "node", "nodes", "record", "round 20", "end", "models", "summary"]
BLIND = [f"{random.Random(k).uniform(0.3, 4.5):.2f} s" for k in range(6)]


def wait_for(moment: str, running: Running, until: Until, rounds: int) -> None:
    """Until a run has come so far, or is over."""
    seconds = float(moment.split()[0]) if moment.endswith(" s") else 0.0
    come = {
        "folder": running.out.exists,
        "zygote": lambda: running.zygote() is not None,
        "node": lambda: bool(running.nodes()),
        "nodes": lambda: len(running.nodes()) == NODES,
        "record": lambda: bool(running.records()),
        "round 20": lambda: running.reached(20),
        "end": lambda: running.reached(rounds),
        "models": lambda: any(running.out.glob(".models*")),
        "summary": (running.out / "summary.json").exists,
    }.get(moment, lambda: time.monotonic() >= running.started_at + seconds)
    until(lambda: running.over() or come(), moment)


def interrupt(running: Running, until: Until) -> None:
    """Ctrl-C; all that it started is gone in time, on a machine that has time: a busy one gets more."""
    busy = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    running.signal(signal.SIGINT)
    until(lambda: not running.others(), "all gone after Ctrl-C", GONE * busy)


@pytest.mark.parametrize("moment", MOMENTS + BLIND)
def test_ctrl_c_ends_everything_and_keeps_the_records(moment: str, start: Start, until: Until) -> None:
    # given: a run that goes on for a while, unless its end is what is waited for
    rounds = 60 if moment in ("end", "models", "summary") else 3000
    running = start("swarm", "--rounds", str(rounds))
    wait_for(moment, running, until, rounds)

    # when
    interrupt(running, until)
    ended = running.end()

    # then
    assert "Traceback" not in ended.stderr
    assert not running.leftovers()
    if ended.code == 0:
        assert moment in ("end", "models", "summary"), "it was over before it was interrupted"
        return
    assert ended.code == 130
    assert len([line for line in ended.stderr.splitlines() if "interrupted" in line]) == 1
    if running.out.exists():
        assert str(running.out) in ended.stderr
        merged = (running.out / "metrics.jsonl").read_text().splitlines()
        assert len(merged) == len(running.records())
        assert {p.name for p in running.out.iterdir()} <= {
            *("config.toml", "records", "metrics.jsonl", "summary.json", "report.html", "log.txt"),
        }
    if moment in ("record", "round 20"):
        assert running.records()


@pytest.mark.parametrize("moment", ["folder", "zygote", "round 20"])
def test_a_command_that_is_told_to_terminate_ends_as_by_ctrl_c(
    moment: str, start: Start, until: Until
) -> None:
    running = start("swarm", "--rounds", "3000")
    wait_for(moment, running, until, 3000)

    running.signal(signal.SIGTERM)
    ended = running.end()

    assert ended.code == 130
    assert [line for line in ended.stderr.splitlines() if "interrupted" in line]
    assert "Traceback" not in ended.stderr
    assert not running.leftovers()
    if moment == "round 20":
        assert len((running.out / "metrics.jsonl").read_text().splitlines()) == len(running.records())


@pytest.mark.parametrize("moment", ["node", "nodes", "record", "round 20", "round 20 twice"])
@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_when_a_node_is_killed_the_others_finish(
    moment: str, transport: str, start: Start, until: Until
) -> None:
    # given
    running = start("swarm", "--rounds", "300", "--set", f"wire.transport={transport}", "--json")
    wait_for(moment.removesuffix(" twice"), running, until, 300)

    # when: before it has met anyone, while it meets them, or while all train
    nodes = running.nodes()
    killed = [len(nodes) - 1, 3] if moment.endswith("twice") else [len(nodes) - 1]
    for k in killed:
        os.kill(nodes[k], signal.SIGKILL)
    ended = running.end()

    # then
    names = sorted(f"node-{k}" for k in killed)
    assert ended.code == 0
    assert "Traceback" not in ended.stderr
    told = [line for line in ended.stderr.splitlines() if line.startswith("gossipfl: lost ")]
    assert sorted(told) == [f"gossipfl: lost {name}: killed by signal 9" for name in names]
    summary = json.loads(ended.stdout)
    assert summary["lost"] == names
    assert summary["finished"] is False
    assert summary["nodes_finished"] == NODES - len(names)
    assert summary["rounds"] == 300
    assert [k for k, value in enumerate(summary["per_node"]) if value is None] == sorted(killed)
    rounds = {r["node"] for r in running.records("round") if r["round"] == 300}
    assert rounds == set(range(NODES)) - set(killed)
    assert not running.leftovers()


def test_a_star_finishes_without_its_hub(start: Start, until: Until) -> None:
    running = start("swarm", "--rounds", "400", "--topology", "star", "--json")
    wait_for("round 20", running, until, 400)

    os.kill(running.nodes()[0], signal.SIGKILL)
    ended = running.end()

    assert ended.code == 0
    assert json.loads(ended.stdout)["lost"] == ["node-0"]
    last = [r for r in running.records("round") if r["round"] == 400]
    assert sorted(r["node"] for r in last) == list(range(1, NODES))
    assert {r["neighbors"] for r in last} == {0}


def test_when_every_node_is_killed_the_run_is_lost(start: Start, until: Until) -> None:
    running = start("swarm", "--rounds", "3000")
    wait_for("round 20", running, until, 3000)

    for pid in running.nodes():
        os.kill(pid, signal.SIGKILL)
    ended = running.end()

    assert ended.code == 3
    assert "every node was lost: " in ended.stderr
    assert "Traceback" not in ended.stderr
    assert running.summary()["nodes_finished"] == 0
    assert running.summary()["per_node"] == [None] * NODES
    # and it is told how far they got
    assert running.summary()["rounds"] == max(r["round"] for r in running.records("round")) >= 20
    assert running.summary()["seconds"] > 0


def test_who_is_killed_in_a_round_has_made_it(start: Start, tmp_path: Path) -> None:
    faults = [{"kind": "kill", "node": i, "round": 5} for i in range(2)]
    (tmp_path / "script.toml").write_text(toml_document({}, fault=faults))
    settings = ("--set", "swarm.nodes=2", "--set", "algorithm.local_steps=10")

    running = start("swarm", "--rounds", "3000", *settings, "--fault", "script.toml")

    assert running.end().code == 3
    assert {r["node"] for r in running.records("round") if r["round"] == 5} == {0, 1}
    assert 5 <= running.summary()["rounds"] < 3000


@pytest.mark.parametrize("moment", ["zygote", "nodes", "round 20"])
def test_nothing_lives_on_when_the_command_is_killed(moment: str, start: Start, until: Until) -> None:
    running = start("swarm", "--rounds", "3000")
    wait_for(moment, running, until, 3000)

    running.process.kill()
    running.end()

    assert not running.leftovers()
    if moment == "round 20":
        assert running.reached(20)


@pytest.mark.parametrize("moment", ["zygote", "nodes", "round 20"])
def test_nothing_lives_on_when_the_process_that_starts_the_nodes_is_killed(
    moment: str, start: Start, until: Until
) -> None:
    running = start("swarm", "--rounds", "3000", "--set", "swarm.checkpoint_every=5")
    wait_for(moment, running, until, 3000)

    zygote = running.zygote()
    assert zygote is not None
    os.kill(zygote, signal.SIGKILL)
    ended = running.end()

    # then: as where every node was lost, which is what has happened, and what is left of it is told
    kept, wrong = ended.stderr.splitlines()[-2:]
    assert ended.code == 3
    assert wrong.startswith("gossipfl: error: every node was lost: ") and "killed by signal 9" in wrong
    assert kept.startswith(f"gossipfl: records up to then are in {running.out}")
    assert ("--resume" in kept) == any(running.out.glob("checkpoints/*/[0-9]*"))
    assert ("--resume" in kept) or moment != "round 20"
    assert "Traceback" not in ended.stderr
    assert not running.leftovers()


@pytest.mark.parametrize("stopped", [False, True])
def test_what_starts_the_nodes_does_not_outlive_the_command_while_it_loads(
    stopped: bool, start: Start, until: Until, tmp_path: Path
) -> None:
    # given a task that takes long to load
    lines = ["import pathlib, time", "pathlib.Path('loads').touch()", "time.sleep(600)"]
    (tmp_path / "mine.py").write_text("\n".join(lines))
    running = start("swarm", "--task", "mine:task", cwd=tmp_path)
    until((tmp_path / "loads").exists, "it loads")
    zygote = running.zygote()
    assert zygote is not None

    # when
    if stopped:
        os.kill(zygote, signal.SIGSTOP)
    running.process.kill()
    running.end()

    # then
    assert not running.leftovers()


def test_nothing_lives_on_when_the_command_is_killed_and_what_starts_the_nodes_is_stopped(
    start: Start, until: Until
) -> None:
    running = start("swarm", "--rounds", "3000")
    wait_for("round 20", running, until, 3000)
    zygote = running.zygote()
    assert zygote is not None

    os.kill(zygote, signal.SIGSTOP)
    running.process.kill()
    running.end()

    assert not running.leftovers()


def test_a_node_that_is_stopped_does_not_keep_ctrl_c_from_ending_it(start: Start, until: Until) -> None:
    running = start("swarm", "--rounds", "3000")
    wait_for("round 20", running, until, 3000)
    os.kill(running.nodes()[2], signal.SIGSTOP)

    interrupt(running, until)

    assert running.end().code == 130
