"""Bytes on the wire: what is encoded comes back; what has not exactly the expected shape is refused."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import msgpack
import pytest
import torch

from gossipfl.core.messages import (
    LAST,
    Answer,
    Ask,
    Data,
    Decline,
    Hello,
    Message,
    Nothing,
    Push,
    Refuse,
    Welcome,
)
from gossipfl.errors import RemoteProtocolError
from gossipfl.transport import wire
from gossipfl.transport.wire import Beat, Decoder, Layout, Who, decode_beat, encode, encode_beat

WHO = Who(3, "node-3")
SMALL = Layout(((5, torch.float32), (1, torch.float64)))


def packed(*fields: object) -> bytes:
    raw: bytes = msgpack.packb(list(fields))
    return raw


def writable(frames: Iterable[bytes | memoryview]) -> list[memoryview]:
    """As they come out of ZeroMQ."""
    return [memoryview(bytearray(f)) for f in frames]


def through(message: Message, layout: Layout = SMALL) -> tuple[Message, Who | None]:
    decoder, done = Decoder(layout), None
    for frames in encode(message, WHO):
        assert done is None
        done = decoder.feed(writable(frames))
    assert done is not None
    return done


@pytest.mark.parametrize(
    "message",
    [
        Hello(4, 0, None, -1, -1, -1, {"seed": 0, "train.lr": 0.1, "share": ["*"]}),
        Welcome(4, 2, 1, 17, 16, LAST, {}),
        Refuse(1, "seed differs: 0 here, 1 there"),
        Nothing(7, 6),
        Nothing(LAST, 6),
        Decline(12),
    ],
)
def test_messages_come_back_as_they_were(message: Message) -> None:
    got, who = through(message)
    assert got == message
    assert who == (WHO if isinstance(message, Hello) else None)


@pytest.mark.parametrize("elements", [0, 1, 20_000, wire.CHUNK // 4, wire.CHUNK // 4 + 1, 3_000_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_payloads_of_any_size_come_back_bit_for_bit(elements: int, dtype: torch.dtype) -> None:
    payload = (torch.randn(elements, dtype=dtype), torch.randn(2, dtype=dtype))
    got, _ = through(Data(3, 2, payload), Layout(((elements, dtype), (2, dtype))))
    assert isinstance(got, Data)
    assert (got.round, got.counted) == (3, 2)
    assert all(torch.equal(a, b) for a, b in zip(got.payload, payload, strict=True))


@pytest.mark.parametrize("message", [Ask(4, ()), Answer(4, ()), Push(7, 31, ())])
def test_every_message_with_a_payload_comes_back(message: Ask | Answer | Push) -> None:
    payload = (torch.randn(wire.CHUNK // 4 + 3), torch.randn(1, dtype=torch.float64))
    sent = replace(message, payload=payload)
    got, _ = through(sent, Layout(((wire.CHUNK // 4 + 3, torch.float32), (1, torch.float64))))
    assert replace(got, payload=()) == message  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(got.payload, payload, strict=True))  # type: ignore[union-attr]


def data(round: int = 0, part: int = 0, offset: int = 0, raw: bytes = bytes(20)) -> list[bytes]:
    return [packed(wire.DATA, round, -1, part, offset), raw]


@pytest.mark.parametrize(
    ("frames", "named"),
    [
        ([b""], "msgpack"),
        ([b"\xc1"], "msgpack"),
        ([b"\xdd\xff\xff\xff\xff"], "msgpack"),
        ([packed(1, 2)[:-1]], "msgpack"),
        ([b"x" * 70_000], "70000 bytes"),
        ([msgpack.packb({"kind": 1})], "list"),
        ([packed()], "list"),
        ([packed("5")], "list"),
        ([packed(True, 1, 2)], "list"),
        ([packed(99)], "kind 99"),
        ([packed(wire.NONE, 1)], "fields"),
        ([packed(wire.NONE, 1, 2, 3)], "fields"),
        ([packed(wire.NONE, -2, 0)], "round = -2"),
        ([packed(wire.NONE, 1.0, 0)], "round = 1.0"),
        ([packed(wire.NONE, True, 0)], "round = True"),
        ([packed(wire.NONE, 2**63, 0)], "round"),
        ([packed(wire.NONE, 1, 0), b"tail"], "1 frames"),
        ([packed(wire.HELLO, 1, 0, None, -1, -1, -1, 0, 7, {})], "name"),
        ([packed(wire.HELLO, 1, 0, None, -1, -1, -1, 0, "a" * 300, {})], "name"),
        ([packed(wire.HELLO, 1, 0, None, -1, -1, -1, 0, "a", {1: 2})], "msgpack"),
        ([packed(wire.HELLO, 1, 0, None, -1, -1, -1, 0, "a", [])], "about"),
        ([packed(wire.REFUSE, 1, b"bytes")], "reason"),
        ([packed(wire.DECLINE)], "a decline of 1 fields"),
        ([packed(wire.DECLINE, "4")], "number = '4'"),
        ([packed(wire.ASK, 4, 0, 0)], "ask of 1 frames"),
        ([packed(wire.ASK, 4, 0), bytes(20)], "ask of 3 fields"),
        ([packed(wire.ANSWER, -3, 0, 0), bytes(20)], "number = -3"),
        ([packed(wire.PUSH, 1, 2.5, 0, 0), bytes(20)], "age = 2.5"),
        ([packed(wire.PUSH, 1, 2, 0, 0), b"\x00\x00\xc0\x7f" * 5], "NaN or Inf"),
        (data()[:1], "1 frames"),
        ([*data(), b""], "3 frames"),
        (data(part=1), "where (0, 0, 0) of data was due"),
        (data(offset=4), "where (0, 0, 0) of data was due"),
        (data(raw=bytes(19)), "19 bytes where 20"),
        (data(raw=bytes(24)), "24 bytes where 20"),
        (data(raw=b""), "0 bytes where 20"),
        (data(raw=b"\x00\x00\xc0\x7f" * 5), "NaN or Inf"),
        (data(raw=b"\x00\x00\x80\x7f" * 5), "NaN or Inf"),
    ],
)
def test_bytes_that_are_wrong_are_named_and_refused(frames: list[bytes], named: str) -> None:
    with pytest.raises(RemoteProtocolError) as error:
        Decoder(SMALL).feed(writable(frames))
    assert named in str(error.value)


def test_chunks_of_two_rounds_do_not_mix() -> None:
    decoder = Decoder(SMALL)
    assert decoder.feed(writable(data(round=0))) is None
    with pytest.raises(RemoteProtocolError, match="was due"):
        decoder.feed(writable(data(round=1, part=1, raw=bytes(8))))


def test_chunks_of_two_kinds_do_not_mix() -> None:
    decoder = Decoder(SMALL)
    assert decoder.feed(writable([packed(wire.ASK, 0, 0, 0), bytes(20)])) is None
    with pytest.raises(RemoteProtocolError, match=r"of answer where .* of ask was due"):
        decoder.feed(writable([packed(wire.ANSWER, 0, 1, 0), bytes(8)]))


def test_finite_numbers_whose_sum_overflows_are_accepted() -> None:
    layout = Layout(((4, torch.float32),))
    got, _ = through(Data(0, -1, (torch.full((4,), 3e38),)), layout)
    assert isinstance(got, Data)


def test_a_beat_comes_back_and_nothing_else_does() -> None:
    beat = Beat(3, 17, 34, True)
    assert decode_beat(encode_beat(beat)) == beat
    for wrong in (b"", packed(wire.NONE, 1, 2, 3, True), packed(wire.BEAT, 1, 2, 3, 1), packed(wire.BEAT, 1)):
        with pytest.raises(RemoteProtocolError):
            decode_beat(wrong)
