"""How much memory a small device needs for one node: python bench/small_device.py [--parameters 50000]

Real `gossipfl node` processes on the loopback, each as on a device of its own, exchange and train a while.
Told is what a node holds alone (USS) over what a bare `import torch` holds, looked at in the same moment; and
the same of all that it has in memory (RSS), which counts pages of files too that others have as well.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import mean

from gossipfl.config.toml import toml_document
from gossipfl.drivers.bench.tasks import hidden
from gossipfl.drivers.bench.usage import memory
from gossipfl.records import number, scan

GOSSIPFL = str(Path(sysconfig.get_path("scripts")) / "gossipfl")
BARE = "import sys, torch\nprint('there', flush=True)\nsys.stdin.read()"
#: Rounds that a node makes until it is looked at again, and how often it is looked at.
ROUNDS, LOOKS = 200, 3
#: Seconds within which they have to make them.
PATIENCE = 200.0


def ports(count: int) -> list[int]:
    """Ports that are free now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def config(nodes: int, parameters: int, trains: bool) -> str:
    """The file that all nodes have."""
    task = {"units": hidden(parameters)} if trains else {"dimension": parameters}
    name = "gossipfl.drivers.bench.tasks:perceptron" if trains else "consensus"
    return toml_document(
        {
            "swarm": {"rounds": 1_000_000, "eval_every": 1_000_000},
            "train": {"task": name, "batch": 8, "threads": 1, "device": "cpu"},
            "task": task,
            "data": {"partition": "iid"},
        },
        node=[{"name": f"device-{k}", "address": f"127.0.0.1:{port}"} for k, port in enumerate(ports(nodes))],
    )


@contextmanager
def process(*line: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A program in a folder, interrupted on leaving."""
    running = subprocess.Popen(
        line, cwd=folder, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        yield running
    finally:
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=60)


def resident(pid: int) -> float:
    """Bytes in memory, whoever else has them."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def private(pid: int) -> float:
    """Bytes that nobody else has."""
    found = memory([pid])
    if found is None:
        raise SystemExit("the system does not tell what a process holds (/proc)")
    return found.private


def measure(nodes: int, parameters: int, trains: bool, rounds: int = ROUNDS) -> dict[str, float]:
    """MB of a node over bare torch, mean over nodes, the last time that they are looked at: held alone, at
    most of all times, and in memory at all; what bare torch holds; how many rounds they have made."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "swarm.toml").write_text(config(nodes, parameters, trains))
        bare = stack.enter_context(process(sys.executable, "-c", BARE, folder=folder))
        assert bare.stdout is not None and bare.stdout.readline() == "there\n"
        running = []
        for k in range(nodes):
            line = (GOSSIPFL, "node", "swarm.toml", "--name", f"device-{k}", "--out", f"run-{k}")
            running.append(stack.enter_context(process(*line, folder=folder)))
        looks: list[float] = []
        for look in range(1, LOOKS + 1):
            made = _until(running, folder, rounds * look)
            base = private(bare.pid)
            looks.append(mean(private(one.pid) for one in running) - base)
        whole = mean(resident(one.pid) for one in running) - resident(bare.pid)
        return {
            "private_mb": looks[-1] / 1e6,
            "private_mb_most": max(looks) / 1e6,
            "resident_mb": whole / 1e6,
            "torch_mb": base / 1e6,
            "rounds": made,
        }


def _until(running: list[subprocess.Popen[str]], folder: Path, rounds: float) -> float:
    """Wait until every node has written down so many rounds; how many it is."""
    deadline = time.monotonic() + PATIENCE
    while True:
        made = min(_last(folder / f"run-{k}") for k in range(len(running)))
        if made >= rounds:
            return made
        for one in running:
            if one.poll() is not None or time.monotonic() > deadline:
                one.send_signal(signal.SIGINT)
                raise SystemExit(f"a node does not go on: {one.communicate()[0]}")
        time.sleep(0.2)


def _last(folder: Path) -> float:
    """The last round that a node has made, as far as it has written it down."""
    return max((number(record["round"]) for record in scan(folder)), default=0.0)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parameters", type=int, default=50_000)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds between two looks")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = {
        name: measure(options.nodes, options.parameters, trains, options.rounds)
        for name, trains in (("exchanges", False), ("trains", True))
    }
    if options.json:
        print(json.dumps(found))
        return
    for name, row in found.items():
        print(
            f"a node that {name}: {row['private_mb']:.1f} MB over bare torch (at most "
            f"{row['private_mb_most']:.1f}), {row['resident_mb']:.1f} with shared pages; "
            f"torch {row['torch_mb']:.0f}; {row['rounds']:.0f} rounds"
        )


if __name__ == "__main__":
    main()
