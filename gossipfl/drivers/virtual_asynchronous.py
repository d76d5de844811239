"""The event engine's asynchronous exchanges: every node's own walk, in virtual time.

A node that is in an optimiser step handles what has arrived when the step is over, as a process does.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from gossipfl import draw
from gossipfl.core.events import Effect, Event, Finished, Halt, Note, Send, Tick
from gossipfl.core.exchange.agree import INSTANCE
from gossipfl.core.exchange.standing import Tree
from gossipfl.core.stopping import Vigil
from gossipfl.draw import Purpose
from gossipfl.drivers.figures import Gathering
from gossipfl.drivers.machines import machine
from gossipfl.drivers.outcome import Outcome
from gossipfl.drivers.plan import Plan
from gossipfl.drivers.telling import criteria, due, eval_fields, wrong
from gossipfl.drivers.travels import INCARNATION, Travels
from gossipfl.drivers.walk import Walk
from gossipfl.drivers.world import Traveller, Watch
from gossipfl.errors import GossipError
from gossipfl.learning.learner import Phase
from gossipfl.learning.workload import Workload


class _Saved(NamedTuple):
    """A checkpoint, as a node of this engine keeps it."""

    phases: int
    steps: int
    machine: Tree
    learner: Tree
    vigil: list[object] | None


@dataclass(slots=True)
class _Node(Traveller):
    """A node and where it is in virtual time."""

    walk: Walk = field(kw_only=True)
    vigil: Vigil | None = field(kw_only=True)
    phase_s: float = 0.0  # of the local phase under way, or the last one
    told_at: float = 0.0
    tick: float = -1.0  # the last one that was put
    end: float = 0.0
    saved: _Saved | None = None
    lives: int = 0  # times that it has begun again

    @property
    def stepping(self) -> bool:
        """Is an optimiser step under way?"""
        return self.due is not None or self.rest is not None


class Simulation(Travels):
    """One run."""

    def __init__(self, plan: Plan, workload: Workload, watch: Watch) -> None:
        super().__init__(plan, watch)
        self._workload, self._gathering = workload, Gathering(workload, plan.n)
        self._diverged: tuple[int, int, str] | None = None
        model = (("x", (workload.d,), plan.config.train.dtype),)
        self._about: Mapping[str, object] = plan.about(model, workload.data_hash)
        self._criteria = criteria(plan.config, workload)
        self._nodes = [self._node(i) for i in range(plan.n)]
        self.travellers = self._nodes
        restarts = any(fault.kind in ("kill", "restart") for fault in plan.config.fault)
        self._every = plan.config.swarm.checkpoint_every if restarts else 0

    def _node(self, i: int, life: int = 0) -> _Node:
        about = self._about
        if life:
            key = (INCARNATION, i, life)
            about = {
                **about,
                INSTANCE: f"{draw.seed64(self.plan.config.swarm.seed, Purpose.NETWORK, *key):x}",
            }
        walk = Walk(machine(self.plan, i, about), self._workload.learner(i))
        return _Node(walk=walk, vigil=Vigil(self._criteria) if self._criteria else None)

    def run(self) -> Outcome:
        """Until nothing is left to happen. Raises GossipError if nodes then still wait: that is a defect."""
        self.dial_all()
        begun = 0.0
        while self.going and self.anybody_missing():
            begun = self.pop()
        self.begin(begun)
        for i, node in enumerate(self._nodes):
            node.told_at = node.end = begun
            self._do(i, node.walk.begin(begun), begun)
            self._go_on(i, begun)
        now = begun
        while self._diverged is None and (self.going or self.last_hope(now)):
            now = self.pop()
        unmade = [i for i, n in enumerate(self._nodes) if not n.walk.machine.left]
        if self._diverged is None and (stuck := [i for i in unmade if not self._nodes[i].lost]):
            raise GossipError(f"node {stuck[0]} waits, and nothing is under way")
        lost = tuple(i for i in unmade if self._nodes[i].lost)
        return Outcome(
            engine="events",
            x=torch.stack([n.walk.learner.vector.detach().clone() for n in self._nodes]),
            present=tuple(i not in lost for i in range(self.plan.n)),
            rounds=tuple(n.walk.machine.phases for n in self._nodes),
            sent_bytes=tuple(n.sent_bytes for n in self._nodes),
            sent_messages=tuple(n.sent_messages for n in self._nodes),
            lost=lost,
            seconds=max(n.end for n in self._nodes) - begun,
            start_seconds=begun,
            diverged=self._diverged,
            end=min(
                n.walk.machine.rounds
                for i, n in enumerate(self._nodes)
                if i not in lost or len(lost) == self.plan.n
            ),
        )

    # ------------------------------------------------------------------ a node

    def missing(self, node: int) -> tuple[int, ...]:
        return self._nodes[node].walk.machine.missing()

    def hear(self, node: int, event: Event, now: float) -> None:
        found = self._nodes[node]
        if found.meeting:
            if not isinstance(event, Tick):  # of the process before this one
                self._handle(node, event, now)
            self.meet(node, now)
            return
        if isinstance(event, Tick):
            pass  # `_go_on` asks whether it is time
        elif found.stepping:
            found.mail.append(event)
        else:
            self._handle(node, event, now)
        self._go_on(node, now)

    def resumed(self, i: int, now: float) -> None:
        self._go_on(i, now)

    def _go_on(self, i: int, now: float) -> None:
        """Between two steps: tick if it is time, and begin the next step."""
        node = self._nodes[i]
        if node.stepping or node.away or node.meeting or self._diverged is not None:
            return
        if self.faulty and node.parting is None and node.walk.machine.phases >= node.walk.machine.rounds:
            self.parting(i, now)
        deadline = node.walk.machine.deadline()
        if deadline is not None and deadline <= now:
            self._handle(i, Tick(), now)
            deadline = node.walk.machine.deadline()
        if node.walk.training:
            phase = node.walk.machine.phases
            seconds = self.network.compute(i, phase, 1)
            if node.phase_s == 0.0:
                seconds += self.network.hiccup(i, phase)
            seconds = self.seconds(i, seconds)
            node.phase_s += seconds
            self.step(i, now, seconds)
        elif deadline is not None and deadline != node.tick:
            node.tick = deadline
            self.put(deadline, i, Tick())

    def ended(self, node: int, now: float) -> None:
        found = self._nodes[node]
        phase = found.walk.step() if found.walk.training else None
        if phase is not None:
            what = wrong(phase, found.walk.learner.vector)
            if what is not None:
                self._diverged = (node, found.walk.machine.phases + 1, what)
                return
            seconds, found.phase_s = found.phase_s, 0.0
            found.end = now
            self._do(node, found.walk.trained(seconds, now), now)
            self._tell_phase(node, phase, seconds, now)
            phases = found.walk.machine.phases
            if (
                self._every
                and phases // self._every > (found.saved.phases if found.saved else 0) // self._every
            ):
                self._save(node)
            self.made(node, phases, now)
        mail, found.mail = found.mail, []
        for event in mail:
            self._handle(node, event, now)
        self._go_on(node, now)

    def _handle(self, i: int, event: Event, now: float) -> None:
        self._do(i, self._nodes[i].walk.handle(event, now), now)

    def _do(self, i: int, effects: list[Effect], now: float) -> None:
        for effect in effects:
            match effect:
                case Send():
                    self.send(i, effect, now)
                case Note():
                    self._note(i, effect, now)
                case Finished():
                    self._tell_end(i, now)
                    self.finished(i, now)
                case _:
                    pass

    def _note(self, i: int, note: Note, now: float) -> None:
        if note.kind in ("rejected", "refused", "peer_down") or (
            note.kind == "peer_up" and self.faulty and now > self.begun
        ):
            self.tell(i, note.kind, now, peer=note.peer, text=note.text)

    # ------------------------------------------------------------------ dying and coming back

    def complete(self, node: int) -> bool:
        return self._nodes[node].walk.machine.left

    def _save(self, i: int) -> None:
        node = self._nodes[i]
        vigil = None if node.vigil is None else node.vigil.kept()
        trees = copy.deepcopy((node.walk.machine.kept(), node.walk.learner.kept(), vigil))
        node.saved = _Saved(node.walk.machine.phases, node.walk.steps, *trees)

    def reborn(self, node: int, now: float) -> None:
        found = self._nodes[node]
        found.lives += 1
        fresh = self._node(node, found.lives)
        found.walk, found.vigil, found.phase_s, found.tick = fresh.walk, fresh.vigil, 0.0, -1.0
        if found.saved is None:
            self.tell(node, "note", now, text="begins anew: it has kept nothing")
            return
        saved = copy.deepcopy(found.saved)
        self.tell(node, "note", now, text=f"goes on from its checkpoint of round {saved.phases}")
        found.walk.steps = saved.steps
        found.walk.machine.resume(saved.machine)
        found.walk.learner.restore(saved.learner)
        if found.vigil is not None and saved.vigil is not None:
            found.vigil.restore(saved.vigil)

    def started(self, node: int, now: float) -> None:
        self._do(node, self._nodes[node].walk.begin(now), now)
        self._go_on(node, now)

    # ------------------------------------------------------------------ telling

    def _tell_phase(self, i: int, phase: Phase, seconds: float, now: float) -> None:
        node, swarm = self._nodes[i], self.plan.config.swarm
        sent, received = node.sent_bytes - node.told[0], node.received_bytes - node.told[1]
        waited = max(0.0, now - node.told_at - seconds)
        node.told, node.told_at = (node.sent_bytes, node.received_bytes), now
        fields = {"loss": phase.loss, **node.walk.fresh(), "train_s": seconds, "wait_s": waited, "mix_s": 0.0}
        self.tell(i, "round", now, **fields, sent_bytes=sent, received_bytes=received)
        values: dict[str, object] = {}
        if due(node.walk.machine.phases, swarm.eval_every, self.plan.rounds):
            values = eval_fields(node.walk.learner, swarm.seed)
            together = self._gathering.add(node.walk.machine.phases, node.walk.learner.x)
            self.tell(i, "eval", now, **values, **together)
        if node.vigil is not None and node.vigil.enough(now - self.begun, values):
            self._handle(i, Halt(node.walk.machine.phases), now)

    def _tell_end(self, i: int, now: float) -> None:
        """Who ends early ends at no round in particular, and is evaluated there."""
        node, swarm = self._nodes[i], self.plan.config.swarm
        if node.walk.machine.phases < self.plan.rounds:
            node.end = now
            if not due(node.walk.machine.phases, swarm.eval_every, self.plan.rounds):
                self.tell(i, "eval", now, **eval_fields(node.walk.learner, swarm.seed))

    def tell(self, node: int, kind: str, now: float, **fields: object) -> None:
        name, round = self.plan.config.names[node], self._nodes[node].walk.machine.phases
        self.watch({"node": node, "name": name, "round": round, "time": now, "kind": kind, **fields})
