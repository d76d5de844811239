"""A run that was stopped and goes on from its checkpoints gives the bits of one that never stopped.

Machines and learners without processes, every word delivered in a drawn order: nodes are some rounds apart
when each writes its checkpoint to real files. Real processes, killed, are in tests/system/test_resume.py.
"""

from __future__ import annotations

import random
from collections import deque
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

import gossipfl
from gossipfl.config import Config, load_config
from gossipfl.core.events import Adopt, Begin, Effect, Event, Finished, PeerUp, Received, Send, Stepped
from gossipfl.core.exchange.rounds import Phase, Rounds
from gossipfl.drivers import checkpoint, keeping, resuming
from gossipfl.drivers.keeping import Keeping, Life
from gossipfl.drivers.plan import neighbors, plan
from gossipfl.learning.workload import workload

torch.set_num_threads(1)

HERE = Path(__file__).parent
D, ROUNDS, AT = 7, 7, 4
Keys = dict[str, object]


class Case(NamedTuple):
    """What is run: a rule on a graph of n nodes, with the keys that make it."""

    rule: str
    graph: str = "ring"
    n: int = 5
    keys: Keys = {}  # noqa: RUF012  (never written)

    def __str__(self) -> str:
        extra = "".join(f" {key.partition('.')[2]}={value}" for key, value in self.keys.items())
        return f"{self.rule} {self.graph}{extra}".replace(":", "-")


TOP: Keys = {"wire.codec": "topk:0.3"}
QUADRATIC: Keys = {"train.task": "quadratic", "train.momentum": 0.0}
CASES = [
    *(Case(rule) for rule in ("none", "dpsgd", "dpsgd-cta", "gradient", "qg", "d2", "diging", "choco")),
    *(Case(rule, keys=TOP) for rule in ("dpsgd", "dpsgd-cta", "gradient", "choco", "gradient-tracking")),
    Case("fedavg", "complete", 4, {"algorithm.local_epochs": 1, "algorithm.local_steps": 0}),
    Case("fedsgd", "complete", 4, {"algorithm.local_steps": 1}),
    Case("relay-sum", "tree"),
    Case("relay-sum", "path", keys={"algorithm.count": True}),
    Case("push-sum", "directed-ring"),
    Case("push-sum", "one-peer-exponential", 6),
    Case("gradient-tracking", "one-peer-exponential", 8),
    Case("dpsgd-cta", "one-peer-exponential", 8),
    Case("dpsgd", "epidemic:2", 6),
    Case("dpsgd", "exponential", 6),
    Case("dpsgd", keys={"algorithm.every": 3}),
    Case("dpsgd", keys={"algorithm.aggregate": "by-loss"}),
    Case("dpsgd", keys={"train.lr_schedule": "agreement"}),
    Case("d2", keys={"train.lr_schedule": "cosine"}),
    Case("dpsgd", keys={"train.optimizer": "adam", "train.momentum": 0.0}),
    Case("d2", keys={"algorithm.average_optimizer": True}),
    Case("dpsgd", keys={"train.task": "resumable:moving"}),
    Case("d2", keys={"train.task": "resumable:moving", "algorithm.buffers": "local"}),
    Case("dpsgd", keys={"train.task": "resumable:moving", "algorithm.share": ["0.*"]}),
    Case("d2", keys=QUADRATIC),
    Case("gradient-tracking", keys=QUADRATIC | {"train.dtype": "float64"}),
]


def configured(case: Case, folder: Path) -> Config:
    draw = np.random.default_rng(3)
    file = folder / "quadratic.npz"
    b = draw.normal(size=(case.n, D))
    np.savez(file, a=draw.uniform(0.5, 1.5, (case.n, D)), b=b, x0=draw.normal(size=(case.n, D)))
    keys: Keys = {
        "swarm.nodes": case.n,
        "swarm.rounds": ROUNDS,
        "swarm.eval_every": ROUNDS,
        "swarm.checkpoint_every": AT,
        "topology.graph": case.graph,
        "algorithm.rule": case.rule,
        "algorithm.local_steps": 2,
        "train.lr": 0.02,
        "train.batch": 8,
        "train.momentum": 0.5,
        "data.partition": "iid",
        **case.keys,
    }
    if keys.get("train.task") == "quadratic":
        keys["task.file"] = str(file)
    return load_config(keys)


class Swarm:
    """All nodes of a run, in one process; `die` says what happens next."""

    def __init__(self, config: Config, folder: Path, seed: int, start: int | None = None) -> None:
        load = workload(config)
        self.plan, self.die = plan(config, load.sizes, load.plain), random.Random(seed)
        about, edges = self.plan.about(load.signature, load.data_hash), self.plan.edges()
        self.learners = [load.learner(i) for i in range(self.plan.n)]
        self.keeping = [Keeping(config, i, folder, about, pytest.fail) for i in range(self.plan.n)]
        self.lines: dict[tuple[int, int], deque[Event]] = {}
        self.left: set[int] = set()
        rule = self.plan.recipe.rule
        self.machines = [
            Rounds(
                rule,
                self.plan.rows(i),
                neighbors(edges, i),
                self.plan.rounds,
                about,
                self.plan.recipe.terms(learner.validate),
            )
            for i, learner in enumerate(self.learners)
        ]
        if start is not None:
            for kept, learner, machine in zip(self.keeping, self.learners, self.machines, strict=True):
                said, tree = kept.load(start, learner)
                keeping.resume(machine, tree, config, said["rounds"])
        for i, j in edges:
            self.tell(i, PeerUp(j, 1))
        while self.deliver():
            pass
        for i, machine in enumerate(self.machines):
            self.apply(i, machine.handle(Begin(self.x(i)), 0.0))

    def x(self, i: int) -> torch.Tensor:
        return self.learners[i].vector.detach().clone()

    def tell(self, i: int, event: Event) -> None:
        self.apply(i, self.machines[i].handle(event, 0.0))

    def apply(self, i: int, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(peer, session, message):
                    self.lines.setdefault((i, peer), deque()).append(Received(i, session, message))
                case Adopt():
                    self.learners[i].load(effect.x)
                case Finished():
                    self.left.add(i)
                case _:
                    pass
        adopted = any(isinstance(effect, Adopt) for effect in effects)
        machine = self.machines[i]
        if (adopted and machine.phase is Phase.TRAINING and machine.round % AT == 0) or (
            machine.phase is Phase.LEFT and any(isinstance(effect, Finished) for effect in effects)
        ):
            self.keep(i)

    def keep(self, i: int) -> None:
        machine = self.machines[i]
        life = Life(0.0, 0.0, 0, 0, None)
        assert self.keeping[i].write(machine.round, life, keeping.standing(machine), self.learners[i])

    def deliver(self) -> bool:
        full = [line for line, words in self.lines.items() if words]
        if full:
            line = self.die.choice(full)
            self.tell(line[1], self.lines[line].popleft())
        return bool(full)

    def run(self) -> torch.Tensor:
        while len(self.left) < self.plan.n:
            training = [i for i, m in enumerate(self.machines) if m.phase is Phase.TRAINING]
            if training and (self.die.random() < 0.5 or not any(self.lines.values())):
                i = self.die.choice(training)
                x = self.x(i)
                phase = self.learners[i].phase(self.machines[i].round)
                self.tell(i, Stepped(x, self.x(i), phase.ratio))
            else:
                assert self.deliver(), "nobody has anything to do"
        return torch.stack([learner.x.detach().clone() for learner in self.learners])


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(HERE)  # where `resumable` is


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_run_that_goes_on_from_checkpoints_gives_the_bits_of_one_that_never_stopped(
    case: Case, tmp_path: Path
) -> None:
    # given: a run that never stopped, and one whose nodes wrote checkpoints
    config = configured(case, tmp_path)
    never = gossipfl.simulate(config, engine="events").models
    assert never is not None
    whole = Swarm(config, tmp_path, seed=1).run()
    assert whole.numpy().tobytes() == never.tobytes()

    # when
    found = resuming.find(tmp_path, load_config(config, {"swarm.rounds": 3 * ROUNDS}), None)
    assert set(found.rounds.values()) == {ROUNDS}
    for name in config.names:
        checkpoint.clear(tmp_path / checkpoint.FOLDER / name, AT)
    on = Swarm(config, tmp_path, seed=2, start=AT).run()

    # then
    assert on.numpy().tobytes() == never.tobytes()


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.keys.get("train.lr_schedule") != "cosine"][::3], ids=str
)
def test_a_run_that_is_over_goes_on_for_more_rounds(case: Case, tmp_path: Path) -> None:
    config = configured(case, tmp_path)
    longer = load_config(config, {"swarm.rounds": ROUNDS + 6})
    never = gossipfl.simulate(longer, engine="events").models
    assert never is not None

    Swarm(config, tmp_path, seed=1).run()
    on = Swarm(longer, tmp_path, seed=2, start=ROUNDS).run()

    assert on.numpy().tobytes() == never.tobytes()
