"""What a round brought to one node -> the inbox of its rule: decoded, weighed, summed by node index."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from gossipfl.core.aggregate import Departure, Reweigh, Row, ordered_sum
from gossipfl.core.codecs import NONE, Packing
from gossipfl.core.exchange.edge import Flow
from gossipfl.core.messages import Vectors
from gossipfl.core.rules.base import Inbox, Links

if TYPE_CHECKING:
    from torch import Tensor


class Terms(NamedTuple):
    """What the payloads of a run go through beside W; the same at every node, but for `score`."""

    packing: Packing
    nodes: int = 0  # in the whole graph; per-link rules ask for it
    arcs: bool = False  # edges may carry data one way only
    columns: bool = False  # W's columns sum to one: what does not travel stays with its sender
    reweigh: Reweigh | None = None  # weights by how well each model does here
    score: Callable[[Tensor], float] | None = None  # x [d] -> its loss on this node's validation data
    room: Callable[[Tensor], Tensor] | None = None  # memory for a mean like this tensor; None: new


class Own(NamedTuple):
    """The node's own payload: as the rule made it, as it travels, and as the others decode it."""

    payload: Vectors = ()
    coded: Vectors = ()
    sent: Vectors = ()


def own(payload: Vectors, packing: Packing) -> Own:
    """A payload in its three forms."""
    if packing.codec is NONE:
        return Own(payload, payload, payload)
    coded = packing.pack(payload)
    return Own(payload, coded, packing.unpack(coded, payload))


class Intake(NamedTuple):
    """What counts in a round: the row of those that do, and what they sent, by node, as decoded.

    late: payloads of earlier rounds that count now, decoded, their weights filled in. absent: the row's
    neighbors of whom none arrived. withheld: to whom the own payload was not sent though an arc leads there,
    where columns sum to one.
    """

    row: Row
    arrived: Mapping[int, Vectors]
    late: tuple[Flow, ...] = ()
    absent: tuple[int, ...] = ()
    withheld: frozenset[int] = frozenset()


def inbox(terms: Terms, mine: Own, intake: Intake) -> tuple[Inbox, float | None]:
    """The mixed payload: what is missing is weighed as its sender or this node keeps it, what is late enters
    too. And how far its first part is from the own one, where mixing it has told that."""
    row, arrived, late, absent, withheld = intake
    packing, _, _, columns, reweigh, score, make_room = terms
    payload, _, sent = mine
    if absent or withheld:
        missing = frozenset(absent)
        row = row.withholding(missing, withheld) if columns else row.without(missing)
    if reweigh is not None and score is not None:
        row = _by_score(row, mine, arrived, reweigh, score)
    mixed: list[Tensor] = []
    own, weights = row.node, row.weights
    lossy = packing.codec is not NONE and packing.lossy
    apart = None if late or lossy or not sent else Departure(sent[0])
    for k, value in enumerate(sent):
        parts = [(w, value if j == own else arrived[j][k]) for j, w in weights]
        room = None if make_room is None else make_room(value)
        total = ordered_sum(parts, room, None if k else apart)
        for flow in late:
            if columns:
                total += flow.theirs[k] * (flow.weight or 0.0)
            elif flow.mine is not None:
                total += (flow.theirs[k] - flow.mine[k]) * (flow.weight or 0.0)
        mixed.append(total)
    got = tuple(mixed)
    box = Inbox(packing.settle(payload, sent, got) if lossy else got, sent)
    return box, None if apart is None else apart.value()


def _by_score(
    row: Row,
    mine: Own,
    arrived: Mapping[int, Vectors],
    reweigh: Reweigh,
    score: Callable[[Tensor], float],
) -> Row:
    """The same row with the weights that `reweigh` makes of the models' losses here."""
    losses = [score(mine.sent[0] if j == row.node else arrived[j][0]) for j, _ in row.weights]
    weights = reweigh([w for _, w in row.weights], losses)
    return replace(row, weights=tuple((j, w) for (j, _), w in zip(row.weights, weights, strict=True)))


def inbox_by_link(mine: Own, intake: Intake) -> Inbox:
    """Arrivals aligned with the links (the row's neighbours, ascending); a link that brought nothing does not
    count. What came late has an inbox of its own, by round, with what this end sent then."""
    order = {j: k for k, j in enumerate(intake.row.neighbors)}
    rounds: dict[int, list[Flow]] = {}
    for flow in intake.late:
        rounds.setdefault(flow.round, []).append(flow)
    earlier = []
    for _, flows in sorted(rounds.items()):
        ours = {order[f.peer]: f.mine for f in flows if f.mine is not None}
        sent, _ = _aligned(mine.payload, ours)
        each, counted = _aligned(mine.payload, {order[f.peer]: f.theirs for f in flows})
        earlier.append(Inbox((), sent, each, counted))
    each, counted = _aligned(mine.payload, {order[j]: z for j, z in intake.arrived.items()})
    return Inbox((), mine.sent, each, None if counted.all() else counted, tuple(earlier))


def _aligned(like: Vectors, lines: Mapping[int, Vectors]) -> tuple[Vectors, Tensor]:
    """What each of some links has, as `[e, ...]` in the shape of `like`, and which links these are."""
    whole = tuple(z.new_zeros(z.shape) for z in like)
    counted = like[0].new_zeros((len(like[0]), 1)).bool()
    for line, payload in lines.items():
        counted[line] = True
        for z, value in zip(whole, payload, strict=True):
            z[line] = value
    return whole, counted


def links(row: Row, nodes: int, x: Tensor) -> Links:
    """One node's edges; x `[d]` tells number type and device."""
    count = len(row.neighbors)

    def gather(z: Tensor) -> Tensor:
        if z.dtype.itemsize < 4:
            return gather(z.float()).to(z.dtype)
        total = z.new_zeros(z.shape[1:])
        for value in z:
            total += value
        return total

    weights: Sequence[float] = [w for j, w in row.weights if j != row.node]
    return Links(lambda z: z.expand(count, *z.shape), gather, x.new_tensor(weights).unsqueeze(-1), nodes)
