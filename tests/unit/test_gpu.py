"""A zygote that does not see GPUs, and begins again where one pays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from gossipfl.drivers import gpu
from gossipfl.learning.workload import Workload

LONG = cast(Workload, SimpleNamespace(long=lambda: True))
SHORT = cast(Workload, SimpleNamespace(long=lambda: False))


def job(device: str = "auto", gpus: str | None = None) -> dict[str, Any]:
    return {"config": {"train": {"device": device}}, "gpus": gpus}


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """PyTorch of a machine with a GPU, and the environments of processes that looked for one."""
    seen: list[dict[str, str]] = []

    def run(line: object, env: dict[str, str], check: bool) -> SimpleNamespace:
        seen.append(env)
        return SimpleNamespace(returncode=0 if env.get(gpu.VISIBLE) != "" else 1)

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv(gpu.VISIBLE, "")
    return seen


def test_a_gpu_pays_where_steps_are_long_and_there_is_one(look: list[dict[str, str]]) -> None:
    assert gpu.pays(job(), LONG)
    assert gpu.VISIBLE not in look[0]
    assert gpu.pays(job(gpus="1"), LONG) and look[1][gpu.VISIBLE] == "1"
    assert not gpu.pays(job(gpus=""), LONG)  # hidden by whoever called
    assert not gpu.pays(job(), SHORT) and not gpu.pays(job("cpu"), LONG) and not gpu.pays(job("cuda"), LONG)
    assert len(look) == 3


def test_a_pytorch_without_gpus_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("it was asked"))
    assert not gpu.pays(job(), LONG)


def test_it_begins_again_with_its_job_and_its_output(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[object, ...]] = []
    monkeypatch.setattr(os, "dup2", lambda *numbers: done.append(numbers))
    monkeypatch.setattr(os, "execve", lambda *words: done.append(words))

    gpu.again(job(gpus="0,1"), 7)

    (output, (program, line, environment)) = cast(Any, done)
    assert output == (7, 1)
    assert (program, line) == (sys.executable, sys.orig_argv)
    assert environment[gpu.VISIBLE] == "0,1"
    assert json.loads(environment[gpu.JOB])["config"]["train"]["device"] == "cuda"
