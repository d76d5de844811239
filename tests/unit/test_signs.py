"""What the last signs of a peer say."""

from __future__ import annotations

import pytest

from gossipfl.core.membership import Health, Sign
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


@pytest.fixture
def signs(clock: Clock) -> Signs:
    return Signs(Health(1.0))


def beats(signs: Signs, clock: Clock, steps: list[int], every: float = 1.0, training: bool = True) -> None:
    """Node 1's beats, one every so many seconds, with these step counts."""
    for count in steps:
        signs.beat(1, Beat(1, 7, count, training))
        clock.now += every


def test_who_makes_steps_moves_however_seldom(signs: Signs, clock: Clock) -> None:
    beats(signs, clock, [k // 8 for k in range(100)])
    assert signs.sign(1) == Sign(1.0, 4.0, 8.0)
    assert signs.tell(1) == "training in round 7, 1.0 s ago"


def test_beats_without_a_step_tell_for_how_long(signs: Signs, clock: Clock) -> None:
    beats(signs, clock, [1, 2, 3] + [4] * 11)
    assert signs.sign(1) == Sign(1.0, 11.0, 1.0)
    beats(signs, clock, [5])
    assert signs.sign(1) == Sign(1.0, 1.0, 11.0)


def test_who_waits_for_others_moves(signs: Signs, clock: Clock) -> None:
    beats(signs, clock, [4] * 100, training=False)
    assert signs.sign(1) == Sign(1.0, 1.0, 0.0)
    assert signs.tell(1) == "waiting in round 7, 1.0 s ago"


def test_who_sends_no_beats_any_more_does_not_move_though_bytes_come(signs: Signs, clock: Clock) -> None:
    beats(signs, clock, [1, 2], training=False)
    clock.now += 10
    signs.word(1, signs.now() - 0.5)
    assert signs.sign(1) == Sign(0.5, 11.0, 0.0)


def test_an_older_word_changes_nothing(signs: Signs, clock: Clock) -> None:
    signs.word(1, signs.now())
    signs.word(1, signs.now() - 5.0)
    assert signs.sign(1) == Sign(0.0, 0.0, 0.0)


def test_on_a_new_line_everything_begins_anew_but_what_pauses_are_usual(signs: Signs, clock: Clock) -> None:
    beats(signs, clock, [1] * 9 + [2])
    clock.now += 100
    signs.met(1)
    assert signs.sign(1) == Sign(0.0, 0.0, 9.0)


def test_nothing_is_said_of_who_has_said_nothing(signs: Signs) -> None:
    assert signs.sign(1) is None
    assert signs.tell(1) == "not a word yet"


def test_a_beat_of_another_node_is_refused(signs: Signs) -> None:
    with pytest.raises(RemoteProtocolError, match="a beat of node 2 from node 1"):
        signs.beat(1, Beat(2, 0, 0, True))
