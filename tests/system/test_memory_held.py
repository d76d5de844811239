"""How much memory of its own a node holds, small and big, while it trains and exchanges."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from gossipfl.config import load_config
from gossipfl.drivers.bench import nodes
from gossipfl.drivers.bench.tasks import hidden

pytestmark = pytest.mark.system

MB = 1e6


#: As glibc handles the memory of models of 64 MiB and more (gossipfl/drivers/memory.py).
GIVES_BACK = {"MALLOC_MMAP_MAX_": "65536", "MALLOC_MMAP_THRESHOLD_": str(2**20)}


@pytest.mark.parametrize(
    ("parameters", "rounds", "dtype", "environment", "most"),
    # a model is there as parameters, gradient, sent, received, mixed
    [
        (4_810, 1500, "auto", {}, 10.0),  # digits as it comes
        (50_000, 1500, "auto", {}, 12.5),
        (5_000_000, 40, "bfloat16", {}, 10.0 + 20 * 24.0),  # what is free is kept
        (5_000_000, 40, "bfloat16", GIVES_BACK, 10.0 + 20 * 9.0),
    ],
)
def test_a_node_holds_little_more_than_its_model_needs(
    parameters: int,
    rounds: int,
    dtype: str,
    environment: dict[str, str],
    most: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
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


@pytest.mark.parametrize(("trains", "most"), [(False, 10.0), (True, 11.5)])
def test_a_process_that_is_one_small_node_needs_ten_megabytes_over_bare_torch(
    trains: bool, most: float
) -> None:
    script = runpy.run_path(str(Path(__file__).parents[2] / "bench" / "small_device.py"))

    found = script["measure"](nodes=3, parameters=50_000, trains=trains, rounds=60)

    print({key: round(value, 1) for key, value in found.items()})
    assert found["rounds"] >= 60 and found["torch_mb"] > 50
    assert found["private_mb_most"] < most
