"""How much memory nodes with a big model take: python bench/big_model.py [--parameters 100000000]

Real nodes on a ring train a network of so many parameters by plain SGD, two samples a step, and average it,
cast to bfloat16 on the wire. Told are the largest amounts that were seen, every 0.1 s, of a node's own memory
(USS) and of all nodes with what they share (the sum of PSS, divided by the nodes), in models of float32.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

import gossipfl
from gossipfl.config import Config, load_config
from gossipfl.drivers.bench.usage import memory
from gossipfl.drivers.swarm import Swarm

INPUTS, CLASSES, BATCH = 1024, 10, 2


def task(parameters: int) -> gossipfl.Task:
    """Layers as wide as they must be for about so many parameters, on data that nobody can learn."""
    outer = INPUTS + CLASSES + 2
    width = round((outer**2 / 4 + parameters) ** 0.5 - outer / 2)

    def model() -> torch.nn.Module:
        return torch.nn.Sequential(
            *(torch.nn.Linear(INPUTS, width), torch.nn.ReLU(), torch.nn.Linear(width, width)),
            *(torch.nn.ReLU(), torch.nn.Linear(width, CLASSES)),
        )

    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, INPUTS, generator=draw), torch.randint(CLASSES, (64,), generator=draw)
    data = TensorDataset(x, y)
    return gossipfl.Task("big", model, data, data, cross_entropy, {})


def asked(options: argparse.Namespace) -> Config:
    """The run."""
    return load_config(
        {
            "swarm": {"nodes": options.nodes, "rounds": options.rounds, "eval_every": options.rounds},
            "topology": {"graph": "ring"},
            "train": {"task": "big_model:task", "batch": BATCH, "lr": 0.001, "device": "cpu"},
            "task": {"parameters": options.parameters},
            "data": {"partition": "iid"},
            "wire": {"dtype": options.wire, "transport": options.transport},
        }
    )


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parameters", type=int, default=100_000_000)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--wire", default="bfloat16", help="wire.dtype")
    parser.add_argument("--transport", default="auto", help="wire.transport")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    own = together = 0.0
    pids, summary = list[int](), dict[str, object]()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Swarm(asked(options), Path(folder)) as running:
        for word in running.words(0.1):
            if word is None:
                each = [held for pid in pids if (held := memory([pid])) is not None]
                own = max([own, *(held.private for held in each)])
                together = max(together, sum(held.proportional for held in each))
                continue
            started, told = word.get("started"), word.get("summary")
            pids = started if isinstance(started, list) else pids
            summary = dict(told) if isinstance(told, dict) else summary
            if "error" in word or "problems" in word or "lost" in word:
                raise SystemExit(str(word))
    size = 4 * sum(p.numel() for p in task(options.parameters).model().parameters())
    found = {
        "nodes": options.nodes,
        "parameters": size // 4,
        "wire": options.wire,
        "transport": options.transport,
        "rounds": options.rounds,
        "finished": summary["finished"],
        "round_seconds": summary["round_seconds"],
        "seconds": time.monotonic() - began,
        "private_mb_node": own / 1e6,
        "pss_mb_node": together / options.nodes / 1e6,
        "private_models": own / size,
        "pss_models": together / options.nodes / size,
    }
    if options.json:
        print(json.dumps(found))
        return
    print(f"{options.nodes} nodes on a ring, {size // 4:,} parameters, {options.wire} on the wire")
    print(f"a node's own memory at most: {found['private_mb_node']:,.0f} MB, {own / size:.1f} models")
    print(
        f"with its share of what is shared: {found['pss_mb_node']:,.0f} MB, {found['pss_models']:.1f} models"
    )
    print(f"a round takes {summary['round_seconds']:.1f} s")


if __name__ == "__main__":
    main()
