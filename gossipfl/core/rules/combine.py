"""Rules made of rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gossipfl.core.messages import Vectors
from gossipfl.core.rules.base import Inbox, Part, Rule, State, Turn

if TYPE_CHECKING:
    from torch import Tensor

#: How much of its last scale a node keeps in a round.
INERTIA: Final = 0.9


def beside(rule: Rule, plain: int) -> Rule:
    """The rule on all of x but its last `plain` elements, which are mixed plainly after the local phase:
    running statistics and optimizer state are means, and no displacement of theirs is to be tracked.

    Where the rule sends a mass (push-sum) they are weighed by it, so that they stay means there too.
    """
    mass = next((k for k, part in enumerate(rule.sends) if part.kind == "exact"), None)

    def init(x: Tensor, turn: Turn) -> State:
        return rule.init(x[..., :-plain], turn)

    def emit(state: State, x: Tensor, after: Tensor, turn: Turn) -> Vectors:
        payload = rule.emit(state, x[..., :-plain], after[..., :-plain], turn)
        extra = after[..., -plain:].contiguous()
        if rule.per_link and turn.links is not None:
            return (*payload, turn.links.spread(extra))
        return (*payload, extra if mass is None else extra * payload[mass])

    def absorb(state: State, x: Tensor, after: Tensor, inbox: Inbox, turn: Turn) -> tuple[Tensor, State]:
        mixed = inbox.mixed
        head, state = rule.absorb(state, x[..., :-plain], after[..., :-plain], _inner(inbox), turn)
        if rule.per_link:
            extra = _met(after[..., -plain:], inbox, turn)
        elif mass is not None:
            extra = mixed[-1] / mixed[mass]
        else:
            extra = mixed[-1]
        if rule.early:
            extra = extra - (x[..., -plain:] - after[..., -plain:])
        new = x.new_empty(x.shape)
        new[..., :-plain], new[..., -plain:] = head, extra
        return new, state

    def shorter(parts: tuple[Part, ...]) -> tuple[Part, ...]:
        return tuple(p if p.kind == "exact" else p._replace(width=-plain) for p in parts)

    sends = (*shorter(rule.sends), Part("plain", "exact", rule.per_link, plain))
    return rule._replace(init=init, emit=emit, absorb=absorb, sends=sends, keeps=shorter(rule.keeps))


def _inner(inbox: Inbox) -> Inbox:
    """The same without the last part."""
    earlier = tuple(map(_inner, inbox.earlier))
    return Inbox(inbox.mixed[:-1], inbox.sent[:-1], inbox.each[:-1], inbox.counted, earlier)


def _met(own: Tensor, inbox: Inbox, turn: Turn) -> Tensor:
    """own + sum over the links that brought something of w (theirs - ours), both as they were sent."""
    assert turn.links is not None
    for box in (*inbox.earlier, inbox):
        pull = (box.each[-1] - box.sent[-1]) * turn.links.weight
        own = own + turn.links.gather(pull if box.counted is None else pull.masked_fill(~box.counted, 0.0))
    return own


def agreeing(rule: Rule) -> Rule:
    """The rule on scaled displacements, x - s D: s is a running mean of (1 + cos) / 2, cos the cosine between
    what the node's own phase did (D) and what the round did (x - x+). One SGD step with s is a step with the
    learning rate s eta.

    The angle between a node's update and the joint one as a measure of its worth is Wu & Wang 2021,
    "Fast-Convergent Federated Learning with Adaptive Weighting" (FedAdp); scaling a round's whole
    displacement is the outer step size of Reddi et al. 2021, "Adaptive Federated Optimization".
    """

    def init(x: Tensor, turn: Turn) -> State:
        return (x.new_ones(x[..., :1].shape), *rule.init(x, turn))

    def emit(state: State, x: Tensor, after: Tensor, turn: Turn) -> Vectors:
        scale, *inner = state
        return rule.emit(tuple(inner), x, x - scale * (x - after), turn)

    def absorb(state: State, x: Tensor, after: Tensor, inbox: Inbox, turn: Turn) -> tuple[Tensor, State]:
        scale, *inner = state
        own = x - after
        new, kept = rule.absorb(tuple(inner), x, x - scale * own, inbox, turn)
        joint = x - new
        lengths = own.norm(dim=-1, keepdim=True) * joint.norm(dim=-1, keepdim=True)
        cosine = (own * joint).sum(dim=-1, keepdim=True) / lengths.clamp_min(1e-30)
        return new, (INERTIA * scale + (1 - INERTIA) * (0.5 + 0.5 * cosine), *kept)

    return rule._replace(init=init, emit=emit, absorb=absorb, keeps=(Part("scale", "exact"), *rule.keeps))
