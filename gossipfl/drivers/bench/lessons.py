"""Node-steps a second of the event engine, beside plain PyTorch that trains the same models in turn.

The work: the digits perceptron (64-64-10), batch 8, one step and one averaging a round, over lines with
latency and losses, between nodes that go away and come back. The limit averages nothing and sends nothing:
each node's model, its own optimizer, autograd.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import torch
from torch.utils.data import TensorDataset

from gossipfl.config import load_config
from gossipfl.drivers import virtual
from gossipfl.drivers.bench.steps import BATCH, RATE, task_of
from gossipfl.drivers.bench.turns import Pace, Row, Say, Watch, ratios, turns
from gossipfl.drivers.plan import plan
from gossipfl.learning.task import Task
from gossipfl.learning.workload import workload
from gossipfl.records import Record

#: Rounds before the clock starts: the engine finds out what it may compute together.
WARM: Final = 6
#: What makes the nodes' time uneven: seconds, and the share of lost packets.
NETWORK: Final = {
    "latency": "lognormal:0.02,0.5",
    "loss": 0.01,
    "compute": "lognormal:0.05,0.2",
    "uptime": "exponential:60",
    "downtime": "exponential:2",
}


@dataclass(frozen=True)
class Case:
    """What is measured; `rounds` after the first ones."""

    nodes: int = 1000
    graph: str = "regular:4"
    rounds: int = 10
    turns: int = 3


@dataclass
class _Clock:
    """Runs from a node's round to a later one, counted over all nodes."""

    first: int
    last: int
    seen: int = 0
    watch: Watch = field(default_factory=Watch)
    pace: Pace = field(default_factory=lambda: Pace(0.0))

    def __call__(self, record: Record) -> None:
        if record["kind"] != "round":
            return
        self.seen += 1
        if self.seen == self.first:
            self.watch = Watch()
        elif self.seen == self.last:
            self.pace = self.watch.pace(self.last - self.first)


class InTurn:
    """n models, each with an optimizer of its own."""

    def __init__(self, task: Task, n: int) -> None:
        assert isinstance(task.train, TensorDataset)
        self.task, (self.inputs, self.targets) = task, task.train.tensors
        self.models = [task.model() for _ in range(n)]
        self.optimizers = [torch.optim.SGD(model.parameters(), lr=RATE) for model in self.models]

    def steps(self, rounds: int) -> Pace:
        """Node-steps a second."""
        batches = torch.randint(len(self.inputs), (rounds, len(self.models), BATCH))
        begun = Watch()
        for rows in batches:
            for model, optimizer, batch in zip(self.models, self.optimizers, rows, strict=True):
                optimizer.zero_grad()
                inputs, targets = self.inputs[batch], self.targets[batch]
                self.task.loss(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        return begun.pace(rounds * len(self.models))


def measure(case: Case, say: Say) -> Row:
    """Both figures and their ratio. Raises ConfigError for a graph that is none."""
    n, task = case.nodes, task_of(case.nodes)
    rounds = WARM + case.rounds + 1  # in the last one models are evaluated
    config = load_config(
        {
            "swarm": {"nodes": n, "rounds": rounds, "eval_every": rounds},
            "topology": {"graph": case.graph},
            "train": {"lr": RATE, "batch": BATCH, "device": "cpu"},
            "data": {"partition": "iid"},
            "network": NETWORK,
        }
    )
    load = workload(config, task)
    made, in_turn = plan(config, load.sizes), InTurn(task, n)

    def engine() -> Pace:
        clock = _Clock(n * WARM, n * (rounds - 1))
        virtual.run(made, load, clock)
        return clock.pace

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    say(f"learning of {n} nodes")
    try:
        ways = {"engine": engine, "limit": lambda: in_turn.steps(max(1, case.rounds // 2))}
        found = turns(ways, case.turns, lambda text: say(f"learning of {n} nodes: {text}"))
    finally:
        torch.set_num_threads(threads)
    return {
        "what": "learning",
        "nodes": n,
        "topology": case.graph,
        "parameters": load.d,
        "batch": BATCH,
        "rounds": case.rounds,
        "turns": case.turns,
        **ratios(found["engine"], found["limit"], "node_steps_per_second"),
    }
