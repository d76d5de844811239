"""Are predicted round times those of real machines? Eight nodes, each in a network namespace of its own,
whose lines send no faster than told (tc, tbf), and the same config in the event engine.

    sudo -E python bench/network_check.py [--rounds 7]

Prints measured and predicted seconds a round, and ends with 1 where they differ by more than a tenth. Needs
root, ip and tc. A step takes .3 s and a payload is 1 MB, so that a round is mostly bytes under way; what
nodes do besides is measured first, over lines without a limit, and given to the engine as the time of a step.

With steps that take no time real rounds were up to a quarter longer than predicted where every line is
equally busy: connections share a line unevenly, so that payloads of two rounds delay each other.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

import gossipfl
from gossipfl.config.toml import toml_document
from gossipfl.records import read

HERE = Path(__file__).parent
NODES = 8
NAMES = [f"n{i}" for i in range(NODES)]
PORT = 7700
WIDTH = 500  # a layer of WIDTH x WIDTH, float32: 1 MB a payload
STEP = "GOSSIPFL_CHECK_STEP"  # the environment variable with the seconds of a step
NEAR = 0.1  # how far a prediction may be off


class Case(NamedTuple):
    """A graph, and what each node's line sends at, Mbit/s."""

    name: str
    graph: str
    rates: tuple[float, ...]


CASES = (
    Case("ring", "ring", (16.0,) * NODES),
    Case("torus:2x4", "torus:2x4", (24.0,) * NODES),
    Case("ring, one line at a third", "ring", (24.0,) * 3 + (8.0,) + (24.0,) * 4),
    Case("star", "star", (32.0,) * NODES),
)


def task() -> gossipfl.Task:
    """A layer that is trained as slowly as the environment says."""

    def loss(output: Tensor, target: Tensor) -> Tensor:
        time.sleep(float(os.environ.get(STEP, "0")))
        return torch.nn.functional.mse_loss(output, target)

    data = TensorDataset(torch.zeros(NODES, WIDTH), torch.zeros(NODES, WIDTH))
    return gossipfl.Task("slow", lambda: torch.nn.Linear(WIDTH, WIDTH), data, data, loss, {})


def command(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


class Machines:
    """Namespaces on one bridge; all is unmade on leaving."""

    def __init__(self) -> None:
        self._id, self._undo = uuid.uuid4().hex[:6], ExitStack()

    def __enter__(self) -> Machines:
        with ExitStack() as stack:
            for name in ("hub", *NAMES):
                command("ip", "netns", "add", self.space(name))
                stack.callback(command, "ip", "netns", "del", self.space(name))
            command(*self.inside("hub"), *("ip", "link", "add", "name", "hub", "type", "bridge"))
            command(*self.inside("hub"), *("ip", "link", "set", "hub", "up"))
            for i, name in enumerate(NAMES):
                pair = f"ip link add eth type veth peer name {name} netns {self.space('hub')}"
                command(*self.inside(name), *pair.split())
                command(*self.inside("hub"), *f"ip link set {name} master hub up".split())
                command(*self.inside(name), *f"ip addr add 10.78.0.{i + 1}/24 dev eth".split())
                for device in ("eth", "lo"):
                    command(*self.inside(name), *f"ip link set {device} up".split())
            self._undo = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._undo.close()

    def space(self, name: str) -> str:
        return f"gfl-{self._id}-{name}"

    def inside(self, name: str) -> list[str]:
        return ["ip", "netns", "exec", self.space(name)]

    def limit(self, name: str, rate: float) -> None:
        """What a machine sends is no faster than so many Mbit/s; 0: as fast as it goes."""
        subprocess.run(
            [*self.inside(name), *("tc", "qdisc", "del", "dev", "eth", "root")], capture_output=True
        )
        if rate:
            shape = f"tc qdisc add dev eth root tbf rate {rate}mbit burst 64kb latency 200ms"
            command(*self.inside(name), *shape.split())


def config(case: Case, rounds: int) -> dict[str, Mapping[str, object]]:
    return {
        "swarm": {"rounds": rounds, "eval_every": rounds},
        "topology": {"graph": case.graph},
        "train": {"task": "network_check:task", "batch": 1},
        "data": {"partition": "iid"},
        "security": {"encrypt": "off", "allow_plaintext": True},
    }


def measured(machines: Machines, case: Case, rates: tuple[float, ...], rounds: int) -> float:
    """Seconds a round of real nodes."""
    for name, rate in zip(NAMES, rates, strict=True):
        machines.limit(name, rate)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "swarm.toml"
        nodes = [{"name": name, "address": f"10.78.0.{i + 1}:{PORT}"} for i, name in enumerate(NAMES)]
        file.write_text(toml_document(config(case, rounds), node=nodes))
        run = [sys.executable, "-c", "from gossipfl.cli import main; main()", "node", str(file)]
        with (Path(folder) / "log.txt").open("wb") as log, ExitStack() as stack:
            started = []
            for name in NAMES:
                words = [*machines.inside(name), *run, "--name", name, "--out", f"{folder}/{name}"]
                environment = {**os.environ, "OMP_NUM_THREADS": "1", STEP: "0.3"}
                started.append(subprocess.Popen(words, env=environment, stdout=log, stderr=log, cwd=HERE))
                stack.callback(started[-1].kill)
            if max(process.wait(timeout=600) for process in started):
                raise SystemExit(Path(log.name).read_text())
        logs = {name: Path(folder) / name / "records" / f"{name}.jsonl" for name in NAMES}
        return statistics.median(pace([dict(r) for r in read(path)]) for path in logs.values())


def pace(records: list[dict[str, object]]) -> float:
    """Seconds a round in a node's records, but for the first two: the lines have just been opened."""
    times = [float(str(r["time"])) for r in records if r["kind"] == "round"]
    return (times[-1] - times[1]) / (len(times) - 2)


def predicted(case: Case, rounds: int, compute: float) -> float:
    """The same of the event engine."""
    with tempfile.TemporaryDirectory() as folder:
        uploads = Path(folder) / "upload.csv"
        uploads.write_text("\n".join(map(str, case.rates)) + "\n")
        network = {"upload": str(uploads), "latency": 0.0001, "compute": compute}
        result = gossipfl.simulate({**config(case, rounds), "network": network}, engine="events")
    return statistics.median(
        pace([dict(r) for r in result.records if r["node"] == node]) for node in range(NODES)
    )


def main() -> None:
    """Print a line a case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    if os.geteuid() or not (shutil.which("ip") and shutil.which("tc")):
        raise SystemExit("network namespaces need root, and the commands ip and tc")
    off = 0
    os.chdir(HERE)
    print(f"{'seconds a round':28s} {'besides':>8s} {'measured':>9s} {'predicted':>10s}")
    with Machines() as machines:
        for case in CASES:
            besides = measured(machines, case, (0.0,) * NODES, rounds)
            real = measured(machines, case, case.rates, rounds)
            said = predicted(case, rounds, besides)
            off += abs(said / real - 1) > NEAR
            line = f"{besides:8.3f} {real:9.3f} {said:10.3f}  {100 * (said / real - 1):+.1f} %"
            print(f"{case.name:28s} {line}", flush=True)
    raise SystemExit(1 if off else 0)


if __name__ == "__main__":
    main()
