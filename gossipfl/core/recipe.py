"""Every algorithm is a row: which rule, on which schedule, through which codec and aggregate. The laws
(core/laws.py) are checked before anything starts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from gossipfl import plugin
from gossipfl.core.aggregate import Reweigh, Row, aggregate
from gossipfl.core.codecs import Packing, codec, narrowed
from gossipfl.core.exchange.intake import Terms
from gossipfl.core.rules import averaging, combine, sums, tracking
from gossipfl.core.rules.base import Part, Rule, only_averages
from gossipfl.errors import ConfigError, Problem

if TYPE_CHECKING:
    from torch import Tensor

    from gossipfl.topology import Schedule


class Entry(NamedTuple):
    """A rule by name: how to make it (its keywords are the rule's own config keys) and what to say of it."""

    make: Callable[..., Rule]
    line: str
    source: str


RULES: Final[Mapping[str, Entry]] = {
    "none": Entry(averaging.none, "every node alone: the baseline", "-"),
    "dpsgd": Entry(averaging.dpsgd, "train, then average with the neighbors", "Sayed 2014; Lian et al. 2017"),
    "dpsgd-cta": Entry(averaging.dpsgd_cta, "average while training: x leaves first", "Lian et al. 2017"),
    "gradient": Entry(
        averaging.gradient, "exchange gradients instead of models (FedSGD)", "McMahan et al. 2017"
    ),
    "fedavg": Entry(averaging.fedavg, "dpsgd on complete, by data size, local epochs", "McMahan et al. 2017"),
    "fedsgd": Entry(averaging.fedsgd, "gradient on complete, by data size, one step", "McMahan et al. 2017"),
    "qg": Entry(averaging.qg, "momentum along the averaged path", "Lin et al. 2021"),
    "d2": Entry(
        tracking.d2, "exact for data that differ between nodes", "Tang et al. 2018; Yuan et al. 2018"
    ),
    "gradient-tracking": Entry(
        tracking.gradient_tracking, "track the mean gradient, then average", "Di Lorenzo & Scutari 2016"
    ),
    "diging": Entry(tracking.diging, "track the mean gradient beside the average", "Nedic et al. 2017"),
    "push-sum": Entry(
        sums.push_sum,
        "sums and their mass: graphs with one-way arcs",
        "Nedic & Olshevsky 2016; Assran et al. 2019",
    ),
    "relay-sum": Entry(sums.relay_sum, "sums relayed over a tree: every model, late", "Vogels et al. 2021"),
    "choco": Entry(sums.choco, "copies kept up by compressed differences", "Koloskova et al. 2019"),
}


class Choices(NamedTuple):
    """What a config chooses beside the rule and its schedule."""

    mix_every: int = 1
    codec: str = "none"
    wire_dtype: str = ""  # what numbers travel as; "": as they are
    aggregate: str = "mean"
    rewires: bool = False  # algorithm.on_death = "rewire"
    agreement: bool = False  # train.lr_schedule = "agreement"
    average_optimizer: bool = False
    plain: int = (
        0  # the last so many elements of x are mixed plainly, whatever the rule: buffers, optimizer state
    )


PLAIN: Final = Choices()
#: One vector, as it is.
WHOLE: Final = Packing((Part("model"),))


@dataclass(frozen=True)
class Recipe:
    """A rule with its mixing matrices, checked; `notes` say what was chosen on the user's behalf."""

    name: str
    rule: Rule
    schedule: Schedule
    params: Mapping[str, object]
    notes: tuple[str, ...] = ()
    packing: Packing = WHOLE
    reweigh: Reweigh | None = None

    @property
    def columns(self) -> bool:
        """Do W's columns sum to one instead of its rows?"""
        return "column-stochastic" in self.rule.needs

    @property
    def arcs(self) -> bool:
        """May an edge carry data one way only?"""
        length = self.schedule.length or 1
        return self.columns or any(self.schedule.graph(t).directed for t in range(length))

    def row(self, node: int, round: int) -> Row:
        """Node's row of W in a round; with its column where the two are not alike."""
        mixing = self.schedule.mixing(round)
        columns, weights = mixing.row(node)
        entries = tuple(zip(columns.tolist(), weights.tolist(), strict=True))
        if not self.arcs:
            return Row(node, entries)
        receivers, shares = mixing.column(node)
        pairs = zip(receivers.tolist(), shares.tolist(), strict=True)
        return Row(node, entries, tuple((j, w) for j, w in pairs if j != node))

    def terms(self, score: Callable[[Tensor], float] | None = None) -> Terms:
        """What a node's payloads go through; `score` tells a model's loss on the node's validation data."""
        return Terms(self.packing, self.schedule.n, self.arcs, self.columns, self.reweigh, score)


def make_rule(name: str, params: Mapping[str, object]) -> tuple[Rule, dict[str, object]]:
    """The rule of this name with its own keys, and all of them resolved. Raises ConfigError naming the
    key."""
    if plugin.is_plugin(name):
        make = cast("Callable[..., Rule]", plugin.load(name, "algorithm.rule"))
    elif name in RULES:
        make = RULES[name].make
    else:
        raise ConfigError(Problem("algorithm.rule", f"no rule {name!r}", f"one of {', '.join(RULES)}"))
    accepted = {
        key: p.default
        for key, p in inspect.signature(make).parameters.items()
        if p.default is not inspect.Parameter.empty
    }
    problems = []
    for key, value in params.items():
        if key not in accepted:
            own = f"its own keys are {', '.join(accepted)}" if accepted else "it has no keys of its own"
            problems.append(Problem(f"algorithm.{key}", f"unknown key for rule {name}", own))
        elif isinstance(value, bool) != isinstance(accepted[key], bool) or not isinstance(value, int | float):
            problems.append(
                Problem(f"algorithm.{key}", f"{value!r} is not a number", f"the default is {accepted[key]}")
            )
    if problems:
        raise ConfigError(problems)
    resolved = {**accepted, **params}
    rule = make(**resolved)
    if not isinstance(rule, Rule):
        raise ConfigError(
            Problem("algorithm.rule", f"{name} returned {type(rule).__name__}", "a gossipfl Rule is needed")
        )
    return rule, resolved


def recipe(name: str, params: Mapping[str, object], schedule: Schedule, choices: Choices = PLAIN) -> Recipe:
    """Put a rule on a schedule. Raises ConfigError naming the laws that are broken, each with the nearest
    working choice."""
    from gossipfl.core import laws

    own = dict(params)
    insist = own.pop("lazy", None) if name == "d2" else None
    rule, resolved = make_rule(name, own)
    coding, reweigh = codec(choices.codec), aggregate(choices.aggregate)
    coding = narrowed(coding, choices.wire_dtype) if choices.wire_dtype else coding
    schedule = laws.every(schedule, choices.mix_every)
    first = schedule.mixing(choices.mix_every - 1)
    found = laws.Findings()
    laws.check_graph(name, rule, schedule, first, found)
    laws.check_codec(name, rule, coding, found)
    if reweigh is not None:
        laws.check_aggregate(choices.aggregate, name, rule, coding, found)
    if choices.rewires:
        laws.check_on_death(name, rule, schedule, first, found)
    if choices.agreement:
        laws.check_agreement(name, rule, found)
    if choices.average_optimizer:
        laws.check_average_optimizer(name, rule, found)
    rule = _combined(rule, choices)
    if "lambda-min" in rule.needs and not found.problems:
        schedule = laws.positive_enough(name, schedule, first, insist, coding, found)
    if found.problems:
        raise ConfigError(found.problems)
    if insist is not None:
        resolved["lazy"] = insist
    return Recipe(name, rule, schedule, resolved, tuple(found.notes), Packing(rule.sends, coding), reweigh)


def settled(name: str, params: Mapping[str, object], schedule: Schedule, choices: Choices) -> Recipe:
    """A recipe whose laws have been checked, and whose schedule is what came of it. `params`: the rule's own
    keys, all resolved."""
    own = {key: value for key, value in params.items() if not (name == "d2" and key == "lazy")}
    rule = _combined(make_rule(name, own)[0], choices)
    coding = codec(choices.codec)
    coding = narrowed(coding, choices.wire_dtype) if choices.wire_dtype else coding
    return Recipe(name, rule, schedule, params, (), Packing(rule.sends, coding), aggregate(choices.aggregate))


def _combined(rule: Rule, choices: Choices) -> Rule:
    """The rule with what else is asked of it."""
    if choices.agreement:
        rule = combine.agreeing(rule)
    if choices.plain and not only_averages(rule):
        rule = combine.beside(rule, choices.plain)
    return rule
