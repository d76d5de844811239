"""What a node keeps of its machine between two rounds, so that it can go on from there: a checkpoint's core.

It is taken when a round is closed and the decisions for the next one are made, before anything of that next
round is known to anyone: a machine restored from it goes on as if it had never stopped. What had been heard
and not counted by then is not part of it; the peers still hold that, and send it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gossipfl.core.exchange.edge import Edge, Sent
from gossipfl.core.messages import LAST, Vectors
from gossipfl.core.rules.base import State

#: A tree of dicts, lists, numbers, texts, None and tensors.
Tree = Any


class Footing(NamedTuple):
    """One end of an edge, as it is kept."""

    peer: int
    counted: int
    acked: int
    sent: int
    plan: bool
    peer_inc: int | None
    verify: int  # LAST: the peer has met this state
    out: tuple[tuple[int, Vectors, float, bool], ...]  # round, payload, weight, settled
    owed: tuple[tuple[int, Vectors], ...]


class Standing(NamedTuple):
    """A machine between two rounds: `round` are closed, `round` is the next."""

    round: int
    inc: int
    stop: int  # the swarm ends after so many rounds, as far as is known
    decided: bool  # have the decisions for `round` been made?
    resets: tuple[int, ...]  # rounds at whose start the rule begins anew
    renewed: int  # the last of them that is behind
    state: State | None  # None: the rule begins anew
    edges: tuple[Footing, ...]


def footing(edge: Edge, over: int | None = None) -> Footing:
    """What is kept of an edge. `over`: the run has ended after so many rounds; what was a goodbye to the
    peer is then the word of its last round."""
    last = LAST if over is None else over - 1
    return Footing(
        edge.peer,
        min(edge.counted, last),
        min(edge.acked, last),
        min(edge.sent, last),
        edge.plan,
        edge.peer_inc,
        edge.verify,
        tuple((t, s.payload, s.weight, s.settled) for t, s in sorted(edge.out.items())),
        tuple(sorted(edge.owed.items())),
    )


def stand(kept: Footing, round: int, arcs: bool) -> Edge:
    """The edge of a footing. What was heard and not counted is to be heard again; and until a peer has said
    that it knows of nothing later, this state may be a stale one."""
    edge = Edge(kept.peer, arcs)
    edge.heard = edge.counted = kept.counted
    edge.acked, edge.sent, edge.plan, edge.peer_inc = kept.acked, kept.sent, kept.plan, kept.peer_inc
    edge.out = {t: Sent(payload, weight, settled) for t, payload, weight, settled in kept.out}
    edge.owed = dict(kept.owed)
    edge.verify = min(kept.verify, round)
    return edge


def anew(round: int, inc: int) -> Standing:
    """What a node goes on from that has lost what its peers remember of it: no edges, no rule state, another
    incarnation, in the round in which the others are."""
    return Standing(round, inc, LAST, False, (), -1, None, ())


def to_tree(standing: Standing) -> Tree:
    """As a tree, for a file."""
    tree: dict[str, object] = {**standing._asdict(), "resets": list(standing.resets)}
    tree["state"] = None if standing.state is None else list(standing.state)
    tree["edges"] = [
        {
            **kept._asdict(),
            "out": [[t, list(payload), weight, settled] for t, payload, weight, settled in kept.out],
            "owed": [[t, list(payload)] for t, payload in kept.owed],
        }
        for kept in standing.edges
    ]
    return tree


def from_tree(tree: Mapping[str, Tree]) -> Standing:
    """The standing of a tree. Raises KeyError, TypeError, ValueError for another tree."""

    def kept(entry: Mapping[str, Tree]) -> Footing:
        out = tuple((t, tuple(payload), weight, settled) for t, payload, weight, settled in entry["out"])
        owed = tuple((t, tuple(payload)) for t, payload in entry["owed"])
        return Footing(**{**entry, "out": out, "owed": owed})

    edges: Sequence[Mapping[str, Tree]] = tree["edges"]
    return Standing(
        **{
            **tree,
            "resets": tuple(tree["resets"]),
            "state": None if tree["state"] is None else tuple(tree["state"]),
            "edges": tuple(kept(entry) for entry in edges),
        }
    )
