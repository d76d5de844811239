"""The laws of asynchronous exchanges, stated once, with the reason, before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gossipfl.core.exchange.push import VARIANTS
from gossipfl.core.exchange.tokens import ACCOUNTS, Account
from gossipfl.core.recipe import Recipe
from gossipfl.core.rules.averaging import dpsgd
from gossipfl.errors import ConfigError, Problem
from gossipfl.topology import Schedule

#: The rule of each asynchronous exchange.
RULE_OF: Final[Mapping[str, str]] = {"pairwise": "dpsgd", "push": "gossip-learning"}

#: The keys of gossip-learning.
DEFAULTS: Final[Mapping[str, int | str]] = {
    "variant": VARIANTS[0],
    "account": Account().name,
    "capacity": Account().capacity,
    "spend": Account().spend,
}
_CHOICES: Final = {"variant": VARIANTS, "account": tuple(ACCOUNTS)}


def recipe(exchange: str, name: str, params: Mapping[str, object], schedule: Schedule) -> Recipe:
    """Put an asynchronous exchange on a graph; `params` are the rule's own keys.

    Raises ConfigError with every law that is broken and the nearest working choice.
    """
    problems: list[Problem] = []
    right = RULE_OF[exchange]
    if name != right:
        why = f"{name} needs rounds, which {exchange} does not have"
        problems.append(
            Problem("algorithm.rule", why, f'"{right}", or algorithm.exchange = "{exchange_of(name)}"')
        )
    if schedule.length != 1:
        why = f"changes from round to round, and the nodes of {exchange} have no rounds in common"
        problems.append(
            Problem("topology.graph", why, "a static graph, such as ring, regular:4 or exponential")
        )
    elif exchange == "pairwise" and not schedule.mixing(0).symmetric:
        why = "pairwise needs a symmetric mixing matrix: both ends of an edge take the mean of the two"
        problems.append(Problem("topology.weights", why, "metropolis, on an undirected graph"))
    resolved = {**(DEFAULTS if right == "gossip-learning" else {}), **params}
    if name == right:
        problems += _own_keys(resolved, right)
    if problems:
        raise ConfigError(problems)
    return Recipe(name, dpsgd(), schedule, resolved)


def check_engine(exchange: str, replay: str, engine: str) -> None:
    """Does `engine` ("swarm", "events", "vector") run this exchange, and replays? Raises ConfigError."""
    if exchange != "rounds" and engine == "vector":
        why = f"{exchange} happens in time, and the vector engine has rounds only"
        raise ConfigError(
            Problem("algorithm.exchange", why, "gossipfl simulate --engine events, or gossipfl swarm")
        )
    if replay and engine != "events":
        why = "only the event engine repeats an order"
        raise ConfigError(Problem("algorithm.replay", why, "gossipfl simulate --engine events"))


def exchange_of(rule: str) -> str:
    """The exchange that a rule works with."""
    return "push" if rule == RULE_OF["push"] else "rounds"


def account(params: Mapping[str, object]) -> Account:
    """The token account of checked `params`."""
    capacity, spend = params["capacity"], params["spend"]
    assert isinstance(capacity, int) and isinstance(spend, int)
    return Account(str(params["account"]), capacity, spend)


def _own_keys(params: Mapping[str, object], rule: str) -> list[Problem]:
    known = DEFAULTS if rule == RULE_OF["push"] else {}
    problems = []
    for key, value in params.items():
        where = f"algorithm.{key}"
        if key not in known:
            own = f"its own keys are {', '.join(known)}" if known else "it has no keys of its own"
            problems.append(Problem(where, f"unknown key for rule {rule}", own))
        elif key in _CHOICES and value not in _CHOICES[key]:
            problems.append(Problem(where, f"cannot be {value!r}", f"one of {', '.join(_CHOICES[key])}"))
        elif key not in _CHOICES and (type(value) is not int or value < 1):
            problems.append(Problem(where, f"cannot be {value!r}", "a whole number of tokens, at least 1"))
    if known and not problems:
        tokens = account(params)
        if tokens.spend > tokens.capacity:
            why = f"is {tokens.spend}, more than an account holds"
            problems.append(Problem("algorithm.spend", why, f"at most algorithm.capacity, {tokens.capacity}"))
    return problems
