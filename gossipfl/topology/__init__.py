"""Graphs, mixing matrices and schedules: who may talk to whom, how much of whom a node takes, and when.

What is in here is imported when it is first used: a node that has been given its matrix makes no graphs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gossipfl.topology.describing import describe
    from gossipfl.topology.families import FAMILIES, Family
    from gossipfl.topology.graph import Graph
    from gossipfl.topology.matrix import mixing_matrix
    from gossipfl.topology.mixing import Mixing
    from gossipfl.topology.schedules import Schedule, schedule
    from gossipfl.topology.spec import GraphSpec, build
    from gossipfl.topology.weights import NAMES as WEIGHTS

_HOMES = {
    "FAMILIES": "families",
    "Family": "families",
    "Graph": "graph",
    "GraphSpec": "spec",
    "Mixing": "mixing",
    "Schedule": "schedules",
    "WEIGHTS": "weights",
    "build": "spec",
    "describe": "describing",
    "mixing_matrix": "matrix",
    "schedule": "schedules",
}

__all__ = [
    "FAMILIES",
    "WEIGHTS",
    "Family",
    "Graph",
    "GraphSpec",
    "Mixing",
    "Schedule",
    "build",
    "describe",
    "mixing_matrix",
    "schedule",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'gossipfl.topology' has no attribute {name!r}")
    module = importlib.import_module(f"gossipfl.topology.{_HOMES[name]}")
    found: object = getattr(module, "NAMES" if name == "WEIGHTS" else name)
    globals()[name] = found
    return found
