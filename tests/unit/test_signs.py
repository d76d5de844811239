"""What the last signs of a peer say: slow, stuck, silent."""

from __future__ import annotations

import pytest

from gossipfl.errors import RemoteProtocolError
from gossipfl.transport import signs as module
from gossipfl.transport.signs import Signs
from gossipfl.transport.wire import Beat


class Clock:
    """The machine's own, as the test sets it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def beats(signs: Signs, clock: Clock, steps: list[int], every: float = 1.0, training: bool = True) -> None:
    """Node 1's beats, one every so many seconds, with these step counts."""
    for count in steps:
        signs.beat(1, Beat(1, 7, count, training))
        clock.now += every


def test_who_makes_steps_does_not_hang_however_seldom(clock: Clock) -> None:
    signs = Signs()
    beats(signs, clock, [k // 8 for k in range(100)])

    assert signs.stuck(1, 1.0) == 0
    assert signs.tell(1) == "training in round 7, 1.0 s ago"


def test_who_sends_beats_and_makes_no_step_hangs_and_goes_on(clock: Clock) -> None:
    signs = Signs()
    beats(signs, clock, [1, 2, 3] + [4] * 10)
    assert signs.stuck(1, 1.0) == 0
    beats(signs, clock, [4])
    assert signs.stuck(1, 1.0) == 11
    beats(signs, clock, [5])
    assert signs.stuck(1, 1.0) == 0


def test_who_is_silent_on_a_line_that_stands_hangs(clock: Clock) -> None:
    signs = Signs()
    beats(signs, clock, [1, 2])
    clock.now += 10

    assert signs.stuck(1, 1.0) == 11
    assert signs.silence(1) == 11


def test_who_waits_for_others_does_not_hang(clock: Clock) -> None:
    signs = Signs()
    beats(signs, clock, [4] * 100, training=False)

    assert signs.stuck(1, 1.0) == 0
    assert signs.tell(1) == "waiting in round 7, 1.0 s ago"


def test_long_steps_are_learnt(clock: Clock) -> None:
    signs = Signs()
    beats(signs, clock, [1] * 30 + [2])
    beats(signs, clock, [2] * 50)
    assert signs.stuck(1, 1.0) == 0
    beats(signs, clock, [2] * 20)
    assert signs.stuck(1, 1.0) > 60


def test_nothing_is_said_of_who_has_said_nothing(clock: Clock) -> None:
    assert Signs().stuck(1, 1.0) == 0
    assert Signs().silence(1) is None
    assert Signs().tell(1) == "not a word yet"


def test_a_beat_of_another_node_is_refused(clock: Clock) -> None:
    with pytest.raises(RemoteProtocolError, match="a beat of node 2 from node 1"):
        Signs().beat(1, Beat(2, 0, 0, True))
