"""The exchange `rounds` under random schedules: any order of delivery, lines that are cut anywhere and
dialled again.

The machines are driven by a scheduler that draws what happens next; there is no socket and no clock. After
each schedule: nobody hangs, the sum over nodes is what it was, an edge counts in a round at both ends or at
neither, and every edge is in use again at the end.
"""

from __future__ import annotations

import random
from collections import defaultdict

import pytest
import torch

from gossipfl.core.aggregate import Row
from gossipfl.core.events import (
    Adopt,
    Begin,
    Effect,
    Finished,
    Note,
    Send,
    Shift,
    Stepped,
)
from gossipfl.core.exchange.rounds import Phase, Rounds
from gossipfl.core.rules import averaging, sums
from gossipfl.core.rules.base import Rule
from gossipfl.topology import schedule
from tests.lines import Lines

GRAPHS = {
    "pair": ("path", 2),
    "path3": ("path", 3),
    "ring4": ("ring", 4),
    "star5": ("star", 5),
    "k4": ("complete", 4),
}
ROUNDS, TAIL = 8, 6


class World(Lines):
    """Machines, lines, and a die."""

    def __init__(self, graph: str, seed: int, rule: Rule, cuts: int, tail: int = TAIL) -> None:
        super().__init__()
        self.die, self.cuts, self.rounds = random.Random(seed), cuts, ROUNDS + tail
        family, n = GRAPHS[graph]
        made = schedule(family, n).mixing(0)
        rows = [
            Row(i, tuple(zip(made.row(i)[0].tolist(), made.row(i)[1].tolist(), strict=True)))
            for i in range(n)
        ]
        self.machines = [
            Rounds(rule, lambda t, row=row: row, row.neighbors, self.rounds, {})
            for row in rows  # type: ignore[misc]
        ]
        self.x = [torch.tensor([self.die.uniform(-1, 1)], dtype=torch.float64) for _ in range(n)]
        self.sum = float(sum(self.x))
        self.early = rule.early
        self.counted: dict[tuple[int, int, int], set[int]] = defaultdict(set)
        self.edges = [(i, j) for i in range(n) for j in rows[i].neighbors if i < j]
        self.meet(self.edges)
        for i in range(n):
            self.apply(i, self.machines[i].handle(Begin(self.x[i]), 0.0))

    def apply(self, i: int, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send():
                    self.send(i, effect)
                case Adopt():
                    self.x[i] = effect.x
                    for j in effect.counted:
                        self.count(i, j, effect.round)
                case Shift(delta):
                    self.x[i] = self.x[i] + delta
                case Note("correction", peer, _, round):
                    self.count(i, peer, round)
                case Finished():
                    self.leave(i)
                case _:
                    pass

    def count(self, i: int, j: int, round: int) -> None:
        ends = self.counted[min(i, j), max(i, j), round]
        assert i not in ends, f"node {i} counts {j} twice in round {round}"
        ends.add(i)

    # ---------------------------------------------------------------- a schedule

    def run(self) -> None:
        rate = self.die.choice([0.02, 0.05, 0.1, 0.2])
        for _ in range(200_000):  # after round ROUNDS lines are left alone, and every one is dialled again
            quiet = all(m.round >= ROUNDS for m in self.machines)
            options: list[object] = list(self.deliverable())
            dead = [e for e, line in self.lines.items() if not line.alive and not {*e} & self.left]
            healed = quiet and not dead and all(e.up for m in self.machines for e in m.edges.values())
            through = healed or any(m.round > ROUNDS for m in self.machines)
            training = [
                i
                for i, m in enumerate(self.machines)
                if m.phase is Phase.TRAINING and (m.round < ROUNDS or through)
            ]
            if not options and not training and not dead:
                break
            if not quiet and self.cuts > 0 and self.die.random() < rate:
                alive = [line for line in self.lines.values() if line.alive]
                if alive:
                    self.cuts -= 1
                    self.cut(self.die.choice(alive))
                continue
            choice = self.die.choice([*options, *training, *dead])
            if isinstance(choice, int):
                self.tell(choice, Stepped(self.x[choice], self.x[choice]))
            elif choice in dead:
                self.dial(choice)  # type: ignore[arg-type]
            else:
                self.deliver()
        assert self.left == set(range(len(self.machines))), self.stuck()
        assert float(sum(self.x)) == pytest.approx(self.sum, abs=1e-12)
        for (i, j, round), ends in self.counted.items():
            assert ends == {i, j}, f"edge {i}-{j} counts in round {round} only at {ends}"
        for i, j in self.edges:
            for t in range(self.rounds - 2, self.rounds):
                assert (i, j, t) in self.counted, f"edge {i}-{j} rests at the end (round {t})"

    def stuck(self) -> str:
        waiting = {i: m.silent() for i, m in enumerate(self.machines) if i not in self.left}
        return f"still there: {waiting}"


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("rule", [averaging.dpsgd(), averaging.dpsgd_cta()], ids=["dpsgd", "dpsgd-cta"])
def test_cut_lines_lose_nothing_and_nobody_hangs(graph: str, rule: Rule) -> None:
    for seed in range(120):
        try:
            World(graph, seed, rule, cuts=1 + seed % 12).run()
        except AssertionError as error:
            raise AssertionError(f"{graph}, seed {seed}: {error}") from error


@pytest.mark.parametrize("graph", GRAPHS)
def test_copies_by_link_survive_cut_lines_and_copies_in_a_sum_do_not(graph: str) -> None:
    """Both ends of an edge hold the same two copies at the end, the sum is kept, and all agree at last."""
    for seed in range(24):
        world = World(graph, seed, sums.choco(gamma=1.0), cuts=1 + seed % 12, tail=40)
        world.run()
        assert float(torch.cat(world.x).std()) < 1e-4, f"{graph}, seed {seed}"
        machines = world.machines
        for i, j in world.edges:
            (one, other), (theirs, mine) = machines[i].work.state, machines[j].work.state
            here = sorted(machines[i].edges).index(j)
            there = sorted(machines[j].edges).index(i)
            assert float(one[here]) == pytest.approx(float(mine[there]), abs=1e-14)
            assert float(other[here]) == pytest.approx(float(theirs[there]), abs=1e-14)
    spoilt = 0
    for seed in range(8):
        summed = World(graph, seed, sums.choco(gamma=1.0, per_link=False), cuts=1 + seed % 12, tail=40)
        try:
            summed.run()
            spoilt += float(torch.cat(summed.x).std()) > 1e-4
        except AssertionError:  # the sum is not what it was
            spoilt += 1
    assert spoilt


@pytest.mark.parametrize("graph", GRAPHS)
def test_without_cuts_the_result_does_not_depend_on_the_order_of_anything(graph: str) -> None:
    ends = []
    for seed in range(12):
        world = World(graph, seed, averaging.dpsgd(), cuts=0)
        world.x = [torch.tensor([float(i)], dtype=torch.float64) for i in range(len(world.machines))]
        world.sum = float(sum(world.x))
        for i, m in enumerate(world.machines):  # the same start whatever the die drew
            m.work.x = world.x[i]
        world.run()
        ends.append(torch.cat(world.x))
    assert all(torch.equal(ends[0], end) for end in ends)
