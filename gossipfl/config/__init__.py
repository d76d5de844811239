"""swarm.toml: one frozen configuration, validated whole before anything starts."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from gossipfl.config.model import Config
from gossipfl.config.network import Network
from gossipfl.config.sections import Data, Swarm, Topology, Wire
from gossipfl.config.training import Algorithm, Train

if TYPE_CHECKING:
    from gossipfl.config.checking import json_schema
    from gossipfl.config.load import Overrides, Source, load_config

_CHECKING = {"Overrides": "load", "Source": "load", "json_schema": "checking", "load_config": "load"}

__all__ = [
    "Algorithm",
    "Config",
    "Data",
    "Network",
    "Overrides",
    "Source",
    "Swarm",
    "Topology",
    "Train",
    "Wire",
    "json_schema",
    "load_config",
]


def __getattr__(name: str) -> object:
    """What checks takes 10 MB, and is imported when it is first used: a node that is handed a checked config
    does without."""
    if name in _CHECKING:
        return getattr(importlib.import_module(f"gossipfl.config.{_CHECKING[name]}"), name)
    raise AttributeError(f"module 'gossipfl.config' has no attribute {name!r}")
