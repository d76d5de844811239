"""A node's lines in asynchronous exchanges: who is there, greetings when they meet, goodbyes at the end."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from gossipfl.core.events import Effect, Note, PeerDown, Received, Send
from gossipfl.core.exchange.agree import differs
from gossipfl.core.exchange.sessions import Sessions
from gossipfl.core.messages import LAST, Hello, Nothing, Refuse, Stop, Vectors, Welcome
from gossipfl.errors import LocalProtocolError

if TYPE_CHECKING:
    from gossipfl.topology.rewire import Rewiring


class Post(NamedTuple):
    """A node's place in an asynchronous run."""

    node: int
    seed: int
    neighbors: tuple[int, ...]  # all it will ever meet, ascending
    phases: int  # local phases it makes
    about: Mapping[str, object]  # what peers must agree on
    inc: int = 0  # incarnation: another one for a process that follows another and has none of its exchanges
    rewiring: Rewiring | None = None  # how those are got around who die; None: they are done without


class Kept(NamedTuple):
    """A payload that is kept until the exchange it belongs to is over."""

    number: int
    payload: Vectors


@dataclass(slots=True)
class Line:
    """One end of an edge. Numbers are -1 before the first."""

    peer: int
    session: int | None = None
    up: bool = False  # hello and welcome have passed
    gone: bool = False  # the peer will not come back
    done: bool = False  # the peer has made its local phases
    extra: bool = False  # no edge of the graph: around somebody who has died
    wanted: bool = True  # on an extra line that is not wanted this end begins nothing
    peer_inc: int | None = None
    heard: int = -1  # the peer's last number that was acted on
    seen: int = -1  # the peer's last number that came at all: one that was declined is not answered later
    asked: Kept | None = None  # own ask that is neither answered nor declined
    taken: int = -1  # own last ask whose answer was taken
    answered: Kept | None = None  # the last answer to the peer's asks

    @property
    def owes(self) -> bool:
        """Is an exchange under way, or an answer to be given again?"""
        return self.asked is not None or self.answered is not None

    @property
    def last(self) -> int:
        """The own last ask on this line."""
        return self.asked.number if self.asked is not None else self.taken


class Lines:
    """The lines of one node, by peer."""

    def __init__(self, post: Post) -> None:
        self.by_peer = {j: Line(j) for j in post.neighbors}
        self.phases = 0  # local phases made
        self.parted = False  # goodbye has been said
        self.halted = False  # somebody has seen enough
        self.returned = False  # a neighbor has heard more of this node than it knows to have said
        self._phases = post.phases
        self._about, self._inc = post.about, post.inc
        self._node, self._rewiring = post.node, post.rewiring
        self._sessions = Sessions()

    def missing(self) -> tuple[int, ...]:
        """The neighbours that are neither up nor known to be gone, and may come: who has said goodbye comes
        only for what is owed."""
        return tuple(
            j
            for j, line in self.by_peer.items()
            if not (line.up or line.gone) and (line.owes or not (line.extra or line.done))
        )

    def up(self) -> tuple[int, ...]:
        """The neighbours whose line stands, those around the dead among them, ascending."""
        return tuple(j for j, line in self.by_peer.items() if line.up and line.wanted)

    def lost(self, dead: Collection[int]) -> list[Effect]:
        """These nodes are gone for good, and no others: whom else there is to exchange with. An exchange
        needs no agreement on that; who is asked by somebody whom it does not want answers."""
        if self._rewiring is None:
            raise LocalProtocolError("Lost: nobody is got around here")
        wanted = self._rewiring.peers(self._node, dead)
        for j in wanted:
            self.meet(j)
        for line in self.by_peer.values():
            line.wanted = not line.extra or line.peer in wanted
        return []

    def meet(self, peer: int) -> None:
        """Have an end of a line to this node, which may have heard of a death first."""
        if self._rewiring is None or peer in self.by_peer or peer == self._node:
            return
        if 0 <= peer < self._rewiring.n:
            self.by_peer[peer] = Line(peer, extra=True, wanted=False)
            for j in sorted(self.by_peer):  # ascending, as it is everywhere
                self.by_peer[j] = self.by_peer.pop(j)

    def settled(self) -> bool:
        """Everyone has said goodbye: this node, and every neighbour whose line stands."""
        return self.parted and all(line.done or not line.up for line in self.by_peer.values())

    def over(self) -> bool:
        """Has this node trained enough?

        It has made its local phases; or somebody has seen enough; or it is far behind and every neighbour
        that is not lost has made theirs: then it would learn from its own data alone from here on, and carry
        that into the others. A neighbour whose line is down for a while is not lost. Who has said goodbye
        stays with it, whatever its neighbours do then.
        """
        if self.halted or self.parted or self.phases >= self._phases:
            return True
        lines = [line for line in self.by_peer.values() if line.wanted]
        done = [line.done for line in lines if line.done or not line.gone]
        return 2 * self.phases < self._phases and bool(done) and all(done)

    def rounds(self) -> int:
        """How many local phases this node makes, as far as is known."""
        return self.phases if self.over() else self._phases

    def halt(self, heard_from: int = -1) -> list[Effect]:
        """End, and pass it on: somebody has seen enough."""
        if self.halted:
            return []
        self.halted = True
        return [self._stop(line) for line in self.by_peer.values() if line.up and line.peer != heard_from]

    def silent(self) -> tuple[int, ...]:
        """The neighbours whose line stands and who have not said goodbye."""
        return tuple(j for j, line in self.by_peer.items() if line.up and not line.done)

    def open(self, event: Received) -> Line | None:
        """The line a message came in on, or None: a superseded session is discarded unread."""
        line = self.by_peer.get(event.peer)
        return line if line is not None and line.up and line.session == event.session else None

    def part(self) -> list[Effect]:
        """Say goodbye on every line, once."""
        if self.parted:
            return []
        self.parted = True
        return [self._goodbye(line) for line in self.by_peer.values() if line.up]

    def dialled(self, peer: int, session: int) -> list[Effect]:
        """A connection that this end dialled is open: greet."""
        self.meet(peer)
        line = self.by_peer[peer]
        self._close(line)
        line.session = session
        self._sessions.dialled(peer, session)
        return [Send(peer, session, self._greeting(Hello, line, session))]

    def greeted(self, event: Received) -> tuple[list[Effect], Line | None]:
        """A hello or welcome: what to do, and the line if it stands now."""
        hello, peer, session = event.message, event.peer, event.session
        assert isinstance(hello, Hello)
        self.meet(peer)
        line, answer = self.by_peer.get(peer), not isinstance(hello, Welcome)
        reason = "not a neighbor here" if line is None else differs(self._about, hello.about)
        if line is None or reason is not None:
            note: list[Effect] = [Note("refused", peer, differs(hello.about, self._about) or reason or "")]
            return ([Send(peer, session, Refuse(session, reason or "")), *note] if answer else note), None
        if answer and self._sessions.overtaken(peer, session, hello.about):
            return [], None
        if not answer and line.session != session:
            return [], None
        effects: list[Effect] = []
        if answer:
            self._close(line)
            line.session = session
            effects.append(Send(peer, session, self._greeting(Welcome, line, session)))
        effects += self._meet(line, hello)
        return effects, line

    def down(self, event: PeerDown) -> tuple[list[Effect], Line | None]:
        """A session is closed: what to do, and the line if it stood until now."""
        line = self.by_peer.get(event.peer)
        if line is None:
            return [], None
        line.gone = line.gone or event.gone
        if event.session is not None and event.session != line.session:
            return [], None
        stood = line.up
        self._close(line)
        note: list[Effect] = [Note("peer_down", event.peer)] if stood and not line.done else []
        return note, line if stood else None

    def _meet(self, line: Line, hello: Hello) -> list[Effect]:
        if hello.peer_inc is not None and (hello.peer_inc != self._inc or hello.heard > line.last):
            self.returned = True
        if hello.inc != line.peer_inc or hello.peer_inc != self._inc:  # one does not remember the other
            line.asked = line.answered = None
            line.heard = line.seen = hello.sent
            line.peer_inc = hello.inc
        line.up, line.gone, line.done = True, False, False
        effects: list[Effect] = [Note("peer_up", line.peer)]
        if self.halted:
            effects.append(self._stop(line))
        if self.parted:
            effects.append(self._goodbye(line))
        return effects

    def _stop(self, line: Line) -> Send:
        assert line.session is not None
        return Send(line.peer, line.session, Stop(self.phases))

    def _greeting(self, kind: type[Hello], line: Line, session: int) -> Hello:
        return kind(session, self._inc, line.peer_inc, line.heard, line.taken, line.last, self._about)

    def _goodbye(self, line: Line) -> Send:
        assert line.session is not None
        return Send(line.peer, line.session, Nothing(LAST, line.heard))

    def _close(self, line: Line) -> None:
        line.session, line.up = None, False
