"""One cell of a sweep: a config in, figures and curves out, as plain values that travel as JSON."""

from __future__ import annotations

import hashlib
import math
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gossipfl.config import load_config
from gossipfl.core import sketch
from gossipfl.drivers import vector, virtual
from gossipfl.drivers.machine import machine
from gossipfl.drivers.outcome import Outcome, summarize
from gossipfl.drivers.plan import plan
from gossipfl.drivers.swarm import Swarm
from gossipfl.drivers.telling import plain
from gossipfl.errors import ConfigError, GossipError, PeerLost, TrainingDiverged
from gossipfl.learning.workload import workload
from gossipfl.records import Record, number, scan

Point = tuple[int, str, float, float, float | None, float | None, float | None, float | None]
"""round, metric, seconds, bytes sent up to then by the mean node, mean, min, max, std over nodes."""

_LEFT_OUT = frozenset({"edges", "names", "partition", "per_node", "machine"})
_HEAD = frozenset({"node", "name", "round", "time", "kind", "sketch", "consensus_distance"})


def run_cell(job: Mapping[str, object]) -> dict[str, object]:
    """Run a cell: `base` and `settings` are a config and what is set in it, `engine` runs it.

    Returns `error` ("" where it ran), `summary`, `evals` (Points), `model_hash`, `machine`, `wall` (seconds).
    Whatever goes wrong is told in `error`; only KeyboardInterrupt gets through.
    """
    begun = time.perf_counter()
    curves = _Curves()
    found: dict[str, object] = {"error": "", "summary": {}, "model_hash": ""}
    try:
        summary, models, diverged = _run(job, curves)
        found["summary"] = {key: value for key, value in summary.items() if key not in _LEFT_OUT}
        found["model_hash"] = hashlib.sha256(np.ascontiguousarray(models).tobytes()).hexdigest()[:16]
        found["error"] = diverged
    except ConfigError as error:
        found["error"] = "; ".join(str(problem) for problem in error.problems)
    except GossipError as error:
        found["error"] = str(error)
    except Exception as error:  # a task of somebody's own may raise anything: this cell fails, others go on
        traceback.print_exc(file=sys.stderr)
        found["error"] = f"{type(error).__name__}: {error}"
    return found | {
        "evals": curves.points(),
        "machine": machine(),
        "wall": time.perf_counter() - begun,
    }


def _run(
    job: Mapping[str, object], curves: _Curves
) -> tuple[Mapping[str, object], NDArray[np.floating], str]:
    """Summary, models [n, d], and how the run diverged or ""."""
    base, settings = job["base"], job["settings"]
    assert isinstance(base, Mapping) and isinstance(settings, Mapping)
    config = load_config(base, settings)
    if job["engine"] == "swarm":
        return _swarm(config.to_dict(), curves)
    load = workload(config)
    made = plan(config, load.sizes, load.plain)
    outcome: Outcome
    if job["engine"] == "vector":
        outcome = vector.run(made, load, curves.take, each=False)
    else:
        outcome = virtual.run(made, load, curves.take)
    error = ""
    if outcome.diverged is not None:
        node, round, what = outcome.diverged
        error = str(TrainingDiverged(config.names[node], round, what))
    return summarize(made, load, outcome), plain(outcome.x), error


def _swarm(
    sections: Mapping[str, object], curves: _Curves
) -> tuple[Mapping[str, object], NDArray[np.floating], str]:
    """Real processes, in a folder that goes again."""
    config = load_config(sections)
    last: dict[str, object] = {}
    lost: list[str] = []
    models: NDArray[np.floating] = np.empty((0, 0))
    with tempfile.TemporaryDirectory(prefix="gossipfl-") as name:
        folder = Path(name)
        (folder / "records").mkdir()
        with Swarm(config, folder) as running:
            for word in running.words(1.0):
                last.update(word or {})
                if word and "lost" in word:
                    lost.append(f"{word['lost']}: {word['why']}")
                if word and "models" in word:
                    with np.load(str(word["models"]), allow_pickle=False) as stored:
                        models = stored["x"]
            if not {"summary", "problems", "error"} & last.keys():
                raise running.wordless()
        curves.take_all(scan(folder))
    if "problems" in last or "error" in last:
        raise GossipError(str(last.get("error") or last["problems"]))
    summary = last["summary"]
    assert isinstance(summary, dict)
    if not summary["nodes_finished"]:
        raise PeerLost(f"every node was lost: {'; '.join(lost[:3])}")
    diverged = last.get("diverged")
    error = ""
    if isinstance(diverged, list | tuple):
        error = str(TrainingDiverged(config.names[diverged[0]], diverged[1], diverged[2]))
    return summary, models, error


class _Curves:
    """Gathers a run's records into one point a metric and evaluation."""

    def __init__(self) -> None:
        self._values: dict[int, dict[str, list[float]]] = {}
        self._seconds: dict[int, float] = {}
        self._distance: dict[int, float] = {}
        self._bytes: dict[int, float] = {}  # round -> sent up to then by the mean node
        self._sketches: dict[int, list[NDArray[np.float32]]] = {}
        self._sent: dict[int, float] = {}  # round -> sent in it by all nodes
        self._nodes: set[int] = set()

    def take_all(self, records: Iterable[Record]) -> None:
        for record in records:
            self.take(record)

    def take(self, record: Record) -> None:
        """Any record of a run: those of single nodes, or those of all (`evals`)."""
        kind, round = record.get("kind"), int(number(record.get("round"), 0.0))
        if kind == "evals":
            values = record["values"]
            assert isinstance(values, Mapping)
            self._values[round] = dict(values)
            self._seconds[round] = number(record.get("time"))
            self._bytes[round] = number(record.get("sent_bytes"))
            self._distance[round] = number(record.get("consensus_distance"))
        elif kind == "round":
            self._nodes.add(int(number(record.get("node"), 0.0)))
            self._sent[round] = self._sent.get(round, 0.0) + number(record.get("sent_bytes"), 0.0)
        elif kind == "eval":
            gathered = self._values.setdefault(round, {})
            for name, value in record.items():
                if name not in _HEAD and isinstance(value, int | float):
                    gathered.setdefault(name, []).append(float(value))
            if "consensus_distance" in record:  # exact, where all models are known: the last node's record
                self._distance[round] = number(record["consensus_distance"])
            self._seconds[round] = max(self._seconds.get(round, 0.0), number(record.get("time"), 0.0))
            text = record.get("sketch")
            if isinstance(text, str):
                self._sketches.setdefault(round, []).append(sketch.decode(text))

    def points(self) -> list[Point]:
        """By round; a consensus distance that no record has exactly is that of the nodes' sketches."""
        sent = sorted(self._sent)
        total = np.cumsum([self._sent[round] for round in sent]) / max(len(self._nodes), 1)
        found: list[Point] = []
        for round in sorted(self._values):
            if round in self._sketches and round not in self._distance:
                self._distance[round] = sketch.consensus_distance(np.stack(self._sketches[round]))
            upto = np.searchsorted(sent, round, side="right") - 1
            bytes_ = self._bytes.get(round, float(total[upto]) if upto >= 0 else 0.0)
            head = self._seconds[round], bytes_
            for name, values in self._values[round].items():
                over = np.array(values, dtype=float)
                low, high = _finite(over.min()), _finite(over.max())
                found.append((round, name, *head, _finite(over.mean()), low, high, _finite(over.std())))
            distance = _finite(self._distance.get(round, math.nan))
            found.append((round, "consensus_distance", *head, distance, None, None, None))
        return found


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
