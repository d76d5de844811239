"""Mistakes in `[[node]]` and `[security]`, in words; no secret is ever repeated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from gossipfl.config.checking import Unfit, made
from gossipfl.config.lan import MOST, SECRET, Peer, as_list, place
from gossipfl.errors import Problem

if TYPE_CHECKING:
    from gossipfl.config.model import Config

_RIGHT = {
    "name": "up to 64 letters, digits, '_', '-' and '.', another for each node",
    "address": 'HOST:PORT such as "10.0.0.1:7700", or "" for a node that only dials out',
    "bind": 'HOST:PORT such as "0.0.0.0:7700", or "" to listen at the address',
    "public_key": "a public key, pub-…, as gossipfl keys show prints it",
}


def node_problems(tables: object, nodes: object) -> Iterator[Problem]:
    """What is wrong with the `[[node]]` tables themselves; `nodes` is what swarm.nodes says, if anything."""
    found = as_list(tables)
    if not isinstance(found, list) or not all(isinstance(table, dict) for table in found):
        yield Problem("node", "is no list of tables", "write one [[node]] table a machine")
        return
    if len(found) > MOST:
        yield Problem("node", f"has {len(found)} tables", f"at most {MOST}")
    if found and isinstance(nodes, int) and nodes != len(found):
        wrong = f"is {nodes}, and there are {len(found)} [[node]] tables"
        yield Problem("swarm.nodes", wrong, "leave it out: it is their number")
    for index, table in enumerate(found):
        yield from _one(table, str(table.get("name") or index))
    for key in ("name", "address", "public_key"):
        values = [table.get(key) for table in found]
        for i, value in enumerate(values):
            first = values.index(value)
            if value and first < i:
                name = str(found[i].get("name") or i)
                other = found[first].get("name") or first
                said = "two nodes are named" if key == "name" else f"is that of {other}:"
                wrong = f"{said} {value}" if key != "public_key" else f"is that of {other}"
                yield Problem(f"node.{name}.{key}", wrong, "another for each node")


def _one(table: dict[str, object], name: str) -> Iterator[Problem]:
    for key in table:
        if key not in Peer.fields():
            right = f"the keys are {', '.join(Peer.fields())}"
            yield Problem(f"node.{name}.{key}", "unknown key", right)
    try:
        made(Peer, {key: v for key, v in table.items() if key in Peer.fields()})
    except Unfit as error:
        for key, *_ in error.places:
            yield Problem(f"node.{name}.{key}", _wrong(key, table.get(key)), _RIGHT[key])


def _wrong(key: str, value: object) -> str:
    if value is None:
        return "is missing"
    if key != "public_key":
        return f"cannot be {value!r}"
    if isinstance(value, str) and value.startswith(SECRET):
        return (
            "is a secret key, which must never leave its machine: whoever has seen it can take the node's "
            "place, so make a new pair (gossipfl keys new)"
        )
    return "is no public key"


def secrets_shown(keys: Sequence[object], key: str) -> Iterator[Problem]:
    """Secret keys where public ones are meant."""
    for value in keys:
        if isinstance(value, str) and value.startswith(SECRET):
            yield Problem(key, _wrong("public_key", value), _RIGHT["public_key"])


def lan_problems(config: Config) -> Iterator[tuple[frozenset[str], Problem]]:
    """Values of nodes and security that are fine alone and impossible together."""
    security = config.security
    away = [p for p in config.node if p.address and not place(p.address).loopback]
    if not config.node:
        if config.data.partition == "local":
            wrong = 'is "local": each node reads its own files, and there are no [[node]] tables'
            right = "gossipfl init writes them; on one machine, another partition"
            yield frozenset({"data.partition", "node"}), Problem("data.partition", wrong, right)
        return
    hidden = [peer.name for peer in config.node if not peer.address]
    if config.algorithm.on_death != "self" and len(hidden) > 1:
        wrong = f'is "rewire", and {hidden[0]} and {hidden[1]} have no address: neither could dial the other'
        right = '"self", or an address for all nodes but one'
        yield frozenset({"algorithm.on_death", "node"}), Problem("algorithm.on_death", wrong, right)
    if config.encrypted:
        for peer in config.node:
            if not peer.public_key:
                wrong = "is missing, and lines off the loopback are encrypted"
                right = f"what gossipfl keys new keys --name {peer.name} prints on its machine"
                yield frozenset({"node"}), Problem(f"node.{peer.name}.public_key", wrong, right)
    elif not security.allow_plaintext:
        if away:
            wrong = f'is "off" while {away[0].name} is off the loopback ({away[0].address})'
            right = "leave it out; or, on a network where everyone may read and write, allow_plaintext = true"
            involved = frozenset({"node", "security.encrypt", "security.allow_plaintext"})
            yield involved, Problem("security.encrypt", wrong, right)
        for peer in config.node:
            if peer.bind and not place(peer.bind).loopback:
                wrong = f"is off the loopback ({peer.bind}), and nothing is encrypted there"
                right = 'leave it out, or security.encrypt = "on"'
                yield frozenset({"node"}), Problem(f"node.{peer.name}.bind", wrong, right)
    if config.topology.weights == "data" and not config.topology.pi and config.data.partition == "local":
        wrong = "needs every node's number of samples, and each node knows its own alone"
        involved = frozenset({"topology.weights", "topology.pi", "data.partition"})
        yield involved, Problem("topology.weights", wrong, "give topology.pi, one number a node")
