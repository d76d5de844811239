"""Bad luck and other people's code: a full disk, numbers that end, tasks that raise. No tracebacks."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.system.conftest import GOSSIPFL

if TYPE_CHECKING:
    from tests.system.conftest import Start, Until

pytestmark = pytest.mark.system

ENGINES = [["swarm"], ["simulate"], ["simulate", "--engine", "events"]]

#: Tasks as a user writes them, beside the config. Node 3 alone holds rows whose first pixel is marked.
TASKS = """
from dataclasses import replace

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

import helpers_of_mine  # beside this file
from gossipfl import Task
from gossipfl.learning.tasks.digits import digits


def marked(value):
    task = digits()
    images, labels = task.train.tensors
    images = images.clone()
    images[1000:1010, 0] = value
    return replace(task, name="marked", train=TensorDataset(images, labels))


def own(width: int = 8) -> Task:
    model = lambda: nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
    return replace(digits(), name=helpers_of_mine.NAME, model=model)


def broken() -> Task:
    return marked(float("nan"))


class Fussy(nn.Sequential):
    def forward(self, images):
        if (images[:, 0] == 77).any():
            raise ValueError("77 is no pixel")
        return super().forward(images)


def fussy() -> Task:
    model = lambda: Fussy(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    return replace(marked(77.0), model=model)


def late() -> Task:
    '''Raises in every node, in the fifth local step.'''
    steps = []

    def loss(output, target):
        steps.append(0)
        if len(steps) > 20:
            raise RuntimeError("enough")
        return cross_entropy(output, target)

    return replace(digits(), loss=loss)


def refuses() -> Task:
    raise FileNotFoundError("no data in /nowhere")
"""


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """A user's folder: a task, a module it needs, a partition that gives the marked rows to node 3."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "mine.py").write_text(TASKS)
    (folder / "helpers_of_mine.py").write_text("NAME = 'mine'\n")
    parts = [list(range(node, 1000, 8)) for node in range(8)]
    parts[3] += range(1000, 1010)
    parts[4] += range(1010, 1438)
    (folder / "parts.json").write_text(json.dumps(parts))
    return folder


MARKED = ["--set", "data.partition=file", "--set", "data.file=parts.json", "--rounds", "30"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for a part of the records, and not for the models."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root may mount a small file system, and not in every container")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("command", ENGINES, ids=" ".join)
def test_a_full_disk_costs_files_but_not_the_result(
    command: list[str], small_disk: Path, start: Start
) -> None:
    out = small_disk / "run"

    running = start(*command, "--rounds", "80", "--save-models", "--json", out=out)
    ended = running.end()

    assert ended.code == 1
    assert "Traceback" not in ended.stderr
    assert "No space left on device" in ended.stderr
    assert "models" in ended.stderr and f"{out / 'report.html'}: " in ended.stderr
    summary = json.loads(ended.stdout)
    assert summary["rounds"] == 80 and summary["finished"] is True
    assert 0.3 < summary["mean"] <= 1 and 0.3 < summary["mean_model"] <= 1
    assert not list(out.rglob("*.part"))
    assert not running.leftovers()


@pytest.mark.parametrize("command", [*ENGINES[:2], ["node", "one.toml", "--name", "alice"]], ids=" ".join)
def test_where_files_may_not_be_so_long_the_last_lines_name_them_and_no_other(
    command: list[str], start: Start, tmp_path: Path
) -> None:
    # given: room for the summary of such small models, and neither for all records nor for a report
    alone = '[swarm]\nnodes = 1\n[topology]\ngraph = "none"\n[[node]]\nname = "alice"\n'
    (tmp_path / "one.toml").write_text(alone)
    task = ["--set", "train.task=consensus", "--set", "task.dimension=10", "--set", "swarm.rounds=80"]

    shell = ["bash", "-c", 'ulimit -f 8; exec "$@"', "bash", GOSSIPFL]
    running = start(command=[*shell, *command, *task, "--out", "run"])
    ended = running.end()

    assert ended.code == 1
    assert "Traceback" not in ended.stderr and "gossipfl: error" not in ended.stderr
    assert ": File too large" in ended.stdout + ended.stderr
    assert "not all is kept" in ended.stdout.splitlines()[-1]
    assert running.summary()["finished"] is True
    assert not (running.out / "report.html").exists()


def test_a_folder_that_is_removed_while_the_run_goes_on_is_told(start: Start, until: Until) -> None:
    running = start("swarm", "--rounds", "300")
    until(lambda: running.reached(5), "it has begun")

    shutil.rmtree(running.out)
    ended = running.end()

    assert ended.code == 1
    assert "Traceback" not in ended.stderr
    assert f"{running.out / 'config.toml'}: is not there at the end" in ended.stdout
    assert f"{running.out / 'records'}/node-0.jsonl: is not there at the end" in ended.stdout
    told = [line.split(": ", 1)[1] for line in ended.stdout.splitlines() if line.startswith("report: ")]
    assert all(Path(path).exists() for path in told)


@pytest.mark.parametrize("command", ENGINES, ids=" ".join)
def test_a_rate_that_is_far_too_high_ends_the_run(command: list[str], start: Start) -> None:
    running = start(*command, "--set", "train.lr=1e9", "--set", "train.dtype=float32", "--rounds", "300")
    ended = running.end()

    assert ended.code == 3
    assert "Traceback" not in ended.stderr
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("gossipfl: error: ")]
    assert line.startswith("gossipfl: error: node-")
    assert " in round " in line and "train.lr" in line
    x = np.load(running.out / "models.npz")["x"]
    assert x.shape == (8, 4810) and np.isfinite(x).all()
    assert running.summary()["finished"] is False
    assert running.summary()["lost"] == []
    assert (running.out / "metrics.jsonl").exists()
    assert not running.leftovers()


@pytest.mark.parametrize("command", ENGINES, ids=" ".join)
def test_one_node_whose_loss_is_no_number_is_named(command: list[str], beside: Path, start: Start) -> None:
    running = start(*command, "--task", "mine:broken", *MARKED, cwd=beside)
    ended = running.end()

    assert ended.code == 3
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("gossipfl: error: ")]
    assert line.startswith("gossipfl: error: node-3: the loss became nan in round ")
    assert "Traceback" not in ended.stderr
    assert np.isfinite(np.load(running.out / "models.npz")["x"]).all()


@pytest.mark.parametrize("command", ENGINES[:2], ids=" ".join)
@pytest.mark.parametrize(
    ("task", "told"),
    [
        ("nowhere:task", "train.task: nowhere:task: the module does not import (ModuleNotFoundError"),
        ("mine:nothing", "train.task: mine:nothing: mine has no function nothing"),
        ("mine:refuses", "train.task: mine:refuses raised FileNotFoundError: no data in /nowhere"),
    ],
)
def test_a_task_that_cannot_be_had_is_one_line(
    command: list[str], task: str, told: str, beside: Path, start: Start
) -> None:
    running = start(*command, "--task", task, cwd=beside)
    ended = running.end()

    assert ended.code == 2
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"gossipfl: error: {told}")
    assert not running.out.exists()


def test_a_task_of_ones_own_is_found_in_the_working_directory(beside: Path, start: Start) -> None:
    (beside / "json.py").write_text("raise ImportError('not the json that is meant')\n")

    running = start("swarm", "--task", "mine:own", "--set", "task.width=4", "--rounds", "20", cwd=beside)
    ended = running.end()

    assert (ended.code, ended.stderr) == (0, "")
    assert running.summary()["parameters"] == 64 * 4 + 4 + 4 * 10 + 10


def test_a_task_that_raises_in_one_node_loses_that_node_alone(beside: Path, start: Start) -> None:
    running = start("swarm", "--task", "mine:fussy", *MARKED, "--json", cwd=beside)
    ended = running.end()

    assert ended.code == 0
    assert json.loads(ended.stdout)["lost"] == ["node-3"]
    assert "gossipfl: lost node-3: ValueError: 77 is no pixel" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert 'raise ValueError("77 is no pixel")' in (running.out / "log.txt").read_text()


def test_a_task_that_raises_in_every_node_loses_the_run(beside: Path, start: Start) -> None:
    running = start("swarm", "--task", "mine:late", "--rounds", "60", cwd=beside)
    ended = running.end()

    assert ended.code == 3
    assert "every node was lost: " in ended.stderr and "RuntimeError: enough" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("command", ENGINES[:2], ids=" ".join)
def test_a_folder_in_use_is_left_as_it_is(command: list[str], tmp_path: Path, start: Start) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "summary.json").write_text("precious")

    ended = start(*command, out=out).end()

    assert ended.code == 2
    assert ended.stderr == (
        f"gossipfl: error: --out: {out} exists and is not empty; choose another --out, or remove it\n"
    )
    assert [path.name for path in out.iterdir()] == ["summary.json"]
    assert (out / "summary.json").read_text() == "precious"
