"""Random fault schedules in the event engine, over every exchange and rule, and what must hold after each.

    python -m tests.chaos                 fresh seeds until stopped, with a line of counts
    python -m tests.chaos 17 4711         these seeds: what is drawn, and what goes wrong
    python -m tests.chaos --first 0 --count 300

A seed draws a small swarm and its disasters. After it: nobody hangs; an edge counts in a round at both ends
or at neither, and only what was sent; what the rule keeps is kept, wherever no state was lost; the survivors
agree, where they had time to; the same seed gives the same bits.
"""

from __future__ import annotations

import json
import random
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from gossipfl.config import Config, load_config
from gossipfl.core.events import Adopt, Note, Send
from gossipfl.core.messages import Data
from gossipfl.drivers import virtual, virtual_asynchronous
from gossipfl.drivers.outcome import Outcome
from gossipfl.drivers.plan import plan
from gossipfl.errors import GossipError
from gossipfl.learning.task import VectorTask
from gossipfl.learning.workload import workload
from gossipfl.records import Record

#: Rounds in which disasters begin, and rounds after them.
CHAOS, TAIL = 25, 100
#: Rounds in common after the last disaster that are enough to agree.
ENOUGH: Final = 60
#: How near to each other survivors are then, from distances of about 1; and how far a sum may be off.
AGREED, EXACT = 1e-2, 1e-11
LOOSELY: Final = 0.1  # of rules whose momentum lasts, and where models are merged by age
#: Virtual seconds after which a run hangs, and those of the processor.
DEADLINE, PATIENCE = 300.0, 30

#: Rules whose edges count at both ends or at neither; those of them that keep the mean from round to round.
SYMMETRIC: Final = ("dpsgd", "dpsgd-cta", "gradient", "qg", "d2", "gradient-tracking", "diging", "choco")
KEEPING: Final = ("dpsgd", "dpsgd-cta", "gradient", "choco")
TRACKING: Final = ("d2", "gradient-tracking", "diging")
GRAPHS: Final = ("ring", "complete", "star", "path")
KINDS: Final = (
    *("kill", "restart", "restart", "hang", "partition", "slow"),
    *("drop", "drop", "duplicate", "reorder", "corrupt"),
)
LOSING: Final = ("kill", "restart")
#: Rules that take any symmetric W in each round, so that the dead can be got around.
REWIRED: Final = ("dpsgd", "dpsgd-cta", "gradient", "qg", "gradient-tracking", "diging")
#: The seeds, modulo 5, whose rounds do not wait as long as it takes.
LIMITED: Final = (0, 2, 3)


def draw(seed: int) -> dict[str, object]:
    """The config that a seed draws."""
    die = random.Random(seed)
    n = die.randint(3, 6)
    kind = die.choice(["rounds"] * 6 + ["pairwise", "push"])
    keys: dict[str, object] = {
        "train.task": "consensus",
        "task.dimension": 3,
        "train.dtype": "float64",
        "swarm.name": f"chaos-{seed}",
        "swarm.nodes": n,
        "swarm.rounds": CHAOS + TAIL,
        "swarm.eval_every": 1000,
        "swarm.seed": seed,
        "swarm.checkpoint_every": die.choice([0, 1, 1, 3, 10]),
        "topology.graph": die.choice(GRAPHS),
        "network.latency": die.choice([0.0005, 0.002, 0.015]),
        "network.jitter": die.choice([0.0, 0.004]),
        "wire.heartbeat": die.choice([0.005, 0.02, 0.1]),
    }
    if kind == "pairwise":
        keys |= {
            "algorithm.exchange": "pairwise",
            "network.latency": 0.002,
            "swarm.rounds": 3 * (CHAOS + TAIL),
        }
    elif kind == "push":
        keys |= {"algorithm.exchange": "push", "algorithm.rule": "gossip-learning"}
        keys["algorithm.variant"] = die.choice(["merge-update", "update-merge"])
    else:
        rule = die.choice((*SYMMETRIC, "push-sum", "relay-sum"))
        keys["algorithm.rule"] = rule
        if rule == "relay-sum":
            keys["topology.graph"] = die.choice(["path", "star", "tree"])
        elif rule == "push-sum":
            keys["topology.graph"] = die.choice([*GRAPHS, "directed-ring"])
        elif rule == "choco":
            keys |= {"wire.codec": die.choice(["none", "topk:0.67"]), "swarm.rounds": 3 * (CHAOS + TAIL)}
        elif rule in ("dpsgd", "qg") and die.random() < 0.3:
            keys |= {"swarm.nodes": 4, "topology.graph": "one-peer-exponential"}
        if rule in TRACKING:  # whose sums are drawn back by gradients alone
            keys |= {"train.task": "quadratic", "train.lr": 0.1, "swarm.rounds": 3 * (CHAOS + TAIL)}
        if die.random() < 0.1:
            keys["stop.seconds"] = round(die.uniform(0.2, 0.8), 3)
        if (
            rule in REWIRED
            and keys["topology.graph"] in GRAPHS
            and random.Random(f"death {seed}").random() < 0.4
        ):
            keys["algorithm.on_death"] = "rewire"
        if seed % 5 in LIMITED:
            word = float(str(keys["network.latency"]))
            keys |= limits(random.Random(f"limits {seed}"), word, rule in TRACKING)
    if kind != "rounds" and random.Random(f"death {seed}").random() < 0.4:
        keys["algorithm.on_death"] = "rewire"
    if keys["train.task"] == "quadratic":
        del keys["task.dimension"]
    if die.random() < 0.4:  # disasters up to the end, and among the goodbyes
        keys["swarm.rounds"] = die.randint(5, CHAOS)
    config = load_config(keys)
    edges = plan(config).edges()
    drawn = [fault(die, config.swarm.nodes, edges) for _ in range(die.randint(1, 6))]
    keys["fault"] = [one for one in drawn if int(str(one.get("round", 0))) <= config.swarm.rounds]
    return keys


def limits(die: random.Random, latency: float, patient: bool) -> dict[str, object]:
    """How long rounds wait for neighbors that live. patient: longer than word takes, else all edges rest, and
    what keeps sums would break."""
    kind, found = die.choice(["deadline", "patience", "both"]), dict[str, object]()
    if kind != "patience":
        found["wire.deadline"] = round(
            latency * die.choice([3.0 if patient else 0.5, 10.0]) + 0.004 * patient, 4
        )
    if kind != "deadline":
        found["wire.patience"] = die.choice([1.5, 4.0])
    if die.random() < 0.4:
        found["wire.quorum"] = die.randint(1, 3)
    return found


def fault(die: random.Random, n: int, edges: list[tuple[int, int]]) -> dict[str, object]:
    """One disaster."""
    kind = die.choice(KINDS)
    when: dict[str, object] = (
        {"round": die.randint(1, CHAOS)}
        if die.random() < 0.4
        else {"at": round(die.uniform(0, CHAOS * 0.01), 4)}
    )
    lasts = {"for": round(die.choice([0.002, 0.02, 0.1, 0.3]) * die.uniform(0.5, 1.5), 4)}
    found: dict[str, object] = {"kind": kind, **when}
    if kind in ("kill", "restart", "hang", "slow"):
        found["node"] = die.randrange(n)
        if kind in ("hang", "slow") or die.random() < 0.6:
            found |= lasts
        if kind == "slow":
            found["factor"] = die.choice([3.0, 10.0])
    elif kind == "partition":
        nodes = list(range(n))
        die.shuffle(nodes)
        found |= {"groups": [nodes[: die.randint(1, n - 1)]], **lasts}
        if not any((i in found["groups"][0]) != (j in found["groups"][0]) for i, j in edges):  # type: ignore[index]
            found |= {"groups": [[edges[0][0]]]}
    else:
        target = die.choice(["edge", "node", ""])
        if target:
            edge = die.choice(edges)
            found[target] = list(edge) if target == "edge" else edge[0]
        if die.random() < 0.7:
            found |= {"share": round(die.choice([0.02, 0.1, 0.3, 1.0]), 3), **lasts}
    return found


def task(config: Config) -> VectorTask | None:
    """The task of a config, if it is not one by name."""
    if config.train.task != "quadratic":
        return None
    generator, shape = np.random.default_rng(config.swarm.seed), (config.swarm.nodes, 3)
    a, b = generator.uniform(0.5, 1.5, shape), generator.standard_normal(shape)
    return VectorTask("quadratic", np.zeros(shape), (a * b).sum(0) / a.sum(0), a, b)


Counted = dict[tuple[int, int, int, int | None], list[int]]
"""Node, whose payload, of which round, and of which incarnation -> in which rounds it has counted it.

A node that comes back without its state makes rounds again whose payloads have counted already, or count a
moment later: as another incarnation, of which these are the first.
"""


@dataclass
class Trial:
    """A seed's run and all that was seen of it."""

    config: Config
    before: NDArray[np.float64]
    records: list[Record]
    outcome: Outcome
    sent: set[tuple[int, int, int]] = field(default_factory=set)  # node, to whom, of which round
    counted: Counted = field(default_factory=dict)
    agreed: bool | None = None  # None: there was not time enough to ask

    @property
    def kinds(self) -> set[str]:
        """What befell this run."""
        return {str(record["fault"]) for record in self.records if record["kind"] == "fault"}


class Seen(virtual.Simulation):
    """The engine of rounds, with an eye on what is sent and what counts."""

    sent: set[tuple[int, int, int]]
    counted: Counted
    closed: dict[int, int]  # node -> the last round that it has closed

    def send(self, i: int, send: Send, now: float) -> None:
        if isinstance(send.message, Data):
            self.sent.add((i, send.peer, send.message.round))
        super().send(i, send, now)

    def _adopt(self, i: int, adopt: Adopt, now: float) -> None:
        self.closed[i] = adopt.round
        for j in adopt.counted:
            self._counts(i, j, adopt.round)
        super()._adopt(i, adopt, now)

    def _note(self, i: int, note: Note, now: float, closed: int) -> None:
        if note.kind == "correction":
            self._counts(i, note.peer, note.round)
        super()._note(i, note, now, closed)

    def _counts(self, i: int, j: int, round: int) -> None:
        key = (i, j, round, self._nodes[i].machine.edges[j].peer_inc)
        self.counted.setdefault(key, []).append(self.closed[i])

    def reborn(self, node: int, now: float) -> None:
        super().reborn(node, now)
        # what had been counted after the state from which it goes on has not happened, however old it was
        first = self._nodes[node].rounds
        for key, rounds in list(self.counted.items()):
            if key[0] == node:
                rounds[:] = [round for round in rounds if round < first]
            if not rounds:
                del self.counted[key]


@contextmanager
def patience() -> Iterator[None]:
    """Ends a run that never ends."""

    def over(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not over in {PATIENCE} s of the processor")

    before = signal.signal(signal.SIGVTALRM, over)
    signal.setitimer(signal.ITIMER_VIRTUAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def run(seed: int) -> Trial:
    """Run what a seed draws. Raises GossipError, TimeoutError, and whatever a defect raises."""
    config = load_config(draw(seed))
    load = workload(config, task(config))
    made = plan(config, load.sizes, load.plain)
    before = np.stack([load.learner(node).x.numpy() for node in range(made.n)])
    records: list[Record] = []
    torch.set_num_threads(1)
    sent, counted = set[tuple[int, int, int]](), Counted()
    with patience(), torch.enable_grad():
        if config.algorithm.exchange == "rounds":
            simulation = Seen(made, load, records.append)
            simulation.sent, simulation.counted, simulation.closed = sent, counted, {}
            outcome = simulation.run()
        else:
            outcome = virtual_asynchronous.Simulation(made, load, records.append).run()
    return Trial(config, before, records, outcome, sent, counted)


def check(trial: Trial) -> list[str]:
    """What does not hold after a run."""
    outcome, config = trial.outcome, trial.config
    rule, exchange = config.algorithm.rule, config.algorithm.exchange
    wrong: list[str] = []
    x = outcome.x.numpy()
    if not np.isfinite(x).all():
        wrong.append("a model is not finite")
    if outcome.seconds > DEADLINE:
        wrong.append(f"it took {outcome.seconds:g} virtual seconds")
    exact = config.swarm.checkpoint_every == 1 and exchange == "rounds"
    forgotten = "kill" in trial.kinds or not exact
    both_ways = config.topology.graph not in ("one-peer-exponential", "directed-ring")
    lossless = not outcome.lost and not (trial.kinds & {*LOSING} and forgotten) and not _forgot(trial)
    keeps = exchange == "pairwise" or (rule in KEEPING and both_ways)
    if exchange == "rounds":
        wrong += list(_ends(trial, lossless and both_ways and rule in SYMMETRIC))
    consensus = config.train.task == "consensus"
    drift = float(np.abs(x.mean(0) - trial.before.mean(0)).max())
    if lossless and keeps and consensus and drift > EXACT:
        wrong.append(f"the mean moved by {drift:.3g}")
    survivors = [i for i in range(len(x)) if i not in outcome.lost]
    if survivors and _had_time(trial, survivors) and rule != "gradient":
        apart = float(np.linalg.norm(x[survivors] - x[survivors].mean(0), axis=1).max())
        trial.agreed = apart < (LOOSELY if exchange == "push" or rule == "qg" else AGREED)
        if not trial.agreed and _connected(trial, survivors):
            wrong.append(f"survivors are {apart:.3g} apart")
        if rule == "push-sum" and lossless and consensus and drift > 10 * apart + EXACT:
            wrong.append(f"the sum over its mass moved by {drift:.3g}")
        found = task(config)
        if found is not None and not outcome.lost:
            away = float(np.abs(x - found.target).max())
            if away > AGREED:
                wrong.append(f"{away:.3g} from the optimum")
    return wrong


def _forgot(trial: Trial) -> bool:
    """Did a node come back with less than its neighbours knew of it?"""
    notes = [str(r.get("text")) for r in trial.records if r["kind"] == "note"]
    over = trial.config.swarm.rounds if trial.outcome.end is None else trial.outcome.end
    for record in trial.records:  # who is killed after its last round is not started again
        if record["kind"] == "fault" and record["fault"] in LOSING and int(str(record["round"])) >= over:
            return True
    return any("older" in note or "anew" in note for note in notes)


def _ends(trial: Trial, both: bool) -> Iterator[str]:
    """Edges that count at one end alone, twice, or without anything sent."""
    ends = {key[:3] for key in trial.counted}
    for (i, j, round, _), closed in sorted(trial.counted.items(), key=lambda item: item[0][:3]):
        if (j, i, round) not in trial.sent:
            yield f"node {i} counts {j} in round {round}, which has sent nothing"
        if len(closed) > 1:
            yield f"node {i} counts {j} {len(closed)} times in round {round}"
        if both and (j, i, round) not in ends:
            yield f"node {i} counts {j} in round {round}, and {j} does not count {i}"


def _had_time(trial: Trial, survivors: list[int]) -> bool:
    """Did all survivors make rounds enough after the last disaster was over?"""
    unrest = ["fault", "back", "peer_up", "peer_down", "rejected", "reset", "note"]
    if plan(trial.config).limits.any:  # a neighbor that is slow is a disaster that goes on
        unrest += ["slow", "timely", "rest", "correction"]
    last = max((float(str(r["time"])) for r in trial.records if r["kind"] in unrest), default=0.0)
    for record in trial.records:
        if record["kind"] == "quarantined":  # a line that is not there, for so long
            alone = re.search(r"for ([0-9.]+) s", str(record["text"]))
            assert alone is not None
            last = max(last, float(str(record["time"])) + float(alone[1]))
    slow = any(fault.kind == "slow" for fault in trial.config.fault)
    rounds = Counter(
        int(str(r["node"])) for r in trial.records if r["kind"] == "round" and float(str(r["time"])) > last
    )
    # who is done with its pushes waits for nobody who is left alone, for longer than these runs last
    alone = any(r["kind"] == "quarantined" for r in trial.records)
    enough = ENOUGH * (3 if trial.config.swarm.rounds > CHAOS + TAIL else 1)
    exchange = trial.config.algorithm.exchange
    idle = (slow and exchange != "rounds") or (alone and exchange == "push")
    return all(rounds[i] >= enough for i in survivors) and not idle


def _connected(trial: Trial, survivors: list[int]) -> bool:
    """Are there still ways between all survivors, along the arcs on which payloads travel?"""
    made = plan(trial.config)
    if made.rewiring is not None:
        return True
    rows = [made.rows(i)(t) for i in survivors for t in range(made.n)]
    arcs = {(row.node, j) for row in rows for j in row.receivers if j in survivors}
    return all(_reached(survivors[0], ways) == {*survivors} for ways in (arcs, {(j, i) for i, j in arcs}))


def _reached(start: int, arcs: set[tuple[int, int]]) -> set[int]:
    """The nodes to which arcs lead from one."""
    seen, found = set[int](), {start}
    while found:
        seen |= found
        found = {j for i, j in arcs if i in found} - seen
    return seen


def trial(seed: int, again: bool = False) -> tuple[Trial | None, list[str]]:
    """A seed's run and what does not hold; `again`: also that it gives the same bits twice."""
    try:
        found = run(seed)
        wrong = check(found)
        if again and run(seed).outcome.x.numpy().tobytes() != found.outcome.x.numpy().tobytes():
            wrong.append("another run of this seed gives other bits")
    except (
        GossipError,
        TimeoutError,
        AssertionError,
        LookupError,
        TypeError,
        ValueError,
        ArithmeticError,
    ) as error:
        return None, [f"{type(error).__name__}: {error}"]
    return found, wrong


def line(seed: int, wrong: list[str]) -> str:
    """A failing seed, with what replays it."""
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    return f"seed {seed}: {wrong[0]}{more}; replay: python -m tests.chaos {seed}"


def main(arguments: list[str]) -> int:
    """The command."""
    if arguments and not arguments[0].startswith("--"):
        bad = 0
        for seed in map(int, arguments):
            print(json.dumps(draw(seed), indent=1))
            _, wrong = trial(seed, again=True)
            bad += bool(wrong)
            print("\n".join(wrong) if wrong else f"seed {seed}: all holds")
        return min(bad, 1)
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    first = int(options.get("--first", time.time_ns() // 1000 % 10**9 * 1000))
    count = int(options.get("--count", 10**9))
    failed, agreed, kinds, begun = 0, 0, Counter[str](), time.monotonic()
    try:
        for done, seed in enumerate(range(first, first + count), start=1):
            found, wrong = trial(seed, again=seed % 20 == 0)
            if found is not None:
                kinds.update(found.kinds)
                agreed += found.agreed is not None
            if wrong:
                failed += 1
                print(f"\r{line(seed, wrong)}", flush=True)
            rate = done / (time.monotonic() - begun)
            told = " ".join(f"{kind} {times}" for kind, times in sorted(kinds.items()))
            end = "\r" if sys.stdout.isatty() or done % 500 else "\n"
            if sys.stdout.isatty() or not done % 500:
                asked = f"agreement asked of {agreed}"
                print(
                    f"{done} schedules from seed {first}, {failed} failed, {asked}; {told}; {rate:.1f}/s",
                    end=end,
                    flush=True,
                )
    except KeyboardInterrupt:
        pass
    print(f"\n{done} schedules from seed {first}, {failed} failed")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
