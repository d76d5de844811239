"""Repeat a run of rounds of real processes, to the same bits, where edges were skipped, or counted late.

Every node trains again and mixes what its own records say it mixed (`decisions`); what the payloads hold is
computed anew. A node waits until those have been made that it needs: the run happened, so one of them can
always go on. The loss of each local phase is compared with the recorded one, so what does not follow is found
where it begins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gossipfl.core.aggregate import Row
from gossipfl.core.events import Adopt
from gossipfl.core.exchange.edge import Flow
from gossipfl.core.exchange.intake import Intake
from gossipfl.core.exchange.resets import Resets
from gossipfl.core.exchange.work import Work
from gossipfl.core.messages import Vectors
from gossipfl.drivers.decisions import Closing, Decisions, Extent, decisions, emitted, lost, require_whole
from gossipfl.drivers.outcome import Outcome
from gossipfl.drivers.plan import Plan
from gossipfl.drivers.replay import Misfit, require_config, require_models
from gossipfl.drivers.telling import due, eval_fields, round_fields
from gossipfl.errors import ConfigError, Problem
from gossipfl.learning import optimizers
from gossipfl.learning.abreast import Made, alone
from gossipfl.learning.learner import Learner, Phase
from gossipfl.learning.workload import Workload
from gossipfl.records import number

if TYPE_CHECKING:
    from gossipfl.drivers.world import Watch

#: A payload, by the node that made it and its round.
Key = tuple[int, int]
REGULAR = Closing()


@dataclass(slots=True)
class _Node:
    """A node on its way through the rounds that it made."""

    work: Work
    learner: Learner
    told: Decisions
    x: Tensor
    last: int  # the round whose payload it makes last
    resets: Resets
    before: int | None = None  # the last round that it closed, where some have been left out since
    rounds: int = 0  # finished
    sent_bytes: int = 0
    sent: dict[int, tuple[Row, Vectors]] = field(default_factory=dict)  # coded, by round


class RoundsReplay:
    """One run again."""

    def __init__(self, plan: Plan, workload: Workload, watch: Watch) -> None:
        self._plan, self._watch = plan, watch
        self.folder, names = Path(plan.config.algorithm.replay), plan.config.names
        require_config(self.folder, plan.config)
        gone = lost(self.folder, names)
        self._lost = frozenset(i for i, name in enumerate(names) if name in gone)
        paths = [self.folder / "records" / f"{name}.jsonl" for name in names]
        told = [decisions(path, Extent(plan.n, plan.rounds)) for path in paths]
        self._require_repeatable(told)
        self._rows = [plan.rows(i) for i in range(plan.n)]
        self._rate = optimizers.rate(plan.config.train, plan.rounds)
        last = emitted(told, self._rows)
        for i in set(range(plan.n)) - self._lost:
            goal = last[i] + 1 if plan.config.stop.wanted else plan.rounds
            require_whole(told[i], goal, paths[i])
        self._nodes = [self._node(workload.learner(i), i, told[i], last[i]) for i in range(plan.n)]
        self._uses = Counter(key for i in range(plan.n) for key in self._needs_of_all(i))
        self._moved = False

    def _require_repeatable(self, told: list[Decisions]) -> None:
        plan = self._plan
        wrong = ""
        if plan.rewiring is not None:
            wrong = "went around nodes that died, and when each edge around them began is not written down"
        elif plan.recipe.arcs and not plan.recipe.columns and any(_late(one) for one in told):
            wrong = "has payloads that counted late on arcs whose rows sum to one"
        if wrong:
            right = 'algorithm.on_death = "self"; on directed graphs, a rule such as push-sum'
            raise ConfigError(Problem(str(self.folder), wrong, right))

    def _node(self, learner: Learner, i: int, told: Decisions, last: int) -> _Node:
        work = Work(self._plan.recipe.rule, self._rows[i], self._plan.recipe.terms(learner.validate))
        x = learner.vector.clone()
        work.link(x)
        work.begin(x, 0)
        return _Node(work, learner, told, x, last, Resets(tuple(sorted(told.resets))))

    def run(self) -> Outcome:
        """To the end of the recorded run. Raises ConfigError where it cannot be repeated."""
        try:
            self._go()
        except Misfit as error:
            wrong = f"does not follow from this config: {error}"
            raise ConfigError(
                Problem(str(self.folder), wrong, "replay with the version, data and config that made it")
            ) from error
        for node in self._nodes:
            node.learner.load(node.x)
        ends = [node.rounds for i, node in enumerate(self._nodes) if i not in self._lost]
        x = torch.stack([node.learner.x.detach().clone() for node in self._nodes])
        notes = require_models(self.folder, x, self._plan.config.names)
        return Outcome(
            engine="events",
            x=x,
            present=tuple(i not in self._lost for i in range(self._plan.n)),
            rounds=tuple(node.rounds for node in self._nodes),
            sent_bytes=tuple(node.sent_bytes for node in self._nodes),
            lost=tuple(sorted(self._lost)),
            seconds=max((_time(node, node.told.last) for node in self._nodes), default=0.0),
            end=min(ends, default=None),
            notes=notes,
        )

    def _go(self) -> None:
        lives = {i: self._life(i) for i in range(self._plan.n)}
        self._moved = True
        while lives and self._moved:
            self._moved = False
            for i, life in list(lives.items()):
                if next(life, "over") == "over":
                    del lives[i]
                    self._moved = True
        for i in lives:
            raise Misfit(f"node {i} waits in round {self._nodes[i].rounds + 1} for what nobody sends")

    # ------------------------------------------------------------------ a node

    def _life(self, i: int) -> Iterator[None]:
        """All that node i did; yields where it has to wait for others."""
        node, told = self._nodes[i], self._nodes[i].told
        round = 0
        while round <= node.last:
            made = self._train(i, round)
            if round == node.last and round > told.last:
                return  # its process was killed in this round
            closing = told.closings.get(round, REGULAR)
            yield from self._wait(self._needs(i, round))
            self._close(i, round, closing, made.phase)
            round = told.after(round)
        for shift in told.shifts:
            yield from self._wait(shift)
            late = [node.work.late(self._flow(i, j, s)) for j, s in shift]
            node.x = node.x + node.work.again(late)
        if i not in self._lost and node.rounds < self._plan.rounds and not self._plan.config.stop.wanted:
            raise Misfit(f"node {i} ends after {node.rounds} rounds")

    def _train(self, i: int, round: int) -> Made:
        """Its local phase, and the payload of the round."""
        node, rule = self._nodes[i], self._plan.recipe.rule
        if node.resets.due(round):
            node.work.begin(node.x, round)
        if rule.early:
            self._emit(i, round, node.x, 1.0)
        node.work.x, made = node.x, alone(node.learner, node.x, round)
        recorded = node.told.rounds.get(round, {}).get("loss")
        if isinstance(recorded, float) and recorded != made.phase.loss:
            raise Misfit(f"node {i} has a loss of {made.phase.loss} in round {round + 1}, and had {recorded}")
        ratio = made.phase.ratio
        if node.before is not None:  # rounds have been left out: the learning rate moved more
            ratio, node.before = optimizers.ratio(self._rate, round, node.before), None
        ratio = 1.0 if round == node.resets.last else ratio
        node.work.after = made.after
        if not rule.early:
            self._emit(i, round, made.after, ratio)
        node.work.turn(round, ratio)
        return made

    def _emit(self, i: int, round: int, after: Tensor, ratio: float) -> None:
        node, row = self._nodes[i], self._rows[i](round)
        self._moved = True
        if node.work.emit(node.x, after, round, ratio) and self._uses[i, round]:
            node.sent[round] = row, node.work.own.coded

    def _close(self, i: int, round: int, closing: Closing, phase: Phase) -> None:
        node, row = self._nodes[i], self._rows[i](round)
        arrived: dict[int, Vectors] = {}
        if node.work.own.payload:
            sent = {j: self._sent(j, i, round) for j in self._arriving(i, round)}
            arrived = {j: node.work.decoded(coded) for j, coded in sent.items()}
        absent = tuple(j for j in row.neighbors if j not in arrived)
        late = tuple(node.work.late(self._flow(i, j, s)) for j, s in closing.late)
        adopt = node.work.absorb(Intake(row, arrived, late, absent, frozenset(closing.withheld)))
        node.x, node.rounds = adopt.x, round + 1
        self._tell_round(i, adopt, phase)
        self._let_go(self._needs(i, round))
        onward = node.told.after(round)
        if onward > round + 1:
            node.before, node.rounds = round, onward

    # ------------------------------------------------------------------ payloads

    def _arriving(self, i: int, round: int) -> tuple[int, ...]:
        """Whose payload of a round node i took in in time, ascending."""
        absent = self._nodes[i].told.closings.get(round, REGULAR).absent
        return tuple(j for j in self._rows[i](round).neighbors if j not in absent)

    def _needs(self, i: int, round: int) -> list[Key]:
        """What node i closed a round with: payloads of others, and its own that stand against late ones."""
        late = self._nodes[i].told.closings.get(round, REGULAR).late
        return [*((j, round) for j in self._arriving(i, round)), *self._both(i, late)]

    def _needs_of_all(self, i: int) -> Iterator[Key]:
        node = self._nodes[i]
        for round in node.told.made(node.last):
            yield from self._needs(i, round)
        for shift in node.told.shifts:
            yield from self._both(i, shift)

    def _both(self, i: int, late: Iterable[Key]) -> Iterator[Key]:
        """What came late at node i, and what of its own stands against it."""
        for j, round in late:
            yield j, round
            if not self._plan.recipe.arcs:
                yield i, round

    def _wait(self, needs: list[Key]) -> Iterator[None]:
        if self._plan.recipe.rule.sends:
            while any(round not in self._nodes[j].sent for j, round in needs):
                yield

    def _let_go(self, needs: list[Key]) -> None:
        """These have been used once more."""
        for j, round in needs:
            self._uses[j, round] -= 1
            if not self._uses[j, round]:
                self._nodes[j].sent.pop(round, None)

    def _sent(self, sender: int, receiver: int, round: int) -> Vectors:
        """A payload as it travelled."""
        row, coded = self._nodes[sender].sent[round]
        if not self._plan.recipe.rule.per_link:
            return coded
        if receiver not in row.neighbors:
            raise Misfit(f"node {sender} sends nothing to node {receiver} in round {round + 1}")
        line = row.neighbors.index(receiver)
        return tuple(z[line] for z in coded)

    def _flow(self, i: int, peer: int, round: int) -> Flow:
        """What node i counted late of a peer's round."""
        mine = None if self._plan.recipe.arcs else self._sent(i, peer, round)
        return Flow(peer, round, self._sent(peer, i, round), mine)

    # ------------------------------------------------------------------ telling

    def _tell_round(self, i: int, adopt: Adopt, phase: Phase) -> None:
        node, swarm = self._nodes[i], self._plan.config.swarm
        closed = node.rounds - 1
        times = {"train_s": 0.0, "wait_s": 0.0, "mix_s": 0.0, "sent_bytes": 0, "received_bytes": 0}
        self._tell(i, "round", closed, **round_fields(adopt, phase, len(adopt.counted)), **times)
        closing = node.told.closings.get(closed, REGULAR)
        for peer in sorted(closing.absent):
            self._tell(i, "skip", closed, peer=peer)
        for peer, of in closing.late:
            self._tell(i, "correction", closed, peer=peer, of=of)
        if due(node.rounds, swarm.eval_every, self._plan.rounds):
            node.learner.load(node.x)
            self._tell(i, "eval", closed, **eval_fields(node.learner, swarm.seed))

    def _tell(self, i: int, kind: str, closed: int, **fields: object) -> None:
        node, name = self._nodes[i], self._plan.config.names[i]
        time = _time(node, closed)
        self._watch({"node": i, "name": name, "round": closed + 1, "time": time, "kind": kind, **fields})


def _late(one: Decisions) -> bool:
    return bool(one.shifts) or any(closing.late for closing in one.closings.values())


def _time(node: _Node, round: int) -> float:
    return number(node.told.rounds.get(round, {}).get("time"), 0.0)
