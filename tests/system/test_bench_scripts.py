"""The scripts of bench/ still run: each on its smallest setting, or as far as it gets without a machine of
its own."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

BENCH = Path(__file__).parents[2] / "bench"
#: What each is asked, and what it then prints. What measures other machines, or other packages, tells what it
#: would do.
ASKED = {
    "beat_gaps.py": ("--nodes 2 --seconds 0.3 --beat 0.1 --kinds idle", "2 idle"),
    "big_model.py": ("--parameters 20000 --nodes 2 --rounds 2 --json", '"finished": true'),
    "detection.py": ("kill --times 1 --nodes 4", "1 kills"),
    "join_overhead.py": ("--help", "--local-steps"),
    "network_check.py": ("--help", "--rounds"),
    "small_device.py": ("--help", "--parameters"),  # what it measures, test_memory_held.py does
}


@pytest.mark.parametrize("script", ASKED)
def test_a_script_measures(script: str, tmp_path: Path) -> None:
    options, printed = ASKED[script]
    line = [sys.executable, str(BENCH / script), *options.split()]

    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    assert "Traceback" not in done.stderr and printed in done.stdout, done.stderr
    assert done.returncode in (0, 1)  # 1: a bound of it does not hold, as may be beside other tests


def test_what_faults_cost_is_measured() -> None:
    script = runpy.run_path(str(BENCH / "fault_figures.py"))

    (row, *_) = script["errors"](20, ["d2"], ["events"])

    assert row["edge-rounds lost"] > 0 and row["mean square error at the end"] > 0


def test_no_script_is_left_out() -> None:
    scripts = {path.name for path in BENCH.glob("*.py")}

    assert scripts == {*ASKED, "fault_figures.py"}
    for path in BENCH.glob("peers/*.py"):  # of other packages, which are not here
        compile(path.read_text(), str(path), "exec")
