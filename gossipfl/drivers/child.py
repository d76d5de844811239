"""What a zygote knows of a node's process, and of the run that it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from gossipfl.drivers.forked import Forked

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess


@dataclass(slots=True)
class Child:
    """A node's process as the zygote sees it."""

    node: int
    process: Forked | BaseProcess
    control: Connection
    bound: list[str] | None = None
    begun: float | None = None
    word: dict[str, Any] | None = None
    alive: bool = True
    before: list[str] | None = None  # where the process that this one follows was bound


class Run(NamedTuple):
    """Where a run is, when it began, and what it goes on from."""

    folder: Path
    scratch: Path  # for sockets, and for what does not fit into the run's folder
    epoch: float
    resume: Mapping[str, int] = MappingProxyType({})  # node name -> the round of its checkpoint
    lost: Mapping[str, str] = MappingProxyType({})  # node name -> why it has no part in this any more
