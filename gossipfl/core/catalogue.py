"""What there is to choose from, with what it costs: counted from what a rule sends and keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from gossipfl.core import asynchronous
from gossipfl.core.aggregate import AGGREGATES
from gossipfl.core.codecs import CODECS, Packing, codec
from gossipfl.core.laws import NEEDS
from gossipfl.core.recipe import RULES, make_rule
from gossipfl.core.rules.base import Part, Rule

#: Parameters of the model, and neighbours of the node, for which costs are counted.
PARAMETERS: Final = 1_000_000
NEIGHBORS: Final = 2

EXCHANGES: Final[Mapping[str, tuple[str, str, str]]] = {
    "rounds": ("each round every neighbor, and wait for it", "-", "Lian et al. 2017"),
    "pairwise": (
        "one neighbor now and then, both take the mean; training goes on meanwhile",
        "a static graph, a symmetric W; rule dpsgd",
        "Boyd et al. 2006; Lian et al. 2018 (AD-PSGD)",
    ),
    "push": (
        "on a timer to one neighbor, nobody waits; what comes is merged by age",
        "a static graph; rule gossip-learning",
        "Ormandi et al. 2013; Danner & Jelasity 2018",
    ),
}
"""Exchanges by name: a line, what they need, a source."""


class Row(NamedTuple):
    """A rule: what it is, what it needs, and its cost next to dpsgd's."""

    name: str
    line: str
    needs: tuple[str, ...]
    bytes: float  # a round over an edge, times dpsgd's
    memory: float  # x and what is kept from round to round, times dpsgd's
    keys: Mapping[str, object]
    source: str


def _sent(rule: Rule) -> int:
    return Packing(rule.sends).bytes(PARAMETERS, 1)


def _kept(rule: Rule) -> int:
    def size(part: Part) -> int:
        return part.size(PARAMETERS) * (NEIGHBORS if part.link else 1)

    return PARAMETERS + sum(map(size, rule.keeps))


def rules() -> list[Row]:
    """All rules by name."""
    plain, _ = make_rule("dpsgd", {})
    found = []
    for name, entry in RULES.items():
        rule, keys = make_rule(name, {})
        needs = tuple(NEEDS[need] for need in sorted(rule.needs))
        sent, kept = _sent(rule) / _sent(plain), _kept(rule) / _kept(plain)
        if name == "d2":
            keys = {"lazy": "by W", **keys}
        found.append(Row(name, entry.line, needs, round(sent, 3), round(kept, 3), keys, entry.source))
    line = "merge what comes, weighed by age, then train; nobody waits"
    source = "Ormandi et al. 2013; Hegedus et al. 2021"
    needs = ("exchange push", "a static graph")
    found.append(Row(asynchronous.RULE_OF["push"], line, needs, 1, 1, asynchronous.DEFAULTS, source))
    return found


def codecs() -> list[dict[str, object]]:
    """All codecs, an example of each with its share of the bytes of 32-bit parameters."""
    found: list[dict[str, object]] = []
    for name, (line, source) in CODECS.items():
        example = name.replace("K", "0.01")
        sent = Packing((Part("model"),), codec(example)).bytes(PARAMETERS, 4)
        share = round(sent / (4 * PARAMETERS), 4)
        found.append({"name": name, "line": line, "example": example, "bytes": share, "source": source})
    return found


def exchanges() -> list[dict[str, object]]:
    """All exchanges."""
    return [
        {"name": name, "line": line, "needs": needs, "source": source}
        for name, (line, needs, source) in EXCHANGES.items()
    ]


def aggregates() -> list[dict[str, object]]:
    """All aggregates."""
    return [{"name": name, "line": line} for name, (_, line) in AGGREGATES.items()]
