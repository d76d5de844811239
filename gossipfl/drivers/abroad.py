"""A node among machines: where the others are, who dials whom, whom it waits for, and who is refused.

All of it is decided from the file, which is the same everywhere but for each machine's own keys.
"""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from gossipfl.config import Config
from gossipfl.config.lan import Place, key_bytes, key_text, place
from gossipfl.core.events import Note
from gossipfl.core.exchange.agree import INSTANCE
from gossipfl.core.membership import Change, State
from gossipfl.drivers.neighborhood import words
from gossipfl.drivers.plan import Plan, neighbors, require_reachable
from gossipfl.errors import ConfigError, Problem
from gossipfl.transport import keys
from gossipfl.transport.accepting import DOUBLED
from gossipfl.transport.curve import Keys
from gossipfl.transport.zeromq import Line, ZeroMQ

#: Bytes of a frame of numbers between machines: heartbeats pass between two of them, on slow lines too.
CHUNK: Final = 256 * 1024
#: Seconds until a missing line is told of, and until it is told of again: from the first to the last,
#: doubling.
SOON, AGAIN, SELDOM = 3.0, 30.0, 600.0
#: Seconds by which this node must have been there before another to stay where the two do not agree, and
#: seconds in which it looks for someone who does agree.
FIRST, LOOK = 3.0, 5.0
#: Seconds between two looks at all this.
EVERY: Final = 0.5


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

    def line(self, records: Path) -> Line:
        """How this node's lines are; `records`: the file that watchers read."""
        return Line(self.keys, records)

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


class _Told(NamedTuple):
    """What was last said of a line that is missing, when, and how long until it is said again."""

    text: str
    at: float
    pause: float


class Abroad:
    """What a node among machines makes of who comes, goes, and does not agree. `say` takes lines for
    people."""

    def __init__(self, place: Lan, transport: ZeroMQ, say: Callable[[str], None]) -> None:
        self._lan, self._transport, self._say = place, transport, say
        self._name = place.names[place.node]
        self._since = time.monotonic()
        self._agreed: set[int] = set()
        self._disagreed: dict[int, str] = {}
        self._first = True  # was this node here before whoever does not agree with it?
        self._told: dict[int, _Told] = {}
        self._missing: tuple[int, ...] | None = None

    def begin(self) -> None:
        """Say where this node is, and dial whom it has to dial."""
        self._since = time.monotonic()
        if self._lan.listen:
            own = ", ".join(sorted({a for j in self._lan.dials for a in _towards(self._lan.dials[j])}))
            here = f" (this machine is {own})" if own else ""
            bound = self._transport.address.removeprefix("tcp://")
            self._say(f"listens at {bound}; the others reach it at {self._lan.address}{here}")
        else:
            self._say("has no address: it only dials out")
        for peer, address in self._lan.dials.items():
            self._transport.dial(peer, address)

    def note(self, note: Note) -> None:
        """Take in, and tell people, what has happened on a line."""
        peer = note.peer
        who = self._lan.names[peer] if 0 <= peer < len(self._lan.names) else "a stranger"
        match note.kind:
            case "peer_up":
                self._agreed.add(peer)
                self._disagreed.pop(peer, None)
                self._told.pop(peer, None)
                self._say(f"met {who}")
            case "peer_down" if note.text:
                self._say(f"{who} {note.text}; goes on without it")
            case "peer_down":
                self._say(f"the line to {who} is down; goes on without it, and takes it up when it is back")
            case "quarantined":
                self._say(f"{who} {note.text}")
            case "rejected":
                self._say(f"rejected {who}: {note.text}")
            case "refused" if self._disagreed.get(peer) != note.text:
                if not self._disagreed and not note.text.startswith(DOUBLED):
                    met = self._transport.reached(peer) or time.monotonic()
                    self._first = met - self._since > FIRST
                elif not self._disagreed:
                    self._first = False  # whoever bears this name was there before
                self._disagreed[peer] = note.text
                self._say(f"{who} {note.text}")

    def verdict(self) -> str | None:
        """Must this node go, because it does not agree with the others? Then why.

        It stays if some neighbor agrees with it, or if it was there first: the others must go then.
        """
        if not self._disagreed or self._agreed or self._first:
            return None
        everyone = len(self._disagreed) == len(self._lan.neighbors)
        if not everyone and time.monotonic() - self._since < LOOK:
            return None
        return "; ".join(f"{self._lan.names[j]} {text}" for j, text in sorted(self._disagreed.items()))

    def look(self, missing: tuple[int, ...]) -> None:
        """Say for whom this node waits, and which lines cannot be made, and why."""
        now = time.monotonic()
        if missing != self._missing:
            self._missing = missing
            if missing:
                self._say(f"waits for {', '.join(self._awaited(j) for j in missing)}")
        if now - self._since < SOON:
            return
        for peer in missing:
            text, at, pause = self._told.get(peer, _Told("", 0.0, AGAIN))
            found = self._obstacle(peer)
            if found != text:
                pause = AGAIN
            if now - at > (pause if found == text else SOON):
                self._told[peer] = _Told(found, now, min(2 * pause, SELDOM) if found == text else pause)
                self._say(found)

    def suspect(self, change: Change, sign: str) -> None:
        """Tell people of a neighbor that is suspected, of one that is not any more, and of one that is dead,
        whose line is then down."""
        who = self._lan.names[change.peer]
        match change.state:
            case State.SUSPECT if change.why == "hang":
                self._say(f"{who} seems to hang: its line stands, and it {words(change)} (last sign: {sign})")
            case State.SUSPECT:
                self._say(f"{who} {words(change)} (last sign: {sign})")
            case State.ALIVE:
                self._say(f"{who} goes on")
            case State.DEAD:
                self._say(f"{who} {words(change)}: its line is ended")

    def _awaited(self, peer: int) -> str:
        name = self._lan.names[peer]
        if peer in self._lan.dials:
            return f"{name} (dials {_plain(self._lan.dials[peer])})"
        return f"{name} (which dials {self._lan.address})"

    def _obstacle(self, peer: int) -> str:
        name = self._lan.names[peer]
        edge = f"no line {self._name}–{name}"
        trouble = self._transport.trouble(peer)  # of now; the disagreement may be with one who has gone
        if peer in self._disagreed and not trouble:
            return f"{edge}: {name} {self._disagreed[peer]}"
        if peer not in self._lan.dials:
            where = place(self._lan.address)
            here = f"TCP port {where.port} must be open on this machine"
            if not _is_here(where):
                here = f"{where.host} is no address of this machine: what arrives there must be sent on to it"
            return f"{edge}: {name} has not come through to {self._lan.address}. Is it running? {here}"
        address = _plain(self._lan.dials[peer])
        why = trouble or "no answer yet"
        return (
            f"{edge}: {address}: {why}. Is {name} running? "
            f"TCP port {place(address).port} must be open on its machine"
        )


def _plain(address: str) -> str:
    return address.removeprefix("tcp://")


def _towards(address: str) -> Iterator[str]:
    """This machine's own address on the way to another; nothing is sent."""
    where = place(_plain(address))
    with suppress(OSError), socket.socket(_family(where), socket.SOCK_DGRAM) as probe:
        probe.connect((where.host.strip("[]"), where.port))
        yield str(probe.getsockname()[0])


def _is_here(where: Place) -> bool:
    """Is it an address of this machine? Nothing is sent."""
    try:
        with socket.socket(_family(where), socket.SOCK_DGRAM) as probe:
            probe.bind((where.host.strip("[]"), 0))
    except OSError:
        return False
    return True


def _family(where: Place) -> socket.AddressFamily:
    return socket.AF_INET6 if where.host.startswith("[") else socket.AF_INET
