"""The whole configuration of a swarm: its sections, and what is said of them as one."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache

from pydantic import Field

from gossipfl.config.fault import MOST as MOST_FAULTS
from gossipfl.config.fault import Faults
from gossipfl.config.fault import table as fault_table
from gossipfl.config.lan import MOST, Peers, Security, place
from gossipfl.config.network import Network
from gossipfl.config.sections import (
    Algorithm,
    Data,
    OpenSection,
    Section,
    Stop,
    Swarm,
    Topology,
    Train,
    Wire,
)
from gossipfl.config.toml import toml_document


class Config(Section):
    """A validated swarm.toml, frozen. Made by `load_config`, which checks more than the types."""

    swarm: Swarm = Field(default_factory=Swarm, description="The swarm as a whole.")
    stop: Stop = Field(default_factory=Stop, description="When to end before the last round.")
    topology: Topology = Field(default_factory=Topology, description="Who talks to whom.")
    algorithm: Algorithm = Field(
        default_factory=Algorithm, description="The rule and when it exchanges; its own keys beside them."
    )
    train: Train = Field(
        default_factory=Train, description="Local training; the optimizer's own keywords beside the keys."
    )
    task: dict[str, object] = Field(default_factory=dict, description="The task's own keys.")
    data: Data = Field(default_factory=Data, description="How the data are split.")
    wire: Wire = Field(default_factory=Wire, description="How bytes move between real nodes.")
    network: Network = Field(
        default_factory=Network, description="What the event engine pretends, in virtual seconds."
    )
    security: Security = Field(
        default_factory=Security, description="Who may speak and listen on the lines between [[node]]s."
    )
    node: Peers = Field(
        (), max_length=MOST, description="The machines of a LAN, one table each, in the order of the graph."
    )
    fault: Faults = Field(
        (),
        max_length=MOST_FAULTS,
        description="Disasters that are to happen, one table each (a fault script).",
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
            found["fault"] = {str(k): fault_table(fault) for k, fault in enumerate(self.fault, start=1)}
        return found

    def to_toml(self) -> str:
        """All keys resolved, as a document that `load_config` reads back to an equal Config."""
        tables = self.to_dict()
        tables.pop("node", None)
        tables.pop("fault", None)
        arrays = {
            "node": [peer.table() for peer in self.node],
            "fault": list(map(fault_table, self.fault)),
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


def _sections() -> dict[str, type[Section]]:
    found = {}
    for name, field in Config.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            found[name] = kind
    return found


SECTIONS: dict[str, type[Section]] = _sections()
"""The tables whose keys are known, by name; `task` is not among them: all its keys are free."""

OPEN = frozenset(name for name, kind in SECTIONS.items() if issubclass(kind, OpenSection))
"""Sections that take other keys beside their own."""

LOCAL_KEYS = frozenset(
    f"{name}.{key}"
    for name, kind in SECTIONS.items()
    for key, field in kind.model_fields.items()
    if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("x-local")
)
"""Dotted keys that are a machine's own: peers do not compare them."""


def json_schema() -> dict[str, object]:
    """The JSON schema (draft 2020-12) of swarm.toml, for editors; `x-local` marks a machine's own keys."""
    schema: dict[str, object] = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    schema.update(Config.model_json_schema())
    schema["title"] = "swarm.toml"
    return schema
