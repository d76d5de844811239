"""The connections under libzmq's sockets: when bytes last came on one, and how to end one.

libzmq tells the number of a connection's file descriptor, but neither what passes on it nor how to close it
alone. The system knows both. A number may be given to another connection at any time, so it is kept with the
inode.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
from typing import Final, NamedTuple

#: Where `struct tcp_info` (linux/tcp.h) has `tcpi_last_data_recv`: milliseconds since bytes came.
_LAST_DATA: Final = 52


#: Bytes on a line inside this machine that may wait to be read.
_WAITING: Final = 512 * 1024


class Descriptor(NamedTuple):
    """A connection of this process."""

    number: int
    inode: int

    @property
    def stands(self) -> bool:
        """Is the number still this connection's, in this process?"""
        try:
            return os.fstat(self.number).st_ino == self.inode
        except OSError:
            return False

    def idle(self) -> float | None:
        """Seconds since bytes of the other end last came; None: the system does not tell, or it is over."""
        if not sys.platform.startswith("linux"):
            return None
        with contextlib.suppress(OSError, struct.error), self._own() as line:
            if line.family in (socket.AF_INET, socket.AF_INET6):
                info = line.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
                return float(struct.unpack_from("=I", info, _LAST_DATA)[0]) / 1000
        return None

    def widen(self) -> None:
        """Let more than the system's usual wait to be read at the other end, on this machine: who writes need
        not wait for who reads so often. (libzmq does so for TCP alone.)"""
        with contextlib.suppress(OSError), self._own() as line:
            if line.family == socket.AF_UNIX:
                line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _WAITING)

    def end(self) -> None:
        """End the connection: both ends see it closed, as soon as they run."""
        with contextlib.suppress(OSError), self._own() as line:
            line.shutdown(socket.SHUT_RDWR)

    def _own(self) -> socket.socket:
        """The connection as a socket of its own. Raises OSError: it is over."""
        made = os.dup(self.number)
        try:
            if os.fstat(made).st_ino != self.inode:
                raise OSError("the number is another connection's now")
            return socket.socket(fileno=made)
        except OSError:
            os.close(made)
            raise


def descriptor(number: int) -> Descriptor | None:
    """The connection with this number; None: it is over, or this system has no such numbers."""
    try:
        return Descriptor(number, os.fstat(number).st_ino)
    except OSError:
        return None
