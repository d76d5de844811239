"""Payloads that pass beside a node's sockets: they lie where its neighbors read them (`shared.py`), and word
of them goes by mail, where there is mail (`mail.py`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from gossipfl.core.events import Event, Note, Received
from gossipfl.core.messages import Data, Vectors
from gossipfl.errors import RemoteProtocolError
from gossipfl.transport.mail import SIZE, Mail, Word
from gossipfl.transport.shared import Commons, Shelf
from gossipfl.transport.signs import Signs

#: No bell.
SILENT: Final = -1


class Sharing:
    """One node's part in the memory that it shares with its neighbors."""

    def __init__(self, commons: Commons, shelf: Shelf | None, mail: Mail | None, signs: Signs) -> None:
        """Payloads are read where the peers leave theirs, and left on this node's shelf, if it has one; word
        of them goes by mail, if it has that. signs: are kept of those who leave word."""
        self.mail = mail
        self.bell = SILENT if mail is None else mail.bell
        self.bytes = commons.bytes  # of a payload
        self.sent_bytes = self.received_bytes = 0
        self._commons, self._shelf, self._signs = commons, shelf, signs
        #: Where the payload lies that was sent last. None: it is sent to no more neighbors, and its memory
        #: may be used again.
        self.laid: tuple[Vectors, int | None] | None = None

    def slot(self, payload: Vectors) -> int | None:
        """Where a payload lies for neighbors; None: it does not. For several of them it is laid once."""
        if self.laid is None or self.laid[0] is not payload:
            self.laid = payload, None if self._shelf is None else self._shelf.place(payload)
        return self.laid[1]

    def leave(self, peer: int, session: int, data: Data) -> bool:
        """Leave word of a payload, if there is mail and the payload lies where the peer can read it."""
        mail, laid = self.mail, self.laid
        if mail is None:
            return False
        round, counted, payload = data
        slot = laid[1] if laid is not None and laid[0] is payload else self.slot(payload)
        if slot is None or not mail.say(peer, session, round, counted, slot):
            return False
        self.sent_bytes += self.bytes + SIZE
        return True

    def fetch(self, peer: int, slot: int) -> Vectors:
        """The payload in a slot of a peer's. Raises RemoteProtocolError."""
        payload = self._commons.read(peer, slot)
        self.received_bytes += self.bytes
        return payload

    # ------------------------------------------------------------------ what has come

    def read(self, rung: bool, reject: Callable[[int], list[Event | Note]]) -> list[Event | Note]:
        """The words that are due, as if they had come over the socket. rung: the bell has been heard; reject:
        what comes of a peer whose word makes no sense."""
        return [] if self.mail is None else self._read(self.mail.take(rung), reject)

    def before(
        self, peer: int, session: int, reject: Callable[[int], list[Event | Note]]
    ) -> list[Event | Note]:
        """What was said before a message that has come over the socket of a session."""
        return [] if self.mail is None else self._read(self.mail.before(peer, session), reject)

    def _read(self, words: Sequence[Word], reject: Callable[[int], list[Event | Note]]) -> list[Event | Note]:
        events: list[Event | Note] = []
        if not words:
            return events
        signs, at = self._signs, self._signs.now()
        for peer, session, round, counted, slot in words:
            try:
                payload = self._commons.read(peer, slot)
            except RemoteProtocolError as error:
                events += [Note("rejected", peer, str(error)), *reject(peer)]
                continue
            signs.word(peer, at)
            events.append(Received(peer, session, Data(round, counted, payload)))
        self.received_bytes += self.bytes * len(words)
        return events
