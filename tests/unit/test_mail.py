"""Mail: words of payloads in shared memory are whole, in order, of this session, and never written over."""

from __future__ import annotations

import os
import select
import signal
import time
from collections import deque
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gossipfl.core.events import Event, Note, PeerDown, PeerUp, Received
from gossipfl.core.messages import Data, Hello, Nothing, Stop, Welcome
from gossipfl.transport.mail import HOLDS, LINE, Boxes, Mail, possible
from gossipfl.transport.shared import Commons, Shelf
from gossipfl.transport.zeromq import ZeroMQ
from tests.unit.test_dialling import LAYOUT, node, until

pytestmark = pytest.mark.skipif(not possible(), reason="mail needs Linux on x86")


@pytest.fixture
def boxes() -> Iterator[Boxes]:
    made = Boxes(2, [(0, 1)])
    yield made
    made.close()


def met(boxes: Boxes, session: int = 1) -> tuple[Mail, Mail]:
    """Two nodes in a session."""
    both = Mail(boxes, 0), Mail(boxes, 1)
    both[0].begin(1, session)
    both[1].begin(0, session)
    return both


def rounds(mail: Mail) -> list[int]:
    return [round for _, _, round, _, _ in mail.take()]


def rings(mail: Mail) -> bool:
    return bool(select.select([mail.bell], [], [], 0)[0])


def test_words_come_as_they_were_said_and_ring(boxes: Boxes) -> None:
    here, there = met(boxes)
    assert not rings(there)

    assert here.say(1, 1, 7, 6, 2) and here.say(1, 1, 8, 7, 3)

    assert rings(there) and not rings(here)
    assert there.take(rung=True) == [(0, 1, 7, 6, 2), (0, 1, 8, 7, 3)]
    assert not rings(there)
    assert there.take() == []


def test_a_box_that_is_full_is_left_alone(boxes: Boxes) -> None:
    here, there = met(boxes)

    said = [here.say(1, 1, t, t - 1, 0) for t in range(HOLDS + 2)]

    assert said == [True] * HOLDS + [False] * 2
    assert rounds(there) == list(range(HOLDS))
    assert here.say(1, 1, 9, 8, 0)
    assert rounds(there) == [9]


def test_what_has_no_number_yet_is_no_word(boxes: Boxes) -> None:
    here, there = met(boxes)
    for t in range(HOLDS + 1):  # the numbers of an earlier lap are in the box
        here.say(1, 1, t, 0, 0)
        rounds(there)
    ((_, box),) = boxes.of(0).values()
    at = box + (HOLDS + 1) % HOLDS * LINE
    before = boxes.cells[at]

    assert here.say(1, 1, 99, 98, 1)
    number, boxes.cells[at] = boxes.cells[at], before  # as it is between its two stores

    assert there.take() == []
    boxes.cells[at] = number
    assert rounds(there) == [99]


def test_a_word_waits_for_what_the_socket_brings_and_the_socket_for_words(boxes: Boxes) -> None:
    here, there = met(boxes)

    here.say(1, 1, 1, 0, 0)
    here.said(1, 1)
    here.say(1, 1, 2, 1, 0)

    assert rounds(there) == [1]
    assert there.take() == []
    assert there.before(0, 1) == []
    assert rounds(there) == [2]
    here.say(1, 1, 3, 2, 0)
    here.said(1, 1)
    assert there.before(0, 1) == [(0, 1, 3, 2, 0)]


def test_words_of_an_earlier_session_go_unread(boxes: Boxes) -> None:
    here, there = met(boxes)
    here.say(1, 1, 1, 0, 0)  # not taken when the session ends
    there.begin(0, 2)
    here.say(1, 1, 2, 1, 0)  # by somebody who does not know yet that it has
    assert there.take() == []

    here.begin(1, 2)
    assert not here.say(1, 1, 3, 2, 0)
    assert here.say(1, 2, 4, 3, 0)
    assert there.take() == [(0, 2, 4, 3, 0)]


def test_nobody_writes_to_who_does_not_look_or_is_no_neighbor(boxes: Boxes) -> None:
    here, there = met(boxes)
    boxes.listen(1, on=False)

    assert not here.say(1, 1, 1, 0, 0)
    assert there.take() == []
    assert not there.say(5, 1, 1, 0, 0)


def test_who_keeps_only_its_bells_still_rings_its_neighbors() -> None:
    boxes = Boxes(4, [(0, 1), (2, 3), (0, 3)])
    pid = os.fork()
    if pid == 0:
        boxes.keep(0)
        open_ = [k for k, bell in enumerate(boxes.bells) if _is_open(bell)]
        os._exit(0 if open_ == [0, 1, 3] else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert boxes.of(0).keys() == {1, 3} and boxes.of(2).keys() == {3}
    boxes.close()


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


@given(st.lists(st.sampled_from(["mail", "socket", "look", "receive"]), max_size=60))
def test_all_that_is_said_on_a_line_keeps_its_order(steps: list[str]) -> None:
    boxes = Boxes(2, [(0, 1)])
    here, there = met(boxes)
    socket, said, heard = deque[int](), list[int](), list[int]()

    def receive() -> None:
        heard.extend(round for _, _, round, _, _ in there.before(0, 1))
        heard.append(socket.popleft())

    for number, step in enumerate(steps):
        if step == "look":
            heard += rounds(there)
        elif step == "receive":
            if socket:
                receive()
        else:
            said.append(number)
            if step == "socket" or not here.say(1, 1, number, 0, 0):
                socket.append(number)
                here.said(1, 1)
    while socket:
        receive()
    heard += rounds(there)

    assert heard == said
    boxes.close()


def test_words_of_another_process_are_whole_also_when_it_is_killed(boxes: Boxes) -> None:
    there = Mail(boxes, 1)
    there.begin(0, 1)
    pid = os.fork()
    if pid == 0:
        here, number = Mail(boxes, 0), 0
        here.begin(1, 1)
        while True:
            number += here.say(1, 1, number, 3 * number, 5 * number)

    due = 0
    while due < 3_000:
        for word in there.take():
            assert word == (0, 1, due, 3 * due, 5 * due)
            due += 1
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)

    for word in there.take():
        assert word == (0, 1, due, 3 * due, 5 * due)
        due += 1
    assert there.take() == []


# ---------------------------------------------------------------------- beside sockets


def heard(node: ZeroMQ, count: int) -> list[Event | Note]:
    """So many events of a node."""
    seen, end = list[Event | Note](), time.monotonic() + 60
    while len(seen) < count:
        assert time.monotonic() < end, seen
        seen += node.poll(0.05)
    return seen


def test_payloads_go_by_mail_in_order_with_all_else_on_a_line_and_across_sessions() -> None:
    # given two nodes with a line and shared memory
    commons = Commons(2, LAYOUT, [(0, 1)])
    assert commons.boxes is not None
    shelves = [Shelf(commons, k) for k in range(2)]
    payloads = [(torch.full((3,), float(k)),) for k in range(3)]
    here, there = node(0, ""), node(1, "tcp://127.0.0.1:*")
    for k, one in enumerate((here, there)):
        one.share(commons, shelves[k], Mail(commons.boxes, k))
    with here, there:
        here.dial(1, there.address)
        for session in (1, 2):
            until(here, lambda e: isinstance(e, PeerUp))
            here.send(1, session, Hello(session, 0, None, -1, -1, -1, {}))
            until(there, lambda e: isinstance(e, Received))
            there.send(0, session, Welcome(session, 0, None, -1, -1, -1, {}))
            until(here, lambda e: isinstance(e, Received))
            # when payloads and other words are sent in turns, both ways
            said = [Data(0, -1, payloads[0]), Stop(9), Nothing(1, 0), Data(2, 0, payloads[1]), Stop(8)]
            before = there.sent_bytes
            for message in said:
                here.send(1, session, message)
                there.send(0, session, message)
            # then they come in that order, the payloads' numbers not over the socket
            assert 2 * 12 < there.sent_bytes - before < 300
            for one, peer in ((here, 1), (there, 0)):
                events = heard(one, len(said))
                came = [e.message for e in events if isinstance(e, Received) and e.peer == peer]
                assert list(map(str, came)) == list(map(str, said))
            # and what is said when a line is over is not heard on the next one
            here.send(1, session, Data(3, 2, payloads[2]))
            there.hang_up(0, session)
            assert until(here, lambda e: isinstance(e, PeerDown)) == [PeerDown(1, session)]
            here.send(1, session, Data(4, 2, payloads[2]))
    commons.boxes.close()


def test_a_slot_that_there_is_not_ends_the_line_and_is_told() -> None:
    commons = Commons(2, LAYOUT, [(0, 1)])
    assert commons.boxes is not None
    here, there = node(0, ""), node(1, "tcp://127.0.0.1:*")
    mine = Mail(commons.boxes, 0)
    here.share(commons, Shelf(commons, 0), mine)
    there.share(commons, Shelf(commons, 1), Mail(commons.boxes, 1))
    with here, there:
        here.dial(1, there.address)
        until(here, lambda e: isinstance(e, PeerUp))
        here.send(1, 1, Hello(1, 0, None, -1, -1, -1, {}))
        until(there, lambda e: isinstance(e, Received))

        assert mine.say(1, 1, 0, -1, 77)

        note, down = heard(there, 2)
        assert isinstance(note, Note) and note.kind == "rejected" and "slot 77" in note.text
        assert down == PeerDown(0, 1)
        assert until(here, lambda e: isinstance(e, PeerDown)) == [PeerDown(1, 1)]
    commons.boxes.close()
