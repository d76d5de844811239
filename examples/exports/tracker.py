"""Records of a run to an experiment tracker: Weights & Biases where that is installed, else a file.

`swarm.writer = "tracker:track"`. MLflow is the same with `mlflow.start_run`, `log_params` and `log_metric`.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gossipfl import Config

KINDS = ("round", "eval")


class File:
    """As much of a wandb run as is used, kept as JSON lines."""

    def __init__(self, path: Path, config: Mapping[str, object]) -> None:
        self._file = path.open("w", encoding="utf-8")
        self.log({"config": dict(config)}, 0)

    def log(self, values: Mapping[str, object], step: int) -> None:
        """Values of one step."""
        self._file.write(json.dumps({"step": step, **values}, default=str) + "\n")

    def finish(self) -> None:
        """Nothing more comes."""
        self._file.close()


@contextmanager
def track(config: Config, folder: Path | None) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Entered before the first record, left at the end; what it yields is called with each record."""
    run: Any
    try:
        run = importlib.import_module("wandb").init(project=config.swarm.name, config=config.to_dict())
    except ImportError:
        run = File((folder or Path()) / "tracked.jsonl", config.to_dict())

    def take(record: Mapping[str, Any]) -> None:
        if record["kind"] in KINDS:
            numbers = {k: v for k, v in record.items() if isinstance(v, float) and k != "time"}
            run.log({f"{record['name']}/{name}": value for name, value in numbers.items()}, record["round"])

    try:
        yield take
    finally:
        run.finish()
