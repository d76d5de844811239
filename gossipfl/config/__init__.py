"""swarm.toml: one frozen configuration, validated whole before anything starts."""

from __future__ import annotations

from gossipfl.config.load import Overrides, Source, load_config
from gossipfl.config.model import Config, json_schema
from gossipfl.config.network import Network
from gossipfl.config.sections import Algorithm, Data, Swarm, Topology, Train, Wire

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
