"""Where a node of many machines is, and where the others are: who dials whom, and with which keys. No torch
in here.

All of it is decided from the file, which is the same everywhere but for each machine's own keys.
"""

from __future__ import annotations

import socket
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gossipfl.config import Config
from gossipfl.config.lan import key_bytes, key_text, place
from gossipfl.core.exchange.agree import INSTANCE
from gossipfl.drivers.plan import Plan, needs_sizes, neighbors, plan, require_reachable
from gossipfl.errors import ConfigError, Problem

if TYPE_CHECKING:
    from gossipfl.transport.curve import Keys

#: Bytes of a frame of numbers between machines: heartbeats pass between two of them, on slow lines too.
CHUNK: Final = 256 * 1024


@dataclass(frozen=True)
class Lan:
    """What a node needs to know of its own place in the file."""

    node: int
    names: tuple[str, ...]
    neighbors: tuple[int, ...]
    address: str  # where the others reach it; empty: it only dials
    listen: str  # where it binds; empty: nowhere
    dials: Mapping[int, str]  # the neighbors that this end dials, and where
    keys: Keys | None  # None: in plaintext
    instance: str = field(default_factory=lambda: uuid.uuid4().hex)

    def about(self) -> dict[str, object]:
        """What is told beside the rest when nodes meet."""
        return {INSTANCE: self.instance, "chunk": CHUNK}


def lan(config: Config, plan: Plan, name: str) -> Lan:
    """The place of a node. Raises ConfigError: a name or file without a place for it, an edge that neither
    end can dial, keys that are missing, readable by others, or not the ones in the file."""
    if not config.node:
        raise ConfigError(Problem("node", "there are no [[node]] tables", "gossipfl init writes them"))
    if name not in config.names:
        known = ", ".join(config.names)
        raise ConfigError(Problem("--name", f"{name} is not in the file", f"one of {known}"))
    node, edges = config.names.index(name), plan.edges()
    require_reachable(config, edges)
    near = neighbors(edges, node)
    own = config.node[node]
    return Lan(
        node,
        config.names,
        near,
        own.address,
        _listen(own.bind or own.address) if own.address else "",
        {j: f"tcp://{config.node[j].address}" for j in near if _dials(config, node, j)},
        _keys(config, node, near if plan.rewiring is None else _others(plan, node))
        if config.encrypted
        else None,
    )


def _others(plan: Plan, node: int) -> tuple[int, ...]:
    """Around whoever is gone, anyone may become a neighbor."""
    return tuple(j for j in range(plan.n) if j != node)


def _dials(config: Config, node: int, peer: int) -> bool:
    """Does `node` dial `peer`? The end without an address does, otherwise the lower index."""
    if not config.node[node].address:
        return True
    return bool(config.node[peer].address) and node < peer


def _listen(address: str) -> str:
    where = place(address)
    host = where.host
    if not host.startswith("["):
        with suppress(OSError):  # libzmq says why it cannot be bound
            host = str(socket.getaddrinfo(host, where.port, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])
    return f"tcp://{host}:{where.port}"


def _keys(config: Config, node: int, near: tuple[int, ...]) -> Keys:
    from gossipfl.transport import keys
    from gossipfl.transport.curve import Keys

    name = config.names[node]
    path = Path(config.security.keys) / f"{name}.secret"
    pair = keys.load(path)
    listed = config.node[node].public_key
    if listed != key_text(pair.public):
        wrong = f"is not the one that belongs to {path}"
        right = (
            f"{key_text(pair.public)}, in everyone's file; or the secret key that belongs to the one there"
        )
        raise ConfigError(Problem(f"node.{name}.public_key", wrong, right))
    peers = {j: key_bytes(config.node[j].public_key) for j in near}
    return Keys(pair, peers, frozenset(map(key_bytes, config.security.allow)))


def prepare(config: Config, name: str, plain: int = 0) -> tuple[Plan, Lan]:
    """Check all that can be checked without torch; `plain` as in `plan`. Raises ConfigError."""
    if needs_sizes(config):
        wrong = "needs every node's number of samples before the first of them is there"
        raise ConfigError(Problem("topology.weights", wrong, "give topology.pi, one number a node"))
    if config.wire.transport == "shm":
        wrong = 'is "shm", which only nodes have that one gossipfl swarm has started'
        raise ConfigError(Problem("wire.transport", wrong, '"auto" or "tcp"'))
    if config.fault:
        wrong = "is for nodes of one machine, which gossipfl swarm starts"
        raise ConfigError(Problem("fault", wrong, "leave the [[fault]] tables out"))
    made = plan(config, plain=plain)
    return made, lan(config, made, name)
