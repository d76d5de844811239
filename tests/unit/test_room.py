"""What too many nodes lack is named before any of them is started."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gossipfl.drivers.room import Limits, limits, problems

PLENTY = Limits(files=65_536, threads=32_768, memory=24 * 10**9)


def test_a_thousand_nodes_of_degree_four_fit_a_usual_machine() -> None:
    assert problems([4] * 1000, 4 * 4810, PLENTY) == []
    assert problems([2] * 8, 4 * 5_000_000, PLENTY._replace(files=1024)) == []


@pytest.mark.parametrize(
    ("lacking", "degrees", "parameters", "said"),
    [
        ({"files": 1024}, [4] * 1000, 4810, ("3088 open files", "ulimit -n 3088")),
        ({"files": 4096}, [999] + [1] * 999, 4810, ("up to 999 neighbors", "ulimit -n")),
        ({"threads": 4000}, [4] * 1000, 4810, ("5000 threads, 4000 are allowed", "pids.max")),
        ({"memory": 10**9}, [4] * 1000, 4810, ("1000 nodes need 13.1 GB", "fewer nodes")),
        ({"memory": 10**9}, [2] * 8, 400_000_000, ("8 nodes need 35.3 GB", "a smaller model")),
    ],
)
def test_what_is_lacking_is_told_and_what_would_do(
    lacking: dict[str, int], degrees: list[int], parameters: int, said: tuple[str, str]
) -> None:
    [problem] = problems(degrees, parameters, PLENTY._replace(**lacking))

    assert problem.key == "swarm.nodes"
    assert said[0] in problem.wrong and said[1] in str(problem)


def test_where_nothing_is_known_nothing_is_refused() -> None:
    assert problems([4] * 100_000, 10**9, Limits()) == []


def test_this_machine_says_what_it_grants() -> None:
    found = limits()

    assert found.files is not None and found.files >= 256
    assert found.threads is not None and found.memory is not None and found.memory > 0


@pytest.mark.system
def test_a_swarm_that_cannot_have_its_files_is_one_line_and_no_process(tmp_path: Path) -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80));"
        "from gossipfl.cli import main; main(['swarm', '--nodes', '20', '--out', 'run'])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )

    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.startswith("gossipfl: error: swarm.nodes: 20 nodes with up to 2 neighbors need 134")
    assert len(ended.stderr.splitlines()) == 1, json.dumps(ended.stderr)
