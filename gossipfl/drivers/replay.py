"""Repeat an asynchronous run of real processes, to the same bits.

What a run decided by itself is the order of events at each node, by the optimiser steps made before them:
its `meeting` records. Here every node walks again with the same config and is told the same events after the
same steps; what the messages hold is computed anew. A node whose next event is a message that has not been
sent yet stands still until its sender has come so far: the run happened, so one of them can always go on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from gossipfl.config import Config, load_config
from gossipfl.core.events import Effect, Event, Halt, PeerDown, PeerUp, Received, Send, Tick
from gossipfl.core.messages import Message
from gossipfl.drivers.machines import machine
from gossipfl.drivers.outcome import Outcome
from gossipfl.drivers.plan import Plan
from gossipfl.drivers.telling import due, eval_fields, plain
from gossipfl.drivers.walk import BEGIN, DOWN, HALT, LEFT, TICK, UP, WORDS, Meeting, Walk, word
from gossipfl.errors import ConfigError, Problem
from gossipfl.learning.learner import Phase
from gossipfl.learning.workload import Workload
from gossipfl.records import number, read

if TYPE_CHECKING:
    from gossipfl.drivers.world import Watch

#: Keys (and tables) that may differ from the recorded run's: they change no bit of a replay.
FREE: Final = frozenset(
    {
        "algorithm.replay",
        "data.path",
        "network",
        "stop",
        "swarm.eval_every",
        "swarm.name",
        "swarm.start_timeout",
        "train.device",
        "wire.heartbeat",
        "wire.transport",
    }
)
_EVENTS: Final = frozenset({*WORDS.values(), BEGIN, UP, DOWN, TICK, HALT, LEFT})


class Entry(NamedTuple):
    """A meeting, and when it was, in seconds of the recorded run."""

    meeting: Meeting
    time: float


class Misfit(Exception):
    """The recorded order does not follow from this config and version."""


# ---------------------------------------------------------------------- what was recorded


def score(folder: Path, config: Config) -> list[list[Entry]]:
    """The meetings of every node of a finished run, in order. Raises ConfigError naming the file that is
    missing, broken, or of another run than the config's."""
    require_config(folder, config)
    if config.algorithm.on_death != "self":
        wrong = "went around nodes that died, and when the others heard of each is not written down"
        raise ConfigError(Problem(str(folder / "config.toml"), wrong, 'replay one with on_death = "self"'))
    if any(fault.kind == "duplicate" for fault in config.fault):
        exchange = config.algorithm.exchange
        wrong = f"is a run of {exchange} whose messages were doubled: which of them is not written down"
        raise ConfigError(Problem(str(folder / "config.toml"), wrong, "replay one without duplicate faults"))
    return [_meetings(folder / "records" / f"{name}.jsonl") for name in config.names]


def require_config(folder: Path, config: Config) -> None:
    """Raises ConfigError if the run in a folder had another config, in what matters."""
    path = folder / "config.toml"
    recorded = load_config(path)
    theirs, ours = _flat(recorded), _flat(config)
    differ = sorted(key for key in {*theirs, *ours} if theirs.get(key) != ours.get(key))
    if differ:
        key = differ[0]
        wrong = f"is a run with {key} = {theirs.get(key)!r}, and here it is {ours.get(key)!r}"
        raise ConfigError(Problem(str(path), wrong, "replay a run with its own config.toml"))


def require_models(folder: Path, x: Tensor, names: Sequence[str]) -> tuple[str, ...]:
    """Are these [n, d] the models that the run has left, bit for bit, where it has kept them? What is to be
    told, if it has not. Raises ConfigError."""
    path = folder / "models.npz"
    if not path.exists():
        told = "is not there: that the replay ends with the run's parameters is not checked, and records"
        return (f"{path} {told} that were lost after a node's last round would not be missed",)
    try:
        with np.load(path, allow_pickle=False) as stored:
            ended, present = stored["x"], stored["present"].tolist()
    except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        wrong, right = "holds no models of a run", "replay a whole run, or take this file away"
        raise ConfigError(Problem(str(path), wrong, right)) from error
    again = plain(x)
    fits = ended.shape == again.shape and ended.dtype == again.dtype and len(present) == len(ended)
    for i in (i for i, there in enumerate(present) if there) if fits else ():
        if ended[i].tobytes() != again[i].tobytes():
            wrong = f"has other parameters of {names[i]} than the replay ends with"
            right = "replay with the version, data, device and config that made it"
            raise ConfigError(Problem(str(path), wrong, right))
    if not fits:
        raise ConfigError(Problem(str(path), "holds models of another run", "replay a whole run"))
    return ()


def _flat(config: Config) -> dict[str, object]:
    return {
        f"{section}.{key}": value
        for section, table in config.to_dict().items()
        for key, value in table.items()
        if section not in FREE and f"{section}.{key}" not in FREE
    }


def _meetings(path: Path) -> list[Entry]:
    def bad(wrong: str) -> ConfigError:
        return ConfigError(
            Problem(str(path), wrong, "replay a whole run of gossipfl swarm that has finished")
        )

    entries: list[Entry] = []
    try:
        for record in read(path):
            if record.get("kind") == "meeting":
                meeting = _meeting(record)
                if meeting is None or (entries and meeting.step < entries[-1].meeting.step):
                    raise bad(f"holds a meeting that is none: {str(record)[:80]}")
                entries.append(Entry(meeting, number(record.get("time"), 0.0)))
    except OSError as error:
        raise bad(f"cannot be read: {error.strerror}") from error
    if not entries:
        raise bad("holds no meetings: only real processes of asynchronous exchanges record them")
    if entries[-1].meeting.event != LEFT:
        raise bad("ends before its node did")
    return entries


def _meeting(record: Mapping[str, object]) -> Meeting | None:
    step, event, peer = record.get("step"), record.get("event"), record.get("peer", -1)
    session, gone = record.get("session"), record.get("gone", False)
    if type(step) is not int or type(peer) is not int or not isinstance(event, str) or event not in _EVENTS:
        return None
    if not isinstance(gone, bool) or not (session is None or type(session) is int):
        return None
    return Meeting(step, event, peer, session, gone)


def _said(meeting: Meeting) -> str:
    whose = "" if meeting.peer < 0 else f" of node {meeting.peer}"
    return f"{meeting.event}{whose} after step {meeting.step}"


# ---------------------------------------------------------------------- repeating it


class Replay:
    """One run again."""

    def __init__(self, plan: Plan, workload: Workload, watch: Watch) -> None:
        self._plan, self._watch = plan, watch
        self.folder = Path(plan.config.algorithm.replay)
        self._entries = [deque(part) for part in score(self.folder, plan.config)]
        model = (("x", (workload.d,), plan.config.train.dtype),)
        about = plan.about(model, workload.data_hash)
        self._walks = [Walk(machine(plan, i, about), workload.learner(i)) for i in range(plan.n)]
        self._mail: dict[tuple[int, int, int], deque[Message]] = {}  # (sender, receiver, session) -> in order
        self._begun = [0.0] * plan.n
        self._now = [0.0] * plan.n
        self._sent = [0] * plan.n

    def run(self) -> Outcome:
        """To the end of the recorded run. Raises ConfigError where its order cannot be repeated."""
        try:
            moved = True
            while moved:
                moved = False
                for i in range(self._plan.n):
                    while self._advance(i):
                        moved = True
            waits = next((i for i, part in enumerate(self._entries) if part), None)
            if waits is not None:
                raise Misfit(
                    f"node {waits} waits for {_said(self._entries[waits][0].meeting)}, which nobody sends"
                )
        except Misfit as error:
            wrong = f"does not follow from this config: {error}"
            raise ConfigError(
                Problem(str(self.folder), wrong, "replay with the version, data and config that made it")
            ) from error
        x = torch.stack([walk.learner.vector.detach().clone() for walk in self._walks])
        notes = require_models(self.folder, x, self._plan.config.names)
        return Outcome(
            engine="events",
            x=x,
            present=(True,) * self._plan.n,
            rounds=tuple(walk.machine.phases for walk in self._walks),
            sent_bytes=tuple(self._sent),
            lost=(),
            seconds=max(self._now) - max(self._begun),
            start_seconds=max(self._begun),
            end=min(walk.machine.rounds for walk in self._walks),
            notes=notes,
        )

    def _advance(self, i: int) -> bool:
        """Let node i do the next thing it did; False if it cannot, or has done all."""
        entries, walk = self._entries[i], self._walks[i]
        if not entries:
            return False
        meeting, time = entries[0]
        if walk.steps < meeting.step:
            self._step(i)
            return True
        if meeting.event == LEFT:
            if not walk.machine.left:
                raise Misfit(f"node {i} does not leave after step {meeting.step}")
        elif meeting.event == BEGIN:
            self._begun[i] = self._now[i] = time
            self._do(i, walk.begin(time))
        else:
            event = self._event(i, meeting)
            if event is None:
                return False
            self._now[i] = time
            self._do(i, walk.handle(event, time))
        entries.popleft()
        return True

    def _event(self, i: int, meeting: Meeting) -> Event | None:
        """What happened then; None while the message is not there yet."""
        peer, session = meeting.peer, meeting.session
        match meeting.event:
            case "tick":
                return Tick()
            case "halt":
                return Halt(self._walks[i].machine.phases)
            case "down":
                return PeerDown(peer, session, meeting.gone)
        if session is None or peer not in self._walks[i].machine.lines.by_peer:
            raise Misfit(f"node {i}: {_said(meeting)} is of nobody it knows")
        if meeting.event == UP:
            return PeerUp(peer, session)
        waiting = self._mail.get((peer, i, session))
        if not waiting:
            return None
        message = waiting.popleft()
        if word(message) != meeting.event:
            raise Misfit(f"node {i} gets {word(message)} where {_said(meeting)} was recorded")
        return Received(peer, session, message)

    def _step(self, i: int) -> None:
        walk = self._walks[i]
        if not walk.training:
            raise Misfit(f"node {i} stands still after {walk.steps} steps, where the recorded one trained on")
        phase = walk.step()
        if phase is not None:
            self._do(i, walk.trained(1.0, self._now[i]))
            self._tell_phase(i, phase)

    def _do(self, i: int, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                key = (i, effect.peer, effect.session)
                self._mail.setdefault(key, deque()).append(effect.message)
                payload = getattr(effect.message, "payload", ())
                self._sent[i] += sum(t.numel() * t.element_size() for t in payload)

    # ------------------------------------------------------------------ telling

    def _tell_phase(self, i: int, phase: Phase) -> None:
        walk, swarm = self._walks[i], self._plan.config.swarm
        times = {"train_s": 0.0, "wait_s": 0.0, "mix_s": 0.0}
        self._tell(i, "round", loss=phase.loss, **walk.fresh(), **times, sent_bytes=0, received_bytes=0)
        if due(walk.machine.phases, swarm.eval_every, self._plan.rounds):
            self._tell(i, "eval", **eval_fields(walk.learner, swarm.seed))

    def _tell(self, i: int, kind: str, **fields: object) -> None:
        name, round = self._plan.config.names[i], self._walks[i].machine.phases
        self._watch({"node": i, "name": name, "round": round, "time": self._now[i], "kind": kind, **fields})
