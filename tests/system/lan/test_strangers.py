"""Whoever is not in the file: strangers with junk, with open connections, with nothing to say."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gossipfl.config.toml import toml_document
from gossipfl.transport import keys

if TYPE_CHECKING:
    from tests.system.conftest import Start, Until

pytestmark = pytest.mark.system

STRANGERS, HALF_OPEN = 100, 2000
MOST = 128 * 2**20  # bytes by which a node may grow
#: A ZMTP greeting, so that some junk gets past the first bytes of a handshake.
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE" + bytes(48)


def memory(pid: int) -> int:
    """Bytes that a process holds; 0 if it has gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def test_a_hundred_strangers_and_two_thousand_half_open_connections_do_not_stop_a_node(
    start: Start, until: Until, ports: Callable[[int], list[int]], tmp_path: Path
) -> None:
    # given two encrypted nodes on the loopback that train
    nodes = [
        {"name": n, "address": f"127.0.0.1:{p}", "public_key": keys.make(tmp_path / "keys", n).key}
        for n, p in zip("ab", ports(2), strict=True)
    ]
    file = tmp_path / "swarm.toml"
    tables = {
        "swarm": {"rounds": 2000, "eval_every": 2000},
        "security": {"encrypt": "on"},
        "algorithm": {"local_steps": 5},
    }
    file.write_text(toml_document({**tables, "topology": {"graph": "complete"}}, node=nodes))
    line = ["node", str(file), "--name"]
    a, b = (start(*line, n, out=tmp_path / n) for n in "ab")
    until(lambda: b.reached(20) or b.over(), "they train")
    before, peak, draw = memory(b.process.pid), 0, random.Random(0)
    host, _, port = nodes[1]["address"].partition(":")
    with ExitStack() as held:

        def connect(source: str, backlog: float = 30.0) -> socket.socket:
            address = (host, int(port))
            return held.enter_context(socket.create_connection(address, backlog, (source, 0)))

        # when a hundred strangers, each with an address of its own, send junk
        for i in range(STRANGERS):
            s = connect(f"127.1.0.{i + 1}")
            s.sendall((GREETING if i % 2 else b"") + draw.randbytes(20_000))
        # and one comes from where a neighbor is, as what it tried while this node stood still
        connect("127.0.0.1").close()
        # and two thousand connections are held open that never say a word, or half a greeting
        for i in range(HALF_OPEN):
            s = connect("127.2.0.1")
            if i % 4 == 0:
                s.sendall(GREETING[: 1 + i % 64])
            if i % 100 == 0:
                peak = max(peak, memory(b.process.pid))
        # then training goes on
        round = max(int(r["round"]) for r in b.records("round"))
        until(lambda: b.reached(round + 100) or b.over(), "training goes on")
        assert not b.over() and not a.over()
        peak = max(peak, memory(b.process.pid))
    assert [a.end().code, b.end().code] == [0, 0]
    # and memory has hardly grown, and each stranger is named once
    assert peak - before <= MOST, (peak - before) / 2**20
    told = [str(r["text"]) for r in b.records("rejected")]
    named = sorted(text.split()[0] for text in told)
    assert named == sorted([f"127.1.0.{i + 1}" for i in range(STRANGERS)] + ["127.2.0.1"])
    assert all(text.endswith("connected and did not speak the protocol") for text in told)
    assert b.text()[0].count("rejected a stranger: ") == STRANGERS + 1
    assert not a.records("rejected")
    print(f"a node grew by {(peak - before) / 2**20:.1f} MiB")
