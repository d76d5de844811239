"""Node-steps a second of gossipy's simulator beside gossipfl's engines, on the same work.

    python3.11 -m venv /tmp/gossipy && /tmp/gossipy/bin/pip install gossipy-dfl==0.0.1 torchvision pandas
    /tmp/gossipy/bin/python bench/peers/gossipy_steps.py --gossipfl .venv/bin/gossipfl [--nodes 100]

gossipy-dfl does not name all that it imports: torchvision and pandas are installed with it.

Both train the digits perceptron 64-64-10 with batches of 8 by plain SGD on a random graph of degree four,
without evaluations. In gossipy a node that is due sends its model to one neighbor, which averages it with its
own and takes one step (MERGE_UPDATE); in gossipfl a node takes a step and averages with all four. A node-step
is one such step. gossipy runs on one thread, gossipfl's vector engine on all cores.
"""

from __future__ import annotations

import argparse
import logging
import time

import networkx
import torch
from gossipy import LOG, set_seed
from gossipy.core import AntiEntropyProtocol, ConstantDelay, CreateModelMode, StaticP2PNetwork
from gossipy.data import DataDispatcher
from gossipy.data.handler import ClassificationDataHandler
from gossipy.model.handler import TorchModelHandler
from gossipy.model.nn import TorchMLP
from gossipy.node import GossipNode
from gossipy.simul import GossipSimulator
from ours import bench, tell
from sklearn.datasets import load_digits

DELTA = 10  # time steps of a round, in which each node is due once


def steps_per_second(nodes: int, rounds: int) -> float:
    """Of gossipy: a step for each message, one a node and round."""
    set_seed(0)
    digits = load_digits()
    x = torch.tensor(digits.data / 16.0, dtype=torch.float32)
    data = DataDispatcher(
        ClassificationDataHandler(x, torch.tensor(digits.target), test_size=0), n=nodes, eval_on_user=False
    )
    graph = networkx.random_regular_graph(4, nodes, seed=0)
    learner = TorchModelHandler(
        net=TorchMLP(64, 10, (64,)),
        optimizer=torch.optim.SGD,
        optimizer_params={"lr": 0.1},
        criterion=torch.nn.CrossEntropyLoss(),
        local_epochs=0,  # one batch
        batch_size=8,
        create_model_mode=CreateModelMode.MERGE_UPDATE,
    )
    network = StaticP2PNetwork(nodes, topology=networkx.to_numpy_array(graph))
    made = GossipNode.generate(data, network, learner, round_len=DELTA, sync=True)
    simulator = GossipSimulator(made, data, DELTA, AntiEntropyProtocol.PUSH, delay=ConstantDelay(0))
    simulator.init_nodes(seed=0)
    began = time.perf_counter()
    simulator.start(n_rounds=rounds)
    seconds = time.perf_counter() - began
    return nodes * rounds / seconds


def main() -> None:
    """Print a line an engine."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gossipfl", default="gossipfl", help="the command")
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    LOG.setLevel(logging.ERROR)
    size = ("--nodes", str(options.nodes), "--topology", "regular:4")
    for engine in ("vector", "events"):
        peer = steps_per_second(options.nodes, options.rounds)
        rows = bench(options.gossipfl, "--engine", engine, *size)["rows"]
        own = next(row["node_steps_per_second"] for row in rows if "node_steps_per_second" in row)
        tell(f"{options.nodes} nodes, {engine} engine, node-steps/s", peer, own)


if __name__ == "__main__":
    main()
