"""Which node this process is: told, or found in what its launcher sets."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from typing import Final

from gossipfl.config import Config
from gossipfl.errors import ConfigError, Problem

#: Variables that hold an index: torchrun's and Slurm's.
RANKS: Final = ("RANK", "SLURM_PROCID")


def node_name(
    config: Config,
    given: str | None,
    environment: Mapping[str, str],
    hostname: str = "",
    *,
    argument: str = "--name",
) -> str:
    """The name of this process's node: `given`, else `GOSSIPFL_NODE`, else the node whose index torchrun
    (RANK) or Slurm (SLURM_PROCID) sets, else, in a Kubernetes StatefulSet, the one whose name or index the
    host's name ends with.

    hostname: empty for this machine's; argument: what `given` is called where it is given. Raises
    ConfigError: none of these, or no such node.
    """
    named = given or environment.get("GOSSIPFL_NODE")
    if named:
        return _known(config, named, argument if given else "GOSSIPFL_NODE")
    for variable in RANKS:
        if environment.get(variable, "").isdecimal():
            return _indexed(config, int(environment[variable]), variable)
    if "KUBERNETES_SERVICE_HOST" in environment:
        host = hostname or socket.gethostname()
        if host in config.names:
            return host
        ordinal = re.search(r"-(\d+)$", host)
        if ordinal:
            return _indexed(config, int(ordinal[1]), f"the host's name, {host},")
    right = f"{argument} or GOSSIPFL_NODE, one of {', '.join(config.names)}"
    raise ConfigError(Problem(argument, "nobody says which node this is", right))


def _known(config: Config, name: str, key: str) -> str:
    if name not in config.names:
        raise ConfigError(Problem(key, f"{name} is not in the file", f"one of {', '.join(config.names)}"))
    return name


def _indexed(config: Config, index: int, key: str) -> str:
    if index >= len(config.names):
        right = f"the {len(config.names)} nodes have the indices 0 to {len(config.names) - 1}"
        raise ConfigError(Problem(key, f"says {index}, which is no node's index", right))
    return config.names[index]
