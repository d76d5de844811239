"""Sweeps with real processes: the same bits whatever the jobs, killed and resumed, interrupted, failing."""

from __future__ import annotations

import json
import re
import signal
import socket
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from gossipfl.observe.sweep_reading import Study, read_sweep

if TYPE_CHECKING:
    from tests.system.conftest import Running, Until

pytestmark = pytest.mark.system

Start = Callable[..., "Running"]

#: Seconds until a test gives up on what it waits for; generous, since machines are shared.
DEADLINE = 120.0

SWEEP = """
seeds = {seeds}

[base.swarm]
nodes = 6
rounds = {rounds}
eval_every = 5

[base.train]
task = "{task}"

[grid]
"topology.graph" = ["ring", "complete"]
"""

TASK = """
import os
from gossipfl.learning.tasks.digits import digits as real

def digits(fate):
    print("a task may print", flush=True)
    if fate == "die":
        os._exit(7)
    if fate == "raise":
        raise RuntimeError("no such luck")
    return real()
"""


def write(folder: Path, *, seeds: int = 2, rounds: int = 10, task: str = "consensus", more: str = "") -> str:
    path = folder / "study.toml"
    path.write_text(SWEEP.format(seeds=seeds, rounds=rounds, task=task) + more)
    return str(path)


def finished(folder: Path) -> int:
    """How many runs the results hold, while they are written."""
    path = folder / "results.sqlite"
    if not path.is_file():
        return 0
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        try:
            (count,) = connection.execute("SELECT count(*) FROM runs").fetchone()
        except sqlite3.OperationalError:  # the tables are being made
            return 0
    return int(count)


def wait_for(running: Running, runs: int) -> None:
    end = time.monotonic() + DEADLINE
    while finished(running.out) < runs:
        assert not running.over(), running.text()
        assert time.monotonic() < end, f"{runs} runs did not finish in {DEADLINE:g} s"
        time.sleep(0.01)


def bits(study: Study) -> list[tuple[str, int, str, float]]:
    return [(t.texts["graph"], t.seed, t.model_hash, t.figures["mean"]) for t in study.trials]


def test_the_bits_are_the_same_whatever_the_jobs(start: Start, tmp_path: Path) -> None:
    # given a sweep over what is learnt from images
    file = write(tmp_path, task="digits")
    # when it runs one cell at a time, and two
    studies = []
    for jobs in ("1", "2"):
        out = tmp_path / jobs
        ended = start("sweep", file, "--jobs", jobs, "--json", out=out).end()
        assert ended.code == 0, ended.stderr
        assert json.loads(ended.stdout)["runs"] == 4
        studies.append(read_sweep(out))
    # then every run has the same final parameters
    one, two = map(bits, studies)
    assert one == two
    assert len({model for _, _, model, _ in one}) == 4
    assert (tmp_path / "2" / "report.html").is_file()
    assert (tmp_path / "2" / "results.csv").read_text().count("\n") == 5
    assert not (tmp_path / "2" / "log.txt").exists()


def test_a_killed_sweep_goes_on_and_counts_no_cell_twice(start: Start, tmp_path: Path) -> None:
    # given a sweep that is killed in the middle, without a warning
    file = write(tmp_path, seeds=6, rounds=3000)
    killed = start("sweep", file, "--jobs", "1")
    wait_for(killed, 2)
    killed.signal(signal.SIGKILL)
    killed.end()
    before = finished(killed.out)
    assert 2 <= before < 12
    # when the same command is given again
    ended = start("sweep", file, "--json", out=killed.out).end()
    # then it runs the rest, and the rest alone
    told = json.loads(ended.stdout)
    assert (told["runs"], told["resumed"], told["failed"]) == (12, before, 0)
    trials = read_sweep(killed.out).trials
    assert len(trials) == len({(t.texts["graph"], t.seed) for t in trials}) == 12


def test_a_worker_begins_no_run_once_nobody_waits_for_it(start: Start, until: Until, tmp_path: Path) -> None:
    # given a sweep of runs that take for ever, whose worker is still loading
    running = start("sweep", write(tmp_path, rounds=10_000_000), "--jobs", "1")
    until(lambda: running.others() or running.over(), "a worker")
    # when the sweep is killed, the worker does not go on without it
    running.signal(signal.SIGKILL)
    running.end(60)


def test_ctrl_c_keeps_what_is_finished_and_says_so(start: Start, tmp_path: Path) -> None:
    # given a sweep in which a run has finished, and another has begun in the same folder
    running = start("sweep", write(tmp_path, seeds=50, rounds=4000), "--jobs", "1")
    wait_for(running, 1)
    other = start("sweep", write(tmp_path, seeds=50, rounds=4000), out=running.out).end()
    assert other.code == 2
    assert f"another sweep runs in {running.out} (process {running.process.pid})" in other.stderr
    # when it is interrupted
    running.signal(signal.SIGINT)
    ended = running.end()
    # then it ends as interrupted commands do, and its table has what was finished
    assert ended.code == 130
    assert "interrupted" in ended.stderr
    assert "Traceback" not in ended.stderr
    rows = (running.out / "results.csv").read_text().splitlines()[1:]
    assert len(rows) == finished(running.out) >= 1


def test_cells_that_raise_or_die_are_rows_and_the_rest_goes_on(start: Start, tmp_path: Path) -> None:
    # given a task that prints, and in some cells raises, or takes its process with it
    (tmp_path / "my_task.py").write_text(TASK)
    more = '"task.fate" = ["fine", "raise", "die"]\n'
    file = write(tmp_path, seeds=1, task="my_task:digits", more=more)
    # when it is swept
    ended = start("sweep", file, "--jobs", "2").end()
    # then the others finish, and each failure is told with its reason
    assert ended.code == 0, ended.stderr
    fates = {(t.columns["task.fate"], t.texts["graph"]): t.error for t in read_sweep(tmp_path / "run").trials}
    errors = {fate: error for (fate, _), error in fates.items()}
    assert len(fates) >= 4
    assert errors["fine"] == ""
    assert "no such luck" in errors["raise"]
    assert "ended with exit status 7" in errors["die"]
    assert "4 failed" in ended.stdout
    assert "a task may print" in (tmp_path / "run" / "log.txt").read_text()


def test_a_sweep_of_real_swarms_runs(start: Start, tmp_path: Path) -> None:
    file = write(tmp_path, seeds=1, rounds=5)
    ended = start("sweep", file, "--engine", "swarm", "--json").end()
    assert ended.code == 0, ended.stderr
    study = read_sweep(tmp_path / "run")
    assert [t.error for t in study.trials] == ["", ""]
    assert study.engine == "swarm"
    assert all(t.curves["error"][-1, 2] > 0 for t in study.trials)  # bytes


def test_a_sweep_in_virtual_time_has_one_exact_consensus_distance_a_round(
    start: Start, tmp_path: Path
) -> None:
    # given what every engine computes to the same bits
    file = write(tmp_path, seeds=1)
    # when it is swept message by message, and as one matrix
    studies = []
    for engine in ("events", "vector"):
        ended = start("sweep", file, "--engine", engine, "--jobs", "1", "--json", out=tmp_path / engine).end()
        assert ended.code == 0, ended.stderr
        studies.append(read_sweep(tmp_path / engine))
    # then the curves of both agree: no estimate stands in for what is known, and none beside it
    for one, other in zip(studies[0].trials, studies[1].trials, strict=True):
        mine, theirs = (t.curves["consensus_distance"][:, [0, 3]] for t in (one, other))
        assert mine == pytest.approx(theirs, rel=1e-6, abs=1e-6)


def test_a_sweep_in_which_every_run_fails_says_so(start: Start, tmp_path: Path) -> None:
    (tmp_path / "my_task.py").write_text(TASK)
    file = write(tmp_path, seeds=1, task="my_task:digits", more='"task.fate" = ["raise"]\n')
    ended = start("sweep", file, "--jobs", "1", "--quiet").end()
    assert ended.code == 3
    assert "every run failed: " in ended.stderr
    assert ended.stdout == ""


def test_a_dry_run_counts_and_estimates_and_leaves_nothing(start: Start, tmp_path: Path) -> None:
    ended = start("sweep", write(tmp_path), "--dry-run", "--json").end()
    told = json.loads(ended.stdout)
    assert told["runs"] == 4
    assert 0 < told["seconds"] < 600
    assert not (tmp_path / "run").exists()


def test_a_dry_run_says_how_many_runs_there_are_before_it_runs_any(start: Start, tmp_path: Path) -> None:
    ended = start("sweep", write(tmp_path), "--dry-run").end()
    first, last = ended.stdout.splitlines()
    assert first == "4 runs (topology.graph × 2 seeds), engine vector"
    assert re.fullmatch(r"about [\d.]+ (s|ms) with \d+ at a time", last)
    assert "a few rounds are run for the estimate" in ended.stderr


def test_cells_run_on_a_ray_cluster_with_the_same_bits(start: Start, tmp_path: Path) -> None:
    # given Ray on this machine
    pytest.importorskip("ray", reason="ray is not installed: pip install gossipfl[ray]")
    file = write(tmp_path)
    # when a sweep runs on two of its workers, and without it
    on_ray = start("sweep", file, "--on", "ray", "--jobs", "2", "--json", out=tmp_path / "ray").end()
    assert on_ray.code == 0, on_ray.stderr
    alone = start("sweep", file, "--jobs", "1", "--json", out=tmp_path / "alone").end()
    # then the bits are the same
    assert alone.code == 0
    assert bits(read_sweep(tmp_path / "ray")) == bits(read_sweep(tmp_path / "alone"))


def test_a_note_of_a_ray_cluster_that_has_ended_is_not_followed(start: Start, tmp_path: Path) -> None:
    # given the note that a cluster leaves which is killed
    pytest.importorskip("ray", reason="ray is not installed: pip install gossipfl[ray]")
    with socket.socket() as bound, TemporaryDirectory(dir="/tmp") as short:  # Ray's sockets have long names
        note = Path(short) / "ray" / "ray_current_cluster"
        note.parent.mkdir()
        bound.bind(("127.0.0.1", 0))  # and nobody listens
        note.write_text(f"127.0.0.1:{bound.getsockname()[1]}")
        # when a sweep is to run on the cluster that is there
        ended = start(
            "sweep", write(tmp_path), "--on", "ray", "--jobs", "2", environment={"RAY_TMPDIR": short}
        ).end()
    # then it runs on one of its own
    assert ended.code == 0, ended.stderr


def test_a_ray_address_at_which_nobody_answers_is_told_at_once(start: Start, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install gossipfl[ray]")
    file = write(tmp_path)
    with socket.socket() as bound:  # and nobody listens
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        for given, wrong in ((address, "no Ray cluster answers at"), ("nonsense", "cannot be")):
            ended = start(
                "sweep", file, "--on", "ray", "--jobs", "2", environment={"RAY_ADDRESS": given}
            ).end()
            assert ended.code == 2
            assert f"RAY_ADDRESS: {wrong} {given}" in ended.stderr
