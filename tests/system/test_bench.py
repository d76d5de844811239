"""`gossipfl bench`: figures beside limits that were measured in the same run."""

from __future__ import annotations

import json
import os
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gossipfl.drivers.bench import happenings, rows, usage
from gossipfl.drivers.bench.turns import Pace, Watch, calls, ratios

if TYPE_CHECKING:
    from tests.system.conftest import Ended, Start

pytestmark = pytest.mark.system

GOSSIPFL = str(Path(sysconfig.get_path("scripts")) / "gossipfl")
#: What scripts rely on.
KEYS = {
    *("rounds_per_second", "limit_rounds_per_second", "ratio", "mb_per_second_node", "start_seconds"),
    *("private_mb_node", "pss_mb_node", "cpu_seconds_round", "context_switches_round"),
    *("transport", "nodes", "topology", "parameters", "training_rounds_per_second", "training_ratio"),
    *("training_limit_rounds_per_second", "start_seconds_after_ready", "limit_cpu_seconds_round"),
    *("plain_steps_per_second", "copy_gb_per_second", "cpu_ratio", "unseen", "machine", "load"),
    *("overlap_training_seconds", "overlap_wait_seconds", "overlap_wait_seconds_early"),
}


def bench(start: Start, *arguments: str) -> Ended:
    return start(command=[GOSSIPFL, "bench", *arguments]).end()


def test_real_nodes_are_measured_beside_bare_processes(start: Start) -> None:
    ended = bench(
        start,
        *("--nodes", "3", "--parameters", "4000", "--rounds", "60", "--turns", "1"),
        *("--transport", "tcp", "--json"),
    )

    assert (ended.code, ended.stderr) == (0, "")
    found: dict[str, Any] = json.loads(ended.stdout)
    assert found.keys() >= KEYS
    shape = {key: found[key] for key in ("nodes", "topology", "parameters", "transport", "rounds")}
    assert shape == {"nodes": 3, "topology": "ring", "parameters": 4000, "transport": "tcp", "rounds": 60}
    assert found["ratio"] == pytest.approx(
        found["rounds_per_second"] / found["limit_rounds_per_second"], rel=1e-2
    )
    assert 0 < found["ratio"] < 1.2  # nothing is faster than moving the bytes
    assert 0 < found["training_rounds_per_second"] < found["limit_rounds_per_second"]
    sent = found["mb_per_second_node"] * 1e6 / found["rounds_per_second"]
    assert sent == pytest.approx(2 * 4 * 4000, rel=0.05)  # to two neighbours, and small headers
    assert 0 < found["start_seconds_after_ready"] < found["start_seconds"]
    assert 1 < found["private_mb_node"] < found["pss_mb_node"]  # of a run that is over in a moment, too
    assert found["cpu_ratio"] > 0 and found["context_switches_round"] > 0 and found["unseen"] is None
    assert found["overlap_wait_seconds_early"] < found["overlap_training_seconds"] / 2


def test_people_are_shown_progress_and_lines(start: Start) -> None:
    ended = bench(start, "--engine", "events", "--nodes", "10", "--rounds", "3", "--turns", "2")

    assert ended.code == 0
    assert "turn 2 of 2" in ended.stderr
    assert ended.stdout.startswith("events: 10 nodes, regular:4") and "machine: " in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--engine", "vector", "--transport", "tcp"], "--transport: tcp: the vector engine has no sockets"),
        (["--topology", "hypercube", "--nodes", "12"], "topology.graph"),
        (["--turns", "0"], "--turns"),
    ],
)
def test_what_cannot_be_measured_is_one_line(arguments: list[str], said: str, start: Start) -> None:
    ended = bench(start, *arguments)

    assert ended.code == 2
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith("gossipfl: error: ") and said in last


def test_the_vector_engine_is_measured_beside_numpy_and_the_plain_ways_to_mix() -> None:
    said: list[str] = []

    found = rows.vector(rows.Choices(nodes=12, rounds=3, turns=1), said.append)

    steps, mixing = found["rows"]  # type: ignore[misc]
    assert (steps["what"], steps["nodes"], mixing["what"]) == ("steps", 12, "mixing")
    for row, unit in ((steps, "node_steps_per_second"), (mixing, "rounds_per_second")):
        assert row["ratio"] == pytest.approx(row[unit] / row[f"limit_{unit}"], rel=1e-2)
        assert row[unit] > 0
    assert mixing["limit_rounds_per_second"] == pytest.approx(
        max(mixing[f"{way}_rounds_per_second"] for way in ("csr", "axpys", "slots")), rel=1e-3
    )
    assert "steps of 12 nodes: turn 1 of 1" in said


def test_the_toy_of_the_event_engine_makes_every_event() -> None:
    ring = [((i - 1) % 5, (i + 1) % 5) for i in range(5)]

    assert happenings.toy(ring, 7, 3) == 5 * 7 * (1 + 2)


def test_the_event_engine_is_measured_beside_a_toy_and_beside_one_node_after_the_other() -> None:
    said: list[str] = []

    found = rows.events(rows.Choices(nodes=12, rounds=3, turns=1), said.append)

    events, learning = found["rows"]  # type: ignore[misc]
    assert (events["what"], learning["what"], learning["parameters"]) == ("events", "learning", 4810)
    for row, unit in ((events, "events_per_second"), (learning, "node_steps_per_second")):
        assert row["ratio"] == pytest.approx(row[unit] / row[f"limit_{unit}"], rel=1e-2)
        assert row[unit] > 0
    assert "learning of 12 nodes: turn 1 of 1" in said


def test_ratios_are_taken_turn_by_turn() -> None:
    figures, limits = [Pace(10, 5), Pace(2, 1), Pace(30, 6)], [Pace(20, 5), Pace(2, 2), Pace(40, 8)]

    row = ratios(figures, limits, "rounds_per_second")

    assert row == {
        "rounds_per_second": 10,
        "limit_rounds_per_second": 20,
        "ratio": 0.75,
        "ratio_min": 0.5,
        "ratio_max": 1,
        "cpu_ratio": 0.75,
    }
    assert ratios([Pace(1)], [Pace(2)], "x")["cpu_ratio"] is None


def test_the_time_of_a_process_is_told_by_the_clock_and_by_its_processor() -> None:
    pace = calls(lambda: sum(range(1000)), 0.02)

    assert pace.wall > 0 and pace.cpu > 0
    watch = Watch()
    assert watch.seconds >= 0 and watch.pace(5).wall > 0


def test_what_a_process_holds_and_has_used() -> None:
    before, held = usage.usage([os.getpid()]), usage.memory([os.getpid()])
    filled = bytearray(os.urandom(1) * 20_000_000)
    after, more = usage.usage([os.getpid()]), usage.memory([os.getpid()])

    assert before and after and held and more
    assert after.cpu_seconds > before.cpu_seconds and after.switches >= before.switches
    assert more.private - held.private == pytest.approx(len(filled), rel=0.2)
    assert usage.usage([2**22 + 1]) is None and usage.memory([2**22 + 1]) is None
