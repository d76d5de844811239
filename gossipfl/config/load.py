"""Reading a config: a file, a mapping, settings from a command line; all mistakes at once."""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

from gossipfl.config import fault
from gossipfl.config.checking import Unfit, made
from gossipfl.config.lan import as_table, redacted
from gossipfl.config.model import Config
from gossipfl.config.named import fill_in
from gossipfl.config.presets import apply, forget
from gossipfl.config.problems import combination_problems, expected, field_of, invalid, key_problems
from gossipfl.errors import ConfigError, Problem

Source = str | os.PathLike[str] | Mapping[str, object] | Config | None
Overrides = Mapping[str, object] | Iterable[str] | None
_BAD = object()


def load_config(
    source: Source = None, overrides: Overrides = None, script: str | os.PathLike[str] | None = None
) -> Config:
    """A validated Config of a TOML file, a mapping of sections, another Config, or nothing (the defaults).

    `overrides` win: a mapping of dotted keys (`{"train.lr": 0.05}`) or of sections, or an iterable of
    `KEY=VALUE` texts as `--set` takes them. `script`: a file of `[[fault]]` tables, which come after those of
    the source. Raises ConfigError with every mistake that is found, each under its dotted key.
    """
    if isinstance(source, Config) and not overrides and script is None:
        return source
    problems: list[Problem] = []
    data = _read(source, problems)
    readable = data is not None
    data = data or {}
    if "node" in data:
        data["node"] = as_table(data["node"])
    if script is not None:
        _add_script(data, script, problems)
    if "fault" in data:
        data["fault"] = fault.as_table(data["fault"])
    settings = _settings(overrides, problems)
    if any(_chooses_preset(key, value) for key, value in settings) and isinstance(
        table := data.get("network"), dict
    ):
        forget(table)
    for key, value in settings:
        if (unknown := _no_such_node(data, key)) is not None:
            problems.append(unknown)
        else:
            _put(data, key, value, problems)
    config, found = _validate(data, combinations=readable)
    told = {problem.key for problem in problems}  # what is no value is left out, and not missing
    problems += [problem for problem in found if problem.key not in told]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return config


def _no_such_node(data: Mapping[str, object], key: str) -> Problem | None:
    """A setting may change a `[[node]]` of the file, and add none."""
    tables, (section, *rest) = data.get("node"), key.split(".")
    if section != "node" or not rest or not isinstance(tables, dict) or rest[0] in tables:
        return None
    return Problem(key, f"no [[node]] is named {rest[0]}", f"the nodes are {', '.join(map(str, tables))}")


def _read(source: Source, problems: list[Problem]) -> dict[str, object] | None:
    """The source's tables, or None (and a problem) if it cannot be read."""
    data: dict[str, object] = {}
    if source is None:
        return data
    if isinstance(source, Config):
        return dict(source.to_dict())
    if isinstance(source, Mapping):
        for key, value in source.items():
            _put(data, str(key), _plain(value, str(key), problems), problems)
        return data
    path = os.fspath(source)
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")  # some editors begin a file with a mark
        found = tomllib.loads(text)
    except FileNotFoundError:
        problems.append(
            Problem(path, "no such file", "give an existing config file, or none for the defaults")
        )
    except IsADirectoryError:
        problems.append(Problem(path, "is a folder", f"give a file, such as {Path(path) / 'config.toml'}"))
    except OSError as error:
        problems.append(Problem(path, f"cannot be read: {error.strerror}", "give a readable config file"))
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        problems.append(Problem(f"{path}:{line}", "is not UTF-8 text", "save the file as UTF-8"))
    except tomllib.TOMLDecodeError as error:
        problems.append(_syntax(path, text, str(error)))
    except (RecursionError, ValueError):  # Python's own limits
        wrong = "holds lists within lists without end, or a number of thousands of digits"
        problems.append(Problem(path, wrong, "values such as those of gossipfl check"))
    else:
        return {key: plain for key, v in found.items() if (plain := _plain(v, key, problems)) is not _BAD}
    return None


def _add_script(data: dict[str, object], script: str | os.PathLike[str], problems: list[Problem]) -> None:
    """Put the faults of a script behind those that are there."""
    found = _read(os.fspath(script), problems)
    if found is None:
        return
    problems += [
        Problem(f"{os.fspath(script)}: {key}", "is no part of a fault script", "[[fault]] tables alone")
        for key in found
        if key != "fault"
    ]
    here, there = fault.as_list(data.get("fault", [])), fault.as_list(found.get("fault", []))
    data["fault"] = [*here, *there] if isinstance(here, list) and isinstance(there, list) else there


def _syntax(path: str, text: str, message: str) -> Problem:
    where = re.search(r" \(at line (\d+), column \d+\)$", message)
    line = int(where[1]) if where else max(1, len(text.splitlines()))
    wrong = re.sub(r" \(at [^()]*\)$", "", message)
    return Problem(
        f"{path}:{line}", f"is not TOML: {wrong[:1].lower()}{wrong[1:]}", "write KEY = VALUE in a [table]"
    )


def _settings(overrides: Overrides, problems: list[Problem]) -> list[tuple[str, object]]:
    if overrides is None:
        return []
    if isinstance(overrides, Mapping):
        return [(str(key), _plain(value, str(key), problems)) for key, value in overrides.items()]
    found = []
    for text in overrides:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not all(key.split(".")):
            wrong = f"{redacted(text)!r} is not KEY=VALUE"
            problems.append(Problem("--set", wrong, "write it like train.lr=0.05"))
        else:
            found.append((key, _parse(key, value.strip(), problems)))
    return found


def _chooses_preset(key: str, value: object) -> bool:
    return key == "network.preset" or (key == "network" and isinstance(value, dict) and "preset" in value)


def _parse(key: str, text: str, problems: list[Problem]) -> object:
    """The text as a TOML value, else as itself; for a key that holds a text, `42` is a text too."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (RecursionError, ValueError):  # it is no TOML, or beyond Python's own limits
        if text[:1] in ("[", "{", '"', "'"):
            right = 'quote texts and close what is opened, such as ["a", "b"]'
            problems.append(Problem(key, f"{redacted(text)} is not a TOML value", right))
            return _BAD
        return text
    value = parsed["value"]
    field = field_of(key)
    wants_text = field is not None and field.kind is str and not isinstance(value, str)
    if len(parsed) > 1 or wants_text or not isinstance(value, bool | int | float | str | list | dict):
        return text
    return _plain(value, key, problems)


def _plain(value: object, key: str, problems: list[Problem]) -> object:
    """A copy made of bool, int, float, str, list and dict alone, or `_BAD` and a problem."""
    if isinstance(value, Mapping):
        pairs = [(str(k), _plain(v, f"{key}.{k}", problems)) for k, v in value.items()]
        return {k: v for k, v in pairs if v is not _BAD}
    if isinstance(value, list | tuple):
        found = [_plain(item, _item(key, k, item), problems) for k, item in enumerate(value)]
        return [v for v in found if v is not _BAD]
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, bool | int | float | str) and getattr(value, "shape", None) == ():
        item = getattr(value, "item", None)
        value = item() if callable(item) else value
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and not math.isnan(value):
        return float(value)
    if isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value):
        return str(value)
    wrong = f"cannot hold a {type(value).__name__}"
    right = "a number, a text, true or false, or a list or table of those"
    if isinstance(value, float):
        field = field_of(key)
        wrong, right = "cannot be nan", (field and expected(field)) or "another number"
    problems.append(Problem(key, wrong, right))
    return _BAD


def _item(key: str, index: int, item: object) -> str:
    """The key of an entry of a list: tables have one of their own, as it is in what is said of them."""
    if not isinstance(item, Mapping):
        return key
    return f"{key}.{item.get('name') or index}" if key == "node" else f"{key}.{index + 1}"


def _put(data: dict[str, object], key: str, value: object, problems: list[Problem]) -> None:
    """Set a dotted key; a table is merged into a table."""
    if value is _BAD:
        return
    *parents, last = key.split(".")
    table = data
    for depth, name in enumerate(parents, start=1):
        inner = table.setdefault(name, {})
        if not isinstance(inner, dict):
            problems.append(Problem(key, f"{'.'.join(parents[:depth])} is not a table", "set that key alone"))
            return
        table = inner
    present = table.get(last)
    if isinstance(present, dict) and isinstance(value, dict):
        for name, inner in value.items():
            _put(present, name, inner, problems)
    else:
        table[last] = value


def _validate(data: dict[str, object], *, combinations: bool) -> tuple[Config, list[Problem]]:
    fill_in(data)
    if isinstance(network := data.get("network"), dict):
        apply(network)
    problems = list(key_problems(data))
    if data.get("node") and isinstance(swarm := data.setdefault("swarm", {}), dict):
        swarm.setdefault("nodes", len(data["node"]) if isinstance(data["node"], list | dict) else 1)
    _drop(data, problems)
    try:
        config = made(Config, data)
    except Unfit as error:
        wrong = {}
        for section, key, *_ in ((*place, "") for place in error.places):
            table = data.get(section)
            value = table.get(key) if isinstance(table, dict) else table
            wrong[f"{section}.{key}"] = invalid(f"{section}.{key}", value)
        problems += wrong.values()
        _drop(data, list(wrong.values()))
        config = made(Config, data)
    bad = {problem.key for problem in problems}
    bad |= {key.partition(".")[0] for key in bad if key.startswith(("node.", "fault."))}
    if combinations:
        problems += [problem for keys, problem in combination_problems(config) if not keys & bad]
    return config, problems


def _drop(data: dict[str, object], problems: list[Problem]) -> None:
    """Take out the keys that have a problem, so that the rest can be checked."""
    for key in {problem.key for problem in problems}:
        section, _, rest = key.partition(".")
        table = data.get(section)
        if rest and isinstance(table, dict) and section not in ("node", "fault"):
            table.pop(rest, None)
        else:
            data.pop(section, None)
