"""A command whose standard streams are closed, full, or left by their reader: lines are lost, and no run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.system.conftest import GOSSIPFL

if TYPE_CHECKING:
    from tests.system.conftest import Running, Start

pytestmark = pytest.mark.system

FULL = Path("/dev/full")
SHORT = ("--rounds", "20", "--nodes", "4")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


def through(start: Start, redirected: str, *arguments: str) -> Running:
    """`gossipfl ARGUMENTS` with what a shell writes behind it; the code is the command's own."""
    words = " ".join(arguments)
    return start(command=["bash", "-o", "pipefail", "-c", f"{GOSSIPFL} {words} --out run {redirected}"])


@pytest.mark.parametrize("command", ["swarm", "simulate"])
@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_like_dev_null(command: str, closed: str, start: Start) -> None:
    running = through(start, closed, command, *SHORT)
    ended = running.end()

    assert (ended.code, ended.stdout, ended.stderr) == (0, "", "")
    assert running.summary()["finished"] is True
    assert (running.out / "report.html").exists()


def test_a_command_that_prints_has_nothing_to_say_to_a_closed_stream(start: Start) -> None:
    ended = start(command=["bash", "-c", f"{GOSSIPFL} check >&-"]).end()

    assert (ended.code, ended.stderr) == (0, "")


@pytest.mark.parametrize("command", ["swarm", "simulate"])
def test_a_run_goes_on_when_its_reader_has_had_enough(command: str, start: Start) -> None:
    running = through(start, "| true", command, *SHORT)
    ended = running.end()

    assert (ended.code, ended.stderr) == (0, "")
    assert running.summary()["finished"] is True
    assert (running.out / "report.html").exists()


@needs_full
@pytest.mark.parametrize("json_", [(), ("--json",)])
def test_where_standard_output_is_full_the_run_is_kept_and_both_are_named(
    json_: tuple[str, ...], start: Start
) -> None:
    running = through(start, "> /dev/full", "simulate", *SHORT, *json_)
    ended = running.end()

    assert ended.code == 1
    assert ended.stderr.splitlines() == [
        "gossipfl: the run has ended; what it leaves is in run",
        "gossipfl: error: standard output: no space left on device",
    ]
    assert running.summary()["finished"] is True
    assert (running.out / "report.html").exists()


@needs_full
def test_notes_that_cannot_be_told_cost_nothing(start: Start) -> None:
    running = through(start, "2> /dev/full", "swarm", *SHORT, "--json", "--set train.lr=nothing")
    assert running.end().code == 2

    running = through(start, "2> /dev/full", "simulate", *SHORT, "--json", "--set algorithm.rule=d2")
    ended = running.end()
    assert ended.code == 0
    assert json.loads(ended.stdout)["finished"] is True


def test_watching_ends_with_its_reader(start: Start, tmp_path: Path) -> None:
    # given a folder of a run that never ends
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text("[swarm]\nnodes = 1\n")
    (tmp_path / "run" / "records").mkdir()
    line = {"node": 0, "name": "node-0", "round": 10, "time": 1.0, "kind": "eval", "accuracy": 0.5}
    (tmp_path / "run" / "records" / "node-0.jsonl").write_text(json.dumps(line) + "\n")

    ended = start(command=["bash", "-o", "pipefail", "-c", f"{GOSSIPFL} watch run | true"]).end()

    assert (ended.code, ended.stderr) == (0, "")


@pytest.mark.parametrize("redirected", ["<&- >&- 2>&-", "| true"])
def test_a_node_among_machines_needs_nobody_to_listen(redirected: str, start: Start, tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text(
        '[swarm]\nnodes = 1\nrounds = 5\n[topology]\ngraph = "none"\n'
        '[security]\nencrypt = "off"\nallow_plaintext = true\n[[node]]\nname = "alice"\naddress = ""\n'
    )

    running = through(start, redirected, "node", "one.toml", "--name", "alice")
    ended = running.end()

    assert (ended.code, ended.stderr) == (0, "")
    assert running.summary()["rounds"] == 5
