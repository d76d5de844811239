"""The library's front door: run a swarm or a simulation, load what one left."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from gossipfl.config import Config, Overrides, Source, load_config
from gossipfl.drivers.held import held
from gossipfl.errors import ConfigError, GossipError, PeerLost, Problem, Refused, TrainingDiverged
from gossipfl.observe import exports
from gossipfl.observe.follow import Follower
from gossipfl.observe.result import Result, load
from gossipfl.observe.saving import Saving, new_folder, take_back
from gossipfl.observe.sweep_result import SweepResult, results
from gossipfl.records import Record, merge, read, tally, to_json

if TYPE_CHECKING:
    from gossipfl.drivers.resuming import Found
    from gossipfl.drivers.sweep.grid import Source as Grid
    from gossipfl.drivers.sweep.grid import Sweep
    from gossipfl.drivers.sweep.run import Options, Progress
    from gossipfl.learning.task import Task, VectorTask

__all__ = ["Result", "SweepResult", "load", "results", "simulate", "swarm", "sweep"]

#: Seconds between two looks at what the nodes have written.
LOOK_EVERY: Final = 0.2
#: Records of single rounds kept in memory by a simulation that writes no files; evaluations are always kept.
KEEP: Final = 200_000


class Watch(Protocol):
    """Is told of each record as it is made, and of what is worth a line."""

    def __call__(self, record: Mapping[str, object]) -> None: ...
    def note(self, text: str) -> None: ...


class Unwatched:
    """Nobody watches."""

    def __call__(self, record: Mapping[str, object]) -> None: ...
    def note(self, text: str) -> None: ...


def simulate(
    config: Source = None,
    *,
    engine: Literal["vector", "events"] = "vector",
    task: Task | VectorTask | None = None,
    overrides: Overrides | None = None,
    out: str | os.PathLike[str] | None = None,
    save_models: bool = True,
    watch: Watch | None = None,
) -> Result:
    """Run without processes or sockets. `task` stands in for what the config names; `out`: a new folder for
    the run's files (None: nothing is written).

    Raises ConfigError (all mistakes at once), TrainingDiverged, and PeerLost (in the event engine's network
    every node went away for good).
    """
    from gossipfl.drivers import keep, vector, virtual
    from gossipfl.drivers.outcome import summarize
    from gossipfl.drivers.plan import plan
    from gossipfl.drivers.telling import plain
    from gossipfl.learning.workload import workload

    if engine not in ("vector", "events"):
        raise ConfigError(Problem("engine", f"no engine {engine!r}", "vector or events"))
    loaded, watch = load_config(config, overrides), watch or Unwatched()
    _check(loaded, engine)
    exports.check(loaded, out)
    load_ = workload(loaded, task)
    made = plan(loaded, load_.sizes, load_.plain)
    for note in made.recipe.notes:
        watch.note(note)
    folder = None if out is None else new_folder(out)
    with nullcontext() if folder is None else held(folder, "out", new=True):
        saving = Saving(folder)
        saving.text("config.toml", loaded.to_toml())
        kept: list[Record] = []
        with saving.lines("metrics.jsonl") as line, exports.exports(loaded, folder, watch.note) as export:

            def tell(record: Record) -> None:
                if record["kind"] != "round" or len(kept) < KEEP:
                    kept.append(record)
                line(record)
                export(record)
                watch(record)

            try:
                outcome = (vector if engine == "vector" else virtual).run(made, load_, tell)
            except ConfigError:  # a replay that is none
                saving.take_back()
                raise
        for note in outcome.notes:
            watch.note(note)
        summary = summarize(made, load_, outcome)
        if folder is not None and (save_models or outcome.diverged):
            saving.attempt("models.npz", lambda: keep.save_models(folder, load_, outcome, loaded.names))
        result = _finish(loaded, summary, kept, plain(outcome.x), saving, outcome.diverged, watch)
        if outcome.lost and not summary["nodes_finished"]:
            raise PeerLost(f"every node was lost: {_why_all(made.config)}")
        return result


def _why_all(config: Config) -> str:
    """How all nodes of a simulation may have been lost."""
    killed = any(fault.kind in ("kill", "restart") for fault in config.fault)
    ways = ["killed, and not started again (fault)"] if killed else []
    ways += ["gone away, and none comes back (network.trace)"] if config.network.trace else []
    return "all were " + ", or ".join(ways) if ways else "none is there any more"


def swarm(
    config: Source = None,
    *,
    overrides: Overrides | None = None,
    out: str | os.PathLike[str] | None = None,
    save_models: bool = True,
    resume: str | os.PathLike[str] | None = None,
    watch: Watch | None = None,
) -> Result:
    """Run real processes on this machine, over ZeroMQ; works from a notebook too. `out`: a new folder for the
    run's files (None: they are read back and deleted). `resume`: the folder of a run that goes on from its
    checkpoints; its config, where none is given.

    Raises ConfigError, TrainingDiverged, PeerLost (every node was lost), Refused; KeyboardInterrupt after
    everything has been stopped and the records merged.
    """
    if resume is not None:
        return _resumed(config, overrides, Path(resume), out, save_models, watch or Unwatched())
    loaded = load_config(config, overrides)
    exports.check(loaded, out)
    if out is not None:
        folder = new_folder(out)
        with held(folder, "out", new=True):
            return _swarm(loaded, folder, save_models, watch or Unwatched())
    with tempfile.TemporaryDirectory(prefix="gossipfl-") as scratch:
        result = _swarm(loaded, Path(scratch), False, watch or Unwatched(), report=False)
        return Result(result.config, result.summary, result.records, result.models)


def _resumed(
    config: Source,
    overrides: Overrides | None,
    folder: Path,
    out: str | os.PathLike[str] | None,
    save_models: bool,
    watch: Watch,
) -> Result:
    from gossipfl.drivers import resuming
    from gossipfl.drivers.plan import needs_sizes, plan

    if out is not None and Path(out) != folder:
        wrong, right = "a run goes on in its own folder", f"leave it out, or cp -r {folder} {out} before"
        raise ConfigError(Problem("out", wrong, right))
    if not (folder / "config.toml").is_file():
        wrong = f"{folder} is no folder of a run: it has no config.toml"
        raise ConfigError(Problem("--resume", wrong, "what swarm was given as --out"))
    loaded = load_config(folder / "config.toml" if config is None else config, overrides)
    if config is None:
        loaded = replace(loaded, fault=())  # they have happened
    exports.check(loaded, folder)
    with held(folder, "--resume"):
        found = resuming.find(folder, loaded, None if needs_sizes(loaded) else plan(loaded))
        for note in found.notes:
            watch.note(note)
        resuming.rewind(folder, found)
        watch.note(f"goes on from round {min(found.rounds.values())} in {folder}")
        return _swarm(loaded, folder, save_models, watch, resume=found)


def sweep(
    source: Grid,
    *,
    jobs: int | None = None,
    out: str | os.PathLike[str] | None = None,
    engine: Literal["vector", "events", "swarm"] | None = None,
    on: Literal["", "ray"] = "",
    watch: Callable[[Progress], None] | None = None,
) -> SweepResult:
    """Run a grid of configs: a TOML file, or a mapping of its tables. `jobs`: runs at a time (None: one a
    core). `out`: a folder that is new or holds what is finished of this sweep, which is not run again;
    results, page and figures are written to it (None: nothing is written). `on`: "" for processes of this
    machine, "ray" for a Ray cluster.

    A run that fails is a row with its error. Raises ConfigError for what no run could put right.
    """
    from gossipfl.drivers.sweep.grid import load_sweep
    from gossipfl.drivers.sweep.run import Options

    loaded, options = load_sweep(source, engine=engine), Options(jobs, on)
    if out is not None:
        return run_sweep(loaded, Path(out), options, watch)
    with tempfile.TemporaryDirectory(prefix="gossipfl-") as folder:
        return run_sweep(loaded, Path(folder), options, watch, report=False)


def run_sweep(
    loaded: Sweep,
    folder: Path,
    options: Options,
    watch: Callable[[Progress], None] | None = None,
    *,
    report: bool = True,
) -> SweepResult:
    """What `sweep` does once its file is read."""
    from gossipfl.drivers.sweep.run import run
    from gossipfl.observe.sweep_reading import read_sweep

    with closing(run(loaded, folder, options)) as running:
        for progress in running:
            if watch is not None:
                watch(progress)
    if report:
        from gossipfl.observe.report import write_sweep_report

        write_sweep_report(folder, folder / "report.html")
    return SweepResult(read_sweep(folder), folder if report else None)


def _swarm(
    config: Config,
    folder: Path,
    save_models: bool,
    watch: Watch,
    *,
    report: bool = True,
    resume: Found | None = None,
) -> Result:
    from gossipfl.drivers.swarm import Swarm

    for note in _check(config, "swarm"):
        watch.note(note)
    saving = Saving(folder)
    saving.text("config.toml", config.to_toml())
    saving.attempt("records", lambda: (folder / "records").mkdir(exist_ok=True))
    follower, lost = Follower(folder), list[str]()
    if resume is not None:
        follower.skip()
    last: dict[str, object] = {}
    models: NDArray[np.floating] | None = None
    try:
        with (
            exports.exports(config, folder, watch.note) as export,
            Swarm(config, folder, save_models=save_models, resume=resume) as running,
        ):
            for word in running.words(LOOK_EVERY):
                for record in follower.poll():
                    export(record)
                    watch(record)
                if word is not None:
                    last = {**last, **word}
                    if "lost" in word:
                        lost.append(f"{word['lost']}: {word['why']}")
                        watch.note(f"lost {lost[-1]}")
                    if "note" in word:
                        watch.note(str(word["note"]))
                    if isinstance(unsaved := word.get("unsaved"), dict):
                        saving.failed |= unsaved
                    if word.get("models"):
                        models = _taken(Path(str(word["models"])))
            for record in follower.poll():
                export(record)
                watch(record)
            if not {"summary", "problems", "error"} & last.keys():
                raise running.wordless()
    finally:
        shutil.rmtree(folder / ".parameters", ignore_errors=True)
        for name in (".models.npz", ".models.part"):  # on their way here, if it is interrupted
            (folder / name).unlink(missing_ok=True)
        saving.attempt("metrics.jsonl", lambda: merge(folder))
        with suppress(OSError):
            if not (folder / "log.txt").stat().st_size:
                (folder / "log.txt").unlink()
    if "problems" in last:
        if resume is None:
            take_back(folder)
        raise ConfigError([Problem(*map(str, p)) for p in _list(last["problems"])])
    if "error" in last:
        raise GossipError(str(last["error"]))
    summary = last["summary"]
    assert isinstance(summary, dict)
    records = list(read(folder / "metrics.jsonl")) if (folder / "metrics.jsonl").exists() else []
    for name in config.names:
        own = folder / "records" / f"{name}.jsonl"
        if name not in summary["lost"] and not own.exists():
            saving.failed.setdefault("records", f"{own}: is not there at the end")
    result = _finish(config, summary, records, models, saving, last.get("diverged"), watch, report=report)
    if not summary["nodes_finished"]:
        if not lost:
            raise GossipError(f"no node's parameters could be kept, in {folder} or {tempfile.gettempdir()}")
        more = f"; and {len(lost) - 3} more" if len(lost) > 3 else ""
        why = f"every node was lost: {'; '.join(lost[:3])}{more}"
        raise (Refused if last.get("refused") else PeerLost)(why)
    return result


def _taken(path: Path) -> NDArray[np.floating]:
    """The models [n, d] that the nodes left; the file goes."""
    with np.load(path, allow_pickle=False) as stored:
        models: NDArray[np.floating] = stored["x"]
    path.unlink()
    return models


def _check(config: Config, engine: str) -> tuple[str, ...]:
    """Mistakes of graph and rule are told before anything starts (no torch is needed for that); the notes."""
    from gossipfl.core.asynchronous import check_engine
    from gossipfl.drivers import script
    from gossipfl.drivers.plan import needs_sizes, plan

    check_engine(config.algorithm.exchange, config.algorithm.replay, engine)
    script.check_engine(config, engine)
    if needs_sizes(config):
        return ()
    made = plan(config)
    if config.fault:
        script.acts(config, made.edges())
    return made.recipe.notes


def _list(value: object) -> list[list[object]]:
    assert isinstance(value, list)
    return value


def _finish(
    config: Config,
    summary: dict[str, object],
    records: list[Record],
    models: NDArray[np.floating] | None,
    saving: Saving,
    diverged: object,
    watch: Watch,
    *,
    report: bool = True,
) -> Result:
    """Write what is left to write, and tell what is not kept; raises TrainingDiverged when that is how the
    run ended."""
    folder = saving.folder
    summary["events"] = tally(records)
    saving.text("summary.json", json.dumps(json.loads(to_json(summary)), indent=1) + "\n")
    if report and folder is not None and folder.is_dir():
        from gossipfl.observe.report import write_report

        saving.attempt("report.html", lambda: write_report([folder], folder / "report.html"))
    saving.look()
    for text in saving.failed.values():
        watch.note(text)
    if isinstance(diverged, list | tuple):
        raise TrainingDiverged(config.names[diverged[0]], diverged[1], diverged[2])
    return Result(config, summary, records, models, folder, tuple(saving.failed.values()))
