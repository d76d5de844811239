"""What `gossipfl bench` measures, by engine: the rows it shows when nothing else is asked for."""

from __future__ import annotations

from typing import Final, NamedTuple

from gossipfl.drivers.bench import happenings, lessons, mixing, steps, swarms
from gossipfl.drivers.bench.turns import Row, Say, load
from gossipfl.drivers.machine import machine

STEPS: Final = (100, 1000, 4096)  # nodes
MIXING: Final = (("ring", 256, 100_000), ("ring", 4096, 10_000), ("ring", 16, 1_000_000))


class Choices(NamedTuple):
    """What was asked for; None (of rounds 0): as it comes."""

    nodes: int | None = None
    graph: str | None = None
    parameters: int | None = None
    rounds: int = 0
    turns: int | None = None


def nodes(asked: Choices, transport: str, say: Say) -> Row:
    """Real processes: one case, with many figures."""
    case = swarms.Case(
        asked.nodes or 8,
        asked.graph or "ring",
        asked.parameters or 50_000,
        asked.rounds,
        transport,
        asked.turns or 3,
    )
    return swarms.measure(case, say)


def vector(asked: Choices, say: Say) -> Row:
    """The vector engine's steps and its mixing. `parameters` is for the mixing: the steps are of digits."""
    turns = asked.turns or 3
    sizes = STEPS if asked.nodes is None else (asked.nodes,)
    found = []
    if asked.parameters is None:
        for n in sizes:
            case = steps.Case(n, asked.graph or "regular:4", asked.rounds, turns)
            found.append(steps.measure(case, say))
    shapes: tuple[tuple[str, int, int], ...] = MIXING
    if asked != Choices(rounds=asked.rounds, turns=asked.turns):
        d = asked.parameters or 4810
        shapes = tuple((asked.graph or ("ring" if asked.parameters else "regular:4"), n, d) for n in sizes)
    found += [mixing.measure(mixing.Case(graph, n, d, turns), say) for graph, n, d in shapes]
    return _told("vector", found)


def events(asked: Choices, say: Say) -> Row:
    """The event engine without training, and with it. `parameters` is for the first: the second is of
    digits."""
    n, graph, turns = asked.nodes or 1000, asked.graph or "regular:4", asked.turns or 3
    case = happenings.Case(n, graph, asked.parameters or 1000, asked.rounds or 20, turns)
    found = [happenings.measure(case, say)]
    if asked.parameters is None:
        found.append(lessons.measure(lessons.Case(n, graph, asked.rounds or 10, turns), say))
    return _told("events", found)


def _told(engine: str, rows: list[Row]) -> Row:
    return {"engine": engine, "rows": rows, "machine": machine(), "load": load()}
