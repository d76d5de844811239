"""One tree of errors. A message names what is wrong, where (key, node or file), and what would be right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class GossipError(Exception):
    """Anything gossipfl raises on purpose; `except GossipError` catches it all."""


class Problem(NamedTuple):
    """One mistake: the key (or option, or file) it is in, what is wrong, and what would be right."""

    key: str
    wrong: str
    right: str = ""

    def __str__(self) -> str:
        return f"{self.key}: {self.wrong}; {self.right}" if self.right else f"{self.key}: {self.wrong}"


class ConfigError(GossipError, ValueError):
    """The command, the config or a file it names is wrong. All mistakes are reported at once, in
    `problems`."""

    def __init__(self, problems: Sequence[Problem] | Problem) -> None:
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(p) for p in self.problems))


class LocalProtocolError(GossipError):
    """This side used a machine or a connection in a way its state does not allow: a bug here, not at the
    peer."""


class RemoteProtocolError(GossipError):
    """A peer sent something the protocol does not allow. The message names the peer and the field."""


class PeerLost(GossipError):
    """Every neighbour (or every node of a swarm) is gone."""


class Refused(GossipError):
    """Peers refused this node: the message names the peer, the first key that differs and both values."""


class TrainingDiverged(GossipError):
    """The loss or a parameter became NaN or infinite. The message names the node and the round."""

    def __init__(self, node: str, round: int, what: str) -> None:
        self.node, self.round, self.what = node, round, what
        super().__init__(f"{node}: {what} in round {round}; lower train.lr or set train.clip")
