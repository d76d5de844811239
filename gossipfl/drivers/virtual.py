"""The event engine: every node's own machine and learner, in virtual time, in one process.

The machines are those of real nodes and the learners too, so a run gives the bits that real processes give;
only time is pretended (`drivers.network`). Asynchronous exchanges have an engine of their own, beside this.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Hashable, Mapping
from functools import partial
from typing import Final

import torch

from gossipfl import draw
from gossipfl.core.aggregate import hasten
from gossipfl.core.events import (
    Adopt,
    Begin,
    Effect,
    Event,
    Finished,
    Halt,
    Note,
    Renew,
    Send,
    Shift,
    Stepped,
    Tick,
)
from gossipfl.core.exchange.rounds import Rounds
from gossipfl.core.exchange.standing import anew, to_tree
from gossipfl.core.stopping import Vigil
from gossipfl.draw import Purpose
from gossipfl.drivers import keeping, virtual_asynchronous
from gossipfl.drivers.figures import Gathering
from gossipfl.drivers.outcome import Outcome
from gossipfl.drivers.place import OLD
from gossipfl.drivers.plan import Plan, neighbors_of_all
from gossipfl.drivers.replay import Replay
from gossipfl.drivers.replay_rounds import RoundsReplay
from gossipfl.drivers.telling import criteria, due, eval_fields, jumped, round_fields, wrong
from gossipfl.drivers.travels import INCARNATION, Travels
from gossipfl.drivers.virtual_node import TOLD, Node, Saved
from gossipfl.drivers.world import Watch
from gossipfl.errors import GossipError
from gossipfl.learning import optimizers
from gossipfl.learning.abreast import Made, Work, abreast, alone
from gossipfl.learning.learner import Learner
from gossipfl.learning.workload import Workload

#: Objects made until Python looks for cycles among them: what is under way are many, and makes none. (With
#: Python's own 700 a third of the time goes into looking.)
SELDOM: Final = 200_000


class Simulation(Travels):
    """One run of the event engine."""

    def __init__(self, plan: Plan, workload: Workload, watch: Watch) -> None:
        super().__init__(plan, watch)
        self._diverged: tuple[int, int, str] | None = None
        self._names = plan.config.names
        self._end = 0.0  # when the last round so far was over
        model = [("x", (workload.d,), plan.config.train.dtype)]
        self._about: Mapping[str, object] = plan.about(tuple(model), workload.data_hash)
        self._criteria = criteria(plan.config, workload)
        self._workload, self._gathering = workload, Gathering(workload, plan.n)
        self._near = neighbors_of_all(plan.edges(), plan.n)
        self._nodes = [self._node(i) for i in range(plan.n)]
        self.travellers = self._nodes
        restarts = any(fault.kind in ("kill", "restart") for fault in plan.config.fault)
        self._every = plan.config.swarm.checkpoint_every if restarts else 0
        self._steps = max(1, plan.config.algorithm.local_steps)  # of a local phase
        self._limited = plan.limits.any  # may a round end by its time?
        steps = plan.n * plan.rounds * self._steps
        self._abreast = None if restarts else abreast([node.learner for node in self._nodes], steps)
        self._training: dict[Hashable, list[int]] = {}  # by kind, the phases begun and not computed

    def _node(self, i: int) -> Node:
        learner = self._workload.learner(i)
        vigil = Vigil(self._criteria) if self._criteria else None
        machine, x = self._machine(i, learner), learner.vector.clone()
        return Node(machine=machine, learner=learner, vigil=vigil, x=x, model=x)

    def _machine(self, i: int, learner: Learner) -> Rounds:
        plan, terms = self.plan, self.plan.recipe.terms(learner.validate)
        return Rounds(
            plan.recipe.rule,
            plan.rows(i),
            self._near[i],
            plan.rounds,
            self._about,
            terms,
            plan.limits,
            plan.rewiring,
        )

    def run(self) -> Outcome:
        """Until nothing is left to happen. Raises GossipError if nodes then still wait: that is a defect."""
        self.dial_all()
        begun = 0.0
        while self.going and self.anybody_missing():
            begun = self.pop()
        self._end = begun
        self.begin(begun)
        for i, node in enumerate(self._nodes):
            self._apply(i, node.machine.handle(Begin(node.x), begun), begun)
            self._train(i, begun)
        now = self.flow()
        while not self.halted and self.last_hope(now):
            now = self.flow()
        unmade = [i for i, n in enumerate(self._nodes) if n.rounds < n.machine.rounds]
        stuck = next((i for i in unmade if not self._nodes[i].lost), None)
        if self._diverged is None and stuck is not None:
            raise GossipError(
                f"node {stuck} waits for {self._nodes[stuck].machine.silent()}, and nothing is under way"
            )
        lost = tuple(i for i in unmade if self._nodes[i].lost)
        return Outcome(
            engine="events",
            x=torch.stack([self._learner(n).x.detach().clone() for n in self._nodes]),
            present=tuple(i not in lost for i in range(self.plan.n)),
            rounds=tuple(n.rounds for n in self._nodes),
            sent_bytes=tuple(n.sent_bytes for n in self._nodes),
            sent_messages=tuple(n.sent_messages for n in self._nodes),
            lost=lost,
            seconds=self._end - begun,
            start_seconds=begun,
            diverged=self._diverged,
            end=min(n.machine.rounds for n in self._nodes),
        )

    # ------------------------------------------------------------------ a node

    def missing(self, node: int) -> tuple[int, ...]:
        return self._nodes[node].machine.missing()

    def hear(self, node: int, event: Event, now: float) -> None:
        found = self._nodes[node]
        effects = found.machine.handle(event, now)
        if effects:
            self._apply(node, effects, now)
        if found.meeting:
            self.meet(node, now)

    def _train(self, i: int, now: float) -> None:
        """Start the local phase of node i's round."""
        node = self._nodes[i]
        seconds = self.network.compute(i, node.rounds, self._steps) + self.network.hiccup(i, node.rounds)
        node.train_s = self.seconds(i, seconds)
        if self._abreast is not None:
            self._training.setdefault(self._abreast.kind(i, node.rounds), []).append(i)
        self.step(i, now, node.train_s)

    def _made(self, i: int) -> Made:
        """A node's phase. What comes of it was settled when it began, so all phases of its kind that are
        under way are computed with it, where that is quicker."""
        node = self._nodes[i]
        if self._abreast is None:
            return alone(node.learner, node.x, node.rounds)
        if node.made is None:
            nodes = self._training.pop(self._abreast.kind(i, node.rounds))
            works = [Work(j, self._nodes[j].x, self._nodes[j].rounds) for j in nodes]
            for j, found in zip(nodes, self._abreast.phases(works), strict=True):
                self._nodes[j].made = found
        made, node.made = node.made, None
        assert made is not None
        return made

    def ended(self, node: int, now: float) -> None:
        found = self._nodes[node]
        made = self._made(node)
        found.phase, ratio = made.phase, made.phase.ratio
        what = None if made.sound else wrong(made.phase, made.after)
        if what is not None:
            self._diverged, self.halted = (node, found.rounds + 1, what), True
            return
        found.model, found.stepped_at = made.after, now
        if found.skipped_from is not None:  # rounds have been left out: the learning rate moved more
            rate = optimizers.rate(self.plan.config.train, self.plan.rounds)
            ratio, found.skipped_from = optimizers.ratio(rate, found.rounds, found.skipped_from), None
        self._apply(node, found.machine.handle(Stepped(found.x, made.after, ratio), now), now)
        deadline = found.machine.deadline() if self._limited else None
        if deadline is not None:
            self.put(deadline, node, Tick())

    def _apply(self, i: int, effects: list[Effect], now: float) -> None:
        closed = -1  # the round that these effects close
        for effect in effects:
            if isinstance(effect, Send):  # nearly all of them
                self.send(i, effect, now)
                continue
            match effect:
                case Adopt(round):
                    closed = round
                    self._adopt(i, effect, now)
                case Shift(delta):
                    closed, node = -1, self._nodes[i]
                    node.model = node.model + delta
                    self._tell(i, "shift", node.rounds, now)
                case Note():
                    self._note(i, effect, now, closed)
                case Finished():
                    self.finished(i, now)

    def _note(self, i: int, note: Note, now: float, closed: int) -> None:
        if note.kind == "late":
            self._renew(i, now)
            return
        if note.kind == "stale":
            self._nodes[i].stale = note.round + 1
            text = "its checkpoint is older than what its neighbors know of it: it goes on with that model"
            self._tell(i, "note", self._nodes[i].rounds, now, text=text)
            self.put(now, i, partial(self._come_back, i))
            return
        if note.kind in TOLD or (note.kind == "peer_up" and self.faulty and now > self.begun):
            round = max(note.round, self._nodes[i].rounds if closed < 0 else closed)
            fields = {"of": note.round} if note.kind == "correction" else {}
            self._tell(i, note.kind, round, now, peer=note.peer, text=note.text, **fields)

    def _adopt(self, i: int, adopt: Adopt, now: float) -> None:
        node = self._nodes[i]
        node.x = node.model = adopt.x
        node.rounds += 1
        self._end = max(self._end, now)
        before, node.told = node.told, (node.sent_bytes, node.received_bytes)
        self.watch(
            {
                "node": i,
                "name": self._names[i],
                "round": node.rounds,
                "time": now,
                "kind": "round",
                **round_fields(adopt, node.phase, len(adopt.counted)),
                "train_s": node.train_s,
                "wait_s": now - node.stepped_at,
                "mix_s": 0.0,
                "sent_bytes": node.sent_bytes - before[0],
                "received_bytes": node.received_bytes - before[1],
            }
        )
        every, rounds = self.plan.config.swarm.eval_every, node.machine.rounds
        values = self._evaluate(i, [node.rounds], now) if due(node.rounds, every, rounds) else {}
        if node.vigil is not None and node.vigil.enough(now - self.begun, values):
            round = max(node.rounds, node.machine.round)  # where its neighbours are, if it has been away
            end = self.plan.end_of(i, round, node.machine.dead)
            self._apply(i, node.machine.handle(Halt(end), now), now)
        if node.machine.round > node.rounds:  # its neighbours went on while it was away, or slow
            self._evaluate(i, jumped(node.rounds, node.machine.round, every, rounds), now)
            node.skipped_from, node.rounds = node.rounds - 1, node.machine.round
        if (
            self._every
            and node.rounds // self._every > (node.saved.round if node.saved else 0) // self._every
        ):
            self._save(i)
        self.made(i, node.rounds, now)
        self._next(i, now)

    def _evaluate(self, i: int, rounds: list[int], now: float) -> dict[str, object]:
        """A node's model is evaluated as that after each of some rounds."""
        if not rounds:
            return {}
        learner = self._learner(self._nodes[i])
        values = eval_fields(learner, self.plan.config.swarm.seed)
        for round in rounds:
            self._tell(i, "eval", round, now, **values, **self._gathering.add(round, learner.x))
        return values

    def _learner(self, node: Node) -> Learner:
        """A node's learner, with the node's model."""
        node.learner.load(node.model)
        return node.learner

    def _next(self, i: int, now: float) -> None:
        if self._nodes[i].rounds < self._nodes[i].machine.rounds:
            self._train(i, now)
        else:
            self.parting(i, now)

    # ------------------------------------------------------------------ dying and coming back

    def woke(self, i: int) -> None:
        self._nodes[i].machine.follow()

    def complete(self, node: int) -> bool:
        return self._nodes[node].rounds >= self._nodes[node].machine.rounds

    def _save(self, i: int) -> None:
        node = self._nodes[i]
        if self.complete(i):
            return
        vigil = None if node.vigil is None else node.vigil.kept()
        trees = copy.deepcopy((to_tree(node.machine.standing()), self._learner(node).kept(), vigil))
        node.saved = Saved(node.rounds, *trees)

    def reborn(self, node: int, now: float) -> None:
        found = self._nodes[node]
        found.skipped_from, found.lives = None, found.lives + 1
        inc = draw.seed64(self.plan.config.swarm.seed, Purpose.NETWORK, INCARNATION, node, found.lives) >> 3
        if found.stale is not None:  # with its model, and nothing else
            before, found.rounds = found.rounds, min(max(found.rounds, found.stale), self.plan.rounds)
            found.borrows = found.saved is None or found.rounds - before > OLD
            found.machine = self._machine(node, found.learner)
            found.machine.resume(anew(found.rounds, inc))
            found.stale, found.anew = None, True
            return
        fresh = self._node(node)
        found.machine, found.learner, found.vigil = fresh.machine, fresh.learner, fresh.vigil
        found.model = fresh.model
        if found.saved is None:
            found.rounds, found.anew, found.borrows = 0, True, True
            found.machine.resume(anew(0, inc))
            self._tell(node, "note", 0, now, text="begins anew: it has kept nothing")
            return
        saved = copy.deepcopy(found.saved)
        found.rounds = saved.round
        self._tell(node, "note", saved.round, now, text=f"goes on from its checkpoint of round {saved.round}")
        found.learner.restore(saved.learner)
        found.model = found.learner.vector.clone()
        if found.vigil is not None and saved.vigil is not None:
            found.vigil.restore(saved.vigil)
        found.anew = keeping.resume(found.machine, saved.machine, self.plan.config, self.plan.rounds)

    def started(self, node: int, now: float) -> None:
        found = self._nodes[node]
        if found.borrows:
            self._borrow(node, now)
        found.x = found.model
        self._apply(node, found.machine.handle(Begin(found.x), now), now)
        if found.anew and self.plan.recipe.rule.keeps:
            self._renew(node, now)
        if found.anew and self.complete(node):  # all rounds are over: what it has now is its last model
            found.rounds = found.machine.rounds
            self._evaluate(node, [found.rounds], now)
        self._next(node, now)

    def _borrow(self, i: int, now: float) -> None:
        """A node that has come back takes the model of a neighbor, the lowest that is there; in no time."""
        node = self._nodes[i]
        node.borrows = False
        there = [j for j, e in sorted(node.machine.edges.items()) if e.up and not self._nodes[j].away]
        for j in there[:1]:
            lender = self._nodes[j]
            node.model = lender.model.clone()
            text = f"takes the model that {self._names[j]} has after round {lender.rounds}"
            self._tell(i, "note", node.rounds, now, text=text)

    def _come_back(self, i: int, now: float) -> None:
        """What a node has begun again from is older than what its neighbours remember."""
        if self._nodes[i].stale is not None and not self._nodes[i].away:
            self.begin_again(i, now)

    def _renew(self, i: int, now: float) -> None:
        """Let everyone begin the rule anew, in a round by which all can have heard of it."""
        machine = self._nodes[i].machine
        round = self.plan.end_of(i, machine.front + 1, machine.dead)
        self._apply(i, machine.handle(Renew(round), now), now)

    # ------------------------------------------------------------------ telling

    def tell(self, node: int, kind: str, now: float, **fields: object) -> None:
        self._tell(node, kind, self._nodes[node].rounds, now, **fields)

    def _tell(self, i: int, kind: str, round: int, now: float, **fields: object) -> None:
        self.watch({"node": i, "name": self._names[i], "round": round, "time": now, "kind": kind, **fields})


@torch.enable_grad()  # whoever calls may be inside no_grad
def run(plan: Plan, workload: Workload, watch: Watch) -> Outcome:
    """Run the event engine; `watch` is given every record as it is made. One torch thread a run, as real
    nodes have."""
    threads, thresholds = torch.get_num_threads(), gc.get_threshold()
    torch.set_num_threads(plan.config.train.threads)
    hasten(workload.d)
    gc.set_threshold(SELDOM, *thresholds[1:])
    try:
        if plan.config.algorithm.replay:
            rounds = plan.config.algorithm.exchange == "rounds"
            return (RoundsReplay if rounds else Replay)(plan, workload, watch).run()
        if plan.config.algorithm.exchange != "rounds":
            return virtual_asynchronous.Simulation(plan, workload, watch).run()
        return Simulation(plan, workload, watch).run()
    finally:
        torch.set_num_threads(threads)
        gc.set_threshold(*thresholds)
