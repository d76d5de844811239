"""Rules that correct for data that differ between nodes: they reach the optimum of the mean, not of the
mixture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gossipfl.core.messages import Vectors
from gossipfl.core.rules.base import Inbox, Part, Rule, State, Turn, zeros

if TYPE_CHECKING:
    from torch import Tensor


def d2() -> Rule:
    """x+ = mix(x - D + c); c+ = x+ - x + D (Tang et al. 2018, "D2"; with (I+W)/2 it is Exact Diffusion, Yuan
    et al. 2018).

    c carries the last displacement, so it is scaled when the learning rate moves.
    """

    def init(x: Tensor, turn: Turn) -> State:
        return (zeros(x),)

    def emit(state: State, x: Tensor, after: Tensor, turn: Turn) -> Vectors:
        return (after + turn.ratio * state[0],)

    def absorb(state: State, x: Tensor, after: Tensor, inbox: Inbox, turn: Turn) -> tuple[Tensor, State]:
        (new,) = inbox.mixed
        return new, (new - after,)

    return Rule(
        init,
        emit,
        absorb,
        keeps=(Part("correction"),),
        needs=frozenset({"static", "symmetric", "lambda-min"}),
    )


def _tracked(state: State, x: Tensor, after: Tensor, turn: Turn) -> Tensor:
    """y = (mix(y) - D) of the last round, scaled to this round's learning rate, + D."""
    return turn.ratio * state[0] + (x - after)


def gradient_tracking() -> Rule:
    """x+ = mix(x - y); y+ = mix(y) + D+ - D, y0 = D0 (Di Lorenzo & Scutari 2016, "NEXT"; the semi-ATC form).
    One exchange of two vectors; mean y = mean D always."""

    def init(x: Tensor, turn: Turn) -> State:
        return (zeros(x),)

    def emit(state: State, x: Tensor, after: Tensor, turn: Turn) -> Vectors:
        y = _tracked(state, x, after, turn)
        return (x - y, y)

    def absorb(state: State, x: Tensor, after: Tensor, inbox: Inbox, turn: Turn) -> tuple[Tensor, State]:
        new, mixed_y = inbox.mixed
        return new, (mixed_y - (x - after),)

    return Rule(
        init,
        emit,
        absorb,
        sends=(Part("model"), Part("tracker")),
        keeps=(Part("tracker"),),
        needs=frozenset({"doubly-stochastic"}),
    )


def diging() -> Rule:
    """x+ = mix(x) - y; y+ = mix(y) + D+ - D (Nedic, Olshevsky & Shi 2017, "DIGing")."""

    def init(x: Tensor, turn: Turn) -> State:
        return (zeros(x),)

    def emit(state: State, x: Tensor, after: Tensor, turn: Turn) -> Vectors:
        return (x, _tracked(state, x, after, turn))

    def absorb(state: State, x: Tensor, after: Tensor, inbox: Inbox, turn: Turn) -> tuple[Tensor, State]:
        mixed_x, mixed_y = inbox.mixed
        return mixed_x - _tracked(state, x, after, turn), (mixed_y - (x - after),)

    return Rule(
        init,
        emit,
        absorb,
        sends=(Part("model"), Part("tracker")),
        keeps=(Part("tracker"),),
        needs=frozenset({"doubly-stochastic"}),
    )
