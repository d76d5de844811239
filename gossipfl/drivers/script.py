"""A fault script made ready for a graph: whom each fault befalls, which lines, when and for how long.

What a fault does is the same for the event engine (`disasters`) and for real processes (`faults`); it is said
in docs/faults.md.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

from gossipfl.config import Config
from gossipfl.config.fault import OF_MESSAGES, Fault
from gossipfl.errors import ConfigError, Problem

Edge = tuple[int, int]


class Act(NamedTuple):
    """One fault; nodes by index, lines with the lower end first."""

    number: int  # in the script, from 1
    kind: str
    at: float | None  # seconds from the start of training; None: by round
    round: int  # ... as soon as one of `nodes` has made so many
    lasts: float  # seconds; 0: for a moment (of messages: the next one alone); infinite: to the end
    nodes: tuple[int, ...]  # whom it concerns
    lines: tuple[Edge, ...]
    factor: float
    share: float
    text: str  # for the records

    def concerns(self, edge: Edge) -> bool:
        """Is it about this line?"""
        return edge in self.lines


def acts(config: Config, edges: Sequence[Edge]) -> tuple[Act, ...]:
    """The script of a config on a graph's edges (i < j). Raises ConfigError with every line that is not
    there."""
    found, problems = list[Act](), list[Problem]()
    for number, fault in enumerate(config.fault, start=1):
        act = _act(number, fault, config.names, edges)
        if not act.lines and (fault.kind == "partition" or fault.kind in OF_MESSAGES):
            key = "edge" if fault.edge else "groups" if fault.groups else "node"
            wrong = f"there is no line in this graph that the {fault.kind} is about"
            problems.append(Problem(f"fault.{number}.{key}", wrong, "the ends of an edge of topology.graph"))
        found.append(act)
    if problems:
        raise ConfigError(problems)
    return tuple(found)


def _act(number: int, fault: Fault, names: tuple[str, ...], edges: Sequence[Edge]) -> Act:
    def index(node: int | str) -> int:
        return node if isinstance(node, int) else names.index(node)

    at = fault.at
    if fault.lasts is not None:
        lasts = fault.lasts
    elif fault.until is not None and at is not None:
        lasts = fault.until - at
    else:
        lasts = 0.0 if fault.kind in OF_MESSAGES or fault.kind == "restart" else math.inf
    groups = [[index(node) for node in group] for group in fault.groups]
    side = {node: k for k, group in enumerate(groups, start=1) for node in group}
    if fault.node is not None:
        nodes = [index(fault.node)]
        lines = [edge for edge in edges if nodes[0] in edge]
    elif fault.edge is not None:
        nodes = sorted(map(index, fault.edge))
        lines = [edge for edge in edges if list(edge) == nodes]
    elif groups:
        nodes = [node for group in groups for node in group]
        lines = [(i, j) for i, j in edges if side.get(i, 0) != side.get(j, 0)]
    else:
        nodes, lines = list(range(len(names))), list(edges)
    return Act(
        number,
        fault.kind,
        at,
        fault.round or 0,
        lasts,
        tuple(nodes),
        tuple(lines),
        fault.factor,
        fault.share,
        _text(fault, lasts),
    )


def _text(fault: Fault, lasts: float) -> str:
    words: list[str] = [fault.kind]
    if fault.kind == "slow":
        words.append(f"{fault.factor:g} times")
    if fault.groups:
        words.append(" | ".join(", ".join(map(str, group)) for group in (*fault.groups, ("the others",))))
    if fault.edge:
        words.append(f"{fault.edge[0]}–{fault.edge[1]}")
    if fault.share < 1:
        words.append(f"{fault.share:.3g} of the messages")
    if 0 < lasts < math.inf:
        words.append(f"for {lasts:g} s")
    return " ".join(words)


def returns(script: Sequence[Act], node: int, done: Collection[int], waiting: Collection[Act] = ()) -> bool:
    """Is a node that is killed to be started again by a fault that is not `done`? One that still waits for a
    round of that node does not come: it makes none any more."""
    restarts = (act for act in script if act.kind == "restart" and node in act.nodes)
    return any(act.number not in done and act not in waiting for act in restarts)


class Downs:
    """Which faults keep which nodes down: a node begins again when the last of its kills is over, or when a
    restart says so, whatever killed it before."""

    def __init__(self) -> None:
        self._by: dict[int, set[int]] = {}  # numbers of faults, by node

    def down(self, act: Act) -> None:
        """A kill, or a restart of which it is down first, has happened."""
        if act.kind == "restart":
            self.up(act.nodes[0])
        self._by.setdefault(act.nodes[0], set()).add(act.number)

    def up(self, node: int) -> None:
        """It begins again, or is gone for good: nothing that has happened so far keeps it down."""
        self._by.pop(node, None)

    def over(self, act: Act) -> bool:
        """The time of a fault is over: does its node begin again?"""
        by = self._by.get(act.nodes[0], set())
        if act.number not in by:
            return False
        by.discard(act.number)
        return not by


def check_engine(config: Config, engine: str) -> None:
    """Can `engine` ("swarm", "events", "vector") let the config's faults happen? Raises ConfigError."""
    if not config.fault:
        return
    if engine == "vector":
        why = "the vector engine has neither processes nor lines that faults could befall"
        raise ConfigError(Problem("fault", why, "gossipfl simulate --engine events, or gossipfl swarm"))
