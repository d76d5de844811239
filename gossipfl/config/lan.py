"""The machines of a swarm: `[[node]]` and `[security]`, where they can be reached, and who may listen."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from dataclasses import dataclass
from typing import Annotated, Final, Literal, NamedTuple

from gossipfl.config.kinds import Name, sequence
from gossipfl.config.section import After, Before, Expected, Section, key, required

MOST: Final = 500  # nodes: all of them are told in a hello, whose header is limited
PUBLIC: Final = "pub-"
SECRET: Final = "secret-"
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?):(\d{1,5})")
_SECRETS = re.compile(r"secret-[\w-]+")


class Place(NamedTuple):
    """Host and port of an address."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Is it this machine alone? A name is, only if it is `localhost`."""
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"


def place(address: str) -> Place:
    """`host:port` or `[IPv6]:port`, taken apart. Raises ValueError."""
    found = _ADDRESS.fullmatch(address)
    if found is None or not 1 <= int(found[2]) <= 65_535:
        raise ValueError("no HOST:PORT")
    return Place(found[1], int(found[2]))


def key_bytes(text: str, prefix: str = PUBLIC) -> bytes:
    """The 32 bytes of a key as people pass it around: `pub-` and 43 letters. Raises ValueError, which never
    holds the text."""
    body = text.removeprefix(prefix)
    try:
        raw = base64.b64decode(body + "=", altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raw = b""
    if body == text or len(raw) != 32:
        raise ValueError("no key")
    return raw


def key_text(raw: bytes, prefix: str = PUBLIC) -> str:
    """32 bytes as people pass them around."""
    return prefix + base64.urlsafe_b64encode(raw).decode().rstrip("=")


def redacted(text: str) -> str:
    """The text without any secret key."""
    return _SECRETS.sub(f"{SECRET}…", text)


def _address(value: str) -> str:
    if value:
        place(value)
    return value


def _key(value: str) -> str:
    if value:
        key_bytes(value)
    return value


def _switch(value: object) -> object:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


Address = Annotated[
    str,
    After(_address),
    Expected('"HOST:PORT" such as "10.0.0.1:7700", or "" for none'),
]
PublicKey = Annotated[
    str,
    After(_key),
    Expected("a public key, pub-…, as gossipfl keys show prints it"),
]


@dataclass(frozen=True, kw_only=True)
class Security(Section):
    """Who may speak and listen. Off the loopback everything is encrypted, and only the listed keys get in."""

    encrypt: Annotated[Literal["auto", "on", "off"], Before(_switch)] = key(
        "auto", "Encrypt lines and admit listed keys alone; auto: if any node is off the loopback."
    )
    allow_plaintext: bool = key(
        False, "Let encrypt be off with nodes off the loopback: anyone can read and write."
    )
    keys: str = key("keys", "Folder with this node's secret key, NAME.secret.", local=True)
    allow: Annotated[
        tuple[PublicKey, ...],
        Before(sequence),
        Expected('a list of public keys, such as ["pub-…"]'),
    ] = key((), "Public keys that may watch, beside the nodes' own.")


@dataclass(frozen=True, kw_only=True)
class Peer(Section):
    """One node of a LAN; the order of the tables is that of the graph."""

    name: Name = required("The node's name, and that of its files.")
    address: Address = key("", "Where its neighbors reach it; empty: it only dials out.")
    bind: Address = key("", "Where it listens, such as 0.0.0.0:7700; empty: at its address.", local=True)
    public_key: PublicKey = key("", "Its public key, as gossipfl keys show prints it.")


def as_table(value: object) -> object:
    """`[[node]]` tables as one table by name, in order; what is not of that form is left as it is."""
    if not isinstance(value, list) or not all(isinstance(v, dict) and "name" in v for v in value):
        return value
    names = [str(v["name"]) for v in value]
    if len(set(names)) < len(names):
        return value
    return {n: {k: x for k, x in v.items() if k != "name"} for n, v in zip(names, value, strict=True)}


def as_list(value: object) -> object:
    """The reverse of `as_table`."""
    if not isinstance(value, dict) or not all(isinstance(v, dict) for v in value.values()):
        return value
    return [{"name": name, **table} for name, table in value.items()]


def _peers(value: object) -> object:
    value = as_list(value)
    return tuple(value) if isinstance(value, list) else value


Peers = Annotated[tuple[Peer, ...], Before(_peers)]
