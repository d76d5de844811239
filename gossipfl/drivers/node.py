"""One real node, in a process of its own: it meets its neighbours, trains and exchanges, and leaves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final, Self

import torch
from torch import Tensor

from gossipfl.core.events import Adopt, Begin, Halt, PeerDown, Renew, Stepped
from gossipfl.core.exchange.rounds import Rounds
from gossipfl.core.exchange.standing import Tree
from gossipfl.core.messages import Want
from gossipfl.drivers import keeping
from gossipfl.drivers.abroad import EVERY
from gossipfl.drivers.checkpoint import Unusable
from gossipfl.drivers.connected import Connected
from gossipfl.drivers.keeping import Life
from gossipfl.drivers.parting import PARTING
from gossipfl.drivers.place import OLD, REJOIN, Place
from gossipfl.drivers.telling import ROUND, disagreement, due, eval_fields, jumped, sound, wrong
from gossipfl.errors import PeerLost, Refused, TrainingDiverged
from gossipfl.learning import optimizers
from gossipfl.learning.learner import Phase, drain

#: Seconds between two flushes of the records.
FLUSH_EVERY: Final = 0.1
#: Seconds without meeting anyone after which a node that comes back takes them to have left.
ALONE: Final = 600.0
#: What is told where it is older.
OLDER: Final = "its checkpoint is older than what its neighbors know of it"
#: Seconds in which a neighbor gives its model, or another is asked.
LEND: Final = 10.0
#: Seconds in a round until the node says for whom it waits.
PATIENCE: Final = 5.0


class Node(Connected):
    """A node's life: `meet`, `train`, `leave`, inside one `with`."""

    # ------------------------------------------------------------------ life

    def meet(self) -> None:
        """Tell where this node is, dial who has to be dialled, and wait until every neighbour that lives is
        there."""
        self._met_since = time.monotonic()
        self.say({"bound": [self.transport.address, self.keeper.address]})
        if self._abroad is not None:
            self._abroad.begin()
        timeout = self._plan.config.swarm.start_timeout or (ALONE if self._came_back() else 0.0)
        limit = time.monotonic() + timeout if timeout else None
        told = not self._came_back() or self._complete()
        while self.machine.missing() and not self._enough():
            self._look()
            if not told and self._waits(REJOIN) and self._abroad is not None:
                told = True
                self._say_note(f"nobody is there yet: waits {timeout:g} s, and then ends")
            pauses = [] if self._abroad is None and not self._place.instance else [EVERY]
            pauses += [] if limit is None else [max(0.0, limit - time.monotonic())]
            self._turn(min(pauses, default=None))
            if limit is not None and time.monotonic() >= limit and self.machine.missing():
                names = ", ".join(self._plan.config.names[j] for j in self.machine.missing())
                gone = "; have they left?" if self._came_back() else ""
                raise PeerLost(
                    f"{self._name}: no word from {names} in {timeout:g} s{gone}; see swarm.start_timeout"
                )

        self._tell_alone()
        if self._place.borrows:
            self._borrow()

    def _borrow(self) -> None:
        """Take the model of a neighbor: the lowest that gives it. Raises PeerLost where none does and there
        is no other, nor a round to make one in."""
        for peer, session in sorted(self.transport.lines().items()):
            self._lender = peer
            self.transport.send(peer, session, Want())
            limit = time.monotonic() + LEND
            while self._borrowed is None and time.monotonic() < limit and peer in self.transport.lines():
                self._turn(EVERY)
            if self._borrowed is not None:
                (x,) = self._borrowed.payload
                self.learner.load(x)
                name = self._plan.config.names[peer]
                self._say_note(f"takes the model that {name} has after round {self._borrowed.round}")
                break
        else:
            if self._place.resume is not None and not self.begun and self._complete():
                raise PeerLost(f"{self._name}: has no model, and nobody gives it one; the others have ended")
            self._say_note("nobody has given it a model: it keeps its own")
        self._lender, self._borrowed = -1, None

    def _enough(self) -> bool:
        """Has a node that comes back waited for its neighbours, and met one of them, be it one that has said
        goodbye? One that has no more rounds to make waits for no longer than others would for it."""
        if not self._came_back():
            return False
        if any(end.up or end.done for end in self.machine.ends.values()):
            return self._waits(REJOIN)
        return self._complete() and self._waits(PARTING)

    def _waits(self, seconds: float) -> bool:
        """Has this node waited for its neighbours for longer than that?"""
        return time.monotonic() - self._met_since > seconds

    def _complete(self) -> bool:
        """Are all rounds behind this node before it begins?"""
        return self.rounds >= self._plan.rounds

    def _tell_alone(self) -> None:
        """Say so, if a node that comes back has met nobody who goes on, and waits no longer."""
        ends, missing = self.machine.ends.values(), self.machine.missing()
        if self._abroad is None or not missing or any(end.up and not end.done for end in ends):
            return
        done = [end.peer for end in ends if end.done]
        said = [f"{self._names(done)} made all rounds"] if done else []
        said.append(f"{self._names(missing, 'is', 'are')} not there")
        self._say_note(f"{', and '.join(said)}: waits for nobody any more")

    def _names(self, nodes: Sequence[int], one: str = "has", more: str = "have") -> str:
        names = ", ".join(self._plan.config.names[j] for j in nodes)
        return f"{names} {one if len(nodes) == 1 else more}"

    def _came_back(self) -> bool:
        """Was this node here before?"""
        among_machines = self._place.resume is not None or self._place.borrows
        return bool(self._place.instance) or (self._abroad is not None and among_machines)

    def train(self) -> None:
        """All rounds. Raises TrainingDiverged with the parameters back at the last round's."""
        self._begin()
        while self.rounds < self.machine.rounds:
            self._round(self.rounds)
        self.ended = self.now

    def _begin(self) -> None:
        self._tell_begin()
        self._do(self.machine.handle(Begin(self._copy()), self.now))
        if self._anew and self._plan.recipe.rule.keeps:
            self._renew()
        if self._anew and self.rounds >= self.machine.rounds:
            self._arrive()

    def _arrive(self) -> None:
        """It comes back, without its state, when all rounds are over: what it has now is its last model."""
        self.rounds = self.machine.rounds
        values = eval_fields(self.learner, self._seed)
        if values:
            self.recorder.write("eval", round=self.rounds, time=self.now, **values)

    def _renew(self) -> None:
        """Let everyone begin the rule anew, in a round by which all can have heard of it."""
        assert isinstance(self.machine, Rounds)
        at = self.machine.front + 1
        self._handle(Renew(self._plan.end_of(self._place.node, at, self.machine.dead)))

    def _tell_begin(self) -> None:
        if self._place.resume is None:
            self.begun = self.now
        text = "begins anew: it has kept nothing" if self._place.instance else ""
        if self._place.resume is not None:
            text = f"goes on from its checkpoint of round {self._place.resume}"
        if text:
            how = {"resumed": self.rounds, "exact": not self._anew}
            self.recorder.write("note", round=self.rounds, time=self.now, text=text, **how)
            self.recorder.flush()
        self.say({"begun": self.begun})

    def leave(self) -> None:
        """Stay until the neighbours have all they were sent."""
        while not self._left:
            self._turn(EVERY)
            self._let_go()
            self._tell_stay()

    def _tell_stay(self) -> None:
        """Say once for whom this node stays, if they are not there."""
        if self._stayed or self.now - self.ended < PATIENCE:
            return
        self._stayed = True
        names = ", ".join(self._plan.config.names[j] for j in self.machine.missing())
        if names:
            self._say_note(f"has made all rounds; stays up to {PARTING:g} s for {names}, not there now")

    def _look(self) -> None:
        """Among machines: say for whom this node waits; go, if it does not agree with them."""
        if self._abroad is not None:
            self._abroad.look(self.machine.missing())
            why = self._abroad.verdict()
            if why is not None:
                raise Refused(f"{self._name}: {why}")

    def _let_go(self) -> None:
        """Wait no longer for neighbors that have not been there for a while, or are taken to be gone."""
        missing = self.machine.missing()
        late = self._parting.given_up(missing, self._apart, self.now)
        gone = frozenset() if self._bypass is None else self._bypass.gone
        for j in missing:
            if j in late or (j in gone and not self.machine.ends[j].up):
                self._handle(PeerDown(j, None, gone=True))

    def _apart(self, peer: int) -> float:
        """When the last quarantine between this node and a peer is over."""
        return self.transport.apart(peer) - self._epoch

    # ------------------------------------------------------------------ a round

    def _round(self, round: int) -> None:
        x = self._copy() if self._at is None else self._at
        self.keeper.at(round + 1, training=True)
        t0 = time.monotonic()
        learner = self.learner
        phase = learner.phase(round) if self._still else drain(learner.steps(round), self.keeper.step)
        if self._meddling is not None:
            self._meddling.drag(time.monotonic() - t0)
        if self._skipped_from is not None:  # rounds have been left out: the learning rate moved more
            rate = optimizers.rate(self._plan.config.train, self._plan.rounds)
            phase = phase._replace(ratio=optimizers.ratio(rate, round, self._skipped_from))
            self._skipped_from = None
        self._exchange(x, phase, time.monotonic() - t0)

    def _wrong(self, phase: Phase) -> str | None:
        """What is not finite after a local phase, or None."""
        return wrong(phase, self.learner.vector)

    def _exchange(self, x: Tensor, phase: Phase, train_s: float) -> None:
        """Close the round whose local phase, from x [d] on, is done."""
        what = None if self._sound else self._wrong(phase)
        if what is not None:
            self.learner.load(x)
            raise TrainingDiverged(self._name, self.rounds + 1, what)
        self.keeper.at(self.rounds + 1, training=False)
        self._wait_s = self._mix_s = 0.0
        self._complained = time.monotonic()
        if self._complained >= self._around.due:
            # It may wait for nobody, and so never look or listen; a slow one hears where the others are.
            self._turn(0.0, thorough=True)
        learner, movable, still = self.learner, self._movable, self._still
        # Memory that the learner can leave is given away as it is: what is sent of it is not written again.
        after = learner.vector if movable else self._copy()
        self._handle(Stepped(x, after, phase.ratio))
        while self._adopted is None:
            self._turn(self._patience(PATIENCE))
            if self._adopted is None:
                self._tick()
                self._complain()
        adopt, self._adopted = self._adopted, None
        if movable:
            learner.move(adopt.x if still else self._room(adopt.x).copy_(adopt.x))
        else:
            learner.load(adopt.x)
        self._at = None if self._carries else adopt.x
        self._sound = still and sound(adopt)
        self.rounds += 1
        self._tell_round(adopt, phase, train_s)
        assert isinstance(self.machine, Rounds)
        if self.machine.round > self.rounds:
            self._catch_up(self.machine.round)
        if self._awaited:
            self._tell_made()
        if self._keeps and self._keeping.due(self.rounds) and self.rounds < self.machine.rounds:
            self.keep()
        if self._held:
            held, self._held = self._held, []
            self._do(held)

    def _room(self, like: Tensor) -> Tensor:
        """Memory for a model, from where it can be sent."""
        return torch.empty_like(like) if self._shelf is None else self._shelf.room(like)

    def _catch_up(self, to: int) -> None:
        """On in the round of the neighbours, who went on while this node was away, or slow."""
        text = f"goes on in round {to + 1}, where its neighbors are"
        self.recorder.write("note", round=self.rounds, time=self.now, text=text, onward=to)
        self.recorder.flush()
        missed = jumped(self.rounds, to, self._plan.config.swarm.eval_every, self.machine.rounds)
        values = eval_fields(self.learner, self._seed) if missed else {}
        for round in missed if values else ():
            self.recorder.write("eval", round=round, time=self.now, **values)
        self._skipped_from, self.rounds = self.rounds - 1, to

    def _tell_made(self) -> None:
        """Tell whoever lets faults happen of a round for which one waits."""
        for round in sorted(round for round in self._awaited if round <= self.rounds):
            self._awaited.discard(round)
            self.recorder.flush()  # it may be killed for it
            self.say({"made": round})

    # ------------------------------------------------------------------ checkpoints

    def keep(self) -> None:
        """Write a checkpoint, between two rounds or after the last."""
        life = Life(
            self.now,
            self.begun,
            self.recorder.position(),
            self.sent_bytes,
            None if self._vigil is None else self._vigil.kept(),
        )
        t0 = time.monotonic()
        size = self._keeping.write(self.rounds, life, self._kept(), self.learner)
        if size is not None:
            seconds = time.monotonic() - t0
            self.recorder.write("checkpoint", round=self.rounds, time=self.now, bytes=size, seconds=seconds)
            self._tell_kept()

    def _kept(self) -> Tree:
        assert isinstance(self.machine, Rounds)
        return keeping.standing(self.machine)

    def _resume(self, round: int) -> None:
        """Go on from a checkpoint. Raises Unusable."""
        said, tree = self._keeping.load(round, self.learner)
        self.rounds, self.begun = round, said["begun"]
        if not self._place.instance:  # else the run's clock has gone on
            self._epoch = time.monotonic() - said["time"]
        self._sent_before = said["sent_bytes"]
        if self._vigil is not None and said["vigil"] is not None:
            self._vigil.restore(said["vigil"])
        self._restore(tree, said["rounds"])

    def _begin_anew(self) -> None:
        assert isinstance(self.machine, Rounds)
        self._restore(keeping.afresh(0), self._plan.rounds)

    def _restore(self, tree: Tree, rounds: int) -> None:
        assert isinstance(self.machine, Rounds)
        self._anew = keeping.resume(self.machine, tree, self._plan.config, rounds)

    def come_back(self, round: int) -> Place:
        """Write down that this node goes on where its neighbours are, in `round` or a little later, with its
        model or one of theirs: nothing else of it is as they remember it. From where. Raises Unusable."""
        at = min(max(self.rounds, round), self._plan.rounds)
        life = Life(self.now, self.begun, self.recorder.position(), self.sent_bytes, None)
        if self._keeping.write(at, life, keeping.afresh(at), self.learner) is None:
            raise Unusable(f"{self._keeping.folder}: what this node comes back with cannot be written")
        none, old = self._place.resume is None, at - self.rounds > OLD
        what = "it has no checkpoint, and its neighbors know it" if none else OLDER
        how = "with a model of theirs" if none or old else "with that model"
        where = f"goes on {how}, in round {at + 1}" if at < self._plan.rounds else f"ends {how}"
        self.say({"note": f"{what}: it {where}"})
        return self._place._replace(resume=at, borrows=none or old, hold=self._keeping.hold, met=self.met)

    @property
    def met(self) -> frozenset[int]:
        """Among machines: to whom a line stood in the life of this process."""
        return frozenset() if self._abroad is None else self._abroad.met

    def rejoin(self, round: int) -> Self:
        """Begin in that round, as another incarnation, with a neighbor's model. Before `meet`."""
        self.rounds, self._anew = min(round, self._plan.rounds), True
        self._restore(keeping.afresh(self.rounds), self._plan.rounds)
        return self

    # ------------------------------------------------------------------ telling

    def _complain(self) -> None:
        """Say once in a while for whom this node waits, and what their beats tell."""
        if self._adopted is None and time.monotonic() - self._complained > PATIENCE:
            self._complained = time.monotonic()
            silent = self.machine.silent()
            said = ", ".join(f"{self._plan.config.names[j]} ({self.keeper.tell(j)})" for j in silent)
            if silent:
                self.recorder.write("note", round=self.rounds, time=self.now, text=f"waits for {said}")
                self.recorder.flush()

    def _tell_round(self, adopt: Adopt, phase: Phase, train_s: float) -> None:
        told_sent, told_received = self._told
        self._told = sent, received = self.transport.sent_bytes, self.transport.received_bytes
        round, now = self.rounds, time.monotonic() - self._epoch
        self.recorder.fill(
            ROUND,
            round,
            now,
            phase.loss,
            len(adopt.counted),
            disagreement(adopt),
            train_s,
            self._wait_s,
            self._mix_s,
            sent - told_sent,
            received - told_received,
        )
        evaluated = due(round, self._plan.config.swarm.eval_every, self.machine.rounds)
        values = eval_fields(self.learner, self._seed) if evaluated else {}
        if values:
            self.recorder.write("eval", round=self.rounds, time=self.now, **values)
        if self._vigil is not None and self._vigil.enough(self.now - self.begun, values):
            assert isinstance(self.machine, Rounds)
            round = max(self.rounds, self.machine.round)  # where its neighbours are, if it has been away
            self._handle(Halt(self._plan.end_of(self._place.node, round, self.machine.dead)))
        if evaluated or now - self._flushed > FLUSH_EVERY:
            self._flushed = now
            self.recorder.flush()
