"""Watching a swarm across machines: who can be watched, and with which key."""

from __future__ import annotations

from pathlib import Path

from gossipfl.config import Config
from gossipfl.config.lan import key_bytes, key_text
from gossipfl.errors import ConfigError, Problem
from gossipfl.transport import keys
from gossipfl.transport.curve import Keys
from gossipfl.transport.lookout import Watched, Watching


def watching(config: Config) -> Watching:
    """Reads the records of every node that has an address, once entered.

    Raises ConfigError: no nodes to watch, or no key in `security.keys` that `security.allow` lists.
    """
    nodes = {
        index: Watched(peer.name, peer.address, key_bytes(peer.public_key) if config.encrypted else b"")
        for index, peer in enumerate(config.node)
        if peer.address
    }
    if not nodes:
        wrong = "no [[node]] has an address, so none can be watched from here"
        raise ConfigError(Problem("node", wrong, "gossipfl watch RUN_DIR follows a run on this machine"))
    return Watching(nodes, _keys(config) if config.encrypted else None)


def _keys(config: Config) -> Keys:
    folder = Path(config.security.keys)
    for path in sorted(folder.glob("*.secret")):
        pair = keys.load(path)
        if key_text(pair.public) in config.security.allow:
            return Keys(pair, {})
    wrong = f"no secret key in {folder} is one of them, and what nodes say is for those alone"
    right = f"gossipfl keys new {folder} --name watch, and its public key in everyone's security.allow"
    raise ConfigError(Problem("security.allow", wrong, right))
