"""The event engine's asynchronous exchanges: every node's own walk, in virtual time.

A node that is in an optimiser step handles what has arrived when the step is over, as a process does.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from gossipfl.core.events import Effect, Event, Finished, Halt, Note, PeerUp, Received, Send, Tick
from gossipfl.core.stopping import Vigil
from gossipfl.drivers.figures import Gathering
from gossipfl.drivers.machines import machine
from gossipfl.drivers.network import Network
from gossipfl.drivers.outcome import Outcome
from gossipfl.drivers.plan import Plan
from gossipfl.drivers.telling import criteria, due, eval_fields, wrong
from gossipfl.drivers.walk import Walk
from gossipfl.errors import GossipError
from gossipfl.learning.training import Phase
from gossipfl.learning.workload import Workload

if TYPE_CHECKING:
    from gossipfl.drivers.virtual import Watch


@dataclass(slots=True)
class _Node:
    """A node and where it is in virtual time."""

    walk: Walk
    vigil: Vigil | None
    mail: list[Event] = field(default_factory=list)  # what came during a step
    stepping: bool = False
    phase_s: float = 0.0  # of the local phase under way, or the last one
    told_at: float = 0.0
    ended: float = 0.0
    sent_bytes: int = 0
    sent_messages: int = 0  # payloads
    received_bytes: int = 0
    told: tuple[int, int] = (0, 0)  # bytes sent and received when the last phase was recorded


@dataclass(order=True, slots=True)
class _Due:
    """Something that happens at a virtual time; ties in the order they were put."""

    at: float
    order: int
    node: int = field(compare=False)
    event: Event | None = field(compare=False)  # None: an optimiser step ends


class Simulation:
    """One run."""

    def __init__(self, plan: Plan, workload: Workload, watch: Watch) -> None:
        self._plan, self._watch = plan, watch
        self._gathering = Gathering(workload, plan.n)
        self._network = Network(plan.config)
        self._heap: list[_Due] = []
        self._order = 0
        self._diverged: tuple[int, int, str] | None = None
        model = (("x", (workload.d,), plan.config.train.dtype),)
        about = plan.about(model, workload.data_hash)
        self._begun = 0.0
        enough = criteria(plan.config, workload)
        self._nodes = [
            _Node(Walk(machine(plan, i, about), workload.learner(i)), Vigil(enough) if enough else None)
            for i in range(plan.n)
        ]

    def run(self) -> Outcome:
        """Until nothing is left to happen. Raises GossipError if nodes then still wait: that is a defect."""
        for i, j in self._plan.edges():
            self._put(0.0, i, PeerUp(j, 1))
        begun = 0.0
        while self._heap and any(n.walk.machine.missing() for n in self._nodes):
            begun = self._pop()
        self._begun = begun
        for i, node in enumerate(self._nodes):
            node.told_at = node.ended = begun
            self._do(i, node.walk.begin(begun), begun)
            self._go_on(i, begun)
        while self._heap and self._diverged is None:
            self._pop()
        if self._diverged is None and not all(n.walk.machine.left for n in self._nodes):
            stuck = next(i for i, n in enumerate(self._nodes) if not n.walk.machine.left)
            raise GossipError(f"node {stuck} waits, and nothing is under way")
        return Outcome(
            engine="events",
            x=torch.stack([n.walk.learner.vector.detach().clone() for n in self._nodes]),
            present=(True,) * self._plan.n,
            rounds=tuple(n.walk.machine.phases for n in self._nodes),
            sent_bytes=tuple(n.sent_bytes for n in self._nodes),
            sent_messages=tuple(n.sent_messages for n in self._nodes),
            lost=(),
            seconds=max(n.ended for n in self._nodes) - begun,
            start_seconds=begun,
            diverged=self._diverged,
            end=min(n.walk.machine.rounds for n in self._nodes),
        )

    # ------------------------------------------------------------------ virtual time

    def _put(self, at: float, node: int, event: Event | None) -> None:
        self._order += 1
        heapq.heappush(self._heap, _Due(at, self._order, node, event))

    def _pop(self) -> float:
        due_now = heapq.heappop(self._heap)
        i, now, node = due_now.node, due_now.at, self._nodes[due_now.node]
        if due_now.event is None:
            self._stepped(i, now)
        elif isinstance(due_now.event, Tick):
            pass  # `_go_on` asks whether it is time
        elif node.stepping:
            node.mail.append(due_now.event)
        else:
            self._handle(i, due_now.event, now)
        self._go_on(i, now)
        return now

    # ------------------------------------------------------------------ a node

    def _go_on(self, i: int, now: float) -> None:
        """Between two steps: tick if it is time, and begin the next step."""
        node = self._nodes[i]
        if node.stepping or self._diverged is not None:
            return
        deadline = node.walk.machine.deadline()
        if deadline is not None and deadline <= now:
            self._handle(i, Tick(), now)
            deadline = node.walk.machine.deadline()
        if node.walk.training:
            seconds = self._network.compute(i, 1)
            if node.phase_s == 0.0:
                seconds += self._network.hiccup(i, node.walk.machine.phases)
            node.phase_s += seconds
            node.stepping = True
            self._put(now + seconds, i, None)
        elif deadline is not None:
            self._put(deadline, i, Tick())

    def _stepped(self, i: int, now: float) -> None:
        node = self._nodes[i]
        node.stepping = False
        phase = node.walk.step() if node.walk.training else None
        if phase is not None:
            what = wrong(phase, node.walk.learner.vector)
            if what is not None:
                self._diverged = (i, node.walk.machine.phases + 1, what)
                return
            seconds, node.phase_s = node.phase_s, 0.0
            node.ended = now
            self._do(i, node.walk.trained(seconds, now), now)
            self._tell_phase(i, phase, seconds, now)
        mail, node.mail = node.mail, []
        for event in mail:
            self._handle(i, event, now)

    def _handle(self, i: int, event: Event, now: float) -> None:
        node = self._nodes[i]
        if isinstance(event, Received):
            node.received_bytes += _size(event.message)
        self._do(i, node.walk.handle(event, now), now)

    def _do(self, i: int, effects: list[Effect], now: float) -> None:
        for effect in effects:
            match effect:
                case Send(peer, session, message):
                    self._nodes[i].sent_bytes += _size(message)
                    self._nodes[i].sent_messages += _size(message) > 0
                    at = self._network.arrival(i, peer, now, self._order)
                    self._put(at, peer, Received(i, session, message))
                case Note(kind, peer, text):
                    if kind in ("rejected", "refused"):
                        self._tell(i, kind, now, peer=peer, text=text)
                case Finished():
                    self._tell_end(i, now)
                case _:
                    pass

    # ------------------------------------------------------------------ telling

    def _tell_phase(self, i: int, phase: Phase, seconds: float, now: float) -> None:
        node, swarm = self._nodes[i], self._plan.config.swarm
        sent, received = node.sent_bytes - node.told[0], node.received_bytes - node.told[1]
        waited = max(0.0, now - node.told_at - seconds)
        node.told, node.told_at = (node.sent_bytes, node.received_bytes), now
        fields = {"loss": phase.loss, **node.walk.fresh(), "train_s": seconds, "wait_s": waited, "mix_s": 0.0}
        self._tell(i, "round", now, **fields, sent_bytes=sent, received_bytes=received)
        values: dict[str, object] = {}
        if due(node.walk.machine.phases, swarm.eval_every, self._plan.rounds):
            values = eval_fields(node.walk.learner, swarm.seed)
            together = self._gathering.add(node.walk.machine.phases, node.walk.learner.x)
            self._tell(i, "eval", now, **values, **together)
        if node.vigil is not None and node.vigil.enough(now - self._begun, values):
            self._handle(i, Halt(node.walk.machine.phases), now)

    def _tell_end(self, i: int, now: float) -> None:
        """Who ends early ends at no round in particular, and is evaluated there."""
        node, swarm = self._nodes[i], self._plan.config.swarm
        if node.walk.machine.phases < self._plan.rounds:
            node.ended = now
            if not due(node.walk.machine.phases, swarm.eval_every, self._plan.rounds):
                self._tell(i, "eval", now, **eval_fields(node.walk.learner, swarm.seed))

    def _tell(self, i: int, kind: str, now: float, **fields: object) -> None:
        name, round = self._plan.config.names[i], self._nodes[i].walk.machine.phases
        self._watch({"node": i, "name": name, "round": round, "time": now, "kind": kind, **fields})


def _size(message: object) -> int:
    """Bytes of payload in a message (headers are not counted in virtual time)."""
    return sum(t.numel() * t.element_size() for t in getattr(message, "payload", ()))
