"""A node's process from its first word to its last: what it leaves on disk, and how its end is told."""

from __future__ import annotations

import json
import logging
import uuid
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from gossipfl.config import Config
from gossipfl.drivers.checkpoint import Unusable
from gossipfl.drivers.node import Node
from gossipfl.drivers.place import Place, Stale, Stopped
from gossipfl.drivers.plan import Plan
from gossipfl.drivers.telling import plain
from gossipfl.drivers.whereabouts import Lan
from gossipfl.errors import PeerLost, Refused, TrainingDiverged
from gossipfl.learning.workload import Workload
from gossipfl.transport.zeromq import Unbound

log = logging.getLogger(__name__)

#: Folder of the parameters that nodes leave, until the run is summed up.
PARAMETERS: Final = ".parameters"


def live(plan: Plan, workload: Workload, place: Place, control: Connection, lan: Lan | None = None) -> None:
    """Run a node to its end in this process, whatever the end is: its last word on `control` tells which."""
    torch.set_num_threads(plan.config.train.threads)
    if place.lost:
        control.send_bytes(json.dumps({"error": place.lost}).encode())
        return
    try:
        while (stale := _live(plan, workload, place, control, lan)) is not None:
            place = stale._replace(anew=True)  # once more, with a model and nothing else
            if place.instance:
                place = place._replace(instance=uuid.uuid4().hex)
            lan = None if lan is None else replace(lan, instance=uuid.uuid4().hex)
    except Unusable as error:
        control.send_bytes(json.dumps({"error": str(error)}).encode())


def _live(plan: Plan, workload: Workload, place: Place, control: Connection, lan: Lan | None) -> Place | None:
    """The same, until it turns out that what the node goes on from is stale: then from where to go on
    instead. Raises Unusable."""
    config = plan.config
    node = kind(config)(plan, workload, place, control, lan)
    word: dict[str, object] = {}
    try:
        with node:
            try:
                node.meet()
                node.train()
            finally:
                _keep(place, node.learner.x)
            # The result is safe, so it is told before the goodbyes: a node that is killed now has finished.
            node.say(_account(node))
            node.leave()
            if node.moved:
                _keep(place, node.learner.x)
                node.say(_account(node))
            if config.swarm.checkpoint_every:
                node.keep()
    except Stale as error:
        return node.come_back(error.round)
    except TrainingDiverged as error:
        word = {"diverged": [error.round, error.what]}
    except Stopped:
        word = {"stopped": True}
    except (PeerLost, Refused) as error:
        word = {
            "error": str(error),
            "refused": isinstance(error, Refused),
            "lost": isinstance(error, PeerLost),
        }
    except Unbound as error:
        word = {"error": str(error), "errno": error.errno}
    except Exception as error:  # the process ends here, and a task's own code may raise anything
        log.exception("%s: in round %d", config.names[place.node], node.rounds + 1)
        word = {"error": f"{type(error).__name__}: {error} (in round {node.rounds + 1}; see log.txt)"}
    if word:
        with suppress(Stopped):  # there may be nobody left to be told
            node.say({**_account(node), **word})
    return None


def kind(config: Config) -> type[Node]:
    """What a node of this config is; what is not needed for it is not loaded."""
    if config.algorithm.exchange == "rounds":
        return Node
    from gossipfl.drivers.asynchronous import AsynchronousNode

    return AsynchronousNode


def _account(node: Node) -> dict[str, object]:
    """What a node did, for the summary."""
    return {
        "rounds": node.rounds,
        "end": node.machine.rounds,
        "sent_bytes": node.sent_bytes,
        "ended": node.ended or node.now,
        "unrecorded": node.recorder.failed,
    }


def parameters_paths(folder: Path, scratch: Path, node: int) -> tuple[Path, Path]:
    """Where a node leaves its last parameters for whoever sums the run up, and where if that is full."""
    return folder / PARAMETERS / f"{node}.npy", scratch / PARAMETERS / f"{node}.npy"


def _keep(place: Place, x: Tensor) -> None:
    """Write the parameters whole or not at all; a full disk costs the file, never the node."""
    for path in parameters_paths(place.folder, place.scratch, place.node):
        part = path.with_suffix(".part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                np.save(file, plain(x), allow_pickle=False)
            part.replace(path)
        except OSError as error:
            log.error("%s: %s", path, error.strerror or error)
            with suppress(OSError):
                part.unlink(missing_ok=True)
        else:
            return
