"""What a run tells, passed on while it runs: to TensorBoard, and to a writer of the user's own.

Exports only listen: one that fails is told of once and dropped, and training goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from gossipfl import plugin
from gossipfl.config import Config
from gossipfl.core import sketch
from gossipfl.errors import ConfigError, Problem
from gossipfl.observe.metrics import metrics_of
from gossipfl.records import Record, number

NODES: Final = 32
"""Nodes up to which each has curves of its own in TensorBoard."""

Take = Callable[[Record], object]


class Scalars(Protocol):
    """As much of TensorBoard's SummaryWriter as is used."""

    def add_scalar(self, tag: str, value: float, step: int) -> None: ...
    def add_text(self, tag: str, text: str) -> None: ...
    def close(self) -> None: ...


def check(config: Config, folder: object) -> None:
    """Raise ConfigError where a wanted export cannot be made; `folder`: None if nothing is to be written."""
    if not config.swarm.tensorboard:
        return
    if folder is None:
        raise ConfigError(Problem("swarm.tensorboard", "has no folder to write to", "say where, with out"))
    try:
        import tensorboard  # noqa: F401
    except ImportError as error:
        wrong, right = "the package tensorboard is not installed", 'pip install "gossipfl[tensorboard]"'
        raise ConfigError(Problem("swarm.tensorboard", wrong, right)) from error


@contextmanager
def exports(config: Config, folder: Path | None, note: Callable[[str], None]) -> Iterator[Take]:
    """Give every record of a run to the exports its config wants; `note` is told where one of them fails.

    TensorBoard's files go to `folder/tensorboard`. Raises ConfigError for a writer that cannot be loaded.
    """
    takes: dict[str, Take] = {}
    with ExitStack() as stack:
        if config.swarm.tensorboard and folder is not None:
            takes["swarm.tensorboard"] = stack.enter_context(_tensorboard(config, folder))
        if spec := config.swarm.writer:
            made = plugin.load(spec, "swarm.writer")(config, folder)
            if not isinstance(made, AbstractContextManager):
                right = "a function of config and folder, decorated with contextlib.contextmanager"
                raise ConfigError(Problem("swarm.writer", f"{spec} returns no context manager", right))
            takes[f"swarm.writer {spec}"] = stack.enter_context(made)

        def take(record: Record) -> None:
            for name, one in list(takes.items()):
                try:
                    one(record)
                except Exception as error:  # somebody else's code: whatever it raises is its own
                    del takes[name]
                    note(f"{name} failed and is left out from now on: {type(error).__name__}: {error}")

        yield take


@contextmanager
def _tensorboard(config: Config, folder: Path) -> Iterator[Take]:
    from torch.utils.tensorboard import SummaryWriter

    writer: Scalars = SummaryWriter(str(folder / "tensorboard"))
    try:
        writer.add_text("config", f"```toml\n{config.to_toml()}\n```")
        curves = Curves(writer, config.names)
        yield curves.take
        curves.finish()
    finally:
        writer.close()


class Curves:
    """Turns records into scalars: over nodes (mean, min, max), and each node's own where they are few.

    A round is written when all nodes have told of it, or at the end.
    """

    def __init__(self, writer: Scalars, names: tuple[str, ...]) -> None:
        self._writer, self._names = writer, names
        self._losses: dict[int, list[float]] = {}
        self._evals: dict[int, list[Record]] = {}

    def take(self, record: Record) -> None:
        """Any record of the run."""
        round = int(number(record.get("round"), 0.0))
        if record.get("kind") == "round":
            losses = self._losses.setdefault(round, [])
            losses.append(number(record.get("loss")))
            if len(losses) == len(self._names):
                self._write("training/loss", round, self._losses.pop(round))
        elif record.get("kind") == "eval":
            rows = self._evals.setdefault(round, [])
            rows.append(record)
            if len(rows) == len(self._names):
                self._evaluation(round, self._evals.pop(round))

    def finish(self) -> None:
        """Write the rounds that some nodes never reached."""
        for round in sorted(self._losses):
            self._write("training/loss", round, self._losses[round])
        for round in sorted(self._evals):
            self._evaluation(round, self._evals[round])

    def _evaluation(self, round: int, rows: list[Record]) -> None:
        values: dict[str, list[float]] = {}
        for row in rows:
            for metric, value in metrics_of(row).items():
                values.setdefault(metric, []).append(value)
                if len(self._names) <= NODES and math.isfinite(value):
                    self._writer.add_scalar(f"nodes/{metric}/{row['name']}", value, round)
        for metric, found in values.items():
            over = [value for value in found if math.isfinite(value)] or [math.nan]
            self._write(f"{metric}/mean", round, over)
            self._writer.add_scalar(f"{metric}/min", min(over), round)
            self._writer.add_scalar(f"{metric}/max", max(over), round)
        texts = [row["sketch"] for row in rows if isinstance(row.get("sketch"), str)]
        if len(texts) == len(rows):
            buckets = np.stack([sketch.decode(str(text)) for text in texts])
            self._writer.add_scalar("consensus_distance", sketch.consensus_distance(buckets), round)

    def _write(self, tag: str, round: int, values: list[float]) -> None:
        self._writer.add_scalar(tag, sum(values) / len(values), round)


Writer = Callable[[Config, Path | None], AbstractContextManager[Callable[[Mapping[str, object]], object]]]
"""What `swarm.writer` names: called with the config and the run's folder, it is entered before the first
record, gives the function that takes each record, and is left at the end however the run ends."""
