"""How the process from which nodes are forked handles its memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import gc, pathlib, sys
gc.disable()
from gossipfl.drivers import memory
memory.loaded()
looked_at = gc.isenabled(), len(gc.get_objects()) < gc.get_freeze_count()
memory.seal(int(sys.argv[1]))
status = pathlib.Path("/proc/self/status").read_text()
print(*looked_at, status.partition("THP_enabled:")[2].split()[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux alone")
@pytest.mark.parametrize(("model", "huge"), [(20_000, "0"), (2**24, "1")])
def test_what_is_loaded_is_looked_at_no_more_and_small_nodes_grow_by_small_pages(
    model: int, huge: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(model)], capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == ["True", "True", huge]
