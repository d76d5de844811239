"""The event engine: every node's own machine and learner, in virtual time, in one process.

The machines are those of real nodes and the learners too, so a run gives the bits that real processes give;
only time is pretended (`drivers.network`). Asynchronous exchanges have an engine of their own, beside this.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from gossipfl.core.events import (
    Adopt,
    Begin,
    Effect,
    Event,
    Halt,
    Note,
    PeerUp,
    Received,
    Send,
    Shift,
    Stepped,
)
from gossipfl.core.exchange.rounds import Rounds
from gossipfl.core.messages import Data
from gossipfl.core.stopping import Vigil
from gossipfl.drivers import replay, virtual_asynchronous
from gossipfl.drivers.figures import Gathering
from gossipfl.drivers.network import Network
from gossipfl.drivers.outcome import Outcome
from gossipfl.drivers.plan import Plan, neighbors
from gossipfl.drivers.telling import criteria, due, eval_fields, round_fields, wrong
from gossipfl.errors import GossipError
from gossipfl.learning.training import Learner, Phase
from gossipfl.learning.workload import Workload
from gossipfl.records import Record

Watch = Callable[[Record], None]


@dataclass(slots=True)
class _Node:
    """A node and where it is in virtual time."""

    machine: Rounds
    learner: Learner
    vigil: Vigil | None = None
    phase: Phase = field(default=Phase(0.0, 1.0, 0))
    stepped_at: float = 0.0
    train_s: float = 0.0
    sent_bytes: int = 0
    sent_messages: int = 0  # payloads
    received_bytes: int = 0
    told: tuple[int, int] = (0, 0)  # bytes sent and received when the last round was recorded
    rounds: int = 0


@dataclass(order=True, slots=True)
class _Due:
    """Something that happens at a virtual time; ties in the order they were put."""

    at: float
    order: int
    node: int = field(compare=False)
    event: Event | None = field(compare=False)  # None: the local phase ends


class Simulation:
    """One run of the event engine."""

    def __init__(self, plan: Plan, workload: Workload, watch: Watch) -> None:
        self._plan, self._watch = plan, watch
        self._network = Network(plan.config)
        self._heap: list[_Due] = []
        self._order = 0
        self._diverged: tuple[int, int, str] | None = None
        self._begun = 0.0
        edges = plan.edges()
        self._edges = edges
        model = [("x", (workload.d,), plan.config.train.dtype)]
        about = plan.about(tuple(model), workload.data_hash)
        self._criteria = criteria(plan.config, workload)
        self._gathering = Gathering(workload, plan.n)
        self._nodes = [self._node(i, workload.learner(i), about) for i in range(plan.n)]

    def _node(self, i: int, learner: Learner, about: Mapping[str, object]) -> _Node:
        plan = self._plan
        near, terms = neighbors(self._edges, i), plan.recipe.terms(learner.validate)
        machine = Rounds(plan.recipe.rule, plan.rows(i), near, plan.rounds, about, terms)
        return _Node(machine, learner, Vigil(self._criteria) if self._criteria else None)

    def run(self) -> Outcome:
        """Until nothing is left to happen. Raises GossipError if nodes then still wait: that is a defect."""
        for i, j in self._edges:
            self._put(0.0, i, PeerUp(j, 1))
        begun = 0.0
        while self._heap and any(n.machine.missing() for n in self._nodes):
            begun = self._pop()
        for i, node in enumerate(self._nodes):
            x = node.learner.vector.clone()
            self._apply(i, node.machine.handle(Begin(x), begun), begun)
            self._train(i, begun)
        end = begun
        self._begun = begun
        while self._heap and self._diverged is None:
            end = self._pop()
        stuck = next((i for i, n in enumerate(self._nodes) if n.rounds < n.machine.rounds), None)
        if self._diverged is None and stuck is not None:
            raise GossipError(
                f"node {stuck} waits for {self._nodes[stuck].machine.silent()}, and nothing is under way"
            )
        return Outcome(
            engine="events",
            x=torch.stack([n.learner.x.detach().clone() for n in self._nodes]),
            present=(True,) * self._plan.n,
            rounds=tuple(n.rounds for n in self._nodes),
            sent_bytes=tuple(n.sent_bytes for n in self._nodes),
            sent_messages=tuple(n.sent_messages for n in self._nodes),
            lost=(),
            seconds=end - begun,
            start_seconds=begun,
            diverged=self._diverged,
            end=min(n.machine.rounds for n in self._nodes),
        )

    # ------------------------------------------------------------------ virtual time

    def _put(self, at: float, node: int, event: Event | None) -> None:
        self._order += 1
        heapq.heappush(self._heap, _Due(at, self._order, node, event))

    def _pop(self) -> float:
        due_now = heapq.heappop(self._heap)
        if due_now.event is None:
            self._stepped(due_now.node, due_now.at)
        else:
            node = self._nodes[due_now.node]
            if isinstance(due_now.event, Received):
                node.received_bytes += _size(due_now.event.message)
            self._apply(due_now.node, node.machine.handle(due_now.event, due_now.at), due_now.at)
        return due_now.at

    # ------------------------------------------------------------------ a node

    def _train(self, i: int, now: float) -> None:
        """Start the local phase of node i's round."""
        node = self._nodes[i]
        steps = max(1, self._plan.config.algorithm.local_steps)
        node.train_s = self._network.compute(i, steps) + self._network.hiccup(i, node.rounds)
        self._put(now + node.train_s, i, None)

    def _stepped(self, i: int, now: float) -> None:
        node = self._nodes[i]
        x = node.learner.vector.clone()
        node.phase = node.learner.phase(node.rounds)
        what = wrong(node.phase, node.learner.vector)
        if what is not None:
            node.learner.load(x)
            self._diverged = (i, node.rounds + 1, what)
            return
        node.stepped_at = now
        after = node.learner.vector.clone()
        self._apply(i, node.machine.handle(Stepped(x, after, node.phase.ratio), now), now)

    def _apply(self, i: int, effects: list[Effect], now: float) -> None:
        node = self._nodes[i]
        for effect in effects:
            match effect:
                case Send(peer, session, message):
                    node.sent_bytes += _size(message)
                    node.sent_messages += isinstance(message, Data)
                    at = self._network.arrival(i, peer, now, self._order)
                    self._put(at, peer, Received(i, session, message))
                case Adopt():
                    self._adopt(i, effect, now)
                case Shift(delta):
                    node.learner.load(node.learner.vector + delta)
                case Note(kind, peer, text, round):
                    if kind in ("skip", "correction", "rejected", "refused"):
                        self._tell(i, kind, round + 1, now, peer=peer, text=text)
                case _:
                    pass

    def _adopt(self, i: int, adopt: Adopt, now: float) -> None:
        node = self._nodes[i]
        node.learner.load(adopt.x)
        node.rounds += 1
        fields = round_fields(adopt, node.phase, len(adopt.counted))
        sent, received = node.sent_bytes - node.told[0], node.received_bytes - node.told[1]
        node.told = (node.sent_bytes, node.received_bytes)
        self._tell(
            i,
            "round",
            node.rounds,
            now,
            **fields,
            train_s=node.train_s,
            wait_s=now - node.stepped_at,
            mix_s=0.0,
            sent_bytes=sent,
            received_bytes=received,
        )
        swarm = self._plan.config.swarm
        values: dict[str, object] = {}
        if due(node.rounds, swarm.eval_every, node.machine.rounds):
            values = eval_fields(node.learner, swarm.seed)
            together = self._gathering.add(node.rounds, node.learner.x)
            self._tell(i, "eval", node.rounds, now, **values, **together)
        if node.vigil is not None and node.vigil.enough(now - self._begun, values):
            self._apply(i, node.machine.handle(Halt(self._plan.end_of(i, node.rounds)), now), now)
        if node.rounds < node.machine.rounds:
            self._train(i, now)

    def _tell(self, i: int, kind: str, round: int, now: float, **fields: object) -> None:
        name = self._plan.config.names[i]
        self._watch({"node": i, "name": name, "round": round, "time": now, "kind": kind, **fields})


def _size(message: object) -> int:
    """Bytes of payload in a message (headers are not counted in virtual time)."""
    if isinstance(message, Data):
        return sum(t.numel() * t.element_size() for t in message.payload)
    return 0


@torch.enable_grad()  # whoever calls may be inside no_grad
def run(plan: Plan, workload: Workload, watch: Watch) -> Outcome:
    """Run the event engine; `watch` is given every record as it is made. One torch thread a run, as real
    nodes have."""
    threads = torch.get_num_threads()
    torch.set_num_threads(plan.config.train.threads)
    try:
        if plan.config.algorithm.replay:
            return replay.Replay(plan, workload, watch).run()
        if plan.config.algorithm.exchange != "rounds":
            return virtual_asynchronous.Simulation(plan, workload, watch).run()
        return Simulation(plan, workload, watch).run()
    finally:
        torch.set_num_threads(threads)
