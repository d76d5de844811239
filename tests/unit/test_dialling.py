"""Lines that this end dials."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
import zmq

from gossipfl.core import quarantine
from gossipfl.core.events import Event, Note, PeerDown, PeerUp, Received
from gossipfl.core.membership import Health
from gossipfl.core.messages import LAST, Data, Hello, Nothing, Welcome
from gossipfl.transport.signs import Signs
from gossipfl.transport.sockets import Limits, Sockets
from gossipfl.transport.wire import Layout, Who
from gossipfl.transport.zeromq import Line, ZeroMQ

LAYOUT = Layout(((3, torch.float32),))


def node(index: int, listen: str, line: Line | None = None) -> ZeroMQ:
    """A node's connections."""
    return ZeroMQ(Who(index, f"n{index}"), LAYOUT, listen, Signs(Health(0.25)), 0.25, line)


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
        there = node(1, "tcp://127.0.0.1:*")
        with node(0, "") as here:
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


@pytest.mark.parametrize(
    ("abroad", "pings", "handshake"), [(False, 0, 600_000), (True, 250, 5_000)], ids=["inside", "abroad"]
)
def test_inside_one_machine_no_clock_of_zeromq_ends_a_line(abroad: bool, pings: int, handshake: int) -> None:
    sockets = Sockets(Limits(1000, 0.25, abroad))

    with sockets.context, sockets.open(zmq.DEALER, "ipc:///nowhere") as socket:
        assert socket.getsockopt(zmq.HEARTBEAT_IVL) == pings
        assert socket.getsockopt(zmq.HANDSHAKE_IVL) == handshake


@pytest.mark.parametrize("line", [None, Line(None)], ids=["inside", "abroad"])
@pytest.mark.parametrize("by", ["who dialled", "who was dialled"])
def test_a_line_that_one_end_hangs_up_is_over_at_the_other_and_is_dialled_again(
    line: Line | None, by: str
) -> None:
    # given a line on which both have spoken
    with node(0, "", line) as here, node(1, "tcp://127.0.0.1:*", line) as there:
        here.dial(1, there.address)
        until(here, lambda e: isinstance(e, PeerUp))
        here.send(1, 1, Hello(1, 0, None, -1, -1, -1, {}))
        until(there, lambda e: isinstance(e, Received))
        there.send(0, 1, Welcome(1, 0, None, -1, -1, -1, {}))
        until(here, lambda e: isinstance(e, Received))
        assert (here.lines(), there.lines()) == ({1: 1}, {0: 1})
        assert here.idle(1, 1) is not None and there.idle(0, 1) is not None
        # when one end has had enough
        if by == "who dialled":
            here.hang_up(1, 1)
            assert until(there, lambda e: True) == [PeerDown(0, 1)]
        else:
            there.hang_up(0, 1)
            assert until(here, lambda e: True) == [PeerDown(1, 1)]
        assert (here.lines(), there.lines()) == ({}, {})
        # then the end that dialled makes a new one
        assert until(here, lambda e: isinstance(e, PeerUp)) == [PeerUp(1, 2)]


@pytest.mark.parametrize("line", [None, Line(None)], ids=["inside", "abroad"])
def test_a_greeting_that_arrives_broken_ends_its_line_which_is_dialled_again(line: Line | None) -> None:
    # given a line whose first word is no message
    with node(0, "", line) as here, node(1, "tcp://127.0.0.1:*", line) as there:
        here.dial(1, there.address)
        until(here, lambda e: isinstance(e, PeerUp))
        here.junk(1, 1)
        assert isinstance(until(there, lambda e: isinstance(e, Note))[-1], Note)

        assert until(here, lambda e: isinstance(e, PeerUp)) == [PeerDown(1, 1), PeerUp(1, 2)]


@pytest.mark.parametrize("sender", ["who dialled", "who was dialled"])
def test_who_sends_numbers_that_are_none_three_times_is_left_alone_for_a_while(
    sender: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given two nodes, one of which sends NaN whenever they have met
    monkeypatch.setattr(quarantine, "FIRST", 0.5)
    with node(0, "") as here, node(1, "tcp://127.0.0.1:*") as there:
        here.dial(1, there.address)
        bad, good = (here, there) if sender == "who dialled" else (there, here)
        notes: list[str] = []
        told: list[str] = []  # to the one that is left alone

        def meet() -> None:
            """One turn of both: greetings are answered, and NaN follows them."""
            for one, other in ((here, 1), (there, 0)):
                for event in one.poll(0.01):
                    if isinstance(event, PeerUp):
                        one.send(other, event.session, Hello(event.session, 0, None, -1, -1, -1, {}))
                    elif isinstance(event, Received) and isinstance(event.message, Welcome | Hello):
                        if one is there:
                            one.send(0, event.session, Welcome(event.session, 0, None, -1, -1, -1, {}))
                        if one is bad:
                            nan = torch.full((3,), torch.nan)
                            one.send(other, event.session, Data(0, -1, (nan,)))
                    elif isinstance(event, Note):
                        (notes if one is good else told).append(event.kind)

        def until_noted(kind: str, times: int) -> float:
            end = time.monotonic() + 60
            while notes.count(kind) < times:
                assert time.monotonic() < end, notes
                meet()
            return time.monotonic()

        # then it is rejected three times, and left alone
        since = until_noted("quarantined", 1)
        assert notes == ["rejected"] * 3 + ["quarantined"]
        # and knows so, and until when
        while not told:
            meet()
        assert told == ["quarantined"]
        assert bad.apart(0 if bad is there else 1) > since
        # and afterwards it may come again
        assert until_noted("rejected", 4) - since >= 0.5
        assert notes.count("quarantined") == 1


@pytest.mark.parametrize("first", [0, 1], ids=["the lower dials first", "the higher dials first"])
def test_where_both_ends_dial_the_line_of_the_lower_index_stays(first: int) -> None:
    # given two nodes that both dial the other
    with node(0, "tcp://127.0.0.1:*") as low, node(1, "tcp://127.0.0.1:*") as high:
        ends = (low, high)
        for i in (first, 1 - first):
            ends[i].dial(1 - i, ends[1 - i].address)
        # when each greets on what it has dialled
        seen: tuple[list[Event | Note], list[Event | Note]] = ([], [])
        end = time.monotonic() + 60
        while not any(isinstance(e, Received) and isinstance(e.message, Welcome) for e in seen[0]):
            assert time.monotonic() < end, seen
            for i, one in enumerate(ends):
                for event in one.poll(0.02):
                    seen[i].append(event)
                    if isinstance(event, PeerUp):
                        one.send(1 - i, event.session, Hello(event.session, 0, None, -1, -1, -1, {}))
                    elif isinstance(event, Received) and type(event.message) is Hello:
                        one.send(1 - i, event.session, Welcome(event.session, 0, None, -1, -1, -1, {}))
        # then the lower one has heard no hello, and the higher one dials no more
        assert not [e for e in seen[0] if isinstance(e, Received) and not isinstance(e.message, Welcome)]
        assert high.lines() == {0: 1} and low.lines() == {1: 1}
        assert not high.answers(0) and low.answers(1)


def test_sessions_with_a_peer_go_on_in_number_when_it_is_dialled_again() -> None:
    with node(1, "tcp://127.0.0.1:*") as there, node(0, "") as here:
        here.dial(1, there.address)
        assert until(here, lambda e: isinstance(e, PeerUp)) == [PeerUp(1, 1)]
        here.drop(1)
        here.dial(1, there.address)
        assert until(here, lambda e: isinstance(e, PeerUp)) == [PeerUp(1, 2)]
