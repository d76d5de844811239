"""What runs on a GPU gives what the processor gives, up to rounding, and real processes give the bits of the
event engine there, too. Skipped where there is no GPU; `GOSSIPFL_DEVICE=cpu` runs the same on the processor.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
from contextlib import ExitStack
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import gossipfl
from gossipfl.config import load_config
from gossipfl.config.toml import toml_document
from gossipfl.learning.own import OwnLearner, OwnWorkload

DEVICE = os.environ.get("GOSSIPFL_DEVICE", "cuda")

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="there is no GPU"),
]

Keys = dict[str, object]

KEYS: Keys = {
    "swarm.nodes": 4,
    "swarm.rounds": 12,
    "swarm.eval_every": 6,
    "topology.graph": "ring",
    "train.dtype": "float64",
    "train.momentum": 0.5,
    "train.batch": 16,
}

#: Rules, codecs and the rest that touch a model where it lies.
WAYS: dict[str, Keys] = {
    "dpsgd": {},
    "dpsgd-cta": {"algorithm.rule": "dpsgd-cta"},
    "gradient-tracking": {"algorithm.rule": "gradient-tracking", "train.momentum": 0.0},
    "choco": {"algorithm.rule": "choco", "wire.codec": "topk:0.3"},
    "bfloat16": {"wire.dtype": "bfloat16"},
    "adam": {"train.optimizer": "adam", "train.momentum": 0.0, "train.lr": 0.001},
}


def models(result: gossipfl.Result) -> NDArray[np.floating]:
    assert result.models is not None and np.isfinite(result.models).all()
    return result.models


@pytest.mark.parametrize("way", WAYS)
def test_every_engine_on_the_gpu_goes_where_the_processor_goes(way: str) -> None:
    keys = KEYS | WAYS[way]
    here = models(gossipfl.simulate(keys | {"train.device": "cpu"}, engine="events"))
    close = 1e-2 if way == "choco" else 1e-9  # a coordinate more or less is sent

    simulated = models(gossipfl.simulate(keys | {"train.device": DEVICE}, engine="events"))
    real = models(gossipfl.swarm(keys | {"train.device": DEVICE}))

    scale = np.linalg.norm(here)
    assert np.linalg.norm(simulated - here) <= close * scale
    assert simulated.tobytes() == real.tobytes()  # the keystone
    assert len(np.unique(here, axis=0)) > 1


@pytest.mark.parametrize("width", [64, 2048])
def test_a_swarm_takes_the_gpu_by_itself_where_steps_are_long(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wide.py").write_text(WIDE)
    monkeypatch.chdir(tmp_path)
    said: list[str] = []

    class Heard:
        def __call__(self, record: object) -> None: ...
        def note(self, text: str) -> None:
            said.append(text)

    keys: Keys = {"swarm.nodes": 2, "swarm.rounds": 3, "topology.graph": "complete"}
    result = gossipfl.swarm(keys | {"train.task": f"wide:of_{width}"}, watch=Heard())

    assert result.summary["finished"]
    assert any("spawned" in text for text in said) is (DEVICE == "cuda" and width > 64)


WIDE = """
from dataclasses import replace
from torch import nn
from gossipfl.learning.tasks.digits import digits

def of(width):
    layers = lambda: (nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.Linear(width, 10))
    return replace(digits(), model=lambda: nn.Sequential(*layers()))

def of_64():
    return of(64)

def of_2048():
    return of(2048)
"""


@pytest.mark.parametrize("exchange", ["rounds", "pairwise"])
def test_what_is_drawn_and_counted_there_is_the_same_in_every_engine(
    exchange: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout, running statistics, a buffer that is not saved: between two steps others train."""
    monkeypatch.chdir(Path(__file__).parent)
    keys = KEYS | {"train.task": "resumable:moving", "train.device": DEVICE, "algorithm.exchange": exchange}
    simulated, again = (models(gossipfl.simulate(keys, engine="events")) for _ in range(2))
    real = models(gossipfl.swarm(keys))

    assert simulated.tobytes() == again.tobytes()
    if exchange == "rounds":
        assert simulated.tobytes() == real.tobytes()


def test_an_optimizer_of_ones_own_goes_on_there_from_what_was_kept() -> None:
    config = load_config({"algorithm.local_steps": 1})

    def made() -> tuple[nn.Module, OwnLearner, torch.optim.Optimizer]:
        torch.manual_seed(1)
        model = nn.Linear(6, 3).to(DEVICE)
        optimizer = torch.optim.Adam(model.parameters())
        return model, OwnWorkload(config, model, optimizer, None).learner(0), optimizer

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        model(torch.ones(4, 6, device=DEVICE)).square().sum().backward()
        optimizer.step()

    (one, kept, ours), (other, restored, theirs) = made(), made()
    step(one, ours)
    restored.restore(_on_the_cpu(kept.kept()))
    for model, optimizer in ((one, ours), (other, theirs)):
        step(model, optimizer)
    assert torch.equal(one.weight, other.weight)  # type: ignore[arg-type]


def _on_the_cpu(tree: Any) -> Any:
    """As a checkpoint gives it back."""
    if isinstance(tree, torch.Tensor):
        return tree.detach().to("cpu", copy=True)
    if isinstance(tree, dict):
        return {key: _on_the_cpu(value) for key, value in tree.items()}
    return [_on_the_cpu(value) for value in tree] if isinstance(tree, list) else tree


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_vector_engine_on_the_gpu_goes_where_the_processor_goes(dtype: str) -> None:
    keys = KEYS | {"swarm.nodes": 32, "topology.graph": "regular:4", "train.dtype": dtype}
    keys |= {"data.partition": "iid"}
    here, there = (
        models(gossipfl.simulate(keys | {"train.device": device}, engine="vector"))
        for device in ("cpu", DEVICE)
    )
    bound = 1e-4 if dtype == "float32" else 1e-10
    assert np.linalg.norm(there - here) <= bound * np.linalg.norm(here)


def test_a_swarm_on_the_gpu_goes_on_bit_for_bit(tmp_path: Path) -> None:
    keys = KEYS | {"train.device": DEVICE, "swarm.checkpoint_every": 4, "swarm.rounds": 8}
    straight = models(gossipfl.swarm(keys | {"swarm.rounds": 16}, out=tmp_path / "straight"))
    gossipfl.swarm(keys, out=tmp_path / "halves")

    again = gossipfl.swarm(resume=tmp_path / "halves", overrides={"swarm.rounds": 16})

    assert models(again).tobytes() == straight.tobytes()


def _joined(index: int, file: str, folder: str, told: Queue[tuple[int, list[float], str]]) -> None:
    torch.manual_seed(index)
    torch.set_num_threads(1)
    model = nn.Sequential(nn.Linear(20, 50), nn.Tanh(), nn.Linear(50, 2)).to(DEVICE)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    x = torch.randn(256, 20, device=DEVICE)
    y = (x.sum(1) > 0).long()
    with gossipfl.join(file, model, optimizer, name=f"n{index}", out=f"{folder}/n{index}"):
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    told.put((index, flat.tolist(), str(flat.device.type)))


def test_loops_of_ones_own_on_the_gpu_learn_together(tmp_path: Path) -> None:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(3)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in sockets]
    nodes = [{"name": f"n{i}", "address": f"127.0.0.1:{port}"} for i, port in enumerate(ports)]
    tables: dict[str, dict[str, object]] = {
        "swarm": {"rounds": 30},
        "algorithm": {"local_steps": 2},
        "topology": {"graph": "complete"},
    }
    file = tmp_path / "swarm.toml"
    file.write_text(toml_document(tables, node=nodes))
    spawn = multiprocessing.get_context("spawn")
    told: Queue[tuple[int, list[float], str]] = spawn.Queue()
    children = [spawn.Process(target=_joined, args=(i, str(file), str(tmp_path), told)) for i in range(3)]
    for child in children:
        child.start()
    found = sorted(told.get(timeout=240) for _ in children)
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    x = np.array([values for _, values, _ in found])
    assert {device for _, _, device in found} == {DEVICE}
    assert np.ptp(x, axis=0).max() < 1e-5  # a complete graph: one averaging is consensus
