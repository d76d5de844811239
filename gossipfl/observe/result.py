"""What a run gives back to a program: figures, curves over evaluations, the models."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gossipfl.config import Config, load_config
from gossipfl.errors import ConfigError, Problem
from gossipfl.observe.metrics import metrics_of
from gossipfl.records import Record, read, to_json

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure
    from torch import nn


class Result:
    """The end of a run and how it got there.

    config: what ran. summary: the figures of summary.json. path: the run's folder, or None if nothing was
    written.
    models: [n, d], the last parameters in node order, or None where they were not kept (a node that was lost:
    its row is zero). rounds, seconds: [evals]. metrics: name -> [evals, n], NaN where a node did not
    evaluate.
    """

    def __init__(
        self,
        config: Config,
        summary: Mapping[str, object],
        records: Sequence[Record],
        models: NDArray[np.floating] | None = None,
        path: Path | None = None,
        unsaved: Sequence[str] = (),
    ) -> None:
        self.config, self.summary, self.models, self.path = config, dict(summary), models, path
        self.unsaved = tuple(unsaved)  # what could not be written, and why
        self.records = records
        self.rounds, self.seconds, self.metrics = _curves(records, config.swarm.nodes)

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """[evals, n]. Raises KeyError if the task has another metric: see `metrics`."""
        return self.metrics["accuracy"]

    def model(self, node: int | None = None) -> nn.Module:
        """A module with the parameters of a node, or of the mean over the nodes that finished (None).

        Raises ConfigError where the models were not kept (`--save-models`).
        """
        if self.models is None:
            raise ConfigError(Problem("models.npz", "this run kept no models", "run it with --save-models"))
        import torch

        from gossipfl.learning.workload import workload

        if node is None:
            kept = [i for i, v in enumerate(self._per_node()) if v is not None]
            x = self.models[kept].mean(axis=0) if kept else self.models.mean(axis=0)
        else:
            x = self.models[node]
        return workload(self.config).module(torch.from_numpy(np.array(x)))

    def _per_node(self) -> Sequence[object]:
        values = self.summary.get("per_node")
        return values if isinstance(values, list) else [0.0] * self.config.swarm.nodes

    def to_frame(self) -> pandas.DataFrame:
        """One row a node and evaluation: node, name, round, time and the metrics. Needs pandas.

        Raises ImportError naming the install command.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("Result.to_frame needs pandas: pip install pandas") from error
        rows = [
            {k: r[k] for k in ("node", "name", "round", "time")} | metrics_of(r)
            for r in self.records
            if r.get("kind") == "eval"
        ]
        return pandas.DataFrame(rows)

    def plot(self, metric: str | None = None) -> Figure:
        """The curve of a metric (default: the task's own) with its spread over nodes, as a matplotlib
        figure."""
        from gossipfl.observe import plots

        name = metric or str(self.summary["metric"])
        if name not in self.metrics:
            known = ", ".join(self.metrics)
            raise ConfigError(Problem("metric", f"no metric {name!r} in this run", f"one of {known}"))
        return plots.curve(self.rounds, self.metrics[name], name)

    def to_html(self, path: str | Path) -> Path:
        """Write the report, one self-contained page. Returns its path."""
        from gossipfl.observe.report import write_report

        if self.path is not None:
            return write_report([self.path], Path(path))
        with tempfile.TemporaryDirectory(prefix="gossipfl-") as folder:
            return write_report([self.save(folder)], Path(path))

    def save(self, folder: str | Path) -> Path:
        """Write config.toml, metrics.jsonl and summary.json into a folder. Returns it. Raises OSError."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.toml").write_text(self.config.to_toml())
        with (folder / "metrics.jsonl").open("w") as file:
            file.writelines(to_json(r) + "\n" for r in self.records)
        (folder / "summary.json").write_text(json.dumps(self.summary, indent=1))
        return folder

    def __repr__(self) -> str:
        s = self.summary
        figure = s.get("mean")
        mean = f"{figure:.4g}" if isinstance(figure, float) else "-"
        where = f", {self.path}" if self.path else ""
        return (
            f"<Result: {s.get('nodes')} nodes, {s.get('graph')}, {s.get('rule')},"
            f" {s.get('rounds')} rounds ({s.get('engine')}): {s.get('metric')} {mean}{where}>"
        )


def _curves(
    records: Iterable[Record], n: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """rounds [evals], seconds [evals] (the last node's), metric -> [evals, n], from the eval records."""
    rows: dict[int, list[Record]] = {}
    for record in records:
        if record.get("kind") == "eval" and isinstance(record.get("round"), int):
            rows.setdefault(int(str(record["round"])), []).append(record)
    rounds = sorted(rows)
    names = list(dict.fromkeys(k for evals in rows.values() for r in evals for k in metrics_of(r)))
    metrics = {name: np.full((len(rounds), n), np.nan) for name in names}
    seconds = np.zeros(len(rounds))
    for k, round in enumerate(rounds):
        for record in rows[round]:
            node, at = record.get("node"), record.get("time")
            if not isinstance(node, int) or not 0 <= node < n:
                continue
            if isinstance(at, int | float):
                seconds[k] = max(seconds[k], at)
            for name, value in metrics_of(record).items():
                metrics[name][k, node] = value
    return np.array(rounds, dtype=np.int64), seconds, metrics


def load(run_dir: str | Path) -> Result:
    """A run from its folder. Raises ConfigError naming the file that is missing or broken."""
    folder = Path(run_dir)
    config_path, summary_path = folder / "config.toml", folder / "summary.json"
    if not config_path.exists():
        raise ConfigError(
            Problem(str(folder), "no run's folder", "one that holds config.toml and summary.json")
        )
    config = load_config(config_path)
    try:
        summary = json.loads(summary_path.read_text())
    except FileNotFoundError:
        summary = {}  # a run that was interrupted
    except ValueError as error:
        raise ConfigError(
            Problem(str(summary_path), f"not JSON ({error})", "the file as the run wrote it")
        ) from error
    metrics = folder / "metrics.jsonl"
    records = list(read(metrics)) if metrics.exists() else []
    models = None
    if (folder / "models.npz").exists():
        with np.load(folder / "models.npz", allow_pickle=False) as stored:
            models = stored["x"]
    return Result(config, summary, records, models, folder)
