"""The warmed zygote: a fresh single-threaded process that loads everything once and then forks the nodes.

It reads one JSON line (the job) from standard input, starts the nodes, brings them together and watches over
their processes; it answers in JSON lines on standard output. It holds no model and takes no part in the
training. A line `stop`, or the end of standard input, ends the nodes, and what comes before there are any.

It imports torch, loads the data and runs a few real training steps before it forks, so that every lazy import
is done once; sockets and threads are made after the fork (`nursery.py`).
"""

from __future__ import annotations

import json
import logging
import os
import select
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gossipfl.config import Config, load_config
from gossipfl.core.aggregate import hasten
from gossipfl.drivers import checkpoint, gpu, life, memory, room
from gossipfl.drivers.child import Run
from gossipfl.drivers.heeding import or_ending
from gossipfl.drivers.keep import save_array, save_models
from gossipfl.drivers.nursery import Nursery, Tell
from gossipfl.drivers.outcome import Outcome, summarize
from gossipfl.drivers.plan import Plan, plan
from gossipfl.drivers.resuming import require_same_data
from gossipfl.errors import ConfigError, GossipError
from gossipfl.learning.workload import Workload, workload


def _warm(load: Workload) -> None:
    """A few real steps, so that what torch imports and sets up lazily is there before the fork; and what
    sums."""
    hasten(load.d)
    learner = load.learner(0)
    for round in range(2):
        learner.phase(round)
    learner.evaluate()
    load.prepare()


def main(scratch: str) -> int:
    """Serve one job; `scratch`: the folder for sockets, and for what does not fit into the run's."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(processName)s %(name)s: %(message)s")

    def tell(word: Mapping[str, object]) -> None:
        with suppress(BrokenPipeError):  # whoever asked is gone: the end of standard input tells so
            channel.write(json.dumps(word) + "\n")

    line = os.environ.pop(gpu.JOB, "").encode() + b"\n"
    if line == b"\n":
        with open(
            0, "rb", buffering=0, closefd=False
        ) as asked:  # unbuffered: what follows is for the selector
            line = asked.readline()
    try:
        if not line.endswith(b"\n"):
            return 0
        job = json.loads(line)
        return _serve(job, Path(scratch), tell, lambda: gpu.again(job, channel.fileno()))
    except ConfigError as error:
        tell({"problems": [list(p) for p in error.problems]})
        return 2
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        tell({"error": f"{where}{error.strerror or error}"})
        return 1
    except GossipError as error:
        tell({"error": str(error)})
        return 1
    finally:
        if select.select([0], [], [], 0)[0]:  # told to stop, or nobody is left to clear up
            shutil.rmtree(scratch, ignore_errors=True)


def _serve(job: dict[str, Any], scratch: Path, tell: Tell, again: Callable[[], None]) -> int:
    """again: begins anew as a process that sees GPUs."""
    import torch

    folder = Path(job["folder"])
    run = Run(folder, scratch, job["epoch"], job["resume"], job["lost"])
    with or_ending(lambda: shutil.rmtree(scratch, ignore_errors=True)):
        made, load = _load(job, again)
        tell({"ready": time.monotonic() - job["epoch"]})
        if run.resume:
            _require_same(run, made, load)
    config = made.config
    with Nursery(made, load, run, tell) as nursery:
        outcome = nursery.watch()
    if nursery.interrupted:
        return 0
    torch.set_num_threads(os.cpu_count() or 1)
    models: Path | None = folder / ".models.npz"
    try:
        save_array(folder / ".models.npz", outcome, config.names)
        if job["save_models"] or outcome.diverged:
            save_models(folder, load, outcome, config.names)
    except OSError as error:
        tell({"unsaved": {"models": f"{folder}: the models are not kept: {error.strerror or error}"}})
        models = _aside(scratch / "models.npz", outcome, config)
    summary = summarize(made, load, outcome)
    tell({"summary": summary, "models": str(models or ""), "diverged": outcome.diverged})
    return 0


def _load(job: dict[str, Any], again: Callable[[], None]) -> tuple[Plan, Workload]:
    """All that nodes have in common. Raises ConfigError."""
    import numpy as np
    import torch

    granted = room.limits()
    config = load_config(job["config"])
    torch.set_num_threads(1)
    load = workload(config)
    if gpu.pays(job, load):
        again()
    made = plan(config, load.sizes, load.plain)
    degrees = np.bincount(np.ravel(made.edges()).astype(np.int64), minlength=made.n).tolist()
    size = load.d * getattr(torch, config.train.dtype).itemsize  # bytes of a model
    if lacking := room.problems(degrees, size, granted):
        raise ConfigError(lacking)
    if size >= memory.BIG:
        memory.give_back()
    memory.loaded()
    _warm(load)
    made.about(load.signature, load.data_hash)  # here once, instead of in every node
    made.near(0)
    life.kind(config)
    return made, load


def _require_same(run: Run, made: Plan, load: Workload) -> None:
    """Raises ConfigError where the data or what follows from them are not those of the run gone on with."""
    name, round = next(iter(run.resume.items()))
    found = checkpoint.header(run.folder / checkpoint.FOLDER / name, round)
    static = made.recipe.schedule.length is not None
    require_same_data(made.about(load.signature, load.data_hash), found, static)


def _aside(path: Path, outcome: Outcome, config: Config) -> Path | None:
    """The models for whoever asked for the run, where its folder has no room; None: there is none here
    either."""
    try:
        save_array(path, outcome, config.names)
    except OSError:
        return None
    return path
