"""From a mistake in a config to one line that says what is wrong and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Literal, get_args, get_origin

from gossipfl.config import checking
from gossipfl.config.checking import Key
from gossipfl.config.fault_problems import fault_problems, script_problems
from gossipfl.config.lan import redacted
from gossipfl.config.lan_problems import lan_problems, node_problems, secrets_shown
from gossipfl.config.model import OPEN, SECTIONS, Config
from gossipfl.config.section import Expected, Section
from gossipfl.config.toml import toml_value
from gossipfl.errors import Problem

LATER_KEYS = frozenset(
    {
        "swarm.start_quorum",
    }
)
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
_TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: 'a text in "quotes"'}


def keys() -> list[str]:
    """Every key the config itself knows, dotted."""
    return [f"{name}.{key}" for name, kind in SECTIONS.items() for key in kind.fields()]


def field_of(key: str) -> Key | None:
    """What is known of a dotted key, or None where the key is unknown or free."""
    section, _, rest = key.partition(".")
    kind = SECTIONS.get(section)
    return checking.keys(kind).get(rest) if kind else None


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known word most like this one, or None if none is like it."""
    found = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=cutoff)
    return found[0] if found else None


def expected(key: Key) -> str:
    """What a value of this key must be, in words: type, range, choices."""
    for note in key.notes:
        if isinstance(note, Expected):
            return note.text
    if get_origin(key.kind) is Literal:
        options = [str(option) for option in get_args(key.kind)]
        return f"one of {', '.join(options)}" if len(options) > 1 else f'only "{options[0]}" is possible'
    words = [_TYPES[key.kind]] if key.kind in _TYPES else []
    words += [f"{_BOUNDS[name]} {bound}" for name, bound in key.bounds.items() if name in _BOUNDS]
    return ", ".join(words)


def shown(value: object) -> str:
    """A value as it would stand in the file, shortened; no secret key is shown."""
    try:
        text = redacted(toml_value(value))
    except TypeError:
        text = redacted(repr(value))
    return text if len(text) <= 60 else text[:57] + "..."


def invalid(key: str, value: object) -> Problem:
    """The value of a known key has the wrong type or is out of range."""
    field = field_of(key)
    right = expected(field) if field else ""
    if field and isinstance(value, str) and get_origin(field.kind) is Literal:
        guess = nearest(value, map(str, get_args(field.kind)))
        right += f'; did you mean "{guess}"?' if guess else ""
    return Problem(key, f"cannot be {shown(value)}", right)


def later(key: str) -> Problem:
    """A key of a later version."""
    return Problem(key, "is not available in this version", "remove it")


def unknown(key: str) -> Problem:
    """A key that nothing knows, with the nearest that exists."""
    section, _, rest = key.partition(".")
    if not rest:
        elsewhere = [known for known in keys() if known.endswith(f".{section}")]
        sections = [*SECTIONS, "task"]
        guess = elsewhere[0] if elsewhere else nearest(section, sections)
        right = f"did you mean {guess}?" if guess else f"the tables are {', '.join(sections)}"
        return Problem(key, "unknown key", right)
    kind = SECTIONS[section]
    elsewhere = [known for known in keys() if known.endswith(f".{rest}")]
    near = nearest(rest, kind.fields())
    guess = elsewhere[0] if elsewhere else f"{section}.{near}" if near else nearest(key, keys())
    right = f"did you mean {guess}?" if guess else f"the keys of {section} are {', '.join(kind.fields())}"
    return Problem(key, "unknown key", right)


def _key_problem(section: str, kind: type[Section], key: str) -> Problem | None:
    dotted = f"{section}.{key}"
    if dotted in LATER_KEYS:
        return later(dotted)
    if key in kind.fields():
        return None
    if section not in OPEN:
        return unknown(dotted)
    near = nearest(key, kind.fields(), cutoff=0.8)
    return Problem(dotted, "unknown key", f"did you mean {section}.{near}?") if near else None


def key_problems(data: dict[str, object]) -> Iterator[Problem]:
    """Keys that do not exist, do not exist yet, or are tables where they must not be (or the reverse)."""
    for name, table in data.items():
        if name in LATER_KEYS:
            yield later(name)
        elif name not in Config.fields():
            yield unknown(name)
        elif name == "node":
            swarm = data.get("swarm")
            yield from node_problems(table, swarm.get("nodes") if isinstance(swarm, dict) else None)
        elif name == "fault":
            yield from fault_problems(table)
        elif not isinstance(table, dict):
            hint = f"write {name}.KEY = ..." if name != "task" else "to choose the task, set train.task"
            yield Problem(name, f"cannot be {shown(table)}", f"it is a table; {hint}")
        elif name in SECTIONS:
            for key in table:
                problem = _key_problem(name, SECTIONS[name], key)
                if problem:
                    yield problem
            if name == "security" and isinstance(allow := table.get("allow"), list):
                yield from secrets_shown(allow, "security.allow")


def combination_problems(config: Config) -> Iterator[tuple[frozenset[str], Problem]]:
    """Values that are fine alone and impossible together: the keys that are involved, and the mistake."""
    algorithm, train, data = config.algorithm, config.train, config.data
    both = frozenset({"algorithm.local_steps", "algorithm.local_epochs"})
    if algorithm.local_steps and algorithm.local_epochs:
        wrong = f"is {algorithm.local_epochs} while algorithm.local_steps is {algorithm.local_steps}"
        yield both, Problem("algorithm.local_epochs", wrong, "set one of them to 0")
    if not algorithm.local_steps and not algorithm.local_epochs:
        yield (
            both,
            Problem("algorithm.local_steps", "cannot be 0", "set it or algorithm.local_epochs to at least 1"),
        )
    yield from _only_in_rounds(config)
    if config.wire.quorum and not (config.wire.deadline or config.wire.patience):
        involved = frozenset({"wire.quorum", "wire.deadline", "wire.patience"})
        wrong = f"is {config.wire.quorum}, and without a deadline every neighbor that lives is waited for"
        yield (
            involved,
            Problem("wire.quorum", wrong, "set wire.deadline or wire.patience too, or leave it out"),
        )
    if algorithm.rule == "fedsgd" and algorithm.local_steps != 1:
        key = "local_epochs" if algorithm.local_epochs else "local_steps"
        involved = frozenset({"algorithm.rule", f"algorithm.{key}"})
        wrong = f"is {getattr(algorithm, key)}, and rule fedsgd takes one gradient a round"
        yield involved, Problem(f"algorithm.{key}", wrong, 'leave it out, or rule = "fedavg"')
    if config.stop.wanted and algorithm.rule == "none":
        wrong = "needs word of the end to travel, and rule none exchanges nothing"
        yield frozenset({"algorithm.rule"}), Problem("stop", wrong, "swarm.rounds alone")
    if train.lr_schedule == "cosine" and train.cosine_min > train.lr:
        wrong = f"is {train.cosine_min}, above train.lr"
        involved = frozenset({"train.lr_schedule", "train.cosine_min", "train.lr"})
        yield involved, Problem("train.cosine_min", wrong, f"at most train.lr, which is {train.lr}")
    beyond = [key for key in config.network.slow if not key.isdecimal() or int(key) >= config.swarm.nodes]
    if beyond:
        right = f"node indices are 0 to {config.swarm.nodes - 1}"
        yield frozenset({"network.slow"}), Problem("network.slow", f"there is no node {beyond[0]}", right)
    yield from _absence_problems(config)
    if algorithm.exchange == "push" and algorithm.every != 1:
        wrong = f"is {algorithm.every}, and push sends on a timer"
        involved = frozenset({"algorithm.every", "algorithm.exchange"})
        yield involved, Problem("algorithm.every", wrong, "leave it at 1 and set algorithm.period")
    if config.wire.transport == "shm" and algorithm.exchange != "rounds":
        involved = frozenset({"wire.transport", "algorithm.exchange"})
        wrong = f'is "shm", and exchange {algorithm.exchange} does not tell when what was sent has been read'
        yield involved, Problem("wire.transport", wrong, '"auto", "ipc" or "tcp", or exchange = "rounds"')
    if data.partition == "file" and not data.file:
        involved = frozenset({"data.partition", "data.file"})
        right = "a JSON file with a list of lists of sample indices, one a node"
        yield involved, Problem("data.file", 'is empty while data.partition is "file"', right)
    yield from lan_problems(config)
    yield from script_problems(config)
    yield from _optimizer_problems(config)


def _absence_problems(config: Config) -> Iterator[tuple[frozenset[str], Problem]]:
    network = config.network
    involved = frozenset({"network.uptime", "network.downtime", "network.trace"})
    if network.trace and (network.uptime or network.downtime):
        wrong = "is set beside network.uptime and downtime"
        yield involved, Problem("network.trace", wrong, "one of the two: a trace, or how long sessions are")
    elif network.uptime and not network.downtime:
        wrong = "is 0, and network.uptime lets nodes go away"
        yield involved, Problem("network.downtime", wrong, "how long they are away, such as 60.0")
    elif network.downtime and not network.uptime:
        wrong = "is 0, and network.downtime is set"
        yield involved, Problem("network.uptime", wrong, "how long nodes stay, such as 600.0")


def _only_in_rounds(config: Config) -> Iterator[tuple[frozenset[str], Problem]]:
    """What asynchronous exchanges do not have: they take the mean of two models, in no common round."""
    algorithm, exchange = config.algorithm, config.algorithm.exchange
    if exchange == "rounds":
        return
    for key, value, plain in (
        ("algorithm.aggregate", algorithm.aggregate, "mean"),
        ("algorithm.average_optimizer", algorithm.average_optimizer, False),
        ("wire.codec", config.wire.codec, "none"),
        ("wire.dtype", config.wire.dtype, "auto"),
        ("wire.deadline", config.wire.deadline, 0.0),
        ("wire.patience", config.wire.patience, 0.0),
        ("train.lr_schedule", config.train.lr_schedule == "agreement" and "agreement", False),
    ):
        if value != plain:
            involved = frozenset({key, "algorithm.exchange"})
            wrong = f"is {shown(value)}, and exchange {exchange} has no common rounds"
            yield involved, Problem(key, wrong, 'exchange = "rounds", or leave it out')


_KEYWORDS = {
    "sgd": frozenset({"dampening", "nesterov", "maximize", "foreach", "differentiable", "fused"}),
    "adamw": frozenset(
        {"betas", "eps", "amsgrad", "maximize", "foreach", "capturable", "differentiable", "fused"}
    ),
}
_KEYWORDS["adam"] = _KEYWORDS["adamw"] | {"decoupled_weight_decay"}


def _optimizer_problems(config: Config) -> Iterator[tuple[frozenset[str], Problem]]:
    """The usual optimizers' keywords are checked here, without torch; others when the optimizer is made."""
    train, name = config.train, config.train.optimizer.lower()
    if name not in _KEYWORDS:
        return
    for key in train.extra:
        if key not in _KEYWORDS[name]:
            elsewhere = [known for known in keys() if known.endswith(f".{key}")]
            near = nearest(key, [*_KEYWORDS[name], *train.fields()])
            guess = elsewhere[0] if elsewhere else f"train.{near}" if near else None
            right = f"did you mean {guess}?" if guess else f"{name} has {', '.join(sorted(_KEYWORDS[name]))}"
            wrong = f"unknown key, of [train] and of the optimizer {name}"
            yield frozenset({"train.optimizer"}), Problem(f"train.{key}", wrong, right)
    involved = frozenset({"train.optimizer", "train.momentum"})
    if name != "sgd" and train.momentum:
        right = "leave train.momentum at 0 (its betas stand beside), or take the optimizer sgd"
        yield involved, Problem("train.momentum", f"the optimizer {name} has no momentum", right)
    if name == "sgd" and train.extra.get("nesterov") and not train.momentum:
        yield involved, Problem("train.nesterov", "needs momentum", "set train.momentum, such as 0.9")
