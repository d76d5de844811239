"""Where a stopped run can go on: the newest state that its nodes have in common. No torch in here."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from gossipfl.config import Config
from gossipfl.drivers import checkpoint
from gossipfl.drivers.plan import Plan
from gossipfl.errors import ConfigError, Problem

#: What a run leaves once all is done; where it is missing, only summing up may be left to do.
SUMMARY: Final = "summary.json"
#: What is compared when the data are at hand, and how it is called.
HASHES: Final[Mapping[str, str]] = {"graph": "the graph", "model": "the model", "data": "the data"}


#: What is not as it was when nodes have been added.
_GROWS: Final = frozenset({"names", "swarm.nodes"})


class Found(NamedTuple):
    """What a run goes on from."""

    rounds: Mapping[str, int]  # node name -> the round of its checkpoint
    lost: Mapping[str, str]  # node name -> why it has no part in this any more
    notes: tuple[str, ...]  # for people
    grown: bool = False  # have nodes been added since?


class Shelf:
    """A run's checkpoints, each looked into once."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder / checkpoint.FOLDER
        self.rounds = {name: checkpoint.rounds(self.folder / name) for name in names}
        self.notes: list[str] = []
        self.last = ""  # what was wrong with the last one that could not be used
        self._headers: dict[tuple[str, int], dict[str, Any]] = {}

    def header(self, name: str, round: int) -> dict[str, Any] | None:
        """What a checkpoint says; None, with a note, if it cannot be used: then it is not there any more."""
        if (name, round) not in self._headers:
            try:
                self._headers[name, round] = checkpoint.header(self.folder / name, round)
            except checkpoint.Unusable as error:
                self.rounds[name].remove(round)
                self.last = f"{self.folder / name / f'{round:08d}'} {error}"
                self.notes.append(f"{self.last}; an older one is taken")
                return None
        return self._headers[name, round]

    def common(self, names: Sequence[str]) -> int | None:
        """The newest round of which every one of these nodes has a checkpoint that can be used."""
        while shared := set.intersection(*(set(self.rounds[name]) for name in names)):
            newest = max(shared)
            if all(self.header(name, newest) is not None for name in names):
                return newest
        return None


def find(folder: Path, config: Config, plan: Plan | None = None) -> Found:
    """What the run in a folder goes on from; plan: its graph, where that can be made without the data.

    Raises ConfigError: no checkpoint, none that can be used, a config that differs in what matters, nothing
    left to do.
    """
    shelf = Shelf(folder, config.names)
    if not any(shelf.rounds.values()):
        wrong = f"{folder} holds no checkpoint"
        raise ConfigError(Problem("--resume", wrong, "nodes write them where swarm.checkpoint_every is set"))
    for name in config.names:  # a config that differs would not find the states that it has to
        said = shelf.header(name, max(shelf.rounds[name])) if shelf.rounds[name] else None
        if said is not None:
            require_same(config, said, folder)
            break
    rounds: dict[str, int] = {}
    lost: dict[str, str] = {}
    # so many rounds are kept of a swarm whose nodes wait for each other
    apart = checkpoint.KEEP * config.swarm.checkpoint_every + checkpoint.lead(config)
    for names in _groups(config, plan):
        _together(shelf, names, apart, rounds, lost)
    if not rounds:
        raise ConfigError(Problem("--resume", f"every node of the run in {folder} was lost", "start anew"))
    if min(rounds.values()) >= config.swarm.rounds and (folder / SUMMARY).exists():
        wrong = f"is {config.swarm.rounds}, and the run in {folder} has made {min(rounds.values())}"
        right = f"--set swarm.rounds={2 * config.swarm.rounds}, to go on"
        raise ConfigError(Problem("swarm.rounds", wrong, right))
    return Found(rounds, lost, tuple(shelf.notes))


def find_own(folder: Path, config: Config, name: str) -> Found:
    """The same for one node among machines: its own newest state. Raises ConfigError."""
    shelf = Shelf(folder, [name])
    round = shelf.common([name])
    if round is None:
        wrong = shelf.last or f"{folder} holds no checkpoint of {name}"
        raise ConfigError(Problem("--resume", wrong, "leave it out, to begin anew"))
    header = shelf.header(name, round) or {}
    more = grown(config, header)
    require_same(config, header, folder, _GROWS if more else frozenset())
    if round >= config.swarm.rounds:
        wrong = f"is {config.swarm.rounds}, and {name} has made all of them"
        raise ConfigError(Problem("swarm.rounds", wrong, "more of them, in everyone's file"))
    return Found({name: round}, {}, tuple(shelf.notes), more)


def grown(config: Config, found: Mapping[str, Any]) -> bool:
    """Have nodes been added to the file since the checkpoint, after those that it had? Then a node goes on
    with its model, and all begin their rule anew; so it is in `rounds` alone."""
    then = found.get("essentials", {}).get("names", [])
    more = len(config.names) > len(then) > 0 and list(config.names[: len(then)]) == then
    return more and config.algorithm.exchange == "rounds"


def newest_folder(name: str) -> Path:
    """The folder of a node's last run that holds checkpoints, among those that are named by default.

    Raises ConfigError.
    """
    own = [path / checkpoint.FOLDER / name for path in Path("runs").glob(f"{name}-*")]
    found = [path for path in own if checkpoint.rounds(path)]
    if not found:
        wrong = f"no run of {name} in runs/ holds a checkpoint"
        raise ConfigError(Problem("--resume", wrong, "say where it is, with --out"))
    return max(found, key=lambda path: path.stat().st_mtime).parents[1]


def _groups(config: Config, plan: Plan | None) -> list[list[str]]:
    """The nodes that have to go on from one round: those that hear of each other."""
    names = config.names
    if config.algorithm.exchange != "rounds" or config.algorithm.rule == "none":
        return [[name] for name in names]
    if plan is None:
        return [list(names)]
    home = list(range(plan.n))

    def root(i: int) -> int:
        while home[i] != i:
            i = home[i]
        return i

    for i, j in plan.edges():
        home[max(root(i), root(j))] = min(root(i), root(j))
    groups: dict[int, list[str]] = {}
    for i, name in enumerate(names):
        groups.setdefault(root(i), []).append(name)
    return list(groups.values())


def _together(
    shelf: Shelf, names: list[str], apart: int, rounds: dict[str, int], lost: dict[str, str]
) -> None:
    """Fill in for nodes that hear of each other. One that had been lost long before the others stopped, so
    that they have nothing in common with it any more, or nothing but what is more than `apart` rounds old,
    stays lost. Raises ConfigError."""
    while names:
        common = shelf.common(names)
        gone = [name for name in names if checkpoint.is_lost(shelf.folder / name)]
        living = [name for name in names if name not in gone]
        ahead = shelf.common(living) if gone and living else None
        if common is not None and (ahead is None or ahead - common <= apart):
            rounds |= dict.fromkeys(names, common)
            return
        newest = {name: max(shelf.rounds[name], default=-1) for name in names}
        first = min(names if common is None else gone, key=lambda name: newest[name])
        if first not in gone:
            what = f"has none after round {newest[first]}" if newest[first] >= 0 else "has none"
            wrong = shelf.last or f"{shelf.folder}: the nodes have no round in common: {first} {what}"
            raise ConfigError(Problem("--resume", wrong, "no other checkpoint is there to take; start anew"))
        names.remove(first)
        lost[first] = "was lost before the run was stopped"


def require_same(
    config: Config, found: Mapping[str, Any], folder: Path, free: frozenset[str] = frozenset()
) -> None:
    """Raises ConfigError for everything that matters, but for the keys in `free`, and is not as it was at the
    checkpoint."""
    # A key that did not exist then was as it is by default.
    then = {**checkpoint.essentials(Config()), **found.get("essentials", {})}
    now = checkpoint.essentials(config)
    if then.get("swarm.nodes") != now.get("swarm.nodes"):
        free |= {"names"}  # which follow from it, and which nobody has set
    problems = [
        Problem(key, f"is {_shown(now.get(key))}, and was {_shown(then.get(key))} in {folder}", "as it was")
        for key in sorted({*found.get("essentials", {}), *now})
        if then.get(key) != now.get(key) and key not in free
    ]
    if problems:
        raise ConfigError(problems)


def require_same_data(about: Mapping[str, object], found: Mapping[str, Any], static: bool) -> None:
    """The same for what is known only with the data at hand; static: the graph does not depend on the number
    of rounds."""
    for key, name in HASHES.items():
        then, now = found["hashes"][key], about[key]
        if then != now and (key != "graph" or static):
            wrong = f"{name} changed since the checkpoint ({now}, and was {then})"
            raise ConfigError(Problem("--resume", wrong, "a run goes on with what it began with"))


def _shown(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def rewind(folder: Path, found: Found) -> None:
    """Take away what is later than the states that are gone on from: checkpoints, and records, so that
    nothing is counted twice; and the summary, which is not of what follows. Raises OSError."""
    (folder / SUMMARY).unlink(missing_ok=True)
    for name, round in found.rounds.items():
        own = folder / checkpoint.FOLDER / name
        checkpoint.clear(own, round)
        path = folder / "records" / f"{name}.jsonl"
        position = int(checkpoint.header(own, round)["records"])
        if path.exists() and path.stat().st_size > position:
            os.truncate(path, position)
