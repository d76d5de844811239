"""A node of the event engine, and what it keeps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from torch import Tensor

from gossipfl.core.exchange.rounds import Rounds
from gossipfl.core.exchange.standing import Tree
from gossipfl.core.stopping import Vigil
from gossipfl.drivers.world import Traveller
from gossipfl.learning.abreast import Made
from gossipfl.learning.learner import Learner, Phase

#: What a machine notes that is recorded.
TOLD: Final = frozenset(
    {
        "skip",
        "withheld",
        "correction",
        "rejected",
        "refused",
        "peer_down",
        "reset",
        "slow",
        "timely",
        "rest",
    }
)


class Saved(NamedTuple):
    """A checkpoint, as a node of this engine keeps it."""

    round: int
    machine: Tree
    learner: Tree
    vigil: list[object] | None


@dataclass(slots=True)
class Node(Traveller):
    """A node and where it is in virtual time."""

    machine: Rounds = field(kw_only=True)
    learner: Learner = field(kw_only=True)
    vigil: Vigil | None = field(kw_only=True)
    x: Tensor = field(kw_only=True)  # what the machine gave last
    model: Tensor = field(kw_only=True)  # x, or x after
    made: Made | None = None  # the phase under way, if it is computed already
    phase: Phase = field(default=Phase(0.0, 1.0, 0))
    stepped_at: float = 0.0
    train_s: float = 0.0
    rounds: int = 0
    saved: Saved | None = None
    stale: int | None = None  # the round of its neighbours, who remember more of it than it does itself
    anew: bool = False  # do the others have to begin their rule anew with it?
    borrows: bool = False  # does it take a neighbor's model, since its own is none, or old?
    skipped_from: int | None = None  # the last round before those that were left out
    lives: int = 0  # times that it has begun again
