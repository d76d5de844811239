"""Whatever state the calling program is in, runs and their plugins work."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import pytest
import torch

import gossipfl
from gossipfl import plugin

CONFIG = {"swarm": {"nodes": 3, "rounds": 3}}


@pytest.mark.parametrize("engine", ["vector", "events"])
def test_a_run_inside_no_grad_is_the_run_outside(engine: Literal["vector", "events"]) -> None:
    outside = gossipfl.simulate(CONFIG, engine=engine)
    with torch.no_grad():
        inside = gossipfl.simulate(CONFIG, engine=engine)
        inside.model()
    assert inside.models is not None and outside.models is not None
    assert inside.models.tobytes() == outside.models.tobytes()


def test_a_plugin_imports_its_neighbors_when_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    (tmp_path / "neighbor_of_late.py").write_text("WORD = 7\n")
    (tmp_path / "late.py").write_text("def give():\n    from neighbor_of_late import WORD\n    return WORD\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])

    # then
    assert plugin.load("late:give", "train.task")() == 7
