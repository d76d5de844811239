"""Bare ZeroMQ: processes on a graph that move bytes over its edges, round by round, and do nothing else.

This is what the machine's sockets can do, the limit beside which a swarm is measured: a payload goes to every
neighbour in chunks without a copy, then one of each is received and dropped. No header, no learning, no sum.

With shared memory nothing has to move, so there the limit is the sum itself: every process tells its
neighbours in an empty message that its payload is there, and averages theirs and its own into another slot.

Run as a program of its own (`python -c "from gossipfl.transport.bare import main; main()"`), it reads a
`Job` as one line of JSON on standard input, forks the processes and answers with a line of JSON.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import time
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Final, NamedTuple

import numpy as np
import zmq
from numpy.typing import NDArray

Socket = zmq.Socket[bytes]
Slots = NDArray[np.float32]


class Job(NamedTuple):
    """What moves: `size` bytes over each edge in each direction and round, in chunks of `chunk`."""

    nodes: int
    edges: list[tuple[int, int]]
    size: int
    chunk: int
    rounds: int
    warm: int  # rounds before the clock starts
    folder: str  # for the sockets of ipc; empty: tcp
    shared: bool = False  # payloads are float32 in shared memory


def main() -> None:
    """Serve one job; the answer is `{"seconds": S, "cpu": C}` for `rounds` rounds: seconds (the median of the
    processes) and processor seconds (the mean)."""
    job = Job(**json.loads(sys.stdin.readline()))
    memory = np.frombuffer(mmap.mmap(-1, max(4, 2 * job.nodes * job.size)), np.float32)
    slots = memory[: 2 * job.nodes * (job.size // 4)].reshape(2, job.nodes, -1) if job.shared else None
    lines: list[Connection] = []
    children = []
    for node in range(job.nodes):
        ours, theirs = Pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                _live(job, node, theirs, slots)
                code = 0
            finally:
                os._exit(code)
        theirs.close()
        lines.append(ours)
        children.append(pid)
    addresses = {key: address for line in lines for key, address in line.recv()}
    for line in lines:
        line.send(addresses)
    spent = [line.recv() for line in lines]
    for pid in children:
        os.waitpid(pid, 0)
    seconds = sorted(wall for wall, _ in spent)[len(spent) // 2]
    print(json.dumps({"seconds": seconds, "cpu": sum(cpu for _, cpu in spent) / len(spent)}), flush=True)


#: Elements that are averaged at a time.
BLOCK: Final = 131_072


def _average(slots: Slots, rows: list[int], into: Slots) -> None:
    """The mean of some rows."""
    weight = np.float32(1 / len(rows))
    term = np.empty(min(BLOCK, len(into)), np.float32)
    for at in range(0, len(into), BLOCK):
        total = into[at : at + BLOCK]
        product = term[: len(total)]
        np.multiply(slots[rows[0], at : at + BLOCK], weight, out=total)
        for row in rows[1:]:
            np.multiply(slots[row, at : at + BLOCK], weight, out=product)
            total += product


def _live(job: Job, node: int, control: Connection, slots: Slots | None) -> None:
    context: zmq.Context[Socket] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, 65_536)
    sockets: dict[int, Socket] = {}
    bound = []
    for low, high in job.edges:
        if node in (low, high):
            socket = sockets[low + high - node] = context.socket(zmq.PAIR)
            socket.setsockopt(zmq.SNDHWM, 0)
            socket.setsockopt(zmq.RCVHWM, 0)
            if node == high:
                socket.bind(f"ipc://{job.folder}/{low}-{high}" if job.folder else "tcp://127.0.0.1:*")
                bound.append(((low, high), socket.getsockopt_string(zmq.LAST_ENDPOINT)))
    control.send(bound)
    addresses = control.recv()
    for peer, socket in sockets.items():
        if node < peer:
            socket.connect(addresses[node, peer])
    payload = memoryview(bytearray(0 if job.shared else job.size))
    chunks = [payload[at : at + job.chunk] for at in range(0, max(len(payload), 1), job.chunk)]
    near = sorted([node, *sockets])
    ordered = [sockets[peer] for peer in sorted(sockets)]
    begun = used = 0.0
    for round in range(-job.warm, job.rounds):
        if round == 0:
            begun, used = time.monotonic(), time.process_time()
        for socket in ordered:
            for chunk in chunks:
                socket.send(chunk, copy=False)
        for socket in ordered:
            for _ in chunks:
                socket.recv(copy=False)
        if slots is not None:
            _average(slots[round % 2], near, slots[(round + 1) % 2, node])
    control.send((time.monotonic() - begun, time.process_time() - used))
    context.destroy(linger=None)
