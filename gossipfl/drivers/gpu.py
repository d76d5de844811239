"""`train.device = "auto"` where nodes are forked.

A backward pass starts a thread for each GPU that PyTorch sees, and a process that has threads cannot be
forked. So the zygote does not see any; if it then finds that steps are long enough for a GPU, and there is
one, it begins again as a process that sees them, and spawns its nodes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from gossipfl.learning.workload import Workload

#: What hides GPUs from a process, and where a zygote that begins again finds its job.
VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
JOB: Final = "GOSSIPFL_JOB"

_LOOK: Final = "import sys, torch; sys.exit(not torch.cuda.is_available())"


def pays(job: Mapping[str, Any], load: Workload) -> bool:
    """Should the nodes of this job be on a GPU, which this process does not see?"""
    import torch

    if job["config"]["train"]["device"] != "auto" or torch.version.cuda is None or not load.long():
        return False
    return subprocess.run([sys.executable, "-c", _LOOK], env=_seeing(job), check=False).returncode == 0


def again(job: Mapping[str, Any], output: int) -> None:
    """This process from its start, with GPUs. output: the file that was its standard output."""
    job["config"]["train"]["device"] = "cuda"
    os.dup2(output, 1)
    os.execve(sys.executable, sys.orig_argv, {**_seeing(job), JOB: json.dumps(job)})


def _seeing(job: Mapping[str, Any]) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name != VISIBLE}
    return environment if job["gpus"] is None else {**environment, VISIBLE: job["gpus"]}
