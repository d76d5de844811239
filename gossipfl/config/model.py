"""The whole configuration of a swarm: its sections, and what is said of them as one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Self

from gossipfl.config import fault as faults
from gossipfl.config.fault import Faults
from gossipfl.config.lan import MOST, Peer, Peers, Security, place
from gossipfl.config.network import Network
from gossipfl.config.section import OpenSection, Section, key
from gossipfl.config.sections import Data, Stop, Swarm, Topology, Wire
from gossipfl.config.toml import toml_document
from gossipfl.config.training import Algorithm, Train


@dataclass(frozen=True, kw_only=True)
class Config(Section):
    """A validated swarm.toml, frozen. Made by `load_config`, which checks more than the types."""

    swarm: Swarm = key(Swarm(), "The swarm as a whole.")
    stop: Stop = key(Stop(), "When to end before the last round.")
    topology: Topology = key(Topology(), "Who talks to whom.")
    algorithm: Algorithm = key(Algorithm(), "The rule and when it exchanges; its own keys beside them.")
    train: Train = key(Train(), "Local training; the optimizer's own keywords beside the keys.")
    task: dict[str, object] = key({}, "The task's own keys.")
    data: Data = key(Data(), "How the data are split.")
    wire: Wire = key(Wire(), "How bytes move between real nodes.")
    network: Network = key(Network(), "What the event engine pretends, in virtual seconds.")
    security: Security = key(Security(), "Who may speak and listen on the lines between [[node]]s.")
    node: Peers = key(
        (), "The machines of a LAN, one table each, in the order of the graph.", max_length=MOST
    )
    fault: Faults = key(
        (), "Disasters that are to happen, one table each (a fault script).", max_length=faults.MOST
    )

    @property
    def names(self) -> tuple[str, ...]:
        """The nodes' names in node order."""
        return tuple(peer.name for peer in self.node) or _names(self.swarm.nodes)

    @property
    def encrypted(self) -> bool:
        """Are the lines between the `[[node]]`s encrypted? A matter of what all of them know alike."""
        off_loopback = any(peer.address and not place(peer.address).loopback for peer in self.node)
        return bool(self.node) and (
            self.security.encrypt == "on" or (self.security.encrypt == "auto" and off_loopback)
        )

    def to_dict(self) -> dict[str, dict[str, object]]:
        """All keys resolved: section -> key -> value, a section's extra keys after its own. A copy.

        `[[node]]` is a section too, name -> table, and so is `[[fault]]`, number -> table; only there if
        there are any.
        """
        found: dict[str, dict[str, object]] = self.table()  # type: ignore[assignment]
        del found["node"], found["fault"]
        if self.node:
            tables = {peer.name: peer.table() for peer in self.node}
            found["node"] = {
                name: {key: value for key, value in table.items() if key != "name"}
                for name, table in tables.items()
            }
        if self.fault:
            found["fault"] = {str(k): faults.table(fault) for k, fault in enumerate(self.fault, start=1)}
        return found

    @classmethod
    def of(cls, table: Mapping[str, object]) -> Self:
        """The config of which `to_dict()` gave these tables, through JSON or not. Nothing is checked."""
        tables = {name: dict(found) for name, found in table.items() if isinstance(found, Mapping)}
        nodes, listed = tables.pop("node", {}), tables.pop("fault", {})
        own, found = cls.fields(), dict[str, Any]()
        for name, values in tables.items():
            default = own[name].default
            found[name] = default.of(values) if isinstance(default, Section) else values
        peers = tuple(Peer.of({"name": name, **peer}) for name, peer in nodes.items())
        return cls(**found, node=peers, fault=tuple(map(faults.from_table, listed.values())))

    def to_toml(self) -> str:
        """All keys resolved, as a document that `load_config` reads back to an equal Config."""
        tables = self.to_dict()
        tables.pop("node", None)
        tables.pop("fault", None)
        arrays = {
            "node": [peer.table() for peer in self.node],
            "fault": list(map(faults.table, self.fault)),
        }
        return toml_document(tables, **arrays)

    def comparable(self) -> dict[str, object]:
        """What peers must agree on: dotted key -> value, without the keys that are a machine's own; each
        `[[node]]` is one text under its index."""
        tables = self.to_dict()
        tables.pop("node", None)
        tables.pop("fault", None)
        found: dict[str, object] = {
            f"{section}.{key}": list(value) if isinstance(value, tuple) else value
            for section, table in tables.items()
            for key, value in table.items()
            if f"{section}.{key}" not in LOCAL_KEYS
        }
        for index, peer in enumerate(self.node):
            found[f"node.{index}"] = " ".join(filter(None, (peer.name, peer.address, peer.public_key)))
        return found

    def digest(self) -> str:
        """16 hexadecimal digits of the SHA-256 of `comparable()`: equal for nodes that fit together."""
        text = json.dumps(self.comparable(), sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@lru_cache(maxsize=8)
def _names(n: int) -> tuple[str, ...]:
    return tuple(f"node-{i}" for i in range(n))


SECTIONS: Final[Mapping[str, type[Section]]] = {
    name: type(found.default) for name, found in Config.fields().items() if isinstance(found.default, Section)
}
"""The tables whose keys are known, by name; `task` is not among them: all its keys are free."""

OPEN: Final = frozenset(name for name, kind in SECTIONS.items() if issubclass(kind, OpenSection))
"""Sections that take other keys beside their own."""

LOCAL_KEYS: Final = frozenset(
    f"{name}.{key}" for name, kind in SECTIONS.items() for key in kind.fields() if kind.about(key).local
)
"""Dotted keys that are a machine's own: peers do not compare them."""
