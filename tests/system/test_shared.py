"""Shared memory between the nodes of a swarm: who has it, and that nothing of it is left."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.system.conftest import Start, Until

SHARED = "/dev/zero (deleted)"  # as Linux calls an anonymous mapping that is shared


def shares(pid: int) -> bool:
    maps = Path(f"/proc/{pid}/maps").read_text()
    assert "/dev/shm" not in maps  # that would have a name, and outlive whoever made it
    return SHARED in maps


@pytest.mark.parametrize(("transport", "shared"), [("auto", True), ("shm", True), ("ipc", False)])
def test_after_sigkill_nothing_is_left_of_the_memory(
    transport: str, shared: bool, start: Start, until: Until
) -> None:
    running = start("swarm", "--rounds", "100000", "--set", f"wire.transport={transport}")
    until(lambda: running.reached(20), "round 20")
    nodes = running.nodes()

    assert {shares(pid) for pid in nodes} == {shared}

    for pid in [*running.others(), running.process.pid]:
        os.kill(pid, signal.SIGKILL)
    running.process.wait()
    until(lambda: not running.others(), "all are gone, and the memory with them")
