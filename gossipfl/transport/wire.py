"""Messages <-> frames: a small msgpack header, and raw little-endian chunks of numbers. No pickle, no
surprises: whatever does not have exactly the expected shape is a RemoteProtocolError. docs/protocol.md
describes these bytes.

    hello    [1, session, inc, peer_inc, heard, acked, sent, node, name, about]
    welcome  [2, the same]
    refuse   [3, session, reason]
    none     [4, round, counted]
    data     [5, round, counted, part, offset]  + one frame of raw bytes: a chunk of that part
    ask      [7, number, part, offset]          + such a chunk
    answer   [8, number, part, offset]          + such a chunk
    decline  [9, number]
    push     [10, number, age, part, offset]    + such a chunk
    stop     [11, round]
    reset    [14, round]
    want     [15]
    model    [16, round, part, offset]          + such a chunk
    fate     [18, node, turns]
    here     [17, round, counted, slot]      as data, whose payload lies in shared memory
    beat     [6, node, round, steps, training]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import msgpack
import torch

from gossipfl.core.messages import (
    Answer,
    Ask,
    Data,
    Decline,
    Fate,
    Hello,
    Message,
    Model,
    Nothing,
    Push,
    Refuse,
    Reset,
    Stop,
    Vectors,
    Want,
    Welcome,
)
from gossipfl.errors import RemoteProtocolError

if TYPE_CHECKING:
    from torch import Tensor

HELLO, WELCOME, REFUSE, NONE, DATA, BEAT, ASK, ANSWER, DECLINE, PUSH, STOP = range(1, 12)
RESET, WANT, MODEL, HERE, FATE = range(14, 19)  # 12 and 13 are of those who only watch
HEADER_LIMIT: Final = 65_536
CHUNK: Final = 4 * 1024 * 1024  # bytes
#: The same inside one machine: what arrives in one piece is averaged where it lies.
PIECE: Final = 32 * 1024 * 1024
#: A frame's limit on the connection: a chunk and a little.
FRAME_LIMIT: Final = CHUNK + 1024
MAX_ROUND: Final = 2**62
#: Below this many bytes a chunk is copied out of the received frame; above, the frame's memory itself is
#: averaged.
COPY_BELOW: Final = 65_536

Buffer = bytes | memoryview
Frames = tuple[Buffer, ...]


class Layout(NamedTuple):
    """What a payload looks like: (elements, dtype) of each tensor in it. Both ends know it from the model
    they have.

    below: for each of them 0, or the bound of indices: they ascend, from 0 on, and are less. Empty: all 0.
    """

    parts: tuple[tuple[int, torch.dtype], ...]
    below: tuple[int, ...] = ()
    chunk: int = CHUNK  # bytes of a frame of numbers at most
    model: tuple[tuple[int, torch.dtype], ...] = ()  # the same of a whole model

    def of(self, kind: int) -> tuple[tuple[int, torch.dtype], ...]:
        """The tensors of a message of this kind."""
        return self.model if kind == MODEL else self.parts


def frame(layout: Layout) -> int:
    """Bytes of a frame of numbers at most inside one machine: a tensor of the payload, if it is not too
    large."""
    largest = max((size * dtype.itemsize for size, dtype in layout.parts), default=0)
    return max(CHUNK, min(PIECE, largest))


class Carrier(NamedTuple):
    """A message with a payload: its name, how it is made, and the integers of its header."""

    name: str
    make: Callable[..., Data | Ask | Answer | Push | Model]  # of those integers and the payload
    fields: tuple[str, ...]


CARRIERS: Final[Mapping[int, Carrier]] = {
    DATA: Carrier("data", Data, ("round", "counted", "part", "offset")),
    ASK: Carrier("ask", Ask, ("number", "part", "offset")),
    ANSWER: Carrier("answer", Answer, ("number", "part", "offset")),
    PUSH: Carrier("push", Push, ("number", "age", "part", "offset")),
    MODEL: Carrier("model", Model, ("round", "part", "offset")),
}


class Who(NamedTuple):
    """Who says hello."""

    node: int
    name: str


class Beat(NamedTuple):
    """A sign of life: where its sender is. `steps` grows with everything the sender's training thread
    does."""

    node: int
    round: int
    steps: int
    training: bool


def encode(message: Message, who: Who, chunk: int = CHUNK) -> Iterator[Frames]:
    """The frames of each wire message, with at most `chunk` bytes of numbers each. The payload's memory is
    used as it is: it must not be written until it has left."""
    match message:
        case Welcome() | Hello() as m:
            kind = WELCOME if isinstance(m, Welcome) else HELLO
            fields = [
                kind,
                m.session,
                m.inc,
                m.peer_inc,
                m.heard,
                m.acked,
                m.sent,
                who.node,
                who.name,
                dict(m.about),
            ]
            yield (_pack(fields),)
        case Refuse(session, reason):
            yield (_pack([REFUSE, session, reason]),)
        case Nothing(round, counted):
            yield (_pack([NONE, round, counted]),)
        case Decline(number):
            yield (_pack([DECLINE, number]),)
        case Stop(round):
            yield (_pack([STOP, round]),)
        case Reset(round):
            yield (_pack([RESET, round]),)
        case Want():
            yield (_pack([WANT]),)
        case Fate(node, turns):
            yield (_pack([FATE, node, turns]),)
        case Model(round, payload):
            yield from chunks((MODEL, round), payload, chunk)
        case Data(round, counted, payload):
            yield from chunks((DATA, round, counted), payload, chunk)
        case Ask(number, payload):
            yield from chunks((ASK, number), payload, chunk)
        case Answer(number, payload):
            yield from chunks((ANSWER, number), payload, chunk)
        case Push(number, age, payload):
            yield from chunks((PUSH, number, age), payload, chunk)


def chunks(head: tuple[int, ...], payload: Vectors, chunk: int) -> Iterator[tuple[bytes, memoryview]]:
    """A payload's frames, after a header that begins so, and goes on with part and offset."""
    for part, tensor in enumerate(payload):
        raw = _bytes(tensor)
        for offset in range(0, len(raw) or 1, chunk):
            yield _pack([*head, part, offset]), raw[offset : offset + chunk]


def _bytes(tensor: Tensor) -> memoryview:
    """The memory of a tensor."""
    if tensor.dtype.itemsize < 4 or not tensor.numel():  # numpy does not know each of those
        return memoryview(tensor.detach().view(torch.uint8).numpy().data)
    return memoryview(tensor.detach().numpy().data).cast("B")


def _pack(fields: Sequence[object]) -> bytes:
    packed: bytes = msgpack.packb(fields, use_bin_type=True)
    return packed


def _unpack(frame: Buffer) -> list[object]:
    if len(frame) > HEADER_LIMIT:
        raise RemoteProtocolError(f"a header of {len(frame)} bytes, the limit is {HEADER_LIMIT}")
    try:
        fields = msgpack.unpackb(
            frame,
            raw=False,
            strict_map_key=True,
            max_array_len=64,
            max_map_len=1024,
            max_str_len=HEADER_LIMIT,
            max_bin_len=1024,
            max_ext_len=0,
        )
    except (ValueError, msgpack.UnpackException, TypeError, RecursionError) as error:
        raise RemoteProtocolError(f"a header that is not msgpack ({type(error).__name__})") from error
    if not isinstance(fields, list) or not fields or type(fields[0]) is not int:
        raise RemoteProtocolError("a header that is not a list of a kind and its fields")
    return fields


def _integers(fields: list[object], names: Sequence[str]) -> list[int]:
    for k, value in enumerate(fields):
        if type(value) is not int or not -1 <= value <= MAX_ROUND:
            raise RemoteProtocolError(f"{names[k]} = {value!r}: an integer from -1 to 2^62 is needed")
    return fields  # type: ignore[return-value]


def _expect(fields: list[object], length: int, kind: str) -> None:
    if len(fields) != length:
        raise RemoteProtocolError(f"a {kind} of {len(fields)} fields, it has {length}")


def greeting(fields: list[object]) -> tuple[Hello, Who]:
    """A hello or welcome from its header fields."""
    _expect(fields, 10, "hello")
    session, inc, heard, acked, sent, node = _integers(
        [*fields[1:3], *fields[4:8]], ("session", "inc", "heard", "acked", "sent", "node")
    )
    peer_inc = None if fields[3] is None else _integers([fields[3]], ("peer_inc",))[0]
    name, about = fields[8], fields[9]
    if not isinstance(name, str) or len(name) > 256:
        raise RemoteProtocolError("name: a string of at most 256 characters is needed")
    if not isinstance(about, dict) or not all(isinstance(k, str) for k in about):
        raise RemoteProtocolError("about: a map with string keys is needed")
    make = Welcome if fields[0] == WELCOME else Hello
    return make(session, inc, peer_inc, heard, acked, sent, about), Who(node, name)


@dataclass(slots=True)
class Decoder:
    """Frames of one session -> messages. Chunks of a payload come in order; anything else is an error."""

    layout: Layout
    fetch: Callable[[int], Vectors] | None = None  # the payload in a slot of the peer's, if memory is shared
    _parts: list[Tensor] = field(default_factory=list)
    _at: tuple[int, int, int, int] | None = None  # kind, round (number), part, offset expected next

    def feed(self, frames: Sequence[Buffer]) -> tuple[Message | Beat, Who | None] | None:
        """The message that these frames complete, if they do (with the sender, for a hello or welcome), or a
        beat, which may come between any two."""
        fields = _unpack(frames[0])
        kind = fields[0]
        assert isinstance(kind, int)
        if kind == HERE and len(frames) == 1:
            _expect(fields, 4, "here")
            round, counted, slot = _integers(fields[1:], ("round", "counted", "slot"))
            return self._fetch(round, counted, slot), None
        carrier = CARRIERS.get(kind)
        if carrier is not None:
            data = self._at_once(fields, frames) if kind == DATA and self._at is None else None
            if data is not None:
                return data, None
            if len(frames) != 2:
                raise RemoteProtocolError(f"{carrier.name} of {len(frames)} frames, it has 2")
            _expect(fields, 1 + len(carrier.fields), carrier.name)
            *head, part, offset = _integers(fields[1:], carrier.fields)
            payload = self._chunk((kind, head[0], part, offset), frames[1])
            return None if payload is None else (carrier.make(*head, payload), None)
        if len(frames) != 1:
            raise RemoteProtocolError(f"a header followed by {len(frames) - 1} frames")
        if kind in (HELLO, WELCOME):
            return greeting(fields)
        if kind == BEAT:
            return _beat(fields), None
        if kind == NONE:
            _expect(fields, 3, "none")
            round, counted = _integers(fields[1:], ("round", "counted"))
            return Nothing(round, counted), None
        if kind == DECLINE:
            _expect(fields, 2, "decline")
            return Decline(_integers(fields[1:], ("number",))[0]), None
        if kind == STOP:
            _expect(fields, 2, "stop")
            return Stop(_integers(fields[1:], ("round",))[0]), None
        if kind == RESET:
            _expect(fields, 2, "reset")
            return Reset(_integers(fields[1:], ("round",))[0]), None
        if kind == WANT:
            _expect(fields, 1, "want")
            return Want(), None
        if kind == FATE:
            _expect(fields, 3, "fate")
            return Fate(*_integers(fields[1:], ("node", "turns"))), None
        if kind == REFUSE:
            _expect(fields, 3, "refuse")
            if not isinstance(fields[2], str):
                raise RemoteProtocolError("reason: a string is needed")
            return Refuse(_integers(fields[1:2], ("session",))[0], fields[2]), None
        raise RemoteProtocolError(f"a message of kind {kind!r}, kinds are 1 to 11, and 14 to 18")

    def _fetch(self, round: int, counted: int, slot: int) -> Data:
        """A payload where it lies: its numbers were checked by who put it there, a process of this run."""
        if self.fetch is None or self._at is not None:
            raise RemoteProtocolError("here, from a peer with which no memory is shared, or within a payload")
        return Data(round, counted, self.fetch(slot))

    def _at_once(self, fields: list[object], frames: Sequence[Buffer]) -> Data | None:
        """A payload of one tensor that comes in one piece, as most do; None: this is not all of one."""
        if len(self.layout.parts) != 1 or len(frames) != 2 or len(fields) != 5 or any(self.layout.below):
            return None
        elements, dtype = self.layout.parts[0]
        raw, size = frames[1], elements * dtype.itemsize
        round, counted, part, offset = _integers(fields[1:], CARRIERS[DATA].fields)
        if part or offset or not 0 < size == len(raw) <= self.layout.chunk:
            return None
        values = torch.frombuffer(raw, dtype=dtype)
        _finite(values, 0)
        return Data(round, counted, (values.clone() if size < COPY_BELOW else values,))

    def _chunk(self, at: tuple[int, int, int, int], raw: Buffer) -> Vectors | None:
        kind, round, part, offset = at
        expected = self._at or (kind, round, 0, 0)
        if at != expected:
            name, wanted = CARRIERS[kind].name, CARRIERS[expected[0]].name
            raise RemoteProtocolError(f"chunk {at[1:]} of {name} where {expected[1:]} of {wanted} was due")
        parts = self.layout.of(kind)
        if part >= len(parts):
            raise RemoteProtocolError(f"part {part} of a payload of {len(parts)}")
        elements, dtype = parts[part]
        size, got = elements * dtype.itemsize, memoryview(raw).nbytes
        due = min(self.layout.chunk, size - offset)
        if got != due:
            raise RemoteProtocolError(f"a chunk of {got} bytes where {due} were due")
        values = torch.frombuffer(raw, dtype=dtype) if got else torch.empty(0, dtype=dtype)
        _finite(values, part)
        if size <= self.layout.chunk:
            self._parts.append(values.clone() if got < COPY_BELOW else values)
        else:
            if offset == 0:
                self._parts.append(torch.empty(elements, dtype=dtype))
            begin = offset // dtype.itemsize
            self._parts[part][begin : begin + values.numel()] = values
        if offset + got < size:
            self._at = (kind, round, part, offset + got)
            return None
        if self.layout.below and kind != MODEL:
            _indices(self._parts[part], self.layout.below[part], part)
        if part + 1 < len(parts):
            self._at = (kind, round, part + 1, 0)
            return None
        payload, self._parts, self._at = tuple(self._parts), [], None
        return payload


def _finite(values: Tensor, part: int) -> None:
    # A finite sum proves finite values in one pass; only a sum that overflows needs the second.
    if not math.isfinite(values.sum().item()) and not torch.isfinite(values).all():
        raise RemoteProtocolError(f"part {part} of a payload holds NaN or Inf")


def _indices(values: Tensor, below: int, part: int) -> None:
    if not below or not len(values):
        return
    if values[0] < 0 or values[-1] >= below or not (values[1:] > values[:-1]).all():
        raise RemoteProtocolError(f"part {part} of a payload: indices do not ascend from 0 to {below - 1}")


def encode_here(message: Data, slot: int) -> bytes:
    """here [17, round, counted, slot]: the payload of a data message lies in this slot of the sender's."""
    return _pack([HERE, message.round, message.counted, slot])


def encode_beat(beat: Beat) -> bytes:
    """beat [6, node, round, steps, training]."""
    return _pack([BEAT, *beat])


def decode_beat(frame: Buffer) -> Beat:
    """The beat in a frame. Raises RemoteProtocolError."""
    return _beat(_unpack(frame))


def _beat(fields: list[object]) -> Beat:
    _expect(fields, 5, "beat")
    if fields[0] != BEAT or not isinstance(fields[4], bool):
        raise RemoteProtocolError("a beat that is none")
    node, round, steps = _integers(fields[1:4], ("node", "round", "steps"))
    return Beat(node, round, steps, fields[4])
