"""Which of two greetings of a peer is the newer one."""

from __future__ import annotations

from collections.abc import Mapping

from gossipfl.core.exchange.agree import INSTANCE


class Sessions:
    """The newest session of each peer. Numbers grow within a process; a process that has been followed by
    another does not come back."""

    def __init__(self) -> None:
        self._newest: dict[int, tuple[object, int]] = {}  # process, number
        self._past: dict[int, set[object]] = {}

    def dialled(self, peer: int, session: int) -> None:
        """This end has opened a session."""
        self._newest[peer] = (None, session)

    def overtaken(self, peer: int, session: int, about: Mapping[str, object]) -> bool:
        """Is a greeting older than one seen before? If not, it is the newest now."""
        process = about.get(INSTANCE)
        before = self._newest.get(peer)
        if before is not None and before[0] == process and session < before[1]:
            return True
        past = self._past.setdefault(peer, set())
        if process in past:
            return True
        if before is not None and before[0] != process:
            past.add(before[0])
        self._newest[peer] = (process, session)
        return False
