"""Swarms of this machine's own ports, and the plainest loops to join them with."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import gossipfl
from gossipfl.records import Record, read

Swarm = dict[str, Any]


def config(nodes: int, **sections: object) -> Swarm:
    """Nodes a, b, ... of this machine, all neighbors of each other unless told otherwise."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(nodes)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        ports = [s.getsockname()[1] for s in sockets]
    tables = [{"name": n, "address": f"127.0.0.1:{p}"} for n, p in zip("abcdefgh", ports, strict=False)]
    return {"topology": {"graph": "complete"}, **sections, "node": tables}


def together(*loops: Callable[[], object]) -> list[Any]:
    """Run loops at the same time; what each gave, or raised."""
    with ThreadPoolExecutor(len(loops)) as pool:
        running = [pool.submit(loop) for loop in loops]
        return [r.exception() or r.result() for r in running]


def linear(value: float = 0.0, inputs: int = 3) -> nn.Module:
    model = nn.Linear(inputs, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    return model


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor | None = None) -> None:
    optimizer.zero_grad()
    x = torch.ones(4, 3) if x is None else x
    (model(x) - 1).square().mean().backward()
    optimizer.step()


def trained(
    swarm: Swarm, name: str, out: Path, model: nn.Module, *, steps: int = 10**6, lr: float = 0.01
) -> nn.Module:
    """The plainest loop: SGD, until the swarm stops or so many steps are made."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    with gossipfl.join(swarm, model, optimizer, name=name, out=out / name) as node:
        for _ in range(steps):
            if node.stopped:
                break
            step(model, optimizer)
    return model


def vector(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def records(out: Path, name: str, kind: str) -> list[Record]:
    return [r for r in read(out / name / "records" / f"{name}.jsonl") if r["kind"] == kind]
