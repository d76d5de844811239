"""Who sends what cannot be taken is left alone for a while."""

from __future__ import annotations

from gossipfl.core.events import Note
from gossipfl.core.quarantine import FIRST, LONGEST, MEMORY, STRIKES, Quarantine, alone, reason


def strike(quarantine: Quarantine, now: float) -> float:
    """As many rejections as it takes; for how long the peer is left alone then."""
    found = [quarantine.reject(1, now) for _ in range(STRIKES)]
    seconds = quarantine.left(1, now)
    told = Note("quarantined", 1, f"is left alone for {seconds:g} s: what it sends is rejected")
    assert found == [[]] * (STRIKES - 1) + [[told]]
    return seconds


def test_the_third_rejection_is_enough() -> None:
    quarantine = Quarantine()
    assert strike(quarantine, 100.0) == FIRST
    assert quarantine.left(1, 100.0) == FIRST
    assert quarantine.left(1, 104.0) == FIRST - 4.0
    assert quarantine.left(2, 100.0) == 0.0


def test_afterwards_it_may_come_again_and_has_to_fail_as_often_as_before() -> None:
    quarantine = Quarantine()
    strike(quarantine, 100.0)
    assert quarantine.left(1, 100.0 + FIRST) == 0.0
    assert quarantine.reject(1, 100.0 + FIRST) == []


def test_each_time_is_twice_as_long_up_to_the_longest() -> None:
    quarantine, now, lengths = Quarantine(), 0.0, list[float]()
    for _ in range(8):
        lengths.append(strike(quarantine, now))
        now += lengths[-1]
    assert lengths[:3] == [FIRST, 2 * FIRST, 4 * FIRST]
    assert lengths[-1] == LONGEST


def test_rejections_of_long_ago_are_forgotten() -> None:
    quarantine = Quarantine()
    assert [quarantine.reject(1, k * MEMORY / 2) for k in range(10)] == [[]] * 10


def test_who_is_left_alone_is_told_for_how_long() -> None:
    assert alone(reason(9.2)) == 10.0
    assert alone("leaves this node alone for 9999 s: at will") == LONGEST
    assert alone("bob has algorithm.rule = d2, you have dpsgd") is None


def test_a_peer_that_says_so_again_and_again_is_told_of_once_a_quarantine() -> None:
    quarantine = Quarantine()
    told = [Note("quarantined", 1, reason(10.0))]
    assert quarantine.over(1) == 0.0
    assert quarantine.told(1, reason(10.0), 100.0) == told
    assert quarantine.told(1, reason(9.0), 101.0) == []
    assert quarantine.over(1) == 110.0
    assert quarantine.told(1, reason(10.0), 120.0) == told


def test_it_is_over_when_neither_of_the_two_leaves_the_other_alone() -> None:
    quarantine = Quarantine()
    quarantine.told(1, reason(4.0), 100.0)
    strike(quarantine, 100.0)
    assert quarantine.over(1) == 100.0 + FIRST
    assert quarantine.over(2) == 0.0
