"""Real nodes, measured from outside while they run: their records and /proc tell everything."""

from __future__ import annotations

import tempfile
import time
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from gossipfl.config import Config
from gossipfl.drivers.bench.usage import Memory, Usage, memory, usage
from gossipfl.drivers.swarm import Swarm
from gossipfl.errors import ConfigError, GossipError, Problem
from gossipfl.records import number, scan

#: Seconds between two looks at what the processes use.
LOOK_EVERY: Final = 0.05
#: Nodes whose memory is looked at, of all: the system takes up to 60 ms for each.
LOOKED_AT: Final = 8
#: The share of the rounds before the clock starts.
WARM: Final = 0.15


class Reading(NamedTuple):
    """What all nodes had used at a time (seconds since the start)."""

    at: float
    usage: Usage


@dataclass
class Run:
    """One swarm's figures; None for what the system does not tell, or could not in so short a run."""

    rounds_per_second: float
    start_seconds: float  # from the command to the last node's first round
    start_seconds_after_ready: float  # from the fork to the last node's first round
    sent_bytes_per_round: float  # of a node
    wait_seconds_round: float  # of a node, for its neighbors
    memory: Memory | None = None
    cpu_seconds_round: float | None = None  # of a node
    switches_round: float | None = None  # of a node


@dataclass
class _Seen:
    pids: list[int] = field(default_factory=list)
    ready: float = 0.0
    readings: list[Reading] = field(default_factory=list)
    memory: Memory | None = None
    last: dict[str, object] = field(default_factory=dict)


def run(config: Config, *, measured: bool = True) -> Run:
    """Run a swarm and measure it; with `measured` its processes are looked at while they run."""
    with tempfile.TemporaryDirectory(prefix="gossipfl-") as name:
        folder = Path(name)
        seen = _watch(config, folder, measured)
        rounds, waits = _rounds(folder)
    summary = seen.last.get("summary")
    if not isinstance(summary, Mapping):
        problems = seen.last.get("problems")
        if isinstance(problems, list):
            raise ConfigError([Problem(*map(str, p)) for p in problems])
        raise GossipError(str(seen.last.get("error", "the nodes ended without a word")))
    if not summary["finished"] or not rounds:
        raise GossipError("not every node finished: nothing to measure")
    total = config.swarm.rounds
    warm = min(total - 1, max(1, round(WARM * total)))
    start = number(summary["start_seconds"])
    found = Run(
        median((total - warm) / max(1e-9, times[-1] - times[warm - 1]) for times in rounds),
        start,
        start - seen.ready,
        number(summary["sent_bytes_per_node"]) / total,
        median(wait for node in waits for wait in node[warm:]),
        seen.memory,
    )
    first, last = max(times[0] for times in rounds), min(times[-1] for times in rounds)
    steady = [r for r in seen.readings if first <= r.at <= last]
    if len(steady) > 1:
        a, b = steady[0], steady[-1]
        passed = sum(bisect_right(t, b.at) - bisect_right(t, a.at) for t in rounds)
        if passed:
            found.cpu_seconds_round = (b.usage.cpu_seconds - a.usage.cpu_seconds) / passed
            found.switches_round = (b.usage.switches - a.usage.switches) / passed
    return found


def _watch(config: Config, folder: Path, measured: bool) -> _Seen:
    seen = _Seen()
    epoch = time.monotonic()
    with Swarm(config, folder) as running:
        for word in running.words(LOOK_EVERY):
            if word is not None:
                seen.last = {**seen.last, **word}
                seen.ready = number(word.get("ready"), seen.ready)
                started = word.get("started")
                seen.pids = started if isinstance(started, list) else seen.pids
            elif measured and seen.pids:
                found = usage(seen.pids)
                if found is not None:
                    seen.readings.append(Reading(time.monotonic() - epoch, found))
                    # of nodes that are under way, and not at every look: the system walks all their pages
                    if len(seen.readings) in (1, 8, 24):
                        some = seen.pids[:: -(-len(seen.pids) // LOOKED_AT)]
                        seen.memory = memory(some) or seen.memory
    return seen


def _rounds(folder: Path) -> tuple[Sequence[list[float]], Sequence[list[float]]]:
    """When each node had finished each round, in seconds since the start, and how long it waited in each."""
    times: dict[object, list[float]] = {}
    waits: dict[object, list[float]] = {}
    for record in scan(folder):
        if record["kind"] == "round":
            times.setdefault(record["node"], []).append(number(record["time"]))
            waits.setdefault(record["node"], []).append(number(record["wait_s"]))
    return list(times.values()), list(waits.values())
