"""One node of a swarm across machines, from its file to its end, in this process."""

from __future__ import annotations

import errno
import json
import logging
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any, Final, NamedTuple

import gossipfl
from gossipfl.config.lan import place as address_of
from gossipfl.drivers import checkpoint, keeping, memory
from gossipfl.drivers.life import PARAMETERS, live, parameters_paths
from gossipfl.drivers.place import Place
from gossipfl.drivers.plan import Plan, with_plain
from gossipfl.drivers.resuming import Found, require_same_data, rewind
from gossipfl.drivers.whereabouts import Lan
from gossipfl.errors import ConfigError, GossipError, PeerLost, Problem, Refused, TrainingDiverged
from gossipfl.learning.task import torch_dtype
from gossipfl.learning.workload import Assignment, Workload, workload
from gossipfl.records import merge, read, tally, to_json

Say = Callable[[str], None]

_BIND: Final = {
    errno.EADDRINUSE: (
        "is taken by another program",
        "end that program (this node, started before?), or another port in everyone's file",
    ),
    errno.EADDRNOTAVAIL: ("is no address of this machine", 'bind = "0.0.0.0:PORT" to listen everywhere'),
    errno.ENODEV: ("is no address of this machine", 'bind = "0.0.0.0:PORT" to listen everywhere'),
    errno.EACCES: ("may not be used", "a port above 1023"),
}


class Left(NamedTuple):
    """What a node has come to."""

    summary: dict[str, object]
    unsaved: list[str]  # what is not kept, each with its path first

    @contextmanager
    def keeping(self, path: Path) -> Iterator[Path]:
        """A file that cannot be written (a full disk) is put down, and costs nothing else."""
        try:
            yield path
        except OSError as error:
            self.unsaved.append(f"{path}: {error.strerror or error}")

    def look(self, paths: Iterable[Path]) -> None:
        """All of these must be there; somebody may have removed the folder."""
        for path in paths:
            if not path.exists() and not any(text.startswith(f"{path}:") for text in self.unsaved):
                self.unsaved.append(f"{path}: is not there at the end")


def run(made: Plan, place: Lan, folder: Path, say: Say, resume: Found | None = None) -> Left:
    """Be the node until its end; `folder` takes what it leaves, `say` lines for people. `resume`: what it
    goes on from.

    Raises ConfigError, Refused, TrainingDiverged, PeerLost, and KeyboardInterrupt when it was stopped.
    """
    config, name = made.config, place.names[place.node]
    left = Left({}, [])
    with left.keeping(folder / "config.toml") as path:
        path.write_text(config.to_toml())
    for note in made.recipe.notes:
        say(note)
    if place.keys is None and not all(_loopback(peer.address, peer.bind) for peer in config.node):
        say("warning: nothing on its lines is encrypted: whoever is on this network can read and write")
    load = workload(config, node=place.node)
    made = with_plain(made, load.plain)
    round = None if resume is None else resume.rounds[name]
    if resume is not None and round is not None:
        own = folder / checkpoint.FOLDER / name
        about = made.about(load.signature, load.data_hash)
        static = made.recipe.schedule.length is not None and not resume.grown
        require_same_data(about, checkpoint.header(own, round), static)
        rewind(folder, resume)
        say(f"goes on from its checkpoint of round {round}")
        if resume.grown:
            keeping.grow(own, round, config, about)
            say("nodes have been added: it meets everyone anew, with the model that it had")
    raise_limits()
    if load.d * torch_dtype(config.train.dtype).itemsize >= memory.SMALL:
        memory.usual()
    memory.tidy()
    memory.loaded()
    word: dict[str, Any] = {}

    def hear(said: dict[str, Any]) -> None:
        if "note" in said:
            say(str(said["note"]))
            return
        if "begun" in said:
            say("trains")
        word.update(said)

    with _log(folder), tempfile.TemporaryDirectory(prefix="gossipfl-") as scratch:
        where = Place(place.node, folder, Path(scratch), place.listen, "", time.monotonic(), round)
        try:
            with _control(hear) as control:
                live(made, load, where, control, place)
        finally:
            with left.keeping(folder / "models" / f"{name}.safetensors") as path:
                _keep_model(path, Path(scratch), load, place.node)
            with left.keeping(folder / "metrics.jsonl"):
                merge(folder)
    if "begun" not in word and resume is None:  # nothing has happened that anyone would keep
        shutil.rmtree(folder, ignore_errors=True)
    _raise_for(word, name, place)
    left.summary.update(summarize(made, load, place, folder, word))
    with left.keeping(folder / "summary.json") as path:
        path.write_text(json.dumps(json.loads(to_json(left.summary)), indent=1) + "\n")
    if word.get("unrecorded"):
        left.unsaved.append(str(word["unrecorded"]))
    left.look(folder / f for f in ("config.toml", f"records/{name}.jsonl", f"models/{name}.safetensors"))
    return left


def _loopback(*addresses: str) -> bool:
    """Are they on this machine alone?"""
    return all(address_of(address).loopback for address in addresses if address)


def unbound(name: str, place: Lan, number: int, text: str) -> ConfigError:
    """Why a node cannot listen where it should, from the system's error."""
    where = place.listen.removeprefix("tcp://")
    wrong, right = _BIND.get(number, (text, "an address of this machine"))
    return ConfigError(Problem(f"node.{name}.bind", f"{where} {wrong}", right))


def _raise_for(word: dict[str, Any], name: str, place: Lan) -> None:
    if "diverged" in word:
        raise TrainingDiverged(name, *word["diverged"])
    if "errno" in word:
        raise unbound(name, place, int(word["errno"]), str(word["error"]))
    if "error" in word:
        kind = Refused if word.get("refused") else PeerLost if word.get("lost") else GossipError
        raise kind(str(word["error"]))
    if "stopped" in word:
        raise KeyboardInterrupt


def summarize(
    made: Plan, load: Assignment, place: Lan, folder: Path, word: Mapping[str, Any]
) -> dict[str, object]:
    """What `summary.json` says of one node; the figures of the others are theirs to tell."""
    config, name = made.config, place.names[place.node]
    own = folder / "records" / f"{name}.jsonl"
    records = list(read(own)) if own.exists() else []
    evals = [r for r in records if r.get("kind") == "eval"]
    value = evals[-1].get(load.headline) if evals else None
    return {
        "version": gossipfl.__version__,
        "node": place.node,
        "name": name,
        "nodes": made.n,
        "names": list(place.names),
        "rounds": word.get("rounds", 0),
        "engine": "node",
        "graph": config.topology.title,
        "rule": config.algorithm.rule,
        "exchange": config.algorithm.exchange,
        "codec": config.wire.codec,
        "seed": config.swarm.seed,
        "finished": word.get("rounds", 0) >= word.get("end", 0),
        "seconds": word.get("ended", 0.0) - word.get("begun", 0.0),
        "start_seconds": word.get("begun", 0.0),
        "sent_bytes": word.get("sent_bytes", 0),
        "metric": load.headline,
        "higher_is_better": load.higher_is_better,
        "value": value,
        "samples": load.sizes[place.node] if load.sizes else 0,
        "events": tally(records),
        "data_hash": load.data_hash,
        "config_hash": config.digest(),
    }


def _keep_model(path: Path, scratch: Path, load: Workload, node: int) -> None:
    """The node's last parameters, as `path` in a folder of its folder: a file that plain PyTorch loads.
    Raises OSError."""
    import numpy as np
    import torch

    from gossipfl.drivers.keep import save_state
    from gossipfl.learning.flat import state_dict

    folder = path.parent.parent
    try:
        for parameters in parameters_paths(folder, scratch, node):
            if parameters.exists():
                path.parent.mkdir(exist_ok=True)
                x = torch.from_numpy(np.load(parameters, allow_pickle=False))
                save_state(path, state_dict(load.module(x)))
                break
    finally:
        shutil.rmtree(folder / PARAMETERS, ignore_errors=True)


@contextmanager
def _control(hear: Callable[[dict[str, Any]], None]) -> Iterator[Connection]:
    """The node's control line: what it says is heard in a thread, and Ctrl-C or SIGTERM tells it to stop; a
    second one ends it where it is."""
    ours, theirs = multiprocessing.Pipe()
    told = False

    def listen() -> None:
        with suppress(EOFError, OSError):
            while True:
                hear(json.loads(ours.recv_bytes()))

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal told
        if told:
            raise KeyboardInterrupt
        told = True
        with suppress(OSError):
            ours.send_bytes(b'{"stop": true}')

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    thread = threading.Thread(target=listen, name="control", daemon=True)
    thread.start()
    try:
        yield theirs
    finally:
        theirs.close()
        thread.join()
        ours.close()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _log(folder: Path) -> Iterator[None]:
    """What is logged goes to log.txt, which is there only if there was anything."""
    handler = logging.FileHandler(folder / "log.txt", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def raise_limits() -> None:
    """As many open files as the system grants: strangers that hold connections open must not use them up."""
    if os.name != "posix":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
