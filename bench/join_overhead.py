"""What joining costs a training loop: python bench/join_overhead.py [--batch 256] [--local-steps 20] [--json]

Nodes in processes of their own, one PyTorch thread each, train a network of five million parameters, by turns
as a bare loop and joined (dpsgd, a ring over loopback TCP, float32). Both are timed from a barrier of all
processes to the next, so that the bare loop shares its cores as the joined one does; meeting and parting are
not counted. The ratio is the median over pairs of joined / bare: of the time on the wall, and of the
processor time of all nodes, which other programs on the machine disturb less.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import socket
import statistics
import tempfile
import time
from contextlib import ExitStack, nullcontext
from multiprocessing.synchronize import Barrier
from typing import Any

import torch
from torch import nn

import gossipfl


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, batch: int) -> None:
    """The bare loop."""
    x, y = torch.randn(batch, 1024), torch.randint(10, (batch,))
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def node(index: int, options: argparse.Namespace, swarms: list[Any], barrier: Barrier, tell: Any) -> None:
    """One process: bare and joined by turns."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(1024, 2048), nn.ReLU(), nn.Linear(2048, 1400), nn.ReLU(), nn.Linear(1400, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    steps = options.rounds * options.local_steps
    train(model, optimizer, 3, options.batch)
    for swarm in swarms:
        for joined in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                context: Any = nullcontext()
                if joined:
                    context = gossipfl.join(swarm, model, optimizer, name=f"n{index}", out=f"{folder}/out")
                with context:
                    barrier.wait()
                    began, used = time.perf_counter(), time.process_time()
                    train(model, optimizer, steps, options.batch)
                    used = time.process_time() - used
                    barrier.wait()
                    tell.send((joined, time.perf_counter() - began, used))


def ports(count: int) -> list[int]:
    """Ports that are free now."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


def main() -> None:
    """Measure, and print the ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("nodes", 4), ("local-steps", 20), ("rounds", 3), ("batch", 256), ("pairs", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    swarms = [
        {
            "swarm": {"rounds": options.rounds + 1},  # none of them is the last, with its goodbyes
            "algorithm": {"local_steps": options.local_steps},
            "node": [
                {"name": f"n{i}", "address": f"127.0.0.1:{p}"} for i, p in enumerate(ports(options.nodes))
            ],
        }
        for _ in range(options.pairs)
    ]
    context = multiprocessing.get_context("spawn")
    barrier, (hear, tell) = context.Barrier(options.nodes), context.Pipe(duplex=False)
    processes = [
        context.Process(target=node, args=(i, options, swarms, barrier, tell)) for i in range(options.nodes)
    ]
    for process in processes:
        process.start()
    wall: dict[bool, list[float]] = {False: [], True: []}
    cpu: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(2 * options.pairs):
        told = [hear.recv() for _ in processes]
        assert {joined for joined, _, _ in told} == {turn % 2 == 1}
        wall[told[0][0]].append(max(took for _, took, _ in told) / options.rounds)
        cpu[told[0][0]].append(sum(used for _, _, used in told) / options.rounds)
    for process in processes:
        process.join()
    ratios = [joined / bare for bare, joined in zip(wall[False], wall[True], strict=True)]
    result = {
        "nodes": options.nodes,
        "local_steps": options.local_steps,
        "batch": options.batch,
        "bare_seconds_round": statistics.median(wall[False]),
        "joined_seconds_round": statistics.median(wall[True]),
        "ratios": ratios,
        "ratio": statistics.median(ratios),
        "cpu_ratio": statistics.median(j / b for b, j in zip(cpu[False], cpu[True], strict=True)),
        "cpu_seconds_exchange_node": (statistics.median(cpu[True]) - statistics.median(cpu[False]))
        / options.nodes,
    }
    if options.json:
        print(json.dumps(result))
        return
    print(f"{options.nodes} nodes, {options.local_steps} steps of {options.batch} samples a round")
    print(f"bare   {result['bare_seconds_round']:.3f} s a round")
    print(f"joined {result['joined_seconds_round']:.3f} s a round")
    print(f"ratio  {result['ratio']:.3f}  (pairs: {', '.join(f'{r:.3f}' for r in ratios)})")
    print(f"ratio of processor time {result['cpu_ratio']:.3f}")
    print(f"an exchange costs a node {result['cpu_seconds_exchange_node']:.3f} s of processor time")


if __name__ == "__main__":
    main()
