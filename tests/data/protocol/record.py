"""Records the protocol's test vectors beside this file: `python tests/data/protocol/record.py`.

They are recorded anew when the protocol changes: other implementations are held to these bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from inspect import signature
from pathlib import Path

import torch

from gossipfl.core.aggregate import Row
from gossipfl.core.events import (
    Adopt,
    Begin,
    Effect,
    Event,
    Finished,
    Note,
    PeerDown,
    PeerUp,
    Received,
    Send,
    Shift,
    Stepped,
)
from gossipfl.core.exchange.rounds import Rounds
from gossipfl.core.messages import (
    LAST,
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
    Vectors,
    Want,
    Welcome,
)
from gossipfl.core.rules.averaging import dpsgd
from gossipfl.transport.lookout import answer, ask
from gossipfl.transport.wire import Beat, Decoder, Layout, Who, encode, encode_beat

HERE = Path(__file__).parent
ABOUT = {
    "protocol": PROTOCOL_VERSION,
    "graph": "9f86d081884c7d65",
    "algorithm.rule": "dpsgd",
    "train.lr": 0.1,
}
Json = dict[str, object]


def fields(message: Message) -> Json:
    """A message as JSON: its kind and fields, payloads as lists of numbers."""
    found: Json = {"kind": kind_of(message)}
    for name in signature(type(message)).parameters:
        value = getattr(message, name)
        found[name] = [part.tolist() for part in value] if name == "payload" else value
    return found


def kind_of(message: Message) -> str:
    """The wire's name of a message."""
    return {Nothing: "none"}.get(type(message), type(message).__name__.lower())


def frames_of(message: Message, who: Who) -> list[list[str]]:
    """The frames of each wire message, in hexadecimal."""
    return [[bytes(frame).hex() for frame in frames] for frames in encode(message, who)]


def vectors() -> Iterator[Json]:
    """One message each."""
    alice, bob = Who(0, "node-0"), Who(5, "ward-5 \u00e9")
    f32 = torch.tensor([1.0, -2.5, 3.4028234663852886e38], dtype=torch.float32)
    f64 = torch.tensor([0.1, -0.0], dtype=torch.float64)
    cases: list[tuple[str, Who, Message]] = [
        ("the first hello of a node to a neighbor", alice, Hello(1, 0, None, -1, -1, -1, ABOUT)),
        ("the answer to it", bob, Welcome(1, 0, None, -1, -1, -1, ABOUT)),
        ("a hello after a broken line", alice, Hello(2, 0, 0, 40, 39, 41, ABOUT)),
        ("a refusal", bob, Refuse(1, "train.lr differs: 0.2 here, 0.1 there")),
        ("nothing in round 7", alice, Nothing(7, 6)),
        ("goodbye", alice, Nothing(LAST, 99)),
        ("a payload of one part", alice, Data(0, -1, (f32,))),
        ("a payload of two parts", bob, Data(300, 299, (f32, f32 * 0))),
        ("a payload in float64", alice, Data(70_000, 69_999, (f64,))),
        ("shall we average?", alice, Ask(12, (f32,))),
        ("averaged", bob, Answer(12, (f32 / 2,))),
        ("busy", bob, Decline(12)),
        ("a push", alice, Push(4, 37, (f64,))),
        ("the swarm ends after 60 rounds", bob, Stop(60)),
        ("all begin their rule anew at the start of round 40", bob, Reset(40)),
        ("node 3 is gone for good, and was there again twice", bob, Fate(3, 5)),
        ("may I have your model?", bob, Want()),
        ("a model, after 39 rounds", alice, Model(39, (f32,))),
    ]
    for name, who, message in cases:
        payload: Vectors = getattr(message, "payload", ())
        yield {
            "name": name,
            "layout": [[part.numel(), str(part.dtype).removeprefix("torch.")] for part in payload],
            "sender": {"node": who.node, "name": who.name},
            "message": fields(message),
            "frames": frames_of(message, who),
        }


def chunked() -> Json:
    """A payload that does not fit in one chunk: its frames by digest, since they are 4 MiB."""
    elements = 1_048_577
    values = (torch.arange(elements) % 251).to(torch.float32)
    sent = list(encode(Data(3, 2, (values,)), Who(0, "node-0")))
    return {
        "name": "a payload of 4 MiB and 4 bytes: element k is k mod 251",
        "layout": [[elements, "float32"]],
        "round": 3,
        "counted": 2,
        "frames": [
            {
                "header": bytes(header).hex(),
                "bytes": memoryview(raw).nbytes,
                "sha256": hashlib.sha256(raw).hexdigest(),
            }
            for header, raw in sent
        ],
    }


def beats() -> Iterator[Json]:
    """Signs of life."""
    for beat in (Beat(0, 1, 1, True), Beat(300, 99, 197, False)):
        yield {**beat._asdict(), "frame": encode_beat(beat).hex()}


def asks() -> Iterator[Json]:
    """What a watcher says."""
    for offset in (0, 70_000):
        yield {"offset": offset, "frame": ask(offset).hex()}


def answers() -> Iterator[Json]:
    """What it is given: lines of the records, and where the next of them begin."""
    for offset, lines in ((0, b'{"node": 0, "kind": "round"}\n'), (70_000, b"{}\n{}\n")):
        frames = answer(offset, lines)
        yield {"offset": offset, "next": offset + len(lines), "frames": [frame.hex() for frame in frames]}


class Side:
    """One end of a recorded conversation: a machine, what it decodes, and what is written down."""

    def __init__(self, node: int, start: list[float], steps: list[dict[str, object]]) -> None:
        row = Row(node, ((0, 0.75), (1, 0.25)) if node == 0 else ((0, 0.25), (1, 0.75)))
        self.who, self.steps = Who(node, f"node-{node}"), steps
        self.x = torch.tensor(start, dtype=torch.float64)
        self.machine = Rounds(dpsgd(), lambda round: row, (1 - node,), 2, ABOUT)
        self.decoder = Decoder(Layout(((len(start), torch.float64),)))

    def tell(self, event: Event, written: Json) -> list[tuple[int, list[bytes]]]:
        """Give the machine an event; write down what it answers. Returns (session, frames) it sends."""
        sends: list[tuple[int, list[bytes]]] = []
        effects = self.machine.handle(event, 0.0)
        for effect in effects:
            if isinstance(effect, Send):
                for frames in encode(effect.message, self.who):
                    sends.append((effect.session, [bytes(frame) for frame in frames]))
            if isinstance(effect, Adopt):
                self.x = effect.x
            if isinstance(effect, Shift):
                self.x = self.x + effect.delta
        self.steps.append(
            {
                "node": self.who.node,
                **written,
                "sends": [{"session": s, "frames": [f.hex() for f in frames]} for s, frames in sends],
                "does": [said for effect in effects if (said := _said(effect)) is not None],
            }
        )
        return sends

    def hear(self, session: int, frames: list[bytes]) -> list[tuple[int, list[bytes]]]:
        """Frames of the other end have come in."""
        done = self.decoder.feed([bytearray(frame) for frame in frames])
        assert done is not None
        hexes = [frame.hex() for frame in frames]
        return self.tell(
            Received(1 - self.who.node, session, done[0]),
            {"event": "received", "session": session, "frames": hexes, "message": fields(done[0])},
        )


def _said(effect: Effect) -> Json | None:
    match effect:
        case Adopt(round, x, _, _, counted):
            return {"adopt": round, "x": x.tolist(), "counted": list(counted)}
        case Shift(delta):
            return {"shift": delta.tolist()}
        case Note(kind, _, _, round):
            return {"note": kind, "round": round}
        case Finished():
            return {"finished": True}
    return None


class Conversation:
    """Two nodes, an edge of weight 1/4, two rounds of averaging without training."""

    def __init__(self) -> None:
        self.steps: list[dict[str, object]] = []
        self.sides = (Side(0, [1.0, 8.0], self.steps), Side(1, [5.0, 0.0], self.steps))
        self.under_way: list[tuple[int, int, list[bytes]]] = []  # to whom, session, frames

    def tell(self, node: int, event: Event, written: Json) -> None:
        """An event that is no message."""
        self._sent(node, self.sides[node].tell(event, written))

    def _sent(self, node: int, sends: list[tuple[int, list[bytes]]]) -> None:
        self.under_way += [(1 - node, session, frames) for session, frames in sends]

    def deliver(self, keep: Callable[[int], bool] = lambda node: True) -> None:
        """Everything under way arrives, in order; what is for a node that `keep` refuses is lost."""
        while self.under_way:
            node, session, frames = self.under_way.pop(0)
            if keep(node):
                self._sent(node, self.sides[node].hear(session, frames))

    def dial(self, session: int) -> None:
        """Node 0, the lower index, opens a connection."""
        for side in self.sides:
            side.decoder = Decoder(side.decoder.layout)
        self.tell(0, PeerUp(1, session), {"event": "connected", "session": session})
        self.deliver()

    def begin(self) -> None:
        for node, side in enumerate(self.sides):
            self.tell(node, Begin(side.x), {"event": "begin", "x": side.x.tolist()})

    def step(self, node: int) -> None:
        """A local phase that changes nothing."""
        x = self.sides[node].x
        self.tell(node, Stepped(x, x), {"event": "stepped", "x": x.tolist(), "after": x.tolist()})


def plain() -> Conversation:
    """Meet, two rounds, goodbye."""
    talk = Conversation()
    talk.dial(1)
    talk.begin()
    for _ in range(2):
        for node in (0, 1):
            talk.step(node)
        talk.deliver()
    return talk


def broken() -> Conversation:
    """Node 0's payload of round 0 is lost with the line; it counts later, as a correction."""
    talk = Conversation()
    talk.dial(1)
    talk.begin()
    for node in (1, 0):
        talk.step(node)
    talk.deliver(keep=lambda node: node == 0)
    for node in (0, 1):
        talk.tell(node, PeerDown(1 - node, 1), {"event": "closed", "session": 1})
    talk.dial(2)
    for node in (0, 1):
        talk.step(node)
        talk.deliver()
    return talk


def main() -> None:
    """Write the files."""
    about = {"protocol": PROTOCOL_VERSION}
    files: dict[str, Json] = {
        "messages.json": {**about, "messages": list(vectors()), "chunked": chunked(), "beats": list(beats())},
        "conversation.json": {**about, "about": plain.__doc__, "steps": plain().steps},
        "broken_line.json": {**about, "about": broken.__doc__, "steps": broken().steps},
        "watching.json": {**about, "asks": list(asks()), "answers": list(answers())},
    }
    for name, content in files.items():
        (HERE / name).write_text(json.dumps(content, indent=1, ensure_ascii=True) + "\n")


if __name__ == "__main__":
    main()
