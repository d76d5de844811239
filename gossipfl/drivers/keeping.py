"""A node's checkpoints while it runs: when they are due, what is in them, which of them stay."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from gossipfl.config import Config
from gossipfl.core.exchange.rounds import Rounds
from gossipfl.core.exchange.standing import Tree, anew, from_tree, to_tree
from gossipfl.drivers import checkpoint
from gossipfl.drivers.common_round import Hold, stay
from gossipfl.drivers.resuming import HASHES
from gossipfl.learning.learner import Learner

log = logging.getLogger(__name__)

#: Bits of an incarnation's number, drawn anew wherever one is needed.
INCARNATION: Final = 60


class Life(NamedTuple):
    """What a node's checkpoint says beside machine and learner."""

    time: float  # seconds since the start, without those in which the node was away
    begun: float
    records: int  # bytes of records
    sent_bytes: int
    vigil: list[object] | None


class Keeping:
    """The checkpoints of one node. One that cannot be written (a full disk) is told of once; training goes
    on."""

    def __init__(
        self, config: Config, node: int, folder: Path, about: Mapping[str, object], say: Callable[[str], None]
    ) -> None:
        """folder: of the run; about: what the node tells when it meets others; say: takes a line for
        people."""
        self.folder = folder / checkpoint.FOLDER / config.names[node]
        self._config, self._node, self._about, self._say = config, node, about, say
        self._every = config.swarm.checkpoint_every
        self._last = 0  # the round of the last one
        self._told = False  # that one could not be written
        self.hold: Hold | None = None  # what is kept for the others
        self._most = checkpoint.KEEP + (-(-checkpoint.lead(config) // self._every) if self._every else 0)

    def due(self, round: int) -> bool:
        """Is a checkpoint due after so many rounds?"""
        return self._every > 0 and round // self._every > self._last // self._every

    @property
    def wanted(self) -> bool:
        """Are there any at all?"""
        return self._every > 0

    def write(self, round: int, life: Life, machine: Tree, learner: Learner) -> int | None:
        """Write one, and let go of old ones; its bytes, or None if it could not be written."""
        self._last = round
        header: dict[str, object] = {
            "node": self._node,
            "name": self._config.names[self._node],
            **life._asdict(),
            "rounds": self._config.swarm.rounds,
            "essentials": checkpoint.essentials(self._config),
            "hashes": {key: self._about[key] for key in HASHES},
        }
        try:
            size = checkpoint.write(
                self.folder, round, header, {"machine": machine, "learner": learner.kept()}
            )
        except OSError as error:
            if not self._told:
                where = Path(error.filename or self.folder)
                self._say(f"{where}: {error.strerror or error}; the checkpoint of round {round} is not kept")
            self._told = True
            return None
        self._told = False
        checkpoint.prune(self.folder, stay(self.rounds(), self.hold, self._most))
        return size

    def rounds(self) -> list[int]:
        """Those of which there is one, ascending."""
        return checkpoint.rounds(self.folder)

    def load(self, round: int, learner: Learner) -> tuple[dict[str, Any], Tree]:
        """Restore the learner of a checkpoint; what it says of the node's life, and the machine's tree.

        Raises Unusable.
        """
        said, tree = checkpoint.load(self.folder, round, learner.vector.device)
        try:
            learner.restore(tree["learner"])
        except (KeyError, ValueError, TypeError) as error:
            raise checkpoint.Unusable(
                f"{self.folder / f'{round:08d}'} is of another model: {error}"
            ) from error
        self._last = round
        return said, tree["machine"]


def standing(machine: Rounds) -> Tree:
    """What is kept of a machine."""
    return to_tree(machine.standing())


def resume(machine: Rounds, tree: Tree, config: Config, rounds: int) -> bool:
    """Let a machine go on from what was kept of a run of so many rounds. Must the others begin their rule
    anew with it?"""
    kept = from_tree(tree)
    if kept.stop <= kept.round:
        kept = kept._replace(stop=machine.stop)  # that run had ended; this is its continuation
    if kept.state and rounds != config.swarm.rounds and config.train.lr_schedule == "cosine":
        # The learning rates to come are not those that the rule's state was made for.
        kept = kept._replace(state=None, renewed=kept.round)
    machine.resume(kept)
    return kept.state is None and not kept.edges


def grow(folder: Path, round: int, config: Config, about: Mapping[str, object]) -> None:
    """Let a node's checkpoint be one of a swarm to which nodes have been added: with its model, and neither a
    rule's state nor lines on which anyone has met. Raises Unusable, OSError."""
    said, tree = checkpoint.load(folder, round)
    header = {key: value for key, value in said.items() if key not in ("version", "round", "tensors")}
    header |= {
        "essentials": checkpoint.essentials(config),
        "hashes": {key: about[key] for key in HASHES},
    }
    checkpoint.write(folder, round, header, {"machine": afresh(round), "learner": tree["learner"]})


def afresh(round: int) -> Tree:
    """What a node goes on from whose state is stale, in the round of those that it has met."""
    return to_tree(anew(round, secrets.randbits(INCARNATION)))
