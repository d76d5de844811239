"""gossipfl: decentralized peer-to-peer learning. Serverless nodes on a graph, PyTorch locally, gossip over
ZeroMQ."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gossipfl import topology
    from gossipfl.api import Result, SweepResult, load, results, simulate, swarm, sweep
    from gossipfl.config import Config, load_config
    from gossipfl.drivers.join import Node, join
    from gossipfl.errors import (
        ConfigError,
        GossipError,
        LocalProtocolError,
        PeerLost,
        Refused,
        RemoteProtocolError,
        TrainingDiverged,
    )
    from gossipfl.learning.task import Task

__version__ = "0.1.0"

_HOMES = {
    "Result": "api",
    "SweepResult": "api",
    "join": "drivers.join",
    "load": "api",
    "results": "api",
    "simulate": "api",
    "swarm": "api",
    "sweep": "api",
    "Config": "config",
    "Node": "drivers.join",
    "load_config": "config",
    "ConfigError": "errors",
    "GossipError": "errors",
    "LocalProtocolError": "errors",
    "PeerLost": "errors",
    "Refused": "errors",
    "RemoteProtocolError": "errors",
    "TrainingDiverged": "errors",
    "Task": "learning.task",
}

__all__ = [
    "Config",
    "ConfigError",
    "GossipError",
    "LocalProtocolError",
    "Node",
    "PeerLost",
    "Refused",
    "RemoteProtocolError",
    "Result",
    "SweepResult",
    "Task",
    "TrainingDiverged",
    "join",
    "load",
    "load_config",
    "results",
    "simulate",
    "swarm",
    "sweep",
    "topology",
]


def __getattr__(name: str) -> object:
    """Public names are imported when they are first used, so that `import gossipfl` costs nothing."""
    if name == "topology":
        return importlib.import_module("gossipfl.topology")
    if name in _HOMES:
        return getattr(importlib.import_module(f"gossipfl.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'gossipfl' has no attribute {name!r}")
