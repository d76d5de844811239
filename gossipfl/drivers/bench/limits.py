"""What the machine can do without gossipfl: bare sockets, a plain copy, plain PyTorch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch.utils.data import TensorDataset

from gossipfl.drivers.bench.tasks import perceptron
from gossipfl.drivers.bench.turns import Pace, calls
from gossipfl.drivers.machine import cores
from gossipfl.drivers.swarm import MEMORY, scratch_folder
from gossipfl.errors import GossipError
from gossipfl.transport.wire import CHUNK

_PROGRAM: Final = "import sys; sys.path[:] = sys.argv[1:]; from gossipfl.transport.bare import main; main()"


def bare_rounds(nodes: int, edges: Sequence[tuple[int, int]], size: int, transport: str, rounds: int) -> Pace:
    """Rounds a second of bare processes that send `size` bytes over each edge, both ways (`shm`: that average
    so many from each neighbor's memory); of a process, a second of processor time."""
    scratch = scratch_folder()
    job = {
        "nodes": nodes,
        "edges": [list(edge) for edge in edges],
        "size": size,
        "chunk": CHUNK,
        "rounds": rounds,
        "warm": max(1, rounds // 6),
        "folder": "" if transport == "tcp" else str(scratch),
        "shared": transport == "shm",
    }
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _PROGRAM, *(str(Path(entry).absolute()) for entry in sys.path)],
            input=json.dumps(job) + "\n",
            capture_output=True,
            text=True,
            env={**MEMORY, **os.environ},  # as the nodes have it: new memory costs as much as filling it
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise GossipError(f"the bare processes ended: {last}")
    spent = json.loads(done.stdout)
    return Pace(rounds / float(spent["seconds"]), rounds / max(float(spent["cpu"]), 1e-9))


def copied_bytes(size: int) -> float:
    """Bytes a second that one thread copies, `size` at a time (read and written, counted once)."""
    source, target = np.ones(max(size, 1), np.uint8), np.empty(max(size, 1), np.uint8)
    return size * calls(lambda: np.copyto(target, source), 0.1).wall


def plain_step(units: int, batch: int, steps: int = 0) -> float:
    """Seconds of one optimiser step of the digits perceptron in plain PyTorch on one thread."""
    task = perceptron(units)
    assert isinstance(task.train, TensorDataset)
    inputs, targets = task.train.tensors
    model = task.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    places = torch.randint(len(inputs), (16, batch))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    done, begun = 0, time.perf_counter()
    try:
        while done < steps or time.perf_counter() - begun < 0.3:
            rows = places[done % len(places)]
            optimizer.zero_grad()
            task.loss(model(inputs[rows]), targets[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            done += 1
    finally:
        torch.set_num_threads(threads)
    return (time.perf_counter() - begun) / done


def training_rounds(nodes: int, step: float, bare: float) -> float:
    """Rounds a second if training and sockets took the processors in turns and nothing else did: `nodes`
    steps shared by the cores, then a bare round."""
    return 1 / (step * max(1.0, nodes / cores()) + 1 / bare)
