"""How far apart do beats come on this machine? Processes that each run a keeper and nothing else (idle), or
whose training thread computes without end (busy), on a graph of degree four.

    python bench/beat_gaps.py [--nodes 8 32 256] [--seconds 20] [--beat 0.25]

Prints, for each number of nodes, the gaps between two beats of one neighbor as they are heard, and between
two own beats as they are sent, both in beats: median, 99 %, 99.99 % and the longest. The time-outs of
`gossipfl/core/membership.py` are set from this table (docs/faults.md).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import traceback
from collections import defaultdict
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import cast

import numpy as np
import torch
import zmq

from gossipfl.core.membership import Health, together
from gossipfl.transport.keeper import Keeper
from gossipfl.transport.signs import Signs
from gossipfl.transport.wire import Beat
from gossipfl.transport.zeromq import ZeroMQ

DEGREE = 4
SETTLE = 1.0  # seconds that do not count, at the start


class Heard(Signs):
    """Signs that remember when each came."""

    def __init__(self, health: Health) -> None:
        super().__init__(health)
        self.times: dict[int, list[float]] = defaultdict(list)

    def beat(self, peer: int, beat: Beat) -> None:
        self.times[peer].append(time.monotonic())
        super().beat(peer, beat)


class Ticks(Health):
    """Health that remembers its own beats."""

    def __init__(self, beat: float) -> None:
        super().__init__(beat)
        self.times: list[float] = []
        self.scores: list[int] = []

    def tick(self, now: float) -> None:
        super().tick(now)
        self.times.append(now)
        self.scores.append(self.score)


def live(node: int, n: int, folder: str, beat: float, busy: bool, control: Connection) -> None:
    """One node, from fork to end."""
    health = Ticks(beat)
    signs = Heard(health)
    reach = range(1, DEGREE // 2 + 1)
    near = {(node + k) % n for k in reach} | {(node - k) % n for k in reach}
    lines = SimpleNamespace(signs=signs, context=zmq.Context(1))  # there is nothing on them here
    with Keeper(node, f"ipc://{folder}/{node}", cast(ZeroMQ, lines), beat, health) as keeper:
        control.send(None)
        control.recv()
        keeper.follow({j: f"ipc://{folder}/{j}" for j in near - {node}})
        a, round = torch.randn(200, 200), 0
        while not control.poll(0 if busy else None):
            round += 1
            keeper.at(round, training=True)
            a = torch.tanh(a @ a)
        control.recv()
    gaps = [np.diff(times) for times in signs.times.values() if len(times) > 1]
    control.send(
        (np.concatenate(gaps) if gaps else np.zeros(0), np.diff(health.times), max(health.scores, default=0))
    )


def measure(n: int, seconds: float, beat: float, busy: bool) -> str:
    """One line of the table."""
    beat = together(beat, 0.0, n, os.cpu_count() or 1).beat
    with tempfile.TemporaryDirectory(prefix="gossipfl-") as folder:
        lines: list[Connection] = []
        children = []
        for node in range(n):
            ours, theirs = Pipe()
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    for line in lines:
                        line.close()
                    torch.set_num_threads(1)
                    live(node, n, folder, beat, busy, theirs)
                    code = 0
                except Exception:
                    traceback.print_exc()
                finally:
                    os._exit(code)
            theirs.close()
            lines.append(ours)
            children.append(pid)
        for line in lines:
            line.recv()
        for line in lines:
            line.send(None)
        time.sleep(max(seconds, 20 * beat))
        for line in lines:
            line.send(None)
        found = [line.recv() for line in lines]
        for pid in children:
            os.waitpid(pid, 0)
    heard, own = (np.concatenate([f[k] for f in found]) / beat for k in (0, 1))
    cells = [f"{n:5d} {'busy' if busy else 'idle'} {beat:6.2f} s"]
    for gaps in (heard, own):
        q = [np.quantile(gaps, p) for p in (0.5, 0.99, 0.9999, 1.0)] if len(gaps) else [np.nan] * 4
        cells.append("  ".join(f"{v:6.2f}" for v in q))
    return "   ".join([*cells, f"{max(f[2] for f in found)}", f"{len(heard):,}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--nodes", type=int, nargs="+", default=[8, 32, 256])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--beat", type=float, default=0.25)
    parser.add_argument("--kinds", nargs="+", default=["idle", "busy"])
    options = parser.parse_args()
    quantiles = "50 %  99 %  99.99 %  max"
    print(f"nodes      beat     heard: {quantiles}     own: {quantiles}   worst score   beats")
    for n in options.nodes:
        for kind in options.kinds:
            print(measure(n, options.seconds, options.beat, kind == "busy"), flush=True)


if __name__ == "__main__":
    main()
