"""The shape of a rule: four pure functions over tensors whose last axis is the parameters.

A rule never sees gradients. It sees x before and after the local phase, whatever optimiser ran there, and
takes the displacement x - after where its equation needs it. Tensors are [..., d]: [d] on a node, [n, d] for
all nodes at once; rules use tensor methods only, so both give the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

from gossipfl.core.messages import Vectors

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["vector", "exact", "difference"]


class Part(NamedTuple):
    """One tensor of a payload, by name.

    kind: "vector" is what codecs and masks may change; "exact" is never changed, and [..., 1] unless it has a
    width; "difference" arrives as the raw decode (the rule keeps its own memory of what was lost). link: one
    tensor an edge, [e, ...]. width: so many elements, or (negative) so many less than x has; 0: as x, or 1.
    """

    name: str
    kind: Kind = "vector"
    link: bool = False
    width: int = 0

    def size(self, d: int) -> int:
        """Elements, for x `[..., d]`."""
        if self.width > 0:
            return self.width
        return 1 if self.kind == "exact" else d + self.width


class Links(NamedTuple):
    """The edges without self, ordered by (owner, neighbor): of one node, or of all nodes at once."""

    spread: Callable[[Tensor], Tensor]  # [..., d] -> [e, d]: each owner's value on each of its links
    gather: Callable[[Tensor], Tensor]  # [e, d] -> [..., d]: the ordered sum over an owner's links, from +0.0
    weight: Tensor  # [e, 1]
    nodes: int  # in the whole graph


class Turn(NamedTuple):
    """When a rule is called."""

    round: int
    ratio: float  # eta_t / eta_{t-1}; 1 at the start and after a reset
    links: Links | None = None  # per_link rules only


class Inbox(NamedTuple):
    """What a round brought."""

    mixed: Vectors  # sum over j of w_ij payload_j, own included; codec and mask already settled
    sent: Vectors  # the own payload as the others decode it
    each: Vectors = ()  # per_link only: arrivals aligned with the links, [e, ...]
    counted: Tensor | None = None  # per_link only: which of them count, bool [e, 1]; None: all
    earlier: tuple[Inbox, ...] = ()  # per_link only: what came late and counts now, oldest round first


State = Vectors


class Rule(NamedTuple):
    """An algorithm: `init` a state, `emit` a payload, `absorb` what came back."""

    init: Callable[[Tensor, Turn], State]  # also the reset after a restart
    emit: Callable[[State, Tensor, Tensor, Turn], Vectors]  # state, x, x after (x again if early) -> payload
    absorb: Callable[[State, Tensor, Tensor, Inbox, Turn], tuple[Tensor, State]]  # -> next x, state
    sends: tuple[Part, ...] = (Part("model"),)
    keeps: tuple[Part, ...] = ()
    early: bool = False  # the payload is known before the local phase: send first, train meanwhile
    per_link: bool = False  # one payload an edge
    needs: frozenset[str] = frozenset()  # names of laws in core.recipe


def zeros(x: Tensor) -> Tensor:
    """+0.0 in the shape of x."""
    return x.new_zeros(x.shape)


def stateless(x: Tensor, turn: Turn) -> State:
    """The `init` of a rule that remembers nothing."""
    return ()


def only_averages(rule: Rule) -> bool:
    """Is x+ nothing but a mean of what nodes hold (or x itself), so that any number may ride in x?"""
    return not rule.sends or "tree" in rule.needs or sends_models(rule)


def sends_models(rule: Rule) -> bool:
    """dpsgd-like: the payload is the model, and nothing is remembered."""
    return rule.sends == (Part("model"),) and not rule.keeps
