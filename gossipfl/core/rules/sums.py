"""Rules that keep a sum instead of an average: directed graphs, trees, compressed differences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gossipfl.core.messages import Vectors
from gossipfl.core.rules.base import Inbox, Links, Part, Rule, State, Turn, zeros

if TYPE_CHECKING:
    from torch import Tensor


def push_sum() -> Rule:
    """(p, w) with p+ = sum a_ij (p_j - D_j), w+ = sum a_ij w_j, x = p / w (Nedic & Olshevsky 2016; Assran et
    al. 2019, "Stochastic Gradient Push"). A is column-stochastic: any directed graph."""

    def init(x: Tensor, turn: Turn) -> State:
        return (x, zeros(x[..., :1]) + 1.0)

    def emit(state: State, x: Tensor, after: Tensor, turn: Turn) -> Vectors:
        p, mass = state
        return (p - (x - after), mass)

    def absorb(state: State, x: Tensor, after: Tensor, inbox: Inbox, turn: Turn) -> tuple[Tensor, State]:
        p, mass = inbox.mixed
        return p / mass, (p, mass)

    return Rule(
        init,
        emit,
        absorb,
        sends=(Part("sum"), Part("mass", "exact")),
        keeps=(Part("sum"), Part("mass", "exact")),
        needs=frozenset({"column-stochastic"}),
    )


def _links(turn: Turn) -> Links:
    if turn.links is None:
        raise ValueError("a per-link rule: the turn must bring its links")
    return turn.links


def choco(gamma: float = 0.2, per_link: bool = True) -> Rule:
    """CHOCO-SGD (Koloskova et al. 2019, "Decentralized Stochastic Optimization and Gossip Algorithms with
    Compressed Communication"): every neighbour keeps a copy h of x; only a compressed difference
    q = Q(x_half - h) travels, h+ = h + q, x+ = x_half + gamma sum over j of w_ij (h_j+ - h_i+).

    per_link: a copy for each link, so that a link that is silent for a while, or for ever, disturbs nobody.
    Without: the summed form of algorithm 2, two vectors whatever the degree, for links that never fail.
    """
    return _copies_by_link(gamma) if per_link else _copies_in_sum(gamma)


def _copies_in_sum(gamma: float) -> Rule:
    """Kept: h and s = mix(h); x+ = x_half + gamma (s+ - h+)."""

    def init(x: Tensor, turn: Turn) -> State:
        return (zeros(x), zeros(x))

    def emit(state: State, x: Tensor, after: Tensor, turn: Turn) -> Vectors:
        return (after - state[0],)

    def absorb(state: State, x: Tensor, after: Tensor, inbox: Inbox, turn: Turn) -> tuple[Tensor, State]:
        copy = state[0] + inbox.sent[0]
        mixed_copies = state[1] + inbox.mixed[0]
        return after + gamma * (mixed_copies - copy), (copy, mixed_copies)

    return Rule(
        init,
        emit,
        absorb,
        sends=(Part("difference", "difference"),),
        keeps=(Part("copy"), Part("mixed copies")),
        needs=frozenset({"static", "symmetric"}),
    )


def _copies_by_link(gamma: float) -> Rule:
    """Kept for each link: the own copy as the neighbour holds it, and the neighbour's. What a link moves in a
    round it moves at both ends or at neither, by the same amount: the sum over the nodes is kept."""

    def init(x: Tensor, turn: Turn) -> State:
        nothing = _links(turn).spread(zeros(x))
        return (nothing, nothing)

    def emit(state: State, x: Tensor, after: Tensor, turn: Turn) -> Vectors:
        return (_links(turn).spread(after) - state[0],)

    def absorb(state: State, x: Tensor, after: Tensor, inbox: Inbox, turn: Turn) -> tuple[Tensor, State]:
        links, (own, other), new = _links(turn), state, after
        for box in (*inbox.earlier, inbox):
            silent = None if box.counted is None else ~box.counted
            own_new, other_new = own + box.sent[0], other + box.each[0]
            pull = (other_new - own_new) * links.weight
            if silent is not None:
                own_new, other_new = own.where(silent, own_new), other.where(silent, other_new)
                pull = pull.masked_fill(silent, 0.0)
            own, other, new = own_new, other_new, new + gamma * links.gather(pull)
        return new, (own, other)

    return Rule(
        init,
        emit,
        absorb,
        sends=(Part("difference", "difference", link=True),),
        keeps=(Part("own copy", link=True), Part("other copy", link=True)),
        per_link=True,
        needs=frozenset({"static", "symmetric"}),
    )


def relay_sum(count: bool = False) -> Rule:
    """RelaySum on a tree (Vogels et al. 2021, "RelaySum for Decentralized Deep Learning on Heterogeneous
    Data"): message m_ij = x_i after + sum over k != j of m_ki of the last round; x+ = (own + all last
    messages) / n.

    Models that have not arrived yet stand in as x0 (`fill`, the default), or the sum is divided by the models
    it holds (`count`). On a tree each round brings more of them until all are there. Where one brings none,
    the missing nodes are down: the node's own model stands in from then on. Else x0, which differs from node
    to node where the rule has begun anew, would hold the survivors apart for ever.
    """

    def init(x: Tensor, turn: Turn) -> State:
        links = _links(turn)
        message = links.spread(zeros(x))
        return (x, message, message[..., :1])

    def emit(state: State, x: Tensor, after: Tensor, turn: Turn) -> Vectors:
        links, (_, last, models) = _links(turn), state
        message = links.spread(after + links.gather(last)) - last
        return (message, links.spread(links.gather(models) + 1.0) - models)

    def absorb(state: State, x: Tensor, after: Tensor, inbox: Inbox, turn: Turn) -> tuple[Tensor, State]:
        links, (start, last, last_models) = _links(turn), state
        message, models = last, last_models
        for box in (*inbox.earlier, inbox):  # a silent link keeps its old message
            newer = box.each
            if box.counted is not None:
                newer = (newer[0].where(box.counted, message), newer[1].where(box.counted, models))
            message, models = newer
        total, held = after + links.gather(message), links.gather(models) + 1.0
        start = start.where(held > links.gather(last_models) + 1.0, after)
        new = total / held if count else (total + (links.nodes - held) * start) / links.nodes
        return new, (start, message, models)

    return Rule(
        init,
        emit,
        absorb,
        sends=(Part("message", link=True), Part("models", "exact", link=True)),
        keeps=(Part("start"), Part("message", link=True), Part("models", "exact", link=True)),
        per_link=True,
        needs=frozenset({"tree"}),
    )
