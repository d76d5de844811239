"""One real node of an asynchronous exchange: it trains, and between two optimiser steps it looks at what has
come. Every event that its machine handles is recorded as a `meeting`, in logical steps, for a replay."""

from __future__ import annotations

import time
from collections.abc import Mapping

from gossipfl.core.events import Event, Halt
from gossipfl.core.exchange.machine import Machine
from gossipfl.core.exchange.standing import Tree
from gossipfl.drivers.machines import machine
from gossipfl.drivers.node import FLUSH_EVERY, Node
from gossipfl.drivers.place import Control, Place
from gossipfl.drivers.plan import Plan
from gossipfl.drivers.telling import due, eval_fields
from gossipfl.drivers.walk import Meeting, Walk
from gossipfl.drivers.whereabouts import Lan
from gossipfl.errors import TrainingDiverged
from gossipfl.learning.learner import Phase
from gossipfl.learning.workload import Assignment


class AsynchronousNode(Node):
    """A node of `pairwise` or `push`."""

    def __init__(
        self, plan: Plan, workload: Assignment, place: Place, control: Control, lan: Lan | None = None
    ) -> None:
        super().__init__(plan, workload, place, control, lan)
        self._phase_s = 0.0  # of the local phase under way
        self._before = self._copy()  # the parameters when it began

    def _make(self, about: Mapping[str, object]) -> Machine:
        made = machine(self._plan, self._place.node, about)
        self._walk = Walk(made, self.learner, self._met)
        return made

    # ------------------------------------------------------------------ life

    def _came_back(self) -> bool:
        return super()._came_back() or self._walk.machine.lines.returned

    def train(self) -> None:
        """All local phases. Raises TrainingDiverged with the parameters back at the last one's start."""
        self._begin()
        while self.rounds < self.machine.rounds and not self._left:
            self._step()
        self.ended = self.now

    def _begin(self) -> None:
        self._tell_begin()
        self._complained = time.monotonic()
        self._do(self._walk.begin(self.now))

    def leave(self) -> None:
        """Answer the neighbours until they have made their local phases too."""
        while not self._left:
            self._step()
            self._complain()
            self._let_go()
            self._tell_stay()
        if self.rounds < self._plan.rounds and not self._due():
            self._evaluate()
        self.moved = True

    def _step(self) -> None:
        """An optimiser step if a local phase is under way, else a wait; then what has come."""
        if self._walk.training:
            self._train()
            self._turn(0.0)
        else:
            self._turn(self._patience(self._plan.config.wire.heartbeat))
        self._tick()

    def _train(self) -> None:
        if self._phase_s == 0.0:
            self._before = self._copy()
            self.keeper.at(self.rounds + 1, training=True)
        t0 = time.monotonic()
        phase = self._walk.step()
        if self._meddling is not None:
            self._meddling.drag(time.monotonic() - t0)
        self.keeper.step()
        self._phase_s += time.monotonic() - t0
        if phase is not None:
            self._close(phase)

    def _close(self, phase: Phase) -> None:
        """A local phase is done."""
        what = self._wrong(phase)
        if what is not None:
            self.learner.load(self._before)
            raise TrainingDiverged(self._name, self.rounds + 1, what)
        seconds, self._phase_s = self._phase_s, 0.0
        t0 = time.monotonic()
        self._do(self._walk.trained(seconds, self.now))
        self._mix_s += time.monotonic() - t0
        self.rounds += 1
        self.keeper.at(self.rounds, training=self._walk.training)
        self._tell_phase(phase, seconds)
        self._tell_made()
        if self._keeping.due(self.rounds) and self.rounds < self.machine.rounds:
            self.keep()

    # ------------------------------------------------------------------ checkpoints

    def _kept(self) -> Tree:
        return {"steps": self._walk.steps, "machine": self._walk.machine.kept()}

    def _begin_anew(self) -> None:
        """Nothing is left of what was: the machine is a new one anyway."""

    def _restore(self, tree: Tree, rounds: int) -> None:
        self._walk.steps = tree["steps"]
        self._walk.machine.resume(tree["machine"])

    # ------------------------------------------------------------------ the machine

    def _handle(self, event: Event) -> None:
        t0 = time.monotonic()
        self._do(self._walk.handle(event, self.now))
        self._mix_s += time.monotonic() - t0

    def _met(self, meeting: Meeting) -> None:
        fields = {"step": meeting.step, "event": meeting.event}
        if meeting.peer >= 0:
            fields |= {"peer": meeting.peer, "session": meeting.session}
        if meeting.gone:
            fields["gone"] = True
        self.recorder.write("meeting", round=self.rounds, time=self.now, **fields)

    # ------------------------------------------------------------------ telling

    def _due(self) -> bool:
        return due(self.rounds, self._plan.config.swarm.eval_every, self._plan.rounds)

    def _evaluate(self) -> dict[str, object]:
        values = eval_fields(self.learner, self._seed)
        if values:
            self.recorder.write("eval", round=self.rounds, time=self.now, **values)
        return values

    def _tell_phase(self, phase: Phase, seconds: float) -> None:
        sent, received = self.transport.sent_bytes, self.transport.received_bytes
        self.recorder.write(
            "round",
            round=self.rounds,
            time=self.now,
            loss=phase.loss,
            **self._walk.fresh(),
            train_s=seconds,
            wait_s=self._wait_s,
            mix_s=self._mix_s,
            sent_bytes=sent - self._told[0],
            received_bytes=received - self._told[1],
        )
        self._told, self._wait_s, self._mix_s = (sent, received), 0.0, 0.0
        values = self._evaluate() if self._due() else {}
        if self._vigil is not None and self._vigil.enough(self.now - self.begun, values):
            self._handle(Halt(self.rounds))
        if values or self.now - self._flushed > FLUSH_EVERY:
            self._flushed = self.now
            self.recorder.flush()
