"""Mistakes in `[[fault]]` tables, all of them, each under its key: fault.NUMBER.KEY, numbers from 1."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gossipfl.config.checking import Unfit, made
from gossipfl.config.fault import KINDS, MOST, OF_MESSAGES, OF_NODES, Fault, as_list
from gossipfl.errors import Problem

if TYPE_CHECKING:
    from gossipfl.config.model import Config

_KEYS = {Fault.about(name).alias or name: name for name in Fault.fields()}
_RIGHT = {
    "kind": f"one of {', '.join(KINDS)}",
    "at": "seconds from the start of training, at least 0",
    "round": "a whole number, at least 1",
    "node": "a node's index or name",
    "edge": "a list of two nodes, by index or name, such as [0, 1]",
    "groups": "lists of nodes, such as [[0, 1], [2, 3]]",
    "until": "seconds from the start of training, above 0",
    "for": "seconds, above 0",
    "factor": "a number above 0",
    "share": "a number above 0, at most 1",
}


def fault_problems(tables: object) -> Iterator[Problem]:
    """What is wrong with the tables themselves."""
    found = as_list(tables)
    if not isinstance(found, list) or not all(isinstance(table, dict) for table in found):
        yield Problem("fault", "is no list of tables", "write one [[fault]] table a disaster")
        return
    if len(found) > MOST:
        yield Problem("fault", f"has {len(found)} tables", f"at most {MOST}")
    for number, table in enumerate(found, start=1):
        yield from _one(table, f"fault.{number}")


def _one(table: dict[str, object], where: str) -> Iterator[Problem]:
    for key in table:
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, n=1)
            right = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(_KEYS)}"
            yield Problem(f"{where}.{key}", "unknown key", right)
    try:
        made(Fault, {key: v for key, v in table.items() if key in _KEYS})
    except Unfit as error:
        bad = {key for key, *_ in error.places}
        for key in _KEYS:
            if key in bad or _KEYS[key] in bad:
                wrong = f"cannot be {table[key]!r}" if key in table else "is missing"
                yield Problem(f"{where}.{key}", wrong, _RIGHT[key])


def script_problems(config: Config) -> Iterator[tuple[frozenset[str], Problem]]:
    """Faults whose keys do not go together, and nodes that there are not."""
    involved, rounds = frozenset({"fault", "swarm.nodes"}), config.swarm.rounds
    for number, fault in enumerate(config.fault, start=1):
        if fault.round is not None and fault.round > rounds:
            wrong = f"is {fault.round}, and the run has {rounds} rounds: it would never happen"
            too_late = Problem(f"fault.{number}.round", wrong, f"at most {rounds}, or a larger swarm.rounds")
            yield frozenset({"fault", "swarm.rounds"}), too_late
        for key, wrong, right in (*_when(fault), *_whom(fault), *_nodes(fault, config.names)):
            yield involved, Problem(f"fault.{number}.{key}", wrong, right)


Wrong = tuple[str, str, str]  # the key, what is wrong, what would be right


def _when(fault: Fault) -> Iterator[Wrong]:
    if fault.at is None and fault.round is None:
        yield "at", "is missing", "seconds from the start of training, or round = R"
    if fault.at is not None and fault.round is not None:
        yield "round", "is set beside at", "one of the two"
    if fault.until is not None and fault.lasts is not None:
        yield "for", "is set beside until", "one of the two"
    if fault.until is not None and fault.round is not None:
        yield "until", "is set beside round", "for = SECONDS"
    if fault.until is not None and fault.at is not None and fault.until <= fault.at:
        yield "until", f"is {fault.until:g}, and it begins at {fault.at:g}", "later than at"
    if fault.kind in ("hang", "partition") and fault.until is None and fault.lasts is None:
        yield "for", "is missing", f"how long the {fault.kind} lasts, in seconds; or until"


def _whom(fault: Fault) -> Iterator[Wrong]:
    if fault.kind in OF_NODES:
        if fault.node is None:
            yield "node", "is missing", f"whom the {fault.kind} befalls"
        for key in ("edge", "groups"):
            if getattr(fault, key):
                yield key, f"is set, and a {fault.kind} befalls a node", "leave it out"
    elif fault.kind == "partition":
        if not fault.edge and not fault.groups:
            yield "groups", "is missing", "lists of nodes, such as [[0, 1], [2, 3]]; or edge = [0, 1]"
        if fault.edge and fault.groups:
            yield "edge", "is set beside groups", "one of the two"
        if fault.node is not None:
            yield "node", "is set, and a partition is between groups", "groups = [[that node]]"
    else:
        if fault.edge and fault.node is not None:
            yield "edge", "is set beside node", "one of the two, or neither for all lines"
        if fault.groups:
            yield "groups", f"is set, and {fault.kind} befalls messages", "edge, node, or neither"
    if "factor" in fault.given and fault.kind != "slow":
        yield "factor", f"is set, and a {fault.kind} has none", "leave it out"
    if "share" in fault.given:
        if fault.kind not in OF_MESSAGES:
            yield "share", f"is set, and a {fault.kind} has none", "leave it out"
        elif fault.until is None and fault.lasts is None:
            yield "share", "is set, and without for or until it is the next message alone", "for = SECONDS"


def _nodes(fault: Fault, names: tuple[str, ...]) -> Iterator[Wrong]:
    right = f"a name, or an index from 0 to {len(names) - 1}"
    told: list[tuple[str, int | str]] = [] if fault.node is None else [("node", fault.node)]
    told += [("edge", end) for end in fault.edge or ()]
    told += [("groups", member) for group in fault.groups for member in group]
    for key, node in told:
        if not _there(node, names):
            yield key, f"there is no node {node!r}", right
    if fault.edge and fault.edge[0] == fault.edge[1]:
        yield "edge", f"begins and ends at {fault.edge[0]!r}", "two nodes"
    members = [node for group in fault.groups for node in group if _there(node, names)]
    indices = [node if isinstance(node, int) else names.index(node) for node in members]
    for node in sorted({node for node in indices if indices.count(node) > 1}):
        yield "groups", f"{names[node]} is in two groups", "each node in one"
    everyone_in_one = len(fault.groups) == 1 and len(set(indices)) == len(names)
    if fault.groups and (not all(fault.groups) or everyone_in_one):
        yield "groups", "leaves nobody on the other side", "lists of some of the nodes"


def _there(node: int | str, names: tuple[str, ...]) -> bool:
    return 0 <= node < len(names) if isinstance(node, int) else node in names
