"""The recorded bytes of the protocol, in both directions: what is said is these bytes, and they mean that."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch

from gossipfl.core.messages import (
    PROTOCOL_VERSION,
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
    Want,
    Welcome,
)
from gossipfl.transport.lookout import Lookout, answer, ask, next_offset
from gossipfl.transport.wire import CHUNK, PIECE, Beat, Decoder, Layout, Who, decode_beat, encode, encode_beat

FOLDER = Path(__file__).parents[1] / "data" / "protocol"
RECORDED: dict[str, Any] = json.loads((FOLDER / "messages.json").read_text())
WATCHING = json.loads((FOLDER / "watching.json").read_text())
MESSAGES: list[dict[str, Any]] = RECORDED["messages"]
KINDS: dict[str, Any] = {
    "hello": Hello,
    "welcome": Welcome,
    "refuse": Refuse,
    "none": Nothing,
    "data": Data,
    "ask": Ask,
    "answer": Answer,
    "decline": Decline,
    "push": Push,
    "stop": Stop,
    "reset": Reset,
    "want": Want,
    "fate": Fate,
    "model": Model,
}


def _layout(vector: dict[str, Any]) -> Layout:
    parts = tuple((elements, getattr(torch, dtype)) for elements, dtype in vector["layout"])
    return Layout(parts, model=parts)


def _message(vector: dict[str, Any]) -> Message:
    fields = dict(vector["message"])
    make = KINDS[fields.pop("kind")]
    if "payload" in fields:
        parts = zip(fields["payload"], _layout(vector).parts, strict=True)
        fields["payload"] = tuple(torch.tensor(values, dtype=dtype) for values, (_, dtype) in parts)
    message: Message = make(**fields)
    return message


def _frames(vector: dict[str, Any]) -> list[list[bytearray]]:
    return [[bytearray.fromhex(frame) for frame in frames] for frames in vector["frames"]]


def _assert_same(one: Message, other: Message) -> None:
    """Equal in every field; payloads to the bit."""
    assert type(one) is type(other)
    for name in signature(type(one)).parameters:
        mine, theirs = getattr(one, name), getattr(other, name)
        if name == "payload":
            assert [part.dtype for part in mine] == [part.dtype for part in theirs]
            mine, theirs = ([part.numpy().tobytes() for part in payload] for payload in (mine, theirs))
        assert mine == theirs


def test_the_recorded_version_is_the_one_that_is_spoken() -> None:
    assert RECORDED["protocol"] == PROTOCOL_VERSION


@pytest.mark.parametrize("vector", MESSAGES, ids=[vector["name"] for vector in MESSAGES])
def test_a_message_becomes_the_recorded_bytes(vector: dict[str, Any]) -> None:
    sent = encode(_message(vector), Who(**vector["sender"]))
    assert [[bytes(frame) for frame in frames] for frames in sent] == _frames(vector)


@pytest.mark.parametrize("vector", MESSAGES, ids=[vector["name"] for vector in MESSAGES])
def test_the_recorded_bytes_become_the_message(vector: dict[str, Any]) -> None:
    decoder = Decoder(_layout(vector))
    *before, done = [decoder.feed(frames) for frames in _frames(vector)]
    assert before == [None] * len(before)
    assert done is not None
    _assert_same(done[0], _message(vector))
    if isinstance(done[0], Hello):
        assert done[1] == Who(**vector["sender"])


def test_every_kind_of_message_is_recorded() -> None:
    assert {vector["message"]["kind"] for vector in MESSAGES} == set(KINDS)


def test_a_large_payload_leaves_in_the_recorded_chunks_and_comes_back_whole() -> None:
    vector = RECORDED["chunked"]
    ((elements, _),) = vector["layout"]
    values = (torch.arange(elements) % 251).to(torch.float32)
    message = Data(vector["round"], vector["counted"], (values,))
    sent = [(bytes(header), bytes(raw)) for header, raw in encode(message, Who(0, "node-0"))]
    assert [(h.hex(), len(raw), hashlib.sha256(raw).hexdigest()) for h, raw in sent] == [
        (frame["header"], frame["bytes"], frame["sha256"]) for frame in vector["frames"]
    ]
    decoder = Decoder(_layout(vector))
    *_, done = [decoder.feed([bytearray(header), bytearray(raw)]) for header, raw in sent]
    assert done is not None
    _assert_same(done[0], message)


@pytest.mark.parametrize("beat", RECORDED["beats"])
def test_a_beat_is_the_recorded_bytes_in_both_directions(beat: dict[str, Any]) -> None:
    fields = {name: value for name, value in beat.items() if name != "frame"}
    assert encode_beat(Beat(**fields)).hex() == beat["frame"]
    assert decode_beat(bytes.fromhex(beat["frame"]))._asdict() == fields


def test_a_beat_may_come_between_two_chunks_of_a_payload() -> None:
    values = torch.arange(6, dtype=torch.float32)
    first, second = encode(Data(3, 2, (values,)), Who(0, "node-0"), 12)
    decoder = Decoder(Layout(((6, torch.float32),), chunk=12))

    assert decoder.feed([bytearray(f) for f in first]) is None
    assert decoder.feed([encode_beat(Beat(0, 3, 9, True))]) == (Beat(0, 3, 9, True), None)
    done = decoder.feed([bytearray(f) for f in second])
    assert done is not None and isinstance(done[0], Data)
    assert torch.equal(done[0].payload[0], values)


@pytest.mark.parametrize("vector", WATCHING["asks"])
def test_an_ask_of_a_watcher_is_the_recorded_bytes(vector: dict[str, Any], tmp_path: Path) -> None:
    frame = bytes.fromhex(vector["frame"])
    (tmp_path / "records").write_bytes(b"x" * vector["offset"] + b"one\n")
    lookout = Lookout(tmp_path / "records")

    assert ask(vector["offset"]) == frame
    assert lookout.take(b"route", [frame])
    assert list(lookout.answers()) == [(b"route", answer(vector["offset"], b"one\n"))]


@pytest.mark.parametrize("vector", WATCHING["answers"])
def test_an_answer_to_a_watcher_is_the_recorded_bytes(vector: dict[str, Any]) -> None:
    frames = tuple(bytes.fromhex(frame) for frame in vector["frames"])

    assert answer(vector["offset"], frames[1]) == frames
    assert next_offset(frames) == vector["next"]


@pytest.mark.parametrize("name", ["conversation.json", "broken_line.json"])
def test_both_ends_of_a_recorded_conversation_say_and_do_the_same_again(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given the recorder of the conversations
    spec = importlib.util.spec_from_file_location("record", FOLDER / "record.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "record", module)
    spec.loader.exec_module(module)
    # when they talk
    talk = module.broken() if name == "broken_line.json" else module.plain()
    # then every frame, every decision and every number is as recorded
    recorded = json.loads((FOLDER / name).read_text())
    assert json.loads(json.dumps(talk.steps)) == recorded["steps"]


@pytest.mark.parametrize("name", ["conversation.json", "broken_line.json"])
def test_in_a_recorded_conversation_the_sum_over_nodes_is_kept(name: str) -> None:
    steps = json.loads((FOLDER / name).read_text())["steps"]
    begun = [step["x"] for step in steps if step["event"] == "begin"]
    ended = {step["node"]: does["x"] for step in steps for does in step["does"] if "adopt" in does}
    assert [sum(column) for column in zip(*begun, strict=True)] == [
        sum(column) for column in zip(*ended.values(), strict=True)
    ]


def test_the_chunk_is_the_size_that_the_page_gives() -> None:
    page = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
    assert (CHUNK, PIECE) == (4 * 1024 * 1024, 32 * 1024 * 1024)
    assert "at least 4,194,304 and at most\n  33,554,432" in page
    assert f"protocol version {PROTOCOL_VERSION}" in page
