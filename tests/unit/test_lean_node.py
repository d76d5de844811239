"""What a process that is one node does not load."""

from __future__ import annotations

import subprocess
import sys

#: Each of them costs a node megabytes that it has no use for.
UNUSED = ("scipy", "networkx", "matplotlib")


def test_a_node_on_a_ring_loads_no_solvers_trees_or_plots() -> None:
    code = f"""
import sys
from gossipfl.config import load_config
from gossipfl.drivers import lan, resuming
from gossipfl.drivers.plan import plan
from gossipfl.learning.workload import workload

config = load_config()
made = plan(config)
made.rows(0)(0), made.near(0), workload(config).learner(0).phase(0)
print(*(name for name in {UNUSED!r} if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
