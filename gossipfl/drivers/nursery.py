"""The processes of the nodes: started, brought together, watched over, and none left at the end.

Whoever holds them (the zygote) takes no part in the training; it tells each node where the others are and who
is gone, and hears when a node is bound, begins, has a checkpoint, and ends.
"""

from __future__ import annotations

import gc
import json
import logging
import multiprocessing
import os
import selectors
import shutil
import sys
import time
import uuid
from array import array
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Final

from gossipfl.drivers import checkpoint, memory
from gossipfl.drivers.birth import born, can_fork, spawned
from gossipfl.drivers.child import Child, Run
from gossipfl.drivers.common_round import CommonRound, Word
from gossipfl.drivers.faults import Faults
from gossipfl.drivers.forked import Forked, Life
from gossipfl.drivers.life import PARAMETERS, parameters_paths
from gossipfl.drivers.outcome import Outcome
from gossipfl.drivers.payloads import layout
from gossipfl.drivers.place import Place
from gossipfl.drivers.plan import Plan
from gossipfl.drivers.script import acts
from gossipfl.errors import GossipError
from gossipfl.learning.task import torch_dtype
from gossipfl.learning.workload import Workload
from gossipfl.records import newest, number
from gossipfl.transport.shared import Commons

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from torch import Tensor

log = logging.getLogger(__name__)

#: Seconds that nodes told to stop may take before they are killed: where somebody waits for the end, and
#: where one of them has diverged (the others may be inside a long local phase, and what they have is kept).
GRACE: Final = 1.0
PATIENCE: Final = 60.0

Tell = Callable[[Mapping[str, object]], None]


class Nursery:
    """The nodes' processes: started on entering, none left on leaving."""

    def __init__(self, made: Plan, load: Workload, run: Run, tell: Tell) -> None:
        self._plan, self._load, self._run, self._tell = made, load, run, tell
        self._folder, self._scratch = run.folder, run.scratch
        self._children: list[Child] = []
        self._selector = selectors.DefaultSelector()
        self._stop_by: float | None = None
        self._met = self._unrecorded = False
        self._common = CommonRound(i for i, name in enumerate(made.config.names) if name not in run.lost)
        self._lost: set[int] = set()  # nodes that are gone for good, and have not finished
        self._around: dict[int, set[int]] = {}  # whose ways around them are told, by node
        self._forking = True
        self._ends = array("i")  # files that the next child closes
        self._context: Any = None
        self._parent = 0  # standard input
        self._commons: Commons | None = None
        script = acts(made.config, made.edges()) if made.config.fault else ()
        self._faults = Faults(script, made.config.names, run.folder, run.epoch, self) if script else None
        self.interrupted = False

    def __enter__(self) -> Nursery:
        self._forking = can_fork(self._load)
        self._context = multiprocessing.get_context("fork" if self._forking else "spawn")
        if not self._forking:
            self._tell({"note": "nodes are spawned, not forked: starting takes seconds and more memory"})
        self._commons = self._share(self._forking)
        self._selector.register(self._parent, selectors.EVENT_READ, None)
        self._ends = array("i", [self._selector.fileno()])
        names, run = self._plan.config.names, self._run
        goes_on = [(run.resume.get(name), run.lost.get(name, "")) for name in names]
        places = [self._place(node, *from_) for node, from_ in enumerate(goes_on)]
        memory.seal(self._load.d * torch_dtype(self._plan.config.train.dtype).itemsize)
        try:
            self._start(places)
        except OSError as error:
            started = len(self._children)
            self.__exit__()
            why = f"only {started} of {self._plan.n} nodes could be started ({error.strerror})"
            raise GossipError(f"{why}; fewer nodes, or higher limits (ulimit -u, -n)") from error
        return self

    def _share(self, forking: bool) -> Commons | None:
        """The memory that the nodes are to share, if they can; who asked for it is told if not."""
        transport = self._plan.config.wire.transport
        if transport not in ("auto", "shm"):
            return None
        why = None if forking else "nodes are spawned"
        if self._faults is not None:
            why = "a fault script strikes what travels over sockets"
        if why is None and self._plan.recipe.rule.per_link:
            why = f"rule {self._plan.config.algorithm.rule} sends another payload to each neighbor"
        if why is None and self._plan.config.algorithm.exchange == "rounds":
            try:
                return Commons(self._plan.n, layout(self._plan, self._vector()), self._plan.edges())
            except (OSError, ValueError, OverflowError) as error:
                why = f"there is not so much memory ({error})"
        if transport == "shm":
            self._tell({"note": f"no memory is shared: {why}; parameters go over sockets"})
        return None

    def _vector(self) -> Tensor:
        """What nodes average, in shape and type."""
        import torch

        config = self._plan.config
        if config.algorithm.average_optimizer:
            return self._load.learner(0).vector
        return torch.empty(self._load.d, dtype=torch_dtype(config.train.dtype), device="meta")

    def _place(self, node: int, resume: int | None, lost: str = "", instance: str = "") -> Place:
        listen, beats = self._listen(node)
        where = Place(node, self._folder, self._scratch, listen, beats, self._run.epoch, resume, lost)
        if self._plan.config.algorithm.exchange == "rounds":
            base = self._common.hold.base or self._run.resume.get(self._plan.config.names[node], 0)
            where = where._replace(hold=self._common.hold._replace(base=base))
        return where._replace(commons=self._commons, instance=instance, anew=bool(instance))

    def _start(self, places: Sequence[Place]) -> None:
        """A process for each of these nodes. What this one writes between two forks is held by the child
        before them alone: all that can be is made before the first."""
        lines = [self._context.Pipe() for _ in places]
        lives = []
        for place, (_, line) in zip(places, lines, strict=True):
            run = partial(born, self._plan, self._load, place, line)
            lives.append(Life(run, self._plan.config.names[place.node], line.fileno()))
        self._ends.extend(end.fileno() for line in lines for end in line)
        children: list[Forked | BaseProcess] = []
        try:
            if self._forking:
                gc.freeze()  # or each child looks for garbage among the lives of all
                for life in lives:
                    children.append(Forked(life, self._ends))
            else:
                children += map(self._spawn, places, (line for _, line in lines))
        finally:
            for place, process, (line, its) in zip(places, children, lines, strict=False):
                its.close()
                child = Child(place.node, process, line)
                self._selector.register(line, selectors.EVENT_READ, child)
                self._children[place.node : place.node + 1] = [child]

    def _spawn(self, place: Place, line: Connection) -> BaseProcess:
        process: BaseProcess = self._context.Process(
            target=spawned, args=(self._plan.config.to_dict(), place, line)
        )
        process.start()
        return process

    def __exit__(self, *exception: object) -> None:
        for child in self._children:
            if child.process.is_alive():
                child.process.kill()
        for child in self._children:
            child.process.join()
        self._selector.close()

    def _listen(self, node: int) -> tuple[str, str]:
        if self._plan.config.wire.transport == "tcp" or not sys.platform.startswith(("linux", "darwin")):
            return "tcp://127.0.0.1:*", "tcp://127.0.0.1:*"
        return f"ipc://{self._scratch}/{node}", f"ipc://{self._scratch}/{node}b"

    def watch(self) -> Outcome:
        """Until every process has ended."""
        self._tell({"started": [c.process.pid for c in self._children]})
        while any(c.alive for c in self._children) or self._coming():
            waits = [] if self._stop_by is None else [max(0.0, self._stop_by - time.monotonic())]
            due = None if self._faults is None else self._faults.due()
            waits += [] if due is None else [due]
            for key, _ in self._selector.select(min(waits, default=None)):
                if key.data is None:  # a word, or the end of whoever asked for the swarm: stop
                    self._selector.unregister(self._parent)
                    self.interrupted = True
                    self._stop(GRACE)
                else:
                    self._hear(key.data)
            if self._faults is not None and self._stop_by is None:
                self._faults.act()
            if self._stop_by is not None and time.monotonic() >= self._stop_by:
                for child in self._children:
                    if child.alive:
                        child.process.kill()
        return self._outcome()

    # ------------------------------------------------------------------ faults

    def _coming(self) -> bool:
        """Is a node to be started again?"""
        return self._faults is not None and self._stop_by is None and self._faults.coming

    def signal(self, node: int, number: int) -> None:
        process = self._children[node].process
        if self._children[node].alive and process.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)

    def send(self, node: int, word: dict[str, object]) -> None:
        if self._children[node].alive:
            _send(self._children[node], word)

    def restart(self, node: int) -> None:
        before = self._children[node]
        if before.word is not None or self._stop_by is not None:
            return  # it has finished: its result is safe
        if before.alive:
            before.process.kill()
            self._ended(before)
        kept = self._kept(node)
        self._send_all(self._common.returns(node, kept))
        alive = [c.control.fileno() for c in self._children if c.alive]
        self._ends = array("i", [self._selector.fileno(), *alive])
        place = self._place(node, max(kept, default=None), instance=uuid.uuid4().hex)
        self._start([place._replace(borrows=not kept and self._plan.config.algorithm.exchange == "rounds")])
        child = self._children[node]
        child.begun, child.before = before.begun, before.bound
        gone = [c.node for c in self._children if not c.alive and not self._returns(c)]
        if gone:
            _send(child, {"gone": gone})
        if self._plan.rewiring is not None:
            _send(child, {"lost": sorted(self._lost)})

    def _returns(self, child: Child) -> bool:
        """Is a node whose process has ended to be started again?"""
        returns = self._faults is not None and self._faults.returns(child.node)
        return returns and child.word is None and self._stop_by is None

    def _reintroduce(self, child: Child) -> None:
        """A node that was started again is bound: tell it where the others are, and them if it has moved."""
        near = {*self._plan.near(child.node), *self._around.get(child.node, ())}
        bound = {j: self._children[j].bound for j in near if self._children[j].alive}
        _send(child, {"addresses": {j: place for j, place in bound.items() if place is not None}})
        for j in near:
            if self._children[j].alive and child.bound != child.before:
                _send(self._children[j], {"addresses": {child.node: child.bound}})
        self._get_around()

    # ------------------------------------------------------------------ words

    def _hear(self, child: Child) -> None:
        if not child.alive:
            return  # its process has been followed by another
        try:
            word = json.loads(child.control.recv_bytes())
        except (EOFError, OSError):
            self._ended(child)
            return
        if "bound" in word:
            child.bound = word["bound"]
            if self._met and self._faults is not None:
                self._reintroduce(child)
        elif "begun" in word:
            child.begun = word["begun"] if child.begun is None else child.begun
            if self._faults is not None and all(c.begun is not None or not c.alive for c in self._children):
                self._faults.begin()
        elif "made" in word:
            if self._faults is not None:
                self._faults.made(child.node, word["made"])
        elif "note" in word:
            self._tell({"note": f"{self._plan.config.names[child.node]}: {word['note']}"})
        elif "checkpoints" in word:
            self._send_all(self._common.has(child.node, word["checkpoints"], word["pin"]))
        else:
            if word.get("unrecorded") and not self._unrecorded:
                self._unrecorded = True
                self._tell({"unsaved": {"records": word["unrecorded"]}})
            child.word = word
            if "diverged" in word or word.get("refused"):
                self._stop(PATIENCE)
        self._introduce()

    def _ended(self, child: Child) -> None:
        self._selector.unregister(child.control)
        child.control.close()
        child.process.join()
        child.alive = False
        if self._returns(child):
            self._send_all(self._common.rests(child.node, self._kept(child.node)))
            return
        if child.word is None or "error" in child.word:
            code = child.process.exitcode
            how = f"killed by signal {-code}" if code is not None and code < 0 else f"exit status {code}"
            why = how if child.word is None else child.word["error"]
            refused = bool(child.word and child.word.get("refused"))
            name = self._plan.config.names[child.node]
            self._tell({"lost": name, "why": why, "refused": refused})
            if self._plan.config.swarm.checkpoint_every and self._stop_by is None:
                checkpoint.mark_lost(self._folder / checkpoint.FOLDER / name, why)
            self._lost.add(child.node)
            self._send_all(self._common.without(child.node))
        else:
            self._send_all(self._common.rests(child.node, self._kept(child.node)))
        self._introduce()
        if child.node in self._lost:  # before they can begin without it
            self._get_around()
        for other in self._children:
            if other.alive:
                _send(other, {"gone": [child.node]})

    def _get_around(self) -> None:
        """Somebody is lost, or all are bound: tell all who is, and those who become neighbors by that of each
        other."""
        if self._plan.rewiring is None or not self._lost or self._stop_by is not None:
            return
        bound = {c.node: c.bound for c in self._children if c.alive and c.bound is not None}
        new: dict[int, dict[int, list[str]]] = {}
        for i, j in self._plan.rewiring.edges(self._lost) if self._met else ():
            if i in bound and j in bound and j not in self._around.setdefault(i, set()):
                for here, there in ((i, j), (j, i)):
                    self._around.setdefault(here, set()).add(there)
                    new.setdefault(here, {})[there] = bound[there]
        for child in self._children:
            if child.alive:
                _send(child, {"lost": sorted(self._lost), "addresses": new.get(child.node, {})})

    def _send_all(self, words: Sequence[Word]) -> None:
        """Tell all what follows for their checkpoints; nothing does where one after the other is stopped."""
        for word in words if self._stop_by is None else ():
            for child in self._children:
                if child.alive:
                    _send(child, word)

    def _kept(self, node: int) -> list[int]:
        return checkpoint.rounds(self._folder / checkpoint.FOLDER / self._plan.config.names[node])

    def _introduce(self) -> None:
        """When every node that lives is bound: tell each where the others are."""
        if self._met or any(c.alive and c.bound is None for c in self._children):
            return
        self._met = True
        addresses = {c.node: c.bound for c in self._children if c.bound is not None}
        for child in self._children:
            if child.alive:
                near = self._plan.near(child.node)
                _send(child, {"addresses": {j: addresses[j] for j in near if j in addresses}})
        self._get_around()

    def _stop(self, grace: float) -> None:
        told, by = self._stop_by is not None, time.monotonic() + grace
        self._stop_by = by if self._stop_by is None else min(by, self._stop_by)
        for child in self._children:
            if child.alive and not told:
                _send(child, {"stop": True})

    # ------------------------------------------------------------------ the end

    def _outcome(self) -> Outcome:
        import numpy as np
        import torch

        n, words = self._plan.n, [c.word or {} for c in self._children]
        accounts = [w if "rounds" in w else self._recorded(i) for i, w in enumerate(words)]
        x = torch.zeros(n, self._load.d, dtype=getattr(torch, self._plan.config.train.dtype))
        present = []
        for node in range(n):
            paths = parameters_paths(self._folder, self._scratch, node)
            found = next((path for path in paths if path.exists()), None)
            present.append(found is not None)
            if found is not None:
                x[node] = torch.from_numpy(np.load(found, allow_pickle=False))
        shutil.rmtree(self._folder / PARAMETERS, ignore_errors=True)
        begun = max((c.begun for c in self._children if c.begun is not None), default=0.0)
        ended = max((number(a["ended"]) for a in accounts if "ended" in a), default=begun)
        diverged = next(((i, *w["diverged"]) for i, w in enumerate(words) if "diverged" in w), None)
        return Outcome(
            engine="swarm",
            x=x,
            present=tuple(present),
            rounds=tuple(int(number(a.get("rounds"), 0.0)) for a in accounts),
            sent_bytes=tuple(int(w.get("sent_bytes", 0)) for w in words),
            lost=tuple(i for i, w in enumerate(words) if not w or "error" in w),
            seconds=max(0.0, ended - begun),
            start_seconds=begun,
            diverged=diverged,
            end=min((int(w["end"]) for w in words if "end" in w), default=None),
            notes=tuple(str(w["unrecorded"]) for w in words if w.get("unrecorded")),
        )

    def _recorded(self, node: int) -> Mapping[str, object]:
        """What a node did that has had no last word, as far as its records tell."""
        path = self._folder / "records" / f"{self._plan.config.names[node]}.jsonl"
        made, last = newest(path, "round"), newest(path)
        return {"rounds": made["round"], "ended": last["time"]} if made else {}


def _send(child: Child, word: Mapping[str, object]) -> None:
    try:
        child.control.send_bytes(json.dumps(word).encode())
    except OSError:
        return  # it is ending: its end of the line is read next
