"""A node whose local phases are somebody else's loop: it is told of each optimizer step, and closes a round
inside every so-manieth of them."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from multiprocessing import Pipe
from typing import Final

from torch import Tensor

from gossipfl.core.events import Adopt, Halt, Leave
from gossipfl.core.exchange.agree import DATA
from gossipfl.core.exchange.machine import Machine
from gossipfl.core.exchange.rounds import Rounds
from gossipfl.core.stopping import Criteria, Vigil
from gossipfl.drivers.abroad import EVERY
from gossipfl.drivers.asynchronous import AsynchronousNode
from gossipfl.drivers.node import FLUSH_EVERY, Node
from gossipfl.drivers.parting import PARTING
from gossipfl.drivers.place import Place
from gossipfl.drivers.plan import Plan
from gossipfl.drivers.telling import finite
from gossipfl.drivers.whereabouts import Lan
from gossipfl.learning.learner import Phase, Steps
from gossipfl.learning.own import OwnLearner, OwnWorkload, lower_is_better

log = logging.getLogger("gossipfl")

#: What a node says of itself when nothing is the matter.
ROUTINE: Final = ("listens at", "has no address", "met ", "trains")


class Ear:
    """Stands in for the line to whoever started a node, where that is the loop itself."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._never, self._read = Pipe()  # nobody writes

    def fileno(self) -> int:
        return self._read.fileno()

    def poll(self, timeout: float) -> bool:
        return False

    def recv_bytes(self) -> bytes:
        raise EOFError

    def send_bytes(self, raw: bytes) -> None:
        """Lines for people go to the log: a warning is what may need one of them."""
        word = json.loads(raw)
        text = "trains" if "begun" in word else word.get("note")
        if text is not None:
            level = logging.INFO if str(text).startswith(ROUTINE) else logging.WARNING
            log.log(level, "%s: %s", self._name, text)

    def close(self) -> None:
        self._never.close()
        self._read.close()


class OwnNode(Node):
    """A node of `rounds`. `start`, then `stepped` after each optimizer step, then `finish` or `give_up`."""

    learner: OwnLearner

    def __init__(self, plan: Plan, workload: OwnWorkload, place: Place, ear: Ear, lan: Lan) -> None:
        super().__init__(plan, workload, place, ear, lan)
        self._ear = ear
        self.headline, self.folder = workload.headline, place.folder
        self._logged = False
        self._parted = False  # has it left before the swarm's end?
        self._steps: Steps | None = None
        self._since = 0.0  # when the local phase under way began
        self._x = self._copy()  # [d] at its start
        self._mixed: Tensor | None = None  # [d] own and neighbors' last models

    def _make(self, about: Mapping[str, object]) -> Machine:
        return super()._make({key: value for key, value in about.items() if key != DATA})

    @property
    def over(self) -> bool:
        """Has the swarm ended, for this node?"""
        return self.begun > 0 and self.rounds >= self.machine.rounds

    @property
    def neighbors(self) -> tuple[str, ...]:
        """Their names, in node order."""
        return tuple(self._plan.config.names[j] for j in self._neighbors)

    def mixed(self) -> Tensor:
        """The model [d] that the last exchange made of this node's and its neighbors'."""
        self.learner.pull()
        return self.learner.vector.detach() if self._mixed is None else self._mixed

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Meet the neighbors and begin the first round."""
        self.meet()
        self._begin()
        self._open()

    def _open(self) -> None:
        self._steps = None if self.over else self.learner.steps(self.rounds)
        self._since = time.monotonic()
        self.keeper.at(min(self.rounds + 1, self.machine.rounds), training=not self.over)
        if self.over:
            self.ended = self.now

    def stepped(self) -> None:
        """The loop has made an optimizer step."""
        if self._steps is None:
            return
        self.keeper.step()
        phase = _advance(self._steps)
        if phase is None:
            self._turn(0.0)
            return
        self.learner.flat.check()
        self.learner.pull()
        self._exchange(self._x, phase, time.monotonic() - self._since)
        self._open()

    def finish(self) -> None:
        """Stay until the neighbors have what they were sent; say goodbye first, if the swarm goes on."""
        if not self.over:
            self.ended, self._parted = self.now, True
            self._handle(Leave())
            self._wait(lambda: self.now - self.ended > PARTING)
        else:
            self._wait(lambda: False)

    def _wait(self, enough: Callable[[], bool]) -> None:
        while not (self._left or enough()):
            self._turn(EVERY)
            self._let_go()

    def give_up(self) -> None:
        """Say goodbye without waiting for anything."""
        if not self._left:
            self.ended, self._parted = self.ended or self.now, not self.over
            self._handle(Leave())

    def account(self) -> dict[str, object]:
        """What this node did, for its summary."""
        return {
            "rounds": self.rounds,
            "end": self._plan.rounds if self._parted else self.machine.rounds,
            "sent_bytes": self.sent_bytes,
            "begun": self.begun,
            "ended": self.ended or self.now,
        }

    # ------------------------------------------------------------------ the round

    def _wrong(self, phase: Phase) -> str | None:
        return None if bool(finite(self.learner.vector)) else "a parameter became NaN or infinite"

    def _complain(self) -> None:
        before = self._complained
        super()._complain()
        if self._complained != before:
            names = ", ".join(self._plan.config.names[j] for j in self.machine.silent())
            log.warning("%s: waits in round %d for %s", self._name, self.rounds + 1, names)

    def _tell_round(self, adopt: Adopt, phase: Phase, train_s: float) -> None:
        super()._tell_round(adopt, phase, train_s)
        # nobody writes to what was adopted, so it need not be copied
        self._x = adopt.x if self.learner.exact else self._copy()
        sends = self._plan.recipe.rule.sends
        if sends and sends[0].name == "model" and not sends[0].link:
            mixed = adopt.mixed[0]
            self._mixed = adopt.x.clone() if len(mixed) < len(adopt.x) else mixed
            self._mixed[: len(mixed)] = mixed

    # ------------------------------------------------------------------ telling

    def log(self, values: Mapping[str, float]) -> None:
        """Record an evaluation; the swarm ends if it is good enough."""
        self._watch_first(values)
        self.recorder.write("eval", round=self.rounds, time=self.now, **values)
        if self._vigil is not None and self._vigil.enough(self.now - self.begun, values) and not self.over:
            self._halt()
        if self.now - self._flushed > FLUSH_EVERY:
            self._flushed = self.now
            self.recorder.flush()

    def _watch_first(self, values: Mapping[str, float]) -> None:
        """The first evaluation tells what the loop measures."""
        if self._logged or not values:
            return
        self._logged = True
        stop = self._plan.config.stop
        if not stop.target.metric:
            self.headline = next(iter(values))
            if stop.patience:
                higher = not lower_is_better(self.headline)
                self._vigil = Vigil(Criteria(self.headline, higher, None, stop.patience, stop.seconds))
        elif stop.target.metric not in values:
            told = ", ".join(values)
            log.warning("%s: stop.target is %s, and the loop logs %s", self._name, stop.target.metric, told)

    def _halt(self) -> None:
        assert isinstance(self.machine, Rounds)
        self._handle(Halt(self._plan.end_of(self._place.node, self.rounds, self.machine.dead)))


class OwnAsynchronousNode(OwnNode, AsynchronousNode):
    """A node of `pairwise` or `push`: what has come is adopted between two optimizer steps."""

    @property
    def over(self) -> bool:
        return self.begun > 0 and (self._left or self.rounds >= self.machine.rounds)

    def start(self) -> None:
        self.meet()
        self._begin()
        self._until_training()

    def stepped(self) -> None:
        if self.over:
            return
        self.learner.pull()
        self.keeper.step()
        phase = self._walk.step()
        if phase is not None:
            self.learner.flat.check()
            self._phase_s = time.monotonic() - self._since
            self._close(phase)
        self._turn(0.0)
        self._tick()
        if phase is not None:
            self._until_training()

    def _until_training(self) -> None:
        """Wait until the next local phase may begin, if there is one."""
        while not (self._walk.training or self.over):
            self._turn(self._patience(self._plan.config.wire.heartbeat))
            self._tick()
        self._before, self._since = self._copy(), time.monotonic()
        if self.over:
            self.ended = self.now

    def finish(self) -> None:
        """Answer the neighbors until they have made their local phases too; a loop that ends before it has
        made its own closes its lines."""
        if not self.over:
            self.ended, self._parted = self.now, True
            return
        self.learner.pull()
        while not self._left:
            self._turn(self._patience(self._plan.config.wire.heartbeat))
            self._tick()
            self._complain()
            self._let_go()
        self.learner.push()

    def give_up(self) -> None:
        """The neighbors see the lines close."""
        self.ended, self._parted = self.ended or self.now, not self.over

    def mixed(self) -> Tensor:
        self.learner.pull()
        return self.learner.vector.detach()

    def _halt(self) -> None:
        self._handle(Halt(self.rounds))


def _advance(steps: Steps) -> Phase | None:
    """Count one optimizer step; the local phase, if that was its last."""
    try:
        next(steps)
    except StopIteration as end:
        phase: Phase = end.value
        return phase
    return None
