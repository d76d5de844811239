"""How long a node that is done waits for neighbors that are not there."""

from __future__ import annotations

import pytest

from gossipfl.core.quarantine import LONGEST
from gossipfl.drivers.parting import PARTING, Parting


def never(peer: int) -> float:
    return 0.0


@pytest.fixture
def parting() -> Parting:
    """A node that has looked once, at 100 s: neighbor 1 is missing."""
    parting = Parting()
    assert parting.given_up([1], never, 100.0) == []
    return parting


def test_who_stays_away_is_given_up_after_a_while(parting: Parting) -> None:
    assert parting.given_up([1], never, 100.0 + PARTING) == []
    assert parting.given_up([1, 2], never, 101.0 + PARTING) == [1]


def test_each_absence_is_waited_for_anew(parting: Parting) -> None:
    assert parting.given_up([], never, 120.0) == []
    assert parting.given_up([1], never, 125.0) == []
    assert parting.given_up([1], never, 125.0 + PARTING) == []
    assert parting.given_up([1], never, 126.0 + PARTING) == [1]


def test_who_is_in_quarantine_is_waited_for_from_its_end_on(parting: Parting) -> None:
    over = 200.0
    assert parting.given_up([1], lambda j: over, over + PARTING) == []
    assert parting.given_up([1], lambda j: over, over + PARTING + 1) == [1]


def test_one_that_is_left_alone_again_and_again_keeps_nobody_for_ever(parting: Parting) -> None:
    def apart(peer: int) -> float:
        return 1e6

    now = 100.0
    while not parting.given_up([1], apart, now):
        parting.given_up([], apart, now + 15)  # it has come back, and is to be left alone at once
        now += 20
        assert now < 100 + 2 * (LONGEST + PARTING)
    assert now > 100 + LONGEST
