"""A node's machine, tied to its connections: what comes is handled, and what the machine wants is done.

The training thread runs the machine itself and waits on the sockets only when it has nothing to compute. What
a node needs to be told from outside comes over `control`: where the others are, who is gone, when to stop.
"""

from __future__ import annotations

import json
import os
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, Self

from torch import Tensor

from gossipfl.core.events import (
    Adopt,
    Effect,
    Event,
    Finished,
    Lost,
    Note,
    PeerDown,
    Received,
    Send,
    Shift,
    Tick,
)
from gossipfl.core.exchange.agree import INSTANCE
from gossipfl.core.exchange.machine import Machine
from gossipfl.core.exchange.rounds import Rounds
from gossipfl.core.membership import Change, State
from gossipfl.core.messages import Data, Fate, Model, Want
from gossipfl.core.stopping import Vigil
from gossipfl.drivers.abroad import Abroad
from gossipfl.drivers.keeping import Keeping
from gossipfl.drivers.meddling import Meddling
from gossipfl.drivers.neighborhood import Neighborhood, terms
from gossipfl.drivers.parting import Parting
from gossipfl.drivers.payloads import layout, mail
from gossipfl.drivers.place import Control, Place, Stale, Stopped, readable
from gossipfl.drivers.plan import Plan
from gossipfl.drivers.telling import criteria
from gossipfl.drivers.whereabouts import CHUNK, Lan
from gossipfl.errors import Refused
from gossipfl.learning.workload import Assignment
from gossipfl.records import Recorder
from gossipfl.transport.keeper import Keeper
from gossipfl.transport.pulse import Pulse
from gossipfl.transport.shared import Shelf
from gossipfl.transport.wire import Who, frame
from gossipfl.transport.zeromq import Line, ZeroMQ

if TYPE_CHECKING:
    from gossipfl.drivers.bypass import Bypass

#: What is to be seen by whoever watches as soon as it happens.
AT_ONCE: Final = frozenset({"peer_up", "peer_down", "rejected", "quarantined"})
#: What a replay has to know of a node that is killed: on its way to the disk before anything that follows.
DECIDED: Final = frozenset({"skip", "withheld", "correction", "reset"})


class Connected:
    """What every node has, inside one `with`; `Node` makes a life of it."""

    def __init__(
        self, plan: Plan, workload: Assignment, place: Place, control: Control, lan: Lan | None = None
    ) -> None:
        """lan: where the others are, if they are on other machines; else `control` tells."""
        config = plan.config
        self._plan, self._place, self._control = plan, place, control
        self._name = config.names[place.node]
        self._seed = config.swarm.seed if lan is None else None  # of the sketch of x: off between machines
        self.learner = workload.learner(place.node)
        # Of a learner these stay as they are, and finding out takes a while.
        self._still, self._movable = self.learner.still, self.learner.movable
        self._carries = config.algorithm.average_optimizer
        self._neighbors = plan.near(place.node)
        about = plan.about(workload.signature, workload.data_hash) | ({} if lan is None else lan.about())
        if place.instance:
            about |= {INSTANCE: place.instance}
        commons = None if place.anew else place.commons
        self._shelf = None if commons is None else Shelf(commons, place.node)
        self.machine = self._make(about)
        enough = criteria(config, workload)
        self._vigil = Vigil(enough) if enough else None
        who = Who(place.node, self._name)
        self._process, self._epoch = os.getpid(), place.epoch
        self._keeping = Keeping(
            config, place.node, place.folder, about, lambda text: self.say({"note": text})
        )
        self._keeps = self._keeping.wanted
        self._keeping.hold = place.hold
        self._held: list[Effect] = []  # what waits until the closed round is taken up, and safe
        records = place.folder / "records" / f"{self._name}.jsonl"
        shapes = layout(plan, self.learner.vector)
        self._around = Neighborhood(terms(config, abroad=lan is not None), self._suspect)
        beat, health, signs = self._around.beat, self._around.health, self._around.signs
        self.keeper: Keeper | Pulse
        self._abroad: Abroad | None = None
        if lan is None:
            shapes = shapes._replace(chunk=frame(shapes))
            self.transport = ZeroMQ(who, shapes, place.listen, signs, beat)
            if place.commons is not None:
                self.transport.share(place.commons, self._shelf, mail(place))
            self.keeper = Keeper(place.node, place.beats, self.transport, beat, health)
        else:
            shapes = shapes._replace(chunk=CHUNK)
            self.transport = ZeroMQ(who, shapes, place.listen, signs, beat, Line(lan.keys, records))
            self.keeper = Pulse(place.node, self.transport, beat, health)
            self._abroad = Abroad(lan, self.transport, lambda text: self.say({"note": text}), place.met)
        # around whoever dies, anyone may become a neighbor
        self.transport.expect(len(self._neighbors) if plan.rewiring is None else plan.n - 1)
        self._meddling = (
            Meddling(config.swarm.seed, place.node, self.transport) if lan is None and config.fault else None
        )
        self._bypass: Bypass | None = None
        if lan is not None and plan.rewiring is not None:
            from gossipfl.drivers.bypass import Bypass

            self._bypass = Bypass(
                place.node, config, self.machine, self.transport, self._handle, self._say_note
            )
        self.recorder = Recorder(records, place.node, self._name)
        self.rounds = 0
        self.begun = self.ended = 0.0
        self._stack = ExitStack()
        self._adopted: Adopt | None = None
        self._at: Tensor | None = None  # where the parameters are, if that is known without looking
        self._has_word = readable(control)
        self._sound = False  # are the parameters known to be finite until the next round is closed?
        self.moved = False  # have the parameters changed since the last round?
        self._left = False
        self._stayed = False  # has it been said for whom it stays after its last round?
        self._told = (0, 0)
        self._sent_before = 0  # bytes, by the process that this one goes on from
        self._mix_s = self._wait_s = 0.0
        self._flushed = 0.0
        self._complained = 0.0
        self._met_since = 0.0
        self._anew = False  # do the others have to begin their rule anew with this node?
        self._lent: set[tuple[int, int]] = set()  # lines on which this node's model has been given away
        self._lender = -1  # whose model this node wants
        self._borrowed: Model | None = None
        self._parting = Parting()
        self._awaited = {f.round for f in config.fault if f.round is not None}  # rounds for which faults wait
        self._skipped_from: int | None = None  # the last round before those that were left out
        if place.resume is not None:
            self._resume(place.resume)
        elif place.instance:
            self._begin_anew()

    def _make(self, about: Mapping[str, object]) -> Machine:
        plan, rows = self._plan, self._plan.rows(self._place.node)
        terms = plan.recipe.terms(self.learner.validate)
        if self._shelf is not None and self._still and self._movable:
            terms = terms._replace(room=self._shelf.room)  # what is mixed is what is sent next
        return Rounds(
            plan.recipe.rule, rows, self._neighbors, plan.rounds, about, terms, plan.limits, plan.rewiring
        )

    @property
    def _peers(self) -> Sequence[int]:
        """The neighbors, those around the dead included."""
        return tuple(self.machine.ends)

    @abstractmethod
    def _resume(self, round: int) -> None:
        """Go on from a checkpoint. Raises Unusable."""

    @abstractmethod
    def _begin_anew(self) -> None:
        """Be the process that follows one which has kept nothing."""

    @abstractmethod
    def _renew(self) -> None:
        """Let everyone begin the rule anew, in a round by which all can have heard of it."""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.recorder)
            stack.enter_context(self.transport)
            stack.enter_context(self.keeper)
            self.transport.listen_to(self._control.fileno())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        if not self.ours:  # a fork has neither the threads nor the lines, and the recorder is not its own
            return
        self._stack.__exit__(*exception)  # type: ignore[arg-type]

    @property
    def ours(self) -> bool:
        """Is this the process that the node lives in, and not one that was forked from it?"""
        return os.getpid() == self._process

    @property
    def now(self) -> float:
        """Seconds since the run's start."""
        return time.monotonic() - self._epoch

    @property
    def sent_bytes(self) -> int:
        """Bytes sent since the run's start."""
        return self._sent_before + self.transport.sent_bytes

    def _copy(self) -> Tensor:
        return self.learner.vector.detach().clone()

    # ------------------------------------------------------------------ the machine

    def _handle(self, event: Event) -> None:
        t0 = time.monotonic()
        effects = self.machine.handle(event, t0 - self._epoch)
        if effects:
            self._do(effects)
        self._mix_s += time.monotonic() - t0

    def _do(self, effects: Sequence[Effect]) -> None:
        for index, effect in enumerate(effects):
            if self._held or (self._adopted is not None and isinstance(effect, Shift)):
                self._held += effects[index:]  # what shifts the model comes after what is adopted
                return
            if type(effect) is Send:
                if self._meddling is None:
                    peer, session, message = effect
                    self.transport.send(peer, session, message)
                else:
                    self._meddling.send(effect)
            elif isinstance(effect, Adopt):
                self._adopted = effect
                if self._keeping.due(effect.round + 1):  # nothing of the next round before this one is safe
                    self._hold(effects[index + 1 :])
                    return
            elif isinstance(effect, Note):
                self._note(effect)
                if effect.kind == "rejected":
                    self._happen(self.transport.reject(effect.peer))
            elif isinstance(effect, Shift):
                self.learner.load(self._copy() + effect.delta)
                self._at, self._sound, self.moved = None, False, True
                self.recorder.write("shift", round=self.rounds, time=self.now)
            elif isinstance(effect, Finished):
                self._left = True

    def _hold(self, effects: Sequence[Effect]) -> None:
        """Let these wait. Notes of the round that is closed belong to its checkpoint, and are written at
        once; those of a shift come after it."""
        shift = next((k for k, effect in enumerate(effects) if isinstance(effect, Shift)), len(effects))
        for effect in effects[:shift]:
            if isinstance(effect, Note):
                self._note(effect)
            else:
                self._held.append(effect)
        self._held += effects[shift:]

    def _note(self, note: Note) -> None:
        if note.kind == "stale":
            raise Stale(note.round + 1)
        if note.kind == "late":
            self._renew()
            return
        fields: dict[str, object] = {}
        if note.kind == "peer_down" and not note.text:
            end = self._around.end(note.peer)
            fields = {"found": end.found, "after": end.after}
        elif note.kind == "correction":
            fields = {"of": note.round}
        self.recorder.write(
            note.kind,
            round=max(note.round, self.rounds),
            time=self.now,
            peer=note.peer,
            text=note.text,
            **fields,
        )
        if note.kind == "peer_up" and self._bypass is not None:
            self._bypass.met(note.peer)
        if note.kind in AT_ONCE or note.kind in DECIDED:
            self.recorder.flush()
        if note.kind == "rest":
            who = self._plan.config.names[note.peer]
            self.say(
                {"note": f"the edge to {who} {note.text}; a longer wire.deadline would let it count more"}
            )
        if self._abroad is not None:
            self._abroad.note(note)
        elif note.kind == "refused":
            raise Refused(f"{self._name}: {self._plan.config.names[note.peer]}: {note.text}")

    def _turn(self, timeout: float | None, thorough: bool = False) -> None:
        """Wait for something to happen, and let it. thorough: let all happen that is there by now."""
        if self._meddling is not None:
            for down in self._meddling.downs():
                self._handle(down)
                timeout = 0.0
        before = time.monotonic()
        around = self._around
        pause = around.due - before
        if timeout is not None and timeout < pause:
            pause = timeout
        events = self.transport.poll(pause if pause > 0.0 else 0.0, thorough)
        now = time.monotonic()
        self._wait_s += now - before
        if events:
            if around.woke(now) and isinstance(self.machine, Rounds):
                self.machine.follow()
            self._happen(events)
        if now >= around.due:
            for down in around.look(self.transport):
                self._handle(down)
            if self._bypass is not None:
                self._bypass.look(around.signs.now())
        if self.transport.told:
            self._listen()

    def _happen(self, events: Sequence[Event | Note]) -> None:
        """Something has come, or changed, on the lines."""
        for event in events:
            if type(event) is Received and type(event.message) is Data:
                self._handle(event)
            elif isinstance(event, Note):
                self._note(event)
            elif isinstance(event, Received) and isinstance(event.message, (Want, Model)):
                self._lend(event)
            elif isinstance(event, Received) and isinstance(event.message, Fate):
                self._hear_fate(event, event.message)
            else:
                self._handle(event)

    def _lend(self, event: Received) -> None:
        """Someone who comes back wants this node's model, once a line; or a model has come that this node
        wanted."""
        line = event.peer, event.session
        if isinstance(event.message, Model):
            self._borrowed = event.message if event.peer == self._lender else self._borrowed
        elif line not in self._lent:
            self._lent.add(line)
            self.transport.send(*line, Model(self.rounds, (self._copy(),)))

    def _hear_fate(self, event: Received, word: Fate) -> None:
        """A neighbor says of a node that it is gone for good, or is not."""
        if self._bypass is None:
            self._handle(event)
        elif self._stands(event):
            note = self._bypass.hear(event.peer, word)
            if note is not None:
                self._do([note])

    def _stands(self, event: Received) -> bool:
        """Has a message come on a line on which the two have met?"""
        end = self.machine.ends.get(event.peer)
        return end is not None and end.up and end.session == event.session

    def _say_note(self, text: str) -> None:
        self.recorder.write("note", round=self.rounds, time=self.now, text=text)
        self.say({"note": text})

    def _suspect(self, change: Change) -> None:
        """A neighbor is suspected, or not any more; who is dead is told of when its line is down."""
        if change.state is not State.DEAD:
            self.recorder.write(
                change.state.value,
                round=self.rounds,
                time=self.now,
                peer=change.peer,
                why=change.why,
                since=self.now - change.seconds,
            )
            self.recorder.flush()
        if self._abroad is not None:
            self._abroad.suspect(change, self.keeper.tell(change.peer))

    def _patience(self, most: float) -> float:
        """Seconds, `most` of them, that may pass without anything happening."""
        deadline = self.machine.deadline()
        return most if deadline is None else min(most, max(0.0, deadline - self.now))

    def _tick(self) -> None:
        """Tell the machine if its time has come."""
        deadline = self.machine.deadline()
        if deadline is not None and deadline <= self.now:
            self._handle(Tick())

    # ------------------------------------------------------------------ the control line

    def _listen(self) -> None:
        """What has been told over the control line."""
        self.transport.told = False
        while self._has_word():
            try:
                word = json.loads(self._control.recv_bytes())
            except (EOFError, OSError):
                raise Stopped("whoever started this node is gone") from None
            if "stop" in word:
                raise Stopped("told to stop")
            if "lost" in word:
                self._handle(Lost(frozenset(word["lost"])))
            if "addresses" in word:
                addresses = {int(j): pair for j, pair in word["addresses"].items()}
                self.keeper.follow({j: addresses[j][1] for j in self._peers if j in addresses})
                for j in self._peers:
                    if j > self._place.node and j in addresses:
                        self.transport.dial(j, addresses[j][0])
            if "fault" in word and self._meddling is not None:
                self._meddling.word(word["fault"])
            if ("pin" in word or "base" in word) and self._keeping.hold is not None:
                self._keeping.hold = self._keeping.hold.told(word)
                if "pin" in word:
                    self._tell_kept()
            for j in word.get("gone", ()):
                if j in self._peers:
                    self._handle(PeerDown(j, None, gone=True))
                    self.transport.forget(j)

    def _tell_kept(self) -> None:
        """Tell what is on the disk, if all are to have a round in common there."""
        if self._keeping.hold is not None:
            self.say({"checkpoints": self._keeping.rounds(), "pin": self._keeping.hold.pin})

    def say(self, word: dict[str, object]) -> None:
        """Tell whoever started this node, over the control line."""
        try:
            self._control.send_bytes(json.dumps(word).encode())
        except OSError:
            raise Stopped("whoever started this node is gone") from None
