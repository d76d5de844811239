"""Real processes beside what the machine can do: the rows about sockets, memory and start-up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Final, NamedTuple

from gossipfl.config import Config, load_config
from gossipfl.drivers import room
from gossipfl.drivers.bench import nodes
from gossipfl.drivers.bench.limits import bare_rounds, copied_bytes, plain_step, training_rounds
from gossipfl.drivers.bench.tasks import hidden
from gossipfl.drivers.bench.turns import MB, Pace, Row, Say, load, ratios, rounded
from gossipfl.drivers.machine import machine
from gossipfl.drivers.plan import neighbors_of_all, plan
from gossipfl.errors import ConfigError

BATCH: Final = 8
SECONDS: Final = 0.9  # of bare rounds in a turn
SHARE: Final = 5  # the nodes make so much fewer of them: they take longer
#: Rounds of bare processes in a turn, at most: of a process alone, which moves nothing.
MOST: Final = 50_000
#: Rounds of nodes in a turn, at least: in the first ones big vectors get their memory, which takes long.
ENOUGH: Final = 40
CROWD: Final = (
    16  # nodes whose processes can be looked at while a turn of them lasts; of more it lasts longer
)
LEARNING: Final = ("rounds_per_second", "limit_rounds_per_second", "ratio")
#: Seconds of a run in which processes are looked at, where a turn is over too soon.
LOOKED_AT: Final = 1.5
#: What is told instead of memory and processor time where the system tells nothing.
UNSEEN: Final = "the system does not tell what its processes hold and use (/proc)"
#: Training that is so many rounds of nodes that train nothing long, and seconds of it at least; rounds of it.
LONGER, LEAST, FEW = 2.0, 0.01, 24


@dataclass(frozen=True)
class Case:
    """What is measured. rounds: of a turn; 0: as many as bare processes make in about a second."""

    nodes: int = 8
    graph: str = "ring"
    parameters: int = 50_000
    rounds: int = 0
    transport: str = "auto"
    turns: int = 3


def measure(case: Case, say: Say) -> Row:
    """All figures of a case, one object. Raises ConfigError for a graph that is none, and where there is no
    room for so many nodes."""
    transport = "shm" if case.transport == "auto" else case.transport
    edges = plan(_config(case, transport, 1)).edges()
    size = 4 * case.parameters
    degrees = [len(near) for near in neighbors_of_all(edges, case.nodes)]
    if lacking := room.problems(degrees, size, room.limits()):
        raise ConfigError(lacking)

    def bare(rounds: int) -> Pace:
        return bare_rounds(case.nodes, edges, size, transport, rounds)

    say("bare processes")
    bare_count = case.rounds or _rounds(bare)
    longer = min(8, max(1, case.nodes // CROWD))
    rounds = case.rounds or max(ENOUGH, longer * bare_count // SHARE)
    exchange = _config(case, transport, rounds)
    units = hidden(case.parameters)
    training = _config(case, transport, rounds, units)
    plain: list[nodes.Run] = []
    trained: list[nodes.Run] = []
    limits: list[Pace] = []
    bounds: list[Pace] = []
    steps: list[float] = []
    for turn in range(case.turns):
        said = f"turn {turn + 1} of {case.turns}, {rounds} rounds"
        say(f"{said}: bare processes")
        limits.append(bare(bare_count))
        say(f"{said}: nodes that train nothing")
        plain.append(nodes.run(exchange))
        say(f"{said}: nodes that train")
        trained.append(nodes.run(training, measured=False))
        steps.append(plain_step(units, BATCH))
        bounds.append(Pace(training_rounds(case.nodes, steps[-1], limits[-1].wall)))
    learning = ratios([Pace(run.rounds_per_second) for run in trained], bounds, "rounds_per_second")
    looks = plain
    if not any(map(_seen, plain)):
        say("nodes that train nothing, for longer: to look at their processes")
        longer = round(LOOKED_AT * median(run.rounds_per_second for run in plain))
        looks = [nodes.run(_config(case, transport, max(rounds, longer)))]
    say("nodes that wait, and nodes that train while bytes move")
    pause = max(LEAST, LONGER / median(run.rounds_per_second for run in plain))
    late, early = (
        nodes.run(_config(case, transport, FEW, units, Learning(rule, pause)), measured=False)
        for rule in ("dpsgd", "dpsgd-cta")
    )
    spent = _median(looks, lambda r: r.cpu_seconds_round)
    sent = median(run.sent_bytes_per_round for run in plain)
    return {
        "engine": "nodes",
        "transport": transport,
        "nodes": case.nodes,
        "topology": case.graph,
        "parameters": case.parameters,
        "rounds": rounds,
        "turns": case.turns,
        **ratios([_pace(run, spent) for run in plain], limits, "rounds_per_second"),
        **{f"training_{key}": learning[key] for key in LEARNING},
        "training_parameters": 75 * units + 10,
        "training_batch": BATCH,
        "mb_per_second_node": rounded(sent * median(run.rounds_per_second for run in plain) / MB),
        "start_seconds": rounded(median(run.start_seconds for run in plain)),
        "start_seconds_after_ready": rounded(median(run.start_seconds_after_ready for run in plain)),
        "private_mb_node": _median(looks, lambda r: r.memory and r.memory.private / MB),
        "pss_mb_node": _median(looks, lambda r: r.memory and r.memory.proportional / MB),
        "cpu_seconds_round": spent,
        "unseen": None if any(map(_seen, looks)) else UNSEEN,
        "limit_cpu_seconds_round": rounded(median(1 / pace.cpu for pace in limits)),
        "context_switches_round": _median(looks, lambda r: r.switches_round),
        "overlap_training_seconds": rounded(pause),
        "overlap_wait_seconds": rounded(late.wait_seconds_round),
        "overlap_wait_seconds_early": rounded(early.wait_seconds_round),
        "plain_steps_per_second": rounded(median(1 / step for step in steps)),
        "copy_gb_per_second": rounded(copied_bytes(max(size, 2**20)) / 1e9),
        "machine": machine(),
        "load": load(),
    }


class Learning(NamedTuple):
    """By which rule, and how long a step takes besides."""

    rule: str = "dpsgd"
    pause: float = 0.0


USUAL: Final = Learning()


def _config(case: Case, transport: str, rounds: int, units: int = 0, how: Learning = USUAL) -> Config:
    task: dict[str, object] = {"units": units} if units else {"dimension": case.parameters}
    if how.pause:
        task["pause"] = how.pause
    return load_config(
        {
            "swarm": {"name": "bench", "nodes": case.nodes, "rounds": rounds, "eval_every": rounds},
            "topology": {"graph": case.graph},
            "train": {
                "task": "gossipfl.drivers.bench.tasks:perceptron" if units else "consensus",
                "batch": BATCH,
                "lr": 0.01,
                "device": "cpu",
            },
            "algorithm": {"rule": how.rule},
            "task": task,
            "data": {"partition": "iid"},
            "wire": {"transport": transport},
        }
    )


def _seen(run: nodes.Run) -> bool:
    """Were its processes looked at, while they held something and worked?"""
    return run.memory is not None and run.cpu_seconds_round is not None


def _pace(run: nodes.Run, looked_at: float | None) -> Pace:
    """looked_at: processor time of a node and round, where that of the run is not known."""
    cpu = run.cpu_seconds_round or looked_at
    return Pace(run.rounds_per_second, 1 / cpu if cpu else 0.0)


def _rounds(bare: Callable[[int], Pace]) -> int:
    """Rounds that bare processes make in about `SECONDS`."""
    guess = 4
    while True:
        rate = bare(guess).wall
        if guess / rate > SECONDS / 6 or guess > 1000:
            return min(MOST, max(8, round(rate * SECONDS)))
        guess *= 8


def _median(runs: list[nodes.Run], take: Callable[[nodes.Run], float | None]) -> float | None:
    found = [value for run in runs if (value := take(run)) is not None]
    return rounded(median(found)) if found else None
