"""Rules that are a whole row of choices: their name fills in what the config leaves open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

NAMED: Final[Mapping[str, Mapping[str, object]]] = {
    "fedavg": {"topology.graph": "complete", "topology.weights": "data", "algorithm.local_epochs": 1},
    "fedsgd": {"topology.graph": "complete", "topology.weights": "data", "algorithm.local_steps": 1},
}
"""Rule -> dotted key -> value. Whether another value fits is for the recipe to say."""

_EITHER = {"local_epochs": "local_steps", "local_steps": "local_epochs"}


def fill_in(data: dict[str, object]) -> None:
    """Set what a named rule means and nobody has set; in place. Tables that are none are left alone."""
    algorithm = data.get("algorithm")
    rule = algorithm.get("rule") if isinstance(algorithm, dict) else None
    for key, value in NAMED.get(rule, {}).items() if isinstance(rule, str) else ():
        section, _, name = key.partition(".")
        table = data.setdefault(section, {})
        if isinstance(table, dict) and name not in table and _EITHER.get(name) not in table:
            table[name] = value
