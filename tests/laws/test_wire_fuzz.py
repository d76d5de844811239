"""Bytes of whoever: what is read is a message or a `RemoteProtocolError`, and leaves nothing behind.

A few thousand frames here; as many as one likes with

    GOSSIPFL_FUZZ=1000000 pytest -s tests/laws/test_wire_fuzz.py
"""

from __future__ import annotations

import json
import os
import random
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gossipfl.errors import RemoteProtocolError
from gossipfl.transport.lookout import Lookout, next_offset
from gossipfl.transport.wire import Decoder, Layout, decode_beat

RECORDED = Path(__file__).parents[1] / "data" / "protocol"
LAYOUT = Layout(((3, torch.float32), (2, torch.int32)), (0, 9), chunk=64, model=((5, torch.float64),))
FRAMES = int(os.environ.get("GOSSIPFL_FUZZ", "20000"))
#: Bytes by which the process may grow over all of them.
GROWTH = 32 * 2**20

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=12) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def recorded() -> list[list[bytes]]:
    """The frames of all recorded messages, beats and watchers' asks."""
    found: list[list[bytes]] = []
    vectors: dict[str, Any] = json.loads((RECORDED / "messages.json").read_text())
    for vector in vectors["messages"]:
        found += [[bytes.fromhex(frame) for frame in frames] for frames in vector["frames"]]
    found += [[bytes.fromhex(beat["frame"])] for beat in vectors["beats"]]
    found += [[msgpack.packb([32, 70_000])]]
    return found


def mutated(seeds: list[list[bytes]], draw: random.Random) -> list[bytes]:
    """Recorded frames with some of their bytes changed, cut, repeated, or of another message."""
    frames = list(draw.choice(seeds))
    for _ in range(draw.randrange(4)):
        k = draw.randrange(len(frames))
        raw = bytearray(frames[k])
        match draw.randrange(7):
            case 0 if raw:
                raw[draw.randrange(len(raw))] = draw.randrange(256)
            case 1:
                raw[draw.randrange(len(raw) + 1) :] = b""
            case 2:
                raw[draw.randrange(len(raw) + 1) : 0] = draw.randbytes(draw.randrange(1, 9))
            case 3:
                frames.append(draw.randbytes(draw.choice((0, 8, 12, 40))))
                continue
            case 4:
                frames[k] = draw.choice(draw.choice(seeds))
                continue
            case 5 if len(frames) > 1:
                del frames[k]
                continue
            case _:
                raw += raw[: draw.randrange(len(raw) + 1)]
        frames[k] = bytes(raw)
    return frames


def taken(decoder: Decoder, lookout: Lookout, frames: list[bytes]) -> bool:
    """Everything that reads bytes of others reads these; was it a message for the decoder?"""
    next_offset(frames)
    for read in (lambda: lookout.take(b"route", frames), lambda: decode_beat(frames[0])):
        try:
            read()
        except RemoteProtocolError:
            continue
    try:
        decoder.feed([bytearray(frame) for frame in frames])  # frames of zmq can be written
    except RemoteProtocolError:
        return False
    return True


def grown() -> Iterator[int]:
    """Bytes of memory at most so far, by which this process has grown since the first call."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    while True:
        yield (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def test_mutated_frames_are_messages_or_errors_and_leave_nothing_behind(tmp_path: Path) -> None:
    # given the recorded conversations
    seeds, draw = recorded(), random.Random(7)
    lookout, decoder = Lookout(tmp_path / "records.jsonl"), Decoder(LAYOUT)
    for _ in range(2000):
        taken(decoder, lookout, mutated(seeds, draw))
    growth = grown()
    next(growth)
    good, begun = 0, time.monotonic()
    # when they come changed in every way, most on a new session, as after an error
    for _ in range(FRAMES):
        if taken(decoder, lookout, mutated(seeds, draw)):
            good += 1
        else:
            decoder = Decoder(LAYOUT)
    # then some are messages, all others are refused, and memory is as it was
    seconds, more = time.monotonic() - begun, next(growth)
    told = f"{good:,} of them messages: {seconds:.1f} s, memory grew by {more / 2**20:.1f} MiB"
    print(f"\n{FRAMES:,} frames, {told}")
    assert 0 < good < FRAMES
    assert more < GROWTH


@settings(max_examples=max(300, FRAMES // 100), deadline=None)
@given(st.lists(st.binary(max_size=200) | VALUES.map(lambda value: _packed(value)), min_size=1, max_size=3))
def test_anything_at_all_is_a_message_or_an_error(frames: list[bytes]) -> None:
    taken(Decoder(LAYOUT), Lookout(Path("nowhere")), frames)


@pytest.mark.parametrize("kind", range(20))
@settings(max_examples=20, deadline=None)
@given(fields=st.lists(VALUES, max_size=11), raw=st.binary(max_size=80))
def test_fields_of_any_type_are_a_message_or_an_error(kind: int, fields: list[object], raw: bytes) -> None:
    header = _packed([kind, *fields])
    for frames in ([header], [header, raw], [header, raw, raw]):
        taken(Decoder(LAYOUT), Lookout(Path("nowhere")), frames)


def _packed(value: object) -> bytes:
    try:
        packed: bytes = msgpack.packb(value, use_bin_type=True)
    except (OverflowError, ValueError):
        return b"\xc1"
    return packed
