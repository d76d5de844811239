"""Watching a node from elsewhere: its records, read on asking, so that a slow watcher costs the node nothing.

    watch    [32, offset]    from the watcher: what is there from this byte of the records on?
    records  [33, offset]    + one frame: whole lines, the next of which begins at `offset`

An ask is answered when there is something; a watcher asks again when it has its answer, or a new connection.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple

import msgpack
import zmq

from gossipfl.errors import RemoteProtocolError
from gossipfl.records import Record, parse
from gossipfl.transport.curve import HANDSHAKE, Keys

WATCH, RECORDS = 32, 33  # kinds that no message of an edge has
#: Bytes of records in an answer, and in an ask; watchers a node answers at a time.
PIECE: Final = 65_536
_ASK: Final = 32
WATCHERS: Final = 64
#: Seconds between two answers to one watcher.
EVERY: Final = 0.2

Socket = zmq.Socket[bytes]


def ask(offset: int) -> bytes:
    """The frame of an ask."""
    packed: bytes = msgpack.packb([WATCH, offset])
    return packed


def answer(offset: int, lines: bytes) -> tuple[bytes, bytes]:
    """The frames of an answer: whole lines of the records, from `offset` on."""
    return msgpack.packb([RECORDS, offset + len(lines)]), lines


class _Ask(NamedTuple):
    offset: int
    due: float  # not answered before


class Lookout:
    """What a node's watchers have asked, and what can be answered."""

    def __init__(self, records: Path) -> None:
        """records: the file that the node writes."""
        self._path = records
        self._asks: dict[bytes, _Ask] = {}
        self._answered: dict[bytes, float] = {}

    def take(self, route: bytes, frames: Sequence[bytes]) -> bool:
        """Is this an ask? Then it is kept until it can be answered. Raises RemoteProtocolError for a bad
        one."""
        if len(frames[0]) > _ASK:
            return False
        try:
            fields = msgpack.unpackb(frames[0], use_list=True, max_array_len=2)
        except (ValueError, msgpack.UnpackException, RecursionError):
            return False
        if not isinstance(fields, list) or not fields or fields[0] != WATCH:
            return False
        if len(fields) != 2 or type(fields[1]) is not int or not 0 <= fields[1] < 2**62:
            raise RemoteProtocolError("watch: an offset of at least 0 is needed")
        if route not in self._asks and len(self._asks) >= WATCHERS:
            raise RemoteProtocolError(f"more than {WATCHERS} watchers")
        self._asks[route] = _Ask(fields[1], self._answered.get(route, 0.0) + EVERY)
        return True

    def forget(self, route: bytes) -> None:
        """The connection is over."""
        self._asks.pop(route, None)
        self._answered.pop(route, None)

    def answers(self) -> Iterator[tuple[bytes, tuple[bytes, bytes]]]:
        """Route and frames of each answer that can be given now."""
        now = time.monotonic()
        for route, asked in list(self._asks.items()):
            if asked.due > now:
                continue
            lines = self._from(asked.offset)
            if not lines:
                self._asks[route] = asked._replace(due=now + EVERY / 2)
            else:
                del self._asks[route]
                self._answered[route] = now
                yield route, answer(asked.offset, lines)

    def due(self) -> float | None:
        """Seconds until an answer that was put off may be given; None: nobody waits."""
        if not self._asks:
            return None
        return max(0.0, min(asked.due for asked in self._asks.values()) - time.monotonic())

    def _from(self, offset: int) -> bytes:
        """Whole lines from a byte on."""
        try:
            with self._path.open("rb", buffering=0) as file:
                file.seek(offset)
                data = file.read(PIECE)
        except OSError:
            return b""
        return data[: data.rfind(b"\n") + 1]


class Watched(NamedTuple):
    """A node that can be watched: its name, address and public key."""

    name: str
    address: str
    public_key: bytes


class Watching:
    """Reads the records of nodes over the network. A context manager; leaving it leaves no trace there."""

    def __init__(self, nodes: Mapping[int, Watched], keys: Keys | None) -> None:
        """keys None: in plaintext."""
        self._nodes, self._keys = nodes, keys
        self._context: zmq.Context[Socket] = zmq.Context()
        self._poller = zmq.Poller()
        self._lines: dict[int, tuple[Socket, Socket]] = {}
        self._offset = dict.fromkeys(nodes, 0)
        self.up: set[int] = set()
        self.refused: set[int] = set()

    def __enter__(self) -> Watching:
        for node, watched in self._nodes.items():
            line: Socket = self._context.socket(zmq.DEALER)
            line.setsockopt(zmq.MAXMSGSIZE, PIECE + 1024)
            line.setsockopt(zmq.IMMEDIATE, 1)
            line.setsockopt(zmq.IPV6, "[" in watched.address)
            line.setsockopt(zmq.RECONNECT_IVL, 500)
            line.setsockopt(zmq.CONNECT_TIMEOUT, HANDSHAKE)
            line.setsockopt(zmq.HEARTBEAT_IVL, 2000)
            line.setsockopt(zmq.HEARTBEAT_TIMEOUT, 6000)
            if self._keys is not None:
                self._keys.dial(line, watched.public_key)
            wanted = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_DISCONNECTED
            monitor: Socket = line.get_monitor_socket(wanted)
            line.connect(f"tcp://{watched.address}")
            self._lines[node] = (line, monitor)
            self._poller.register(line, zmq.POLLIN)
            self._poller.register(monitor, zmq.POLLIN)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for line, monitor in self._lines.values():
            line.disable_monitor()
            monitor.close(linger=0)
            line.close(linger=0)
        self._context.term()

    def poll(self, timeout: float) -> list[Record]:
        """The records that come within `timeout` seconds, as they come."""
        records: list[Record] = []
        ready = {s for s, _ in self._poller.poll(math.ceil(timeout * 1000))}
        for node, (line, monitor) in self._lines.items():
            if monitor in ready:
                self._changed(node, monitor)
            if line in ready:
                records += self._read(node, line)
        return records

    def _changed(self, node: int, monitor: Socket) -> None:
        from zmq.utils.monitor import recv_monitor_message

        with contextlib.suppress(zmq.Again):
            while True:
                event = int(recv_monitor_message(monitor, zmq.NOBLOCK)["event"])
                if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                    self.up.add(node)
                    self._ask(node)
                else:
                    self.up.discard(node)
                    if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                        self.refused.add(node)

    def _ask(self, node: int) -> None:
        with contextlib.suppress(zmq.Again):
            self._lines[node][0].send(ask(self._offset[node]), zmq.NOBLOCK)

    def _read(self, node: int, line: Socket) -> list[Record]:
        records: list[Record] = []
        with contextlib.suppress(zmq.Again):
            while True:
                frames = line.recv_multipart(zmq.NOBLOCK)
                fields = next_offset(frames)
                if fields is None:
                    continue
                self._offset[node] = fields
                records += [r for r in map(parse, frames[1].splitlines()) if r is not None]
                self._ask(node)
        return records


def next_offset(frames: Sequence[bytes]) -> int | None:
    """The next offset of an answer, or None if it is none."""
    if len(frames) != 2 or len(frames[0]) > _ASK:
        return None
    try:
        fields = msgpack.unpackb(frames[0], use_list=True, max_array_len=2)
    except (ValueError, msgpack.UnpackException, RecursionError):
        return None
    if not isinstance(fields, list) or len(fields) != 2 or fields[0] != RECORDS:
        return None
    return fields[1] if type(fields[1]) is int and fields[1] >= 0 else None
