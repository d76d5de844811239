"""Lines that this end dials."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from gossipfl.core.events import Event, Note, PeerDown, PeerUp, Received
from gossipfl.core.messages import LAST, Hello, Nothing
from gossipfl.transport.wire import Layout, Who
from gossipfl.transport.zeromq import ZeroMQ

LAYOUT = Layout(((3, torch.float32),))


def until(node: ZeroMQ, enough: Callable[[Event | Note], bool]) -> list[Event | Note]:
    """What happens at a node, up to an event."""
    seen: list[Event | Note] = []
    end = time.monotonic() + 60
    while not (seen and enough(seen[-1])):
        assert time.monotonic() < end, seen
        for event in node.poll(0.05):
            seen.append(event)
            if enough(event):
                break
    return seen


def test_a_goodbye_is_read_although_its_line_is_closed_before_anyone_looks() -> None:
    for _ in range(10):
        # given a line
        there = ZeroMQ(Who(1, "there"), LAYOUT, "tcp://127.0.0.1:*")
        with ZeroMQ(Who(0, "here"), LAYOUT, "") as here:
            with there:
                here.dial(1, there.address)
                until(here, lambda e: isinstance(e, PeerUp))
                here.send(1, 1, Hello(1, 0, None, -1, -1, -1, {}))
                until(there, lambda e: isinstance(e, Received))
                # when the other end says goodbye and is gone
                there.send(0, 1, Nothing(LAST, 7))
            # then both are heard of, in this order
            seen = until(here, lambda e: isinstance(e, PeerDown))
            assert seen == [Received(1, 1, Nothing(LAST, 7)), PeerDown(1, 1)]
