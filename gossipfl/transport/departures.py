"""Where TCP connections came from that ended before anyone could look: Linux says so to whoever listens.

libzmq hangs up on junk within microseconds, and then its socket no longer tells whose it was. The kernel
tells anybody of each TCP socket that it lets go of (netlink SOCK_DIAG, groups TCP_DESTROY; sock_diag(7)).
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from typing import Final, NamedTuple

_SOCK_DIAG: Final = 4  # NETLINK_SOCK_DIAG
_GROUPS: Final = 0b101  # SKNLGRP_INET_TCP_DESTROY, SKNLGRP_INET6_TCP_DESTROY
#: nlmsghdr, then of inet_diag_msg: family, state, timer, retransmissions; ports; local and remote address.
_HEAD: Final = struct.Struct("=16xBxxx")
_PORTS: Final = struct.Struct("!HH")
_REMOTE, _END = 40, 56


class From(NamedTuple):
    """Where a connection came from."""

    host: str
    port: int


class Departures:
    """The connections to a port that have ended. Elsewhere than on Linux none are seen."""

    def __init__(self) -> None:
        self._line: socket.socket | None = None
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                self._line = socket.socket(
                    socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _SOCK_DIAG
                )
                self._line.bind((0, _GROUPS))

    def fileno(self) -> int | None:
        """What becomes readable when there are any; None: never."""
        return None if self._line is None else self._line.fileno()

    def close(self) -> None:
        """Listen no longer."""
        if self._line is not None:
            self._line.close()

    def read(self, port: int) -> list[From]:
        """Where the connections to a port came from that have ended since the last call."""
        found: list[From] = []
        while self._line is not None:
            try:
                message = self._line.recv(4096)
            except BlockingIOError:
                break
            except OSError:  # there were more than the system keeps
                continue
            if len(message) < _END:
                continue
            (family,) = _HEAD.unpack_from(message)
            here, there = _PORTS.unpack_from(message, 20)
            if here != port or family not in (socket.AF_INET, socket.AF_INET6):
                continue
            raw = message[_REMOTE : _REMOTE + (4 if family == socket.AF_INET else 16)]
            found.append(From(socket.inet_ntop(family, raw), there))
        return found
