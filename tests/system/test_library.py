"""Swarms and simulations from programs: scripts, notebooks, several at once."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import gossipfl

if TYPE_CHECKING:
    from tests.system.conftest import Start, Until

pytestmark = pytest.mark.system

SMALL = {"swarm.rounds": 12, "swarm.eval_every": 5, "swarm.nodes": 4}

#: What notebooks are like: torch is busy with threads of its own, others run beside, there is no main module.
NOTEBOOK = """
import threading, torch
import gossipfl

torch.set_num_threads(2)
torch.randn(512, 512) @ torch.randn(512, 512)
done = threading.Event()
beside = [threading.Thread(target=done.wait, daemon=True) for _ in range(3)]
[thread.start() for thread in beside]
result = gossipfl.swarm({"swarm": {"rounds": 12, "nodes": 4}})
print(result.summary["finished"], result.models.shape, torch.get_num_threads())
print(repr(result))
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.mark.parametrize(
    "code",
    [
        NOTEBOOK,
        f"exec(compile({NOTEBOOK!r}, '<ipython-input-1>', 'exec'), {{'__name__': '__main__'}})",
        f"import sys; sys.modules.pop('__main__'); exec({NOTEBOOK!r}, {{'__name__': 'cell'}})",
        f"import threading as t; r = t.Thread(target=exec, args=({NOTEBOOK!r}, {{}})); r.start(); r.join()",
    ],
    ids=["script", "cell", "no-main", "thread"],
)
def test_a_swarm_runs_from_a_notebook(code: str, start: Start) -> None:
    running = start(command=python(code))
    ended = running.end()

    assert (ended.code, ended.stderr) == (0, "")
    first, second = ended.stdout.splitlines()
    assert first == "True (4, 4810) 2"
    assert second.startswith("<Result: 4 nodes, ring, dpsgd, 12 rounds (swarm): accuracy 0.")
    assert not running.leftovers()


def test_ctrl_c_in_a_program_stops_the_swarm_and_nothing_else(start: Start, until: Until) -> None:
    code = """
import gossipfl
try:
    gossipfl.swarm({"swarm": {"rounds": 100000}})
except KeyboardInterrupt:
    print("stopped", flush=True)
print(gossipfl.simulate({"swarm": {"rounds": 2}}).summary["finished"])
"""
    running = start(command=python(code))
    until(lambda: len(running.nodes()) == 8, "all nodes")

    running.signal(signal.SIGINT)
    ended = running.end()

    assert (ended.code, ended.stdout) == (0, "stopped\nTrue\n")
    assert not running.leftovers()


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder with a path far too long for sockets."""
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    yield folder


def test_a_swarm_without_a_folder_leaves_no_files(temporary: Path) -> None:
    result = gossipfl.swarm(overrides=SMALL)

    assert result.path is None
    assert not [path for path in temporary.iterdir() if path.name.startswith("gossipfl-")]
    assert result.models is not None and result.models.shape == (4, 4810)
    assert result.rounds.tolist() == [5, 10, 12]
    assert result.accuracy.shape == (3, 4)
    assert np.isfinite(result.accuracy).all()
    assert isinstance(result.model(2), torch.nn.Module)


@pytest.mark.parametrize("engine", ["vector", "events"])
def test_a_simulation_repeats_itself_bit_by_bit(engine: str, tmp_path: Path) -> None:
    first = gossipfl.simulate(engine=engine, overrides=SMALL, out=tmp_path / "run")  # type: ignore[arg-type]
    second = gossipfl.simulate(engine=engine, overrides=SMALL)  # type: ignore[arg-type]
    loaded = gossipfl.load(tmp_path / "run")

    assert first.models is not None and second.models is not None and loaded.models is not None
    assert first.models.tobytes() == second.models.tobytes() == loaded.models.tobytes()
    assert first.accuracy.tobytes() == second.accuracy.tobytes() == loaded.accuracy.tobytes()
    assert first.config == second.config == loaded.config
    assert loaded.summary == first.summary
    assert second.path is None


def test_another_seed_gives_another_run() -> None:
    first, second = (gossipfl.simulate(overrides=SMALL | {"swarm.seed": seed}) for seed in (0, 1))

    assert first.models is not None and second.models is not None
    assert (first.models != second.models).any(axis=1).all()


@pytest.mark.parametrize("way", ["swarm", "simulate"])
def test_mistakes_of_graph_rule_and_folder_are_told_before_anything_starts(way: str, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    run = gossipfl.swarm if way == "swarm" else gossipfl.simulate

    with pytest.raises(gossipfl.ConfigError, match=r"^topology\.graph: "):
        run({"topology": {"graph": "torus:3x3"}}, out=tmp_path / "new")
    with pytest.raises(gossipfl.ConfigError, match=r"^algorithm\.rule: "):
        run({"algorithm": {"rule": "dpsg"}}, out=tmp_path / "new")
    with pytest.raises(gossipfl.ConfigError, match=r"there exists and is not empty; "):
        run(out=tmp_path / "there")
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["file"]
