"""Is there room for so many nodes on this machine? Asked before any of them is started, since a swarm that
runs out of something half-way leaves its nodes waiting for each other."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from gossipfl.errors import Problem

#: Open files of a node: without neighbors, for each of them, and, of their parent, for each node: both ends
#: of a line until all are started, and a bell.
FILES, LINE, SIBLING = 60, 7, 3
#: Threads of a node, its own two and ZeroMQ's two, and one more that PyTorch or a task may start.
THREADS: Final = 5
#: Bytes that have to be free for a node: without a model, with what the system holds for it (seen: 12 GB for
#: 1,000 nodes of digits), and as a multiple of its parameters (seen: 10.6).
ALONE, VECTORS = 13_000_000, 11
#: Open files that are asked of the system where it grants them.
WANTED: Final = 65_536


class Limits(NamedTuple):
    """What the system grants; None: no limit, or it does not say."""

    files: int | None = None  # of a process
    threads: int | None = None
    memory: int | None = None  # bytes that are free


def problems(degrees: Sequence[int], parameters: int, limits: Limits) -> list[Problem]:
    """What there is too little of, for nodes with so many neighbors each and a model of so many bytes."""
    n, most = len(degrees), max(degrees, default=0)
    found = []
    files = FILES + LINE * most + SIBLING * n
    if limits.files is not None and files > limits.files:
        need = f"{n} nodes with up to {most} neighbors need {files} open files a process"
        wrong = f"{need}, {limits.files} are allowed"
        found.append(Problem("swarm.nodes", wrong, f"ulimit -n {files}, or fewer nodes or neighbors"))
    threads = THREADS * n
    if limits.threads is not None and threads > limits.threads:
        wrong = f"{n} nodes need {threads} threads, {limits.threads} are allowed"
        right = f"ulimit -u {threads} (kernel.pid_max and the container's pids.max too), or fewer nodes"
        found.append(Problem("swarm.nodes", wrong, right))
    memory = n * (ALONE + VECTORS * parameters)
    if limits.memory is not None and memory > limits.memory:
        wrong = f"{n} nodes need {_gb(memory)} of memory or more, {_gb(limits.memory)} are free"
        found.append(Problem("swarm.nodes", wrong, "fewer nodes, or a smaller model"))
    return found


def limits() -> Limits:
    """What the system grants, once it has been asked for as many open files as it allows."""
    if sys.platform == "win32":
        return Limits()
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(hard, WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    user = resource.getrlimit(resource.RLIMIT_NPROC)[0] if os.geteuid() else resource.RLIM_INFINITY
    threads = [user if user != resource.RLIM_INFINITY else None]
    threads += [_number(f"/proc/sys/kernel/{name}") for name in ("pid_max", "threads-max")]
    threads += [_number("/sys/fs/cgroup/pids.max")]
    held, most = (_number(f"/sys/fs/cgroup/memory.{name}") for name in ("current", "max"))
    memory = [_available(), None if most is None or held is None else max(0, most - held)]
    return Limits(
        files if files != resource.RLIM_INFINITY else None,
        min((t for t in threads if t is not None), default=None),
        min((m for m in memory if m is not None), default=None),
    )


def _available() -> int | None:
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _number(path: str) -> int | None:
    with suppress(OSError, ValueError):  # "max" where there is no limit
        return int(Path(path).read_text())
    return None


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
