"""What a run of rounds decided by itself, read from the records of its nodes.

For each node and round that is: whose payload did not count (`skip`) and to whom the own was not sent
(`withheld`), which earlier payloads did count (`correction`), which round came next where some were left out
(`onward`), and in which round the rule began anew (`reset`). A round of which nothing is written is one in
which all counted: what is out of the ordinary is on its way to the disk before anything of the next round is
sent, so it is there of a node that was killed, too, whose last rounds are not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from gossipfl.core.aggregate import Row
from gossipfl.errors import ConfigError, Problem
from gossipfl.records import Record, read

WHOLE = "replay a whole run of gossipfl swarm that has finished"


class Extent(NamedTuple):
    """What numbers there are in a run."""

    nodes: int
    rounds: int


@dataclass(slots=True)
class Closing:
    """What was out of the ordinary when a node closed a round."""

    absent: set[int] = field(default_factory=set)
    withheld: set[int] = field(default_factory=set)
    late: list[tuple[int, int]] = field(default_factory=list)  # peer, round of the payload
    onward: int | None = None  # the round after it, if not the next


@dataclass(slots=True)
class Decisions:
    """Those of one node. Rounds count from 0."""

    closings: dict[int, Closing] = field(
        default_factory=dict
    )  # by round; those that it is known to have made
    resets: set[int] = field(default_factory=set)
    shifts: list[list[tuple[int, int]]] = field(default_factory=list)  # what counted after the last round
    rounds: dict[int, Record] = field(default_factory=dict)  # what it said of the rounds that it closed

    def after(self, round: int) -> int:
        """The round that comes after this one."""
        closing = self.closings.get(round)
        return round + 1 if closing is None or closing.onward is None else closing.onward

    @property
    def last(self) -> int:
        """The last round that it is known to have closed; -1: none."""
        return max(self.closings, default=-1)

    def made(self, emitted: int) -> Iterator[int]:
        """The rounds that a node closed which is known to have sent its payload of round `emitted`."""
        last, round = self.last, 0
        while round < emitted or round <= last:
            yield round
            round = self.after(round)


def decisions(path: Path, extent: Extent) -> Decisions:
    """Those in a node's file of records. Raises ConfigError for a node that cannot be repeated, and for
    records that no run of this extent has made."""
    found = Decisions()
    try:
        for record in read(path):
            _require_possible(record, extent, path)
            _take(found, record, path)
    except OSError as error:
        raise ConfigError(Problem(str(path), f"cannot be read: {error.strerror}", WHOLE)) from error
    return found


def _require_possible(record: Record, extent: Extent, path: Path) -> None:
    """Does a record speak of nodes and rounds that there are?"""
    nodes, rounds = extent
    round = _whole(record, "round") or 0
    limits = {"round": (0, rounds), "of": (0, rounds - 1), "resumed": (0, rounds)}
    limits["onward"] = round + 1, rounds
    if record.get("kind") in ("skip", "withheld", "correction"):
        limits["peer"] = 0, nodes - 1
    for key, (low, high) in limits.items():
        value = _whole(record, key)
        if value is not None and not low <= value <= high:
            raise ConfigError(Problem(str(path), f"holds a record that is none: {key} {value}", WHOLE))


def require_whole(one: Decisions, goal: int, path: Path) -> None:
    """Do the records of a node that has finished tell of all its rounds, `goal` of them? Raises ConfigError
    naming the file where they do not."""
    missing = next((round for round in one.made(goal) if round not in one.rounds), None)
    if missing is not None:
        raise ConfigError(Problem(str(path), f"does not tell of round {missing + 1}", WHOLE))


def _take(found: Decisions, record: Record, path: Path) -> None:
    """Take one record in."""
    round, peer = _whole(record, "round"), _whole(record, "peer")
    if round is None:
        return
    match record.get("kind"):
        case "round":
            found.closings.setdefault(round - 1, Closing())
            found.rounds[round - 1] = record
        case "skip" if peer is not None:
            found.closings.setdefault(round, Closing()).absent.add(peer)
        case "withheld" if peer is not None:
            found.closings.setdefault(round, Closing()).withheld.add(peer)
        case "shift":
            found.shifts.append([])
        case "correction" if peer is not None:
            of = _whole(record, "of")
            if of is None:
                wrong = "is of a version that did not write down which round a correction is of"
                raise ConfigError(Problem(str(path), wrong, "replay it with the version that made it"))
            late = found.shifts[-1] if found.shifts else found.closings.setdefault(round, Closing()).late
            late.append((peer, of))
        case "reset":
            found.resets.add(round)
        case "note":
            _take_note(found, record, round, path)


def _take_note(found: Decisions, record: Record, round: int, path: Path) -> None:
    onward, resumed = _whole(record, "onward"), _whole(record, "resumed")
    if onward is not None:
        found.closings.setdefault(round - 1, Closing()).onward = onward
    if resumed is None:
        return
    if record.get("exact") is not True:
        wrong = f"is of a node that came back without its exact state (round {resumed + 1})"
        raise ConfigError(
            Problem(str(path), wrong, "only nodes that die for good, or come back exactly, are repeated")
        )
    for r in [r for r in found.closings if r >= resumed]:  # its checkpoint is from before these
        del found.closings[r]
        found.rounds.pop(r, None)
    found.shifts.clear()


def _whole(record: Record, key: str) -> int | None:
    value = record.get(key)
    return value if type(value) is int else None


def emitted(all: Sequence[Decisions], rows: Sequence[Callable[[int], Row]]) -> list[int]:
    """By node, the last round whose payload it is known to have made: it closed that round, or another node
    took the payload in."""
    found = [one.last for one in all]
    left = set(range(len(all)))
    while left:
        j = left.pop()
        for i, round in _taken(all[j], found[j], rows[j]):
            if round > found[i]:
                found[i] = round
                left.add(i)
    return found


def _taken(one: Decisions, emitted: int, row: Callable[[int], Row]) -> Iterable[tuple[int, int]]:
    """Whose payloads of which rounds a node took in."""
    for round in one.made(emitted):
        closing = one.closings.get(round)
        for peer in row(round).neighbors:
            if closing is None or peer not in closing.absent:
                yield peer, round
        yield from () if closing is None else closing.late
    for shift in one.shifts:
        yield from shift


def lost(folder: Path, names: Sequence[str]) -> frozenset[str]:
    """Those of the nodes that a finished run has lost. Raises ConfigError."""
    path = folder / "summary.json"
    try:
        summary = json.loads(path.read_text())
        gone = frozenset(map(str, summary["lost"]))
        whole = summary["nodes"] - summary["nodes_finished"] <= len(gone)
    except OSError as error:
        raise ConfigError(Problem(str(path), f"cannot be read: {error.strerror}", WHOLE)) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(Problem(str(path), "is no summary of a run", WHOLE)) from error
    if not whole:
        raise ConfigError(Problem(str(path), "is of a run whose nodes did not all end", WHOLE))
    for name in sorted(gone - frozenset(names)):
        raise ConfigError(Problem(str(path), f"has lost a node {name}, and there is none", WHOLE))
    return gone
