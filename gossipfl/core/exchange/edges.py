"""A node's edges in `rounds`: who is there, greetings when two meet, goodbyes at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from gossipfl.core.aggregate import Row
from gossipfl.core.events import Effect, Note, PeerDown, Received, Send
from gossipfl.core.exchange.agree import differs
from gossipfl.core.exchange.edge import Edge
from gossipfl.core.exchange.sessions import Sessions
from gossipfl.core.messages import LAST, Hello, Message, Nothing, Refuse, Welcome

#: What is told of a neighbour that has said goodbye before the last round.
LEFT = "has left"


class Met(NamedTuple):
    """What a greeting comes to. edge: the one that is up now, if any; owed: what has to be said on it."""

    effects: list[Effect]
    edge: Edge | None = None
    owed: tuple[Message, ...] = ()


class Edges:
    """One node's ends of its edges, by peer, ascending."""

    def __init__(self, neighbors: Iterable[int], arcs: bool, about: Mapping[str, object]) -> None:
        self.by_peer: dict[int, Edge] = {j: Edge(j, arcs, verify=-1) for j in sorted(neighbors)}
        self.inc = 0  # incarnation of this node
        self.refused: str | None = None  # why a peer will have nothing to do with this node
        self._about = about
        self._sessions = Sessions()

    # ------------------------------------------------------------------ who is there

    def missing(self, around: bool) -> tuple[int, ...]:
        """The neighbours that are neither up nor known to be gone, and have not said goodbye: who is waited
        for before round 0. around: those around the dead, too."""
        edges = ((j, e) for j, e in self.by_peer.items() if not (e.up or e.gone or e.done))
        return tuple(j for j, e in edges if e.out or not e.extra or (around and e.wanted))

    def awaited(self) -> tuple[int, ...]:
        """After the last round: for whom this node stays that is not there, or is back and has not said
        goodbye. It is for whoever drives this to say how long."""
        return tuple(j for j, e in self.by_peer.items() if e.keeps and (e.returned or not e.up))

    def silent(self, row: Row, round: int) -> tuple[int, ...]:
        """The neighbours that are up and whose word for a round is still missing."""
        active = set(row.active)
        return tuple(j for j, e in self.by_peer.items() if j in active and e.up and e.heard < round)

    def settled(self) -> bool:
        """After the last round: has everyone that lives all it was sent, and this end all it will get?"""
        return not any(edge.keeps for edge in self.by_peer.values())

    # ------------------------------------------------------------------ saying

    def say(self, edge: Edge, message: Message) -> list[Effect]:
        """Send, if there is a line."""
        return [Send(edge.peer, edge.session, message)] if edge.up and edge.session is not None else []

    def spread(self, message: Message, heard_from: int = -1) -> list[Effect]:
        """Pass word on to all but the one it comes from."""
        others = (edge for edge in self.by_peer.values() if edge.peer != heard_from)
        return [e for edge in others for e in self.say(edge, message)]

    def skip(self, row: Callable[[int], Row], last: int, next: int) -> list[Effect]:
        """This node goes on from round `last` to `next`: none for those between, where it was expected."""
        effects: list[Effect] = []
        owed: dict[int, int] = {}
        for t in range(next - 1, last, -1):
            for j in row(t).active:
                owed.setdefault(j, t)
            if len(owed) == len(self.by_peer):
                break
        for j, t in sorted(owed.items()):
            edge = self.by_peer[j]
            edge.sent = t
            effects += self.say(edge, Nothing(t, edge.counted))
        return effects

    def goodbyes(self) -> list[Effect]:
        effects: list[Effect] = []
        for edge in self.by_peer.values():
            edge.sent, edge.plan = LAST, False
            effects += self.say(edge, Nothing(LAST, edge.counted))
        return effects

    # ------------------------------------------------------------------ hearing

    def open(self, event: Received) -> Edge | None:
        """The edge that a message came in on, or None: a superseded session is discarded unread."""
        peer, session, _ = event
        edge = self.by_peer.get(peer)
        return edge if edge is not None and edge.up and edge.session == session else None

    def hear(self, edge: Edge, message: Nothing, more: bool) -> list[Effect]:
        """Nothing of a round, or a goodbye, and what to tell of it. more: there are rounds to come."""
        done = edge.done
        edge.receive(message)
        # who says goodbye and counts nothing more has left; who is only ahead still takes things in
        if edge.done and not done and message.counted >= LAST and more:
            edge.departed = True
            return [Note("peer_down", edge.peer, LEFT)]
        return []

    # ------------------------------------------------------------------ sessions

    def dialled(self, peer: int, session: int) -> list[Effect]:
        """A connection that this end dialled is open: greet."""
        edge = self.by_peer[peer]
        edge.close()
        edge.session = session
        self._sessions.dialled(peer, session)
        return [Send(peer, session, self._greeting(Hello, edge, session))]

    def greeted(self, event: Received) -> Met:
        """A hello or welcome."""
        hello, peer = event.message, event.peer
        assert isinstance(hello, Hello)
        edge = self.by_peer.get(peer)
        answer = not isinstance(hello, Welcome)
        reason = "not a neighbor here" if edge is None else differs(self._about, hello.about)
        if edge is None or reason is not None:
            note: list[Effect] = [Note("refused", peer, differs(hello.about, self._about) or reason or "")]
            refusal = Send(peer, event.session, Refuse(event.session, reason or ""))
            return Met([refusal, *note] if answer else note)
        if answer:
            if self._sessions.overtaken(peer, event.session, hello.about):
                return Met([])
            edge.close()
            edge.session = event.session
        elif edge.session != event.session:
            return Met([])
        if edge.stale(hello, self.inc):
            return Met([Note("stale", peer, round=hello.sent)])
        effects: list[Effect] = []
        if answer:
            effects.append(Send(peer, event.session, self._greeting(Welcome, edge, event.session)))
        edge.departed = False
        return Met(effects, edge, tuple(edge.meet(hello, self.inc)))

    def down(self, event: PeerDown, said: int) -> tuple[bool, list[Effect]]:
        """A session is closed, or a process ended: does that change anything, and what to tell. said: whoever
        has spoken of this round has said all it had to say."""
        edge = self.by_peer.get(event.peer)
        if edge is None:
            return False, []
        if event.session is None:
            # Its process ended: what it sent may still be on the line, which closes by itself.
            edge.ended = edge.ended or event.gone
            edge.gone = edge.gone or event.gone
            return True, []
        if event.session != edge.session:
            return False, []
        was_up = edge.up
        edge.close()
        edge.gone = edge.gone or edge.departed or edge.ended
        return True, [Note("peer_down", event.peer)] if was_up and edge.heard < said else []

    def _greeting(self, kind: type[Hello], edge: Edge, session: int) -> Hello:
        return kind(session, self.inc, edge.peer_inc, edge.heard, edge.acked, edge.sent, self._about)
