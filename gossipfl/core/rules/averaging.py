"""Rules that only average: no memory between rounds, or one of the own moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gossipfl.core.messages import Vectors
from gossipfl.core.rules.base import Inbox, Part, Rule, State, Turn, stateless, zeros

if TYPE_CHECKING:
    from torch import Tensor


def none() -> Rule:
    """x+ = x - D: every node alone, the baseline."""

    def emit(state: State, x: Tensor, after: Tensor, turn: Turn) -> Vectors:
        return ()

    def absorb(state: State, x: Tensor, after: Tensor, inbox: Inbox, turn: Turn) -> tuple[Tensor, State]:
        return after, state

    return Rule(stateless, emit, absorb, sends=())


def dpsgd() -> Rule:
    """x+ = mix(x - D): adapt, then combine (Sayed 2014, "Adaptation, Learning, and Optimization over
    Networks"; Lian et al. 2017, "Can Decentralized Algorithms Outperform Centralized Algorithms?")."""

    def emit(state: State, x: Tensor, after: Tensor, turn: Turn) -> Vectors:
        return (after,)

    def absorb(state: State, x: Tensor, after: Tensor, inbox: Inbox, turn: Turn) -> tuple[Tensor, State]:
        return inbox.mixed[0], state

    return Rule(stateless, emit, absorb, needs=frozenset({"mean"}))


def fedavg() -> Rule:
    """FedAvg without a server: dpsgd on `complete`, where weights `data` give every node the mean of all
    models by data size (McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from
    Decentralized Data", algorithm 1 with all clients in each round)."""
    return dpsgd()._replace(needs=frozenset({"complete"}))


def dpsgd_cta() -> Rule:
    """x+ = mix(x) - D: combine, then adapt; x leaves before the local phase, so bytes move while the node
    trains (Lian et al. 2017, algorithm 1)."""

    def emit(state: State, x: Tensor, after: Tensor, turn: Turn) -> Vectors:
        return (x,)

    def absorb(state: State, x: Tensor, after: Tensor, inbox: Inbox, turn: Turn) -> tuple[Tensor, State]:
        return inbox.mixed[0] - (x - after), state

    return Rule(stateless, emit, absorb, early=True, needs=frozenset({"mean"}))


def gradient() -> Rule:
    """x+ = x - mix(D): neighbours exchange gradients (FedSGD, McMahan et al. 2017). On `complete` from a
    common start it is central SGD; elsewhere the models drift apart."""

    def emit(state: State, x: Tensor, after: Tensor, turn: Turn) -> Vectors:
        return (x - after,)

    def absorb(state: State, x: Tensor, after: Tensor, inbox: Inbox, turn: Turn) -> tuple[Tensor, State]:
        return x - inbox.mixed[0], state

    return Rule(stateless, emit, absorb, sends=(Part("displacement"),))


def fedsgd() -> Rule:
    """FedSGD without a server: gradient on `complete`, one gradient a round (McMahan et al. 2017)."""
    return gradient()._replace(needs=frozenset({"complete"}))


def qg(beta: float = 0.9, mu: float = 0.9) -> Rule:
    """M' = beta M + D; x+ = mix(x - M'); M+ = mu M + (1 - mu)(x - x+): quasi-global momentum (Lin et al.
    2021, "Quasi-Global Momentum", algorithm 1). The local phase itself runs without momentum."""

    def init(x: Tensor, turn: Turn) -> State:
        return (zeros(x),)

    def emit(state: State, x: Tensor, after: Tensor, turn: Turn) -> Vectors:
        return (after - beta * turn.ratio * state[0],)

    def absorb(state: State, x: Tensor, after: Tensor, inbox: Inbox, turn: Turn) -> tuple[Tensor, State]:
        (new,) = inbox.mixed
        return new, (mu * turn.ratio * state[0] + (1 - mu) * (x - new),)

    return Rule(init, emit, absorb, keeps=(Part("momentum"),), needs=frozenset({"mean"}))
