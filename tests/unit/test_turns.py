"""When nodes let each other finish."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
from gossipfl.drivers.machine import cores
from gossipfl.drivers.turns import CROWD, take_turns
take_turns(CROWD * cores() + int(sys.argv[1]))
print(os.sched_getscheduler(0) == os.SCHED_BATCH)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux alone")
@pytest.mark.parametrize(("more", "batch"), [(0, "False\n"), (1, "True\n")])
def test_only_very_many_nodes_do(more: int, batch: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(more)], capture_output=True, text=True, check=True
    )

    assert done.stdout == batch
