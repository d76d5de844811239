"""Arcs that carry data one way, under random schedules: lines are cut anywhere and dialled again.

No mass of push-sum is lost, nobody hangs, and rows that average stay averages.
"""

from __future__ import annotations

import random

import pytest
import torch

from gossipfl.core.codecs import Packing
from gossipfl.core.events import (
    Adopt,
    Begin,
    Effect,
    Finished,
    Send,
    Shift,
    Stepped,
)
from gossipfl.core.exchange.edge import Edge
from gossipfl.core.exchange.intake import Terms
from gossipfl.core.exchange.rounds import Phase, Rounds
from gossipfl.core.exchange.work import Work
from gossipfl.core.recipe import Recipe
from gossipfl.core.rules import averaging, sums
from gossipfl.core.rules.base import Rule
from gossipfl.topology.graph import from_pairs
from gossipfl.topology.schedules import Cyclic
from gossipfl.topology.weights import weigh
from tests.lines import Lines

ARCS = {
    "pair": [(0, 1), (1, 0)],
    "cycle3": [(0, 1), (1, 2), (2, 0)],
    "cycle4": [(0, 1), (1, 2), (2, 3), (3, 0)],
    "lopsided": [(0, 1), (1, 2), (2, 0), (2, 3), (3, 0)],
}
ROUNDS = 14


class World(Lines):
    """Machines of a directed graph, their lines, and a die."""

    def __init__(
        self, graph: str, seed: int, rule: Rule, weights: str, cuts: int, same: float | None = None
    ) -> None:
        super().__init__()
        self.die, self.cuts = random.Random(seed), cuts
        arcs = ARCS[graph]
        n = 1 + max(max(arc) for arc in arcs)
        made = from_pairs(graph, n, arcs, directed=True)
        schedule = Cyclic(((made, weigh(made, weights)),))
        recipe = Recipe("drawn", rule, schedule, {}, packing=Packing(rule.sends))
        self.edges = sorted({(min(arc), max(arc)) for arc in arcs})
        self.machines = []
        for i in range(n):
            near = tuple(sorted({sum(edge) - i for edge in self.edges if i in edge}))
            terms: Terms = recipe.terms()
            self.machines.append(Rounds(rule, lambda t, i=i: recipe.row(i, t), near, ROUNDS, {}, terms))
        starts = [self.die.uniform(-1, 1) if same is None else same for _ in range(n)]
        self.x = [torch.tensor([start], dtype=torch.float64) for start in starts]
        self.meet(self.edges)
        for i, machine in enumerate(self.machines):
            self.apply(i, machine.handle(Begin(self.x[i]), 0.0))

    def apply(self, i: int, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send():
                    self.send(i, effect)
                case Adopt():
                    self.x[i] = effect.x
                case Shift(delta):
                    self.x[i] = self.x[i] + delta
                case Finished():
                    self.leave(i)
                case _:
                    pass

    def run(self) -> None:
        rate = self.die.choice([0.02, 0.05, 0.1, 0.2])
        for _ in range(100_000):
            training = [i for i, m in enumerate(self.machines) if m.phase is Phase.TRAINING]
            dead = [e for e, line in self.lines.items() if not line.alive and not {*e} & self.left]
            options: list[object] = [*self.deliverable(), *training, *dead]
            if not options:
                break
            alive = [line for line in self.lines.values() if line.alive]
            if self.cuts > 0 and alive and self.die.random() < rate:
                self.cuts -= 1
                self.cut(self.die.choice(alive))
                continue
            choice = self.die.choice(options)
            if isinstance(choice, int):
                self.tell(choice, Stepped(self.x[choice], self.x[choice]))
            elif choice in dead:
                self.dial(choice)  # type: ignore[arg-type]
            else:
                self.deliver()
        waiting = {i: m.silent() for i, m in enumerate(self.machines) if i not in self.left}
        assert not waiting, f"still there: {waiting}"


@pytest.mark.parametrize("graph", ARCS)
def test_cut_lines_lose_no_mass_of_push_sum(graph: str) -> None:
    for seed in range(150):
        world = World(graph, seed, sums.push_sum(), "column-stochastic", cuts=seed % 12)
        total = float(sum(world.x))
        world.run()
        states = [machine.work.state for machine in world.machines]
        mass = sum(float(state[1]) for state in states)
        assert mass == pytest.approx(len(states), abs=1e-12), f"{graph}, seed {seed}"
        assert sum(float(state[0]) for state in states) == pytest.approx(total, abs=1e-12), f"seed {seed}"
        for state, x in zip(states, world.x, strict=True):
            assert float(x) == pytest.approx(float(state[0] / state[1]), abs=1e-12)


@pytest.mark.parametrize("graph", ["cycle3", "lopsided"])
def test_nodes_that_agree_go_on_agreeing_whatever_comes_late(graph: str) -> None:
    """Rows sum to one with every skip and correction. (Their columns need not: push-sum is for that.)"""
    weights = "metropolis" if graph == "cycle3" else "uniform"
    for seed in range(100):
        world = World(graph, seed, averaging.dpsgd(), weights, cuts=seed % 12, same=0.7)
        world.run()
        assert [float(x) for x in world.x] == pytest.approx([0.7] * len(world.x), abs=1e-12), f"seed {seed}"


def test_without_cuts_the_result_does_not_depend_on_the_order_of_anything() -> None:
    ends = []
    for seed in range(10):
        world = World("lopsided", seed, sums.push_sum(), "column-stochastic", cuts=0)
        for i, machine in enumerate(world.machines):  # the same start whatever the die drew
            world.x[i] = torch.tensor([float(i)], dtype=torch.float64)
            machine.work.state = (world.x[i], machine.work.state[1])
        world.run()
        ends.append(torch.cat(world.x))

    assert all(torch.equal(ends[0], end) for end in ends)


@pytest.mark.parametrize("broken", ["acknowledge", "withhold"])
def test_each_part_of_the_protocol_is_needed(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without keeping what is not acknowledged, or what was not sent, mass is lost."""
    if broken == "acknowledge":
        monkeypatch.setattr(Edge, "_drop", lambda self, through: self.out.clear())
    else:
        take = Work.take
        monkeypatch.setattr(Work, "take", lambda *about: take(*about)._replace(withheld=frozenset()))
    lost = 0
    for seed in range(60):
        world = World("lopsided", seed, sums.push_sum(), "column-stochastic", cuts=6)
        try:
            world.run()
        except (AssertionError, KeyError):
            lost += 1
            continue
        lost += abs(sum(float(m.work.state[1]) for m in world.machines) - len(world.machines)) > 1e-9

    assert lost
