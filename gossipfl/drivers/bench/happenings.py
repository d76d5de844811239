"""Events a second of the event engine, beside a bare heap with a toy machine.

The work: nodes that train nothing and average vectors. An event is the end of a local phase or the arrival of
a payload; greetings and goodbyes are not counted. The limit has no sessions, no faults, no records; its
machine counts who has arrived, and averages the same vectors when all are there.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gossipfl.config import load_config
from gossipfl.drivers import virtual
from gossipfl.drivers.bench.turns import Pace, Row, Say, Watch, ratios, turns
from gossipfl.drivers.plan import neighbors, plan
from gossipfl.learning.workload import workload

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """What is measured."""

    nodes: int = 1000
    graph: str = "regular:4"
    parameters: int = 1000
    rounds: int = 20
    turns: int = 3


def toy(near: list[tuple[int, ...]], rounds: int, parameters: int) -> int:
    """Runs all rounds on a heap; how many events that took."""
    n = len(near)
    x = [np.full(parameters, node, np.float32) for node in range(n)]
    heap: list[tuple[float, int, int, int, Vector]] = []  # time, order, node, round of a payload or -1, it
    order = 0
    at = [0] * n  # a node's round
    arrived: list[dict[int, list[Vector]]] = [{} for _ in range(n)]
    stepped = [False] * n
    for node in range(n):
        order += 1
        heapq.heappush(heap, (0.01, order, node, -1, x[node]))
    events = 0
    while heap:
        now, _, node, round, payload = heapq.heappop(heap)
        events += 1
        if round < 0:
            stepped[node] = True
            for peer in near[node]:
                order += 1
                heapq.heappush(heap, (now + 0.001, order, peer, at[node], x[node]))
        else:
            arrived[node].setdefault(round, []).append(payload)
        here = arrived[node].get(at[node], [])
        if stepped[node] and len(here) == len(near[node]):
            x[node] = _mean([x[node], *here])
            arrived[node].pop(at[node], None)
            stepped[node] = False
            at[node] += 1
            if at[node] < rounds:
                order += 1
                heapq.heappush(heap, (now + 0.01, order, node, -1, x[node]))
    return events


def _mean(vectors: list[Vector]) -> Vector:
    """As fast as numpy goes with a few short vectors."""
    found: Vector = np.add.reduce(np.stack(vectors) * np.float32(1 / len(vectors)), axis=0)
    return found


def measure(case: Case, say: Say) -> Row:
    """Both figures and their ratio. Raises ConfigError for a graph that is none."""
    config = load_config(
        {
            "swarm": {"nodes": case.nodes, "rounds": case.rounds, "eval_every": case.rounds},
            "topology": {"graph": case.graph},
            "train": {"task": "consensus", "device": "cpu"},
            "task": {"dimension": case.parameters},
        }
    )
    load = workload(config)
    made = plan(config, load.sizes)
    edges = made.edges()
    near = [neighbors(edges, node) for node in range(case.nodes)]
    events = toy(near, case.rounds, 1)  # a phase's end and a payload an arc, each round: of both the same

    def timed(run: Callable[[], object]) -> Callable[[], Pace]:
        def rate() -> Pace:
            begun = Watch()
            run()
            return begun.pace(events)

        return rate

    def engine() -> object:
        return virtual.run(made, load, lambda record: None)

    said = f"events of {case.nodes} nodes"
    threads = torch.get_num_threads()
    try:
        found = turns(
            {"engine": timed(engine), "toy": timed(lambda: toy(near, case.rounds, case.parameters))},
            case.turns,
            lambda text: say(f"{said}: {text}"),
        )
    finally:
        torch.set_num_threads(threads)
    return {
        "what": "events",
        "nodes": case.nodes,
        "topology": case.graph,
        "parameters": case.parameters,
        "rounds": case.rounds,
        "turns": case.turns,
        **ratios(found["engine"], found["toy"], "events_per_second"),
    }
