"""A node among machines: what it makes of who comes, goes and is missing, and who is refused."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from gossipfl.config.lan import Place, place
from gossipfl.core.events import Note
from gossipfl.core.membership import Change, State
from gossipfl.drivers.neighborhood import words
from gossipfl.drivers.whereabouts import Lan
from gossipfl.transport.accepting import DOUBLED
from gossipfl.transport.zeromq import ZeroMQ

#: Seconds until a missing line is told of, and until it is told of again: from the first to the last,
#: doubling.
SOON, AGAIN, SELDOM = 3.0, 30.0, 600.0
#: Seconds by which this node must have been there before another to stay where the two do not agree, and
#: seconds in which it looks for someone who does agree.
FIRST, LOOK = 3.0, 5.0
#: Seconds between two looks at all this.
EVERY: Final = 0.5


class _Told(NamedTuple):
    """What was last said of a line that is missing, when, and how long until it is said again."""

    text: str
    at: float
    pause: float


class Abroad:
    """What a node among machines makes of who comes, goes, and does not agree. `say` takes lines for
    people."""

    def __init__(
        self,
        place: Lan,
        transport: ZeroMQ,
        say: Callable[[str], None],
        met: frozenset[int] = frozenset(),
    ) -> None:
        """met: to whom a line stood in an earlier life of this process."""
        self._lan, self._transport, self._say = place, transport, say
        self.met = met  # to whom a line stood, once
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
                self.met |= {peer}
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
            if peer in self.met:
                return f"{edge}: it stood before, and {name} has not come through again. Is it running?"
            return f"{edge}: {name} has not come through to {self._lan.address}. Is it running? {here}"
        address = _plain(self._lan.dials[peer])
        why = trouble or "no answer yet"
        if peer in self.met:
            return f"{edge}: it stood before; {address}: {why}. Is {name} running?"
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
