"""Alive, suspect, dead: whole scenarios in virtual time, told as text."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest

from gossipfl.core.membership import (
    AT_EASE,
    CROWDED,
    DEAD,
    LAPSE,
    WORST,
    Health,
    Membership,
    Sign,
    State,
    apart,
    judge,
    together,
)

BEAT = 0.25


@dataclass
class World:
    """A node and its neighbor 1, whose line stands. What each second holds is told in words.

    `5s`: five seconds of beats and steps. `5s silent`: not a byte comes. `5s stuck`: beats come, and no
    steps. `5s stopped`: this node itself does not run, while its neighbor does.
    """

    members: Membership = field(default_factory=lambda: Membership(apart(BEAT, 60.0)))
    health: Health = field(default_factory=lambda: Health(BEAT))
    now: float = 1000.0
    word: float = 1000.0
    moved: float = 1000.0
    said: list[str] = field(default_factory=list)

    def live(self, script: str) -> list[str]:
        """What is said of the neighbor, and when: seconds since the start of the script."""
        begun = self.now
        self.members.met(1)
        self.word = self.moved = self.health.awake(self.now)
        for line in script.strip().splitlines():
            length, _, what = line.strip().partition("s")
            end = self.now + float(length)
            if what.strip() == "stopped":
                self.now = end
                continue
            while self.now < end - 1e-9:
                self.now += BEAT
                self.health.tick(self.now)
                awake = self.health.awake(self.now)
                if what.strip() != "silent":
                    self.word = awake
                    self.moved = self.moved if what.strip() == "stuck" else awake
                signs = {1: Sign(awake - self.word, awake - self.moved)}
                for change in self.members.look(signs, self.health.score):
                    at = self.now - begun
                    self.said.append(f"{at:g} {change.state.value} {change.why} {change.seconds:g}")
        return self.said


def test_who_is_silent_is_suspected_after_three_beats_and_dead_after_five() -> None:
    assert World().live("10s\n5s silent") == ["11 suspect silence 1", "11.5 dead silence 1.5"]


def test_a_word_in_time_refutes() -> None:
    assert World().live("1s\n1s silent\n3s") == ["2 suspect silence 1", "2.25 alive silence 0"]


def test_who_makes_no_step_is_suspected_and_much_later_dead() -> None:
    said = World().live("1s\n90s stuck")
    assert said == ["11.25 suspect hang 10.25", "61.25 dead hang 60.25"]


def test_a_neighbor_that_hangs_and_goes_on_is_told_of_once_each_way() -> None:
    assert World().live("1s\n12s stuck\n20s") == ["11.25 suspect hang 10.25", "13.25 alive silence 0"]


def test_who_wakes_up_finds_everyone_as_they_were() -> None:
    # whether the neighbor has spoken meanwhile or not: time that this node did not run is no silence
    assert World().live("2s\n600s stopped\n10s") == []


def test_who_wakes_up_gives_others_time_and_is_well_again_after_a_while() -> None:
    world = World()
    world.live("2s\n600s stopped")
    assert world.live("4s silent") == []  # score 8: time-outs are nine times as long
    world.said.clear()
    assert world.health.score > 0
    assert world.live("20s\n2s silent") == ["21 suspect silence 1", "21.5 dead silence 1.5"]


def test_a_node_whose_own_beats_are_late_is_patient() -> None:
    health = Health(BEAT)
    for k in range(20):
        health.tick(1000.0 + k * 3.5 * BEAT)  # each two whole intervals late
    assert health.score == WORST
    sign = Sign(silence=2 * DEAD * BEAT, still=0.0)
    assert judge(1, sign, apart(BEAT, 0.0), 0).state is State.DEAD
    assert judge(1, sign, apart(BEAT, 0.0), health.score).state is State.ALIVE


def test_health_comes_back_one_step_after_four_beats_in_time() -> None:
    health = Health(1.0)
    for now in (0.0, 1.0, 5.0):  # three late
        health.tick(now)
    assert health.score == 3
    scores = []
    for now in range(6, 20):
        health.tick(float(now))
        scores.append(health.score)
    assert scores == [3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0]


def test_waking_time_runs_with_the_clock_and_stops_where_beats_are_late() -> None:
    health = Health(1.0)
    assert health.awake(7.0) == 7.0  # before the first beat
    health.tick(10.0)
    assert health.awake(11.5) == 11.5
    assert health.awake(100.0) == 10.0 + LAPSE
    health.tick(100.0)
    assert health.awake(100.0) == 10.0 + LAPSE
    assert health.awake(101.0) == 11.0 + LAPSE


def test_long_pauses_that_are_usual_are_no_hang() -> None:
    terms = apart(BEAT, 60.0)
    assert judge(1, Sign(0.0, 15.0, pause=8.0), terms, 0).state is State.ALIVE
    assert judge(1, Sign(0.0, 17.0, pause=8.0), terms, 0).state is State.SUSPECT
    assert judge(1, Sign(0.0, 100.0, pause=60.0), terms, 0).state is State.ALIVE
    assert judge(1, Sign(0.0, 121.0, pause=60.0), terms, 0).state is State.DEAD


def test_with_hang_zero_only_silence_is_a_death() -> None:
    assert judge(1, Sign(0.0, 1e9), apart(BEAT, 0.0), 0).state is State.SUSPECT
    assert judge(1, Sign(1e9, 0.0), apart(BEAT, 0.0), 0).state is State.DEAD


def test_on_a_crowded_machine_beats_are_fewer_and_silence_is_no_death() -> None:
    easy, busy = together(BEAT, 0.0, AT_EASE * 2, 2), together(BEAT, 0.0, CROWDED * 2, 2)
    assert easy.beat == BEAT and busy.beat == BEAT * CROWDED / AT_EASE
    assert busy.dead == pytest.approx(easy.dead * busy.beat / easy.beat)
    far = together(BEAT, 0.0, 1000, 2)
    assert math.isinf(far.dead)
    assert judge(1, Sign(1e9, 1e9), far, 0).state is State.SUSPECT


def test_who_has_gone_is_not_judged_until_met_again() -> None:
    members = Membership(apart(BEAT, 0.0))
    signs = {1: Sign(100.0, 100.0)}
    assert members.look(signs) == []
    members.met(1)
    assert [c.state for c in members.look(signs)] == [State.DEAD]
    assert members.state(1) is None and members.look(signs) == []
    members.met(1)
    members.parted(1)
    assert members.look(signs) == []


def test_the_next_look_is_due_when_silence_could_change_something() -> None:
    members = Membership(apart(BEAT, 0.0))
    assert members.wait({}) is None
    members.met(1)
    members.met(2)
    assert members.wait({1: Sign(0.25, 0.0), 2: Sign(0.0, 0.0)}) == pytest.approx(0.5)
    assert members.wait({1: Sign(1.0, 0.0)}) == pytest.approx(0.25)
    assert members.wait({1: Sign(1.0, 0.0)}, score=1) == pytest.approx(0.5)
