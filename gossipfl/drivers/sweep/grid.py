"""What a sweep's file says: a base config, the keys that vary, the cells that come of it. No torch here."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gossipfl.config import Config, load_config
from gossipfl.config.problems import nearest, shown
from gossipfl.errors import ConfigError, Problem

ENGINES: Final = ("vector", "events", "swarm")
MANY: Final = 1_000_000
"""Cells above which a sweep runs only if it is said that so many are meant."""
TRIED: Final = 2_000
"""Distinct combinations of graph and rule that are tried before anything starts; others when they run."""

#: Keys that do not change what comes out.
_INDIFFERENT: Final = frozenset(
    {"swarm.name", "swarm.start_timeout", "swarm.tensorboard", "swarm.writer", "data.path"}
)
_TABLES: Final = ("name", "engine", "seeds", "base", "grid", "case")

Table = Mapping[str, object]
Source = str | os.PathLike[str] | Table


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a sweep, before it has run.

    settings: dotted key -> value, as the sweep sets them. axes: axis -> what stands on it, as text or number;
    columns: every varied key and its resolved value. wrong: why this config cannot run, or "".
    """

    settings: Table
    axes: Table
    columns: Table
    seed: int
    hash: str  # 16 hexadecimal digits: engine and resolved config
    cost: float  # about how long it takes, in units of its own
    wrong: str = ""


@dataclass(frozen=True)
class Sweep:
    """A sweep's file, read; `cells` expands it.

    base: sections of the config. cases: each a product of keys with their values, with a label or "". grid:
    keys with their values. axes: what the runs differ in besides the seed.
    """

    name: str
    engine: str
    base: Table
    cases: tuple[tuple[str, Mapping[str, list[object]]], ...]
    grid: Mapping[str, list[object]]
    seeds: tuple[int, ...]
    text: str  # the file as it was written, or its content as JSON

    @property
    def count(self) -> int:
        """How many cells there are, seeds included."""
        cases = sum(math.prod(len(values) for values in keys.values()) for _, keys in self.cases)
        return max(cases, 1) * math.prod(len(v) for v in self.grid.values()) * len(self.seeds)

    @property
    def axes(self) -> tuple[str, ...]:
        """`case` where there are several, and each key of the grid that has several values."""
        several = len(list(self._cases())) > 1
        return (*(("case",) if several else ()), *(k for k, v in self.grid.items() if len(v) > 1))

    def config(self, cell: Cell) -> Config:
        """The config of a cell. Raises ConfigError where it is wrong."""
        return load_config(self.base, cell.settings)

    def _cases(self) -> Iterator[tuple[str, dict[str, object]]]:
        for label, keys in self.cases or (("", {}),):
            several = [key for key, values in keys.items() if len(values) > 1]
            for chosen in _product(keys):
                named = several if label else list(chosen)
                said = ", ".join(f"{key.rpartition('.')[2]} {_word(chosen[key])}" for key in named)
                yield " · ".join(filter(None, (label, said))), chosen

    def cells(self) -> list[Cell]:
        """All cells, each once, all of a seed before the next seed's.

        Raises ConfigError with the mistakes that no combination of keys can put right; a cell that only its
        combination makes wrong is a cell that fails.
        """
        found: dict[str, Cell] = {}
        faults, tried = _Faults(), _Trials(self.engine)
        case_keys = [key for _, keys in self.cases for key in keys] if len(self.cases) > 1 else []
        case_keys += [key for _, keys in self.cases for key, values in keys.items() if len(values) > 1]
        grid_keys = [key for key, values in self.grid.items() if len(values) > 1]
        varied = list(dict.fromkeys((*case_keys, *grid_keys)))
        cases, axes = list(self._cases()), self.axes
        for seed in self.seeds:
            for (label, chosen), point in itertools.product(cases, _product(self.grid)):
                settings = {**chosen, **point, "swarm.seed": seed}
                wrong, config = "", None
                try:
                    config = load_config(self.base, settings)
                    wrong = tried(config)
                except ConfigError as error:
                    wrong = faults.add(settings, error)
                else:
                    faults.tried(settings, tried.problems(config))
                resolved = config.to_dict() if config is not None else {}
                columns = {key: _resolved(resolved, key, settings.get(key)) for key in varied}
                places = {a: label if a == "case" else _word(point[a]) for a in axes}
                digest = _hash(self.engine, resolved if config is not None else {**self.base, **settings})
                found.setdefault(digest, Cell(settings, places, columns, seed, digest, _cost(config), wrong))
        if problems := faults.certain():
            raise ConfigError(problems)
        return list(found.values())


class _Trials:
    """Do graph and rule fit? Each combination is tried once, whatever else differs."""

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._known: dict[str, tuple[Problem, ...]] = {}

    def __call__(self, config: Config) -> str:
        return "; ".join(str(problem) for problem in self.problems(config))

    def problems(self, config: Config) -> tuple[Problem, ...]:
        from gossipfl.core.asynchronous import check_engine
        from gossipfl.drivers import script
        from gossipfl.drivers.plan import needs_sizes, plan

        sections = config.to_dict()
        key = json.dumps(
            [config.swarm.nodes, *(sections[s] for s in ("topology", "algorithm", "wire"))], default=str
        )
        if key not in self._known:
            self._known[key] = ()
            if len(self._known) <= TRIED and not needs_sizes(config):
                try:
                    check_engine(config.algorithm.exchange, config.algorithm.replay, self._engine)
                    script.check_engine(config, self._engine)
                    plan(config)
                except ConfigError as error:
                    self._known[key] = error.problems
        return self._known[key]


class _Faults:
    """Which values of which keys are wrong wherever they stand?"""

    def __init__(self) -> None:
        self._problems: dict[tuple[str, str], Problem] = {}
        self._fine: set[tuple[str, str]] = set()
        self._base: dict[Problem, int] = {}
        self._cells = 0

    def add(self, settings: Table, error: ConfigError) -> str:
        """A cell's config is wrong; the mistakes in words."""
        self.tried(settings, error.problems)
        return "; ".join(str(problem) for problem in error.problems)

    def tried(self, settings: Table, problems: Iterable[Problem]) -> None:
        self._cells += 1
        bad = {problem.key: problem for problem in problems}
        for key, value in settings.items():
            place = key, repr(value)
            if key in bad:
                self._problems.setdefault(place, bad[key])
            elif not bad:
                self._fine.add(place)
        for problem in bad.values():
            if problem.key not in settings:
                self._base[problem] = self._base.get(problem, 0) + 1

    def certain(self) -> list[Problem]:
        """What is wrong in every cell it stands in."""
        found = [problem for place, problem in self._problems.items() if place not in self._fine]
        found += [problem for problem, count in self._base.items() if count == self._cells]
        return list(dict.fromkeys(found))


def load_sweep(source: Source, *, engine: str | None = None) -> Sweep:
    """Read a sweep: a TOML file, or a mapping of the same tables.

    engine: instead of the one the sweep names. Raises ConfigError with every mistake in its tables.
    """
    if isinstance(source, Mapping):
        tables, name, folder = dict(source), "sweep", Path()
        text = json.dumps(tables, indent=1, default=_jsonable)
    else:
        path = Path(source)
        tables, text = _read(path)
        name, folder = path.stem, path.parent
    problems: list[Problem] = []
    for key in tables:
        if key not in _TABLES:
            guess = nearest(key, _TABLES)
            right = f"did you mean {guess}?" if guess else f"the tables of a sweep are {', '.join(_TABLES)}"
            problems.append(Problem(key, "unknown key", right))
    chosen = engine or tables.get("engine", "vector")
    if chosen not in ENGINES:
        problems.append(Problem("engine", f"cannot be {shown(chosen)}", f"one of {', '.join(ENGINES)}"))
    base = _base(tables.get("base", {}), folder, problems)
    grid = _lists("grid", tables.get("grid", {}), problems)
    cases = _cases(tables.get("case", []), grid, problems)
    seeds = _seeds(tables.get("seeds"), base, problems)
    if not problems and not grid and not cases and "seeds" not in tables:
        right = '[grid] with a key and its values, such as "train.lr" = [0.1, 0.01]'
        problems.append(Problem("grid", "is empty, and so are [[case]] and seeds", right))
    if problems:
        raise ConfigError(problems)
    title = str(tables.get("name") or name)
    return Sweep(title, str(chosen), base, cases, grid, seeds, text)


def _read(path: Path) -> tuple[dict[str, object], str]:
    try:
        text = path.read_bytes().decode()
        return tomllib.loads(text), text
    except FileNotFoundError:
        raise ConfigError(Problem(str(path), "no such file", "give a sweep's TOML file")) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        load_config(path)  # says what is wrong with it, and in which line
        raise


def _base(value: object, folder: Path, problems: list[Problem]) -> Table:
    if isinstance(value, Config):
        return value.to_dict()
    if isinstance(value, Mapping):
        return value
    if isinstance(value, str | os.PathLike):
        path = folder / value
        try:
            return tomllib.loads(path.read_bytes().decode())
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
            try:
                load_config(path)
            except ConfigError as error:
                problems.extend(Problem(f"base: {p.key}", p.wrong, p.right) for p in error.problems)
            return {}
    right = "a table of the config's sections, or the name of a config file"
    problems.append(Problem("base", f"cannot be {shown(value)}", right))
    return {}


def _lists(where: str, value: object, problems: list[Problem]) -> dict[str, list[object]]:
    """Dotted key -> its values; a value that stands alone is a list of one."""
    if not isinstance(value, Mapping):
        problems.append(Problem(where, f"cannot be {shown(value)}", "a table of keys and their values"))
        return {}
    found: dict[str, list[object]] = {}
    for key, values in value.items():
        if isinstance(values, Mapping) and "." not in str(key):  # written without quotes: a table in a table
            inner = _lists(where, {f"{key}.{name}": v for name, v in values.items()}, problems)
            found.update(inner)
            continue
        listed = list(values) if isinstance(values, list | tuple) else [values]
        if not listed:
            problems.append(Problem(f"{where}.{key}", "has no values", "at least one, or leave the key out"))
        if str(key) == "swarm.seed":
            problems.append(Problem(f"{where}.{key}", "seeds are no axis", "seeds = [0, 1, 2], at the top"))
        elif "." not in str(key):
            right = 'a dotted key of the config in quotes, such as "train.lr"'
            problems.append(Problem(f"{where}.{key}", "is no key of the config", right))
        found[str(key)] = listed
    return found


def _cases(
    value: object, grid: Table, problems: list[Problem]
) -> tuple[tuple[str, dict[str, list[object]]], ...]:
    if not isinstance(value, list | tuple):
        problems.append(Problem("case", f"cannot be {shown(value)}", "one [[case]] table or more"))
        return ()
    found = []
    for k, table in enumerate(value, start=1):
        where = f"case {k}"
        if not isinstance(table, Mapping):
            problems.append(Problem(where, f"cannot be {shown(table)}", "a table of keys and values"))
            continue
        label = table.get("label", "")
        if not isinstance(label, str):
            problems.append(Problem(f"{where}.label", f"cannot be {shown(label)}", "a text"))
            continue
        keys = _lists(where, {key: v for key, v in table.items() if key != "label"}, problems)
        for key in keys:
            if key in grid:
                problems.append(Problem(f"{where}.{key}", "stands in [grid] too", "leave it in one of them"))
        found.append((label, keys))
    return tuple(found)


def _seeds(value: object, base: Table, problems: list[Problem]) -> tuple[int, ...]:
    if value is None:
        swarm = base.get("swarm")
        own = swarm.get("seed", 0) if isinstance(swarm, Mapping) else 0
        return (own,) if isinstance(own, int) else (0,)
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MANY:
        return tuple(range(value))
    whole = isinstance(value, list | tuple) and all(
        isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**63 for seed in value
    )
    if isinstance(value, list | tuple) and value and whole:
        return tuple(dict.fromkeys(value))
    right = "how many (3), or a list of them ([0, 1, 2])"
    problems.append(Problem("seeds", f"cannot be {shown(value)}", right))
    return (0,)


def _product(keys: Mapping[str, list[object]]) -> Iterator[dict[str, object]]:
    return (dict(zip(keys, values, strict=True)) for values in itertools.product(*keys.values()))


def _word(value: object) -> object:
    """A value as it stands on an axis: a number or a text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, int | float | str) else shown(value)


def _resolved(config: Mapping[str, Table], key: str, otherwise: object) -> object:
    section, _, rest = key.partition(".")
    value: object = config.get(section, {})
    for part in rest.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return "" if otherwise is None else _word(otherwise)
        value = value[part]
    return _word(list(value) if isinstance(value, tuple) else value)


def _hash(engine: str, sections: Table) -> str:
    kept = {
        f"{name}.{key}": value
        for name, table in sections.items()
        for key, value in (table.items() if isinstance(table, Mapping) else [("", table)])
        if f"{name}.{key}" not in _INDIFFERENT
    }
    text = json.dumps([engine, kept], sort_keys=True, default=_jsonable)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _jsonable(value: object) -> object:
    if isinstance(value, Config):
        return value.to_dict()
    return list(value) if isinstance(value, tuple) else str(value)


def _cost(config: Config | None) -> float:
    """Rounds by steps by nodes; a step has a cost of its own beside that of its nodes."""
    if config is None:
        return 0.0
    steps = max(config.algorithm.local_steps, 8 * config.algorithm.local_epochs, 1)
    return float(config.swarm.rounds * (steps + 1) * (config.swarm.nodes + 32))
