"""How much memory of its own a node holds, small and big, while it trains and exchanges."""

from __future__ import annotations

import pytest

from gossipfl.config import load_config
from gossipfl.drivers.bench import nodes
from gossipfl.drivers.bench.tasks import hidden

pytestmark = pytest.mark.system

MB = 1e6


@pytest.mark.parametrize(
    ("parameters", "rounds", "dtype", "most"),
    # a node without a model takes 10 MB; a model is there as parameters, gradient, sent, received, mixed
    [(50_000, 1500, "auto", 15.0), (5_000_000, 40, "bfloat16", 10.0 + 20 * 9.0)],
)
def test_a_node_holds_little_more_than_its_model_needs(
    parameters: int, rounds: int, dtype: str, most: float
) -> None:
    found = nodes.run(
        load_config(
            {
                "swarm": {"nodes": 4, "rounds": rounds, "eval_every": rounds},
                "train": {"task": "gossipfl.drivers.bench.tasks:perceptron", "batch": 8, "device": "cpu"},
                "task": {"units": hidden(parameters)},
                "data": {"partition": "iid"},
                "wire": {"dtype": dtype},
            }
        )
    )

    assert found.memory is not None, "it has ended before it was looked at"
    held = found.memory.private / MB
    print(f"{parameters} parameters: {held:.1f} MB a node, {held / (4 * parameters / MB):.1f} models")
    assert held < most
