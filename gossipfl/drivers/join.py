"""A training loop of somebody's own as a node: what `gossipfl.join` gives."""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from gossipfl.config import Config, Source, load_config
from gossipfl.config.lan import place
from gossipfl.drivers import lan, memory
from gossipfl.drivers.folder import run_folder
from gossipfl.drivers.held import held
from gossipfl.drivers.naming import node_name
from gossipfl.drivers.own_loop import Ear, OwnAsynchronousNode, OwnNode
from gossipfl.drivers.place import Place, Stale
from gossipfl.drivers.plan import Plan
from gossipfl.drivers.whereabouts import Lan, prepare
from gossipfl.errors import ConfigError, GossipError, LocalProtocolError, Problem
from gossipfl.learning.own import OwnWorkload, lower_is_better
from gossipfl.records import merge, to_json
from gossipfl.transport.zeromq import Unbound

log = logging.getLogger("gossipfl")

T = TypeVar("T")


class Node:
    """One node of a swarm, around a training loop of your own. A context manager, made by `gossipfl.join`.

    Entering moves the model's shared parameters into one buffer (they stay the same `nn.Parameter`s, on the
    same device), meets the neighbors, and hooks into the optimizer: every `algorithm.local_steps`-th
    `optimizer.step()` exchanges with them before it returns. Leaving says goodbye and stops everything that
    entering started; an exception passes through, and the others go on.
    """

    def __init__(
        self,
        config: Config,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        name: str | None = None,
        samples: int | None = None,
        out: str | os.PathLike[str] | None = None,
    ) -> None:
        self.name = node_name(config, name, os.environ, argument="name")
        self._config = config
        self._model, self._optimizer, self._samples = model, optimizer, samples
        self._out = None if out is None else Path(out)
        self.folder = Path()  # where this node leaves its records, its summary and its model, once entered
        self._inside: OwnNode | None = None
        self._life: AbstractContextManager[OwnNode] | None = None
        self._left = False

    # ------------------------------------------------------------------ in the loop

    @property
    def round(self) -> int:
        """Rounds finished (asynchronous exchanges: local phases)."""
        return 0 if self._inside is None else self._inside.rounds

    @property
    def stopped(self) -> bool:
        """Has the swarm ended for this node: after `swarm.rounds`, or because a `[stop]` criterion holds?"""
        return self._ended()

    def _ended(self) -> bool:
        return self._left or (self._inside is not None and self._inside.over)

    @property
    def neighbors(self) -> tuple[str, ...]:
        """The names of all the nodes that this one ever exchanges with."""
        return self._within().neighbors

    def batches(self, loader: Iterable[T]) -> Iterator[T]:
        """The loader's batches, over and over, until the swarm has stopped.

        Calls `loader.sampler.set_epoch` before each pass where there is one. Raises GossipError if a pass
        gives nothing: the loader is empty, or can be read only once.
        """
        self._within()
        passes = 0
        while not self._ended():
            set_epoch = getattr(getattr(loader, "sampler", None), "set_epoch", None)
            if set_epoch is not None:
                set_epoch(passes)
            empty = True
            for batch in loader:
                empty = False
                yield batch
                if self._ended():
                    return
            if empty:
                what = "is empty" if passes == 0 else "gives nothing a second time: it can be read only once"
                raise GossipError(f"{self.name}: the loader {what}; give a DataLoader or a list of batches")
            passes += 1

    def log(self, **metrics: float) -> None:
        """Record an evaluation of this node's model, as an `eval` record of the present round.

        `[stop]` looks at what is logged here: `stop.target` at its metric, `stop.patience` at that or at the
        first one logged. A metric is good when it is high, unless loss, error, mse, mae, perplexity or nll is
        part of its name. Raises ConfigError for what is no number.
        """
        values: dict[str, float] = {}
        for key, value in metrics.items():
            try:
                values[key] = float(value)
            except (TypeError, ValueError, RuntimeError):
                wrong = f"is no number but a {type(value).__name__}"
                raise ConfigError(Problem(f"log({key}=...)", wrong, "a float, or a tensor of one")) from None
        taken = {"node", "name", "round", "time", "kind"} & values.keys()
        if taken:
            key = min(taken)
            raise ConfigError(Problem(f"log({key}=...)", "is a field of every record", "another name"))
        self._within().log(values)

    def mean_model(self) -> dict[str, Tensor]:
        """A state_dict on the CPU: own and neighbors' last models, weighed as `topology.weights` say.

        It asks nothing of the others: what is averaged came with the last exchange. Where a rule sends
        something else than models, and before the first exchange, it is the node's own model; what is not
        shared is always the own.
        """
        node = self._within()
        return node.learner.state_dict_of(node.mixed())

    def _within(self) -> OwnNode:
        if self._inside is None:
            raise LocalProtocolError(f"{self.name}: a node lives inside `with gossipfl.join(...) as node:`")
        return self._inside

    # ------------------------------------------------------------------ lifetime

    def __enter__(self) -> Self:
        if self._life is not None:
            raise LocalProtocolError(f"{self.name}: was entered before; gossipfl.join makes another")
        self._life = self._living()
        self._inside = self._life.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._inside is not None and not self._inside.ours:
            return
        self._left = True
        assert self._life is not None
        self._life.__exit__(kind, error, trace)

    @contextmanager
    def _living(self) -> Iterator[OwnNode]:
        config = self._config
        prepare(config, self.name)  # what can be told without the model is told before anything moves
        workload = OwnWorkload(config, self._model, self._optimizer, self._samples)
        made, own = prepare(config, self.name, workload.plain)
        kind = OwnNode if config.algorithm.exchange == "rounds" else OwnAsynchronousNode
        with (
            run_folder(self._out, self.name, "out") as folder,
            held(folder, "out", new=True),
            closing(Ear(self.name)) as ear,
        ):
            self.folder = folder.absolute()
            where = Place(own.node, self.folder, self.folder, own.listen, "", time.monotonic())
            node = kind(made, workload, where, ear, own)
            self._prepare(made)
            memory.keep()
            try:
                with ExitStack() as stack:
                    try:
                        stack.enter_context(node).start()
                    except Stale as stale:  # it was here before, and the others went on without it
                        stack.close()
                        where = where._replace(borrows=True, met=node.met)
                        own = replace(own, instance=uuid.uuid4().hex)
                        node = kind(made, workload, where, ear, own).rejoin(stale.round)
                        stack.enter_context(node).start()
                    yield from self._stepping(node)
            except Unbound as error:
                raise lan.unbound(self.name, own, error.errno or 0, str(error)) from None
            finally:
                self._keep(node, lambda: _summary(made, workload, own, node))

    def _stepping(self, node: OwnNode) -> Iterator[OwnNode]:
        """The time in which the loop runs; then a goodbye that fits its end."""
        thread = threading.get_ident()

        def stepped(*arguments: object) -> None:
            if threading.get_ident() != thread or not node.ours:
                where = "thread" if node.ours else "process"
                told = f"optimizer.step() was called in another {where} than the one that joined"
                raise LocalProtocolError(f"{self.name}: {told}")
            node.stepped()

        hook = self._optimizer.register_step_post_hook(stepped)
        try:
            yield node
        except BaseException:
            try:
                if node.ours:
                    node.give_up()
            except Exception:  # an interrupt may have come in the middle of anything
                log.exception("%s: no goodbye could be said", self.name)
            raise
        finally:
            hook.remove()
        node.finish()

    # ------------------------------------------------------------------ files

    def _prepare(self, made: Plan) -> None:
        config = made.config
        for note in made.recipe.notes:
            log.info("%s: %s", self.name, note)
        if not config.encrypted and any(p.address and not place(p.address).loopback for p in config.node):
            told = "nothing on its lines is encrypted: whoever is on this network can read and write"
            log.warning("%s: %s", self.name, told)
        lan.raise_limits()
        with self._saving():
            (self.folder / "config.toml").write_text(config.to_toml())

    def _keep(self, node: OwnNode, summary: Callable[[], dict[str, object]]) -> None:
        """Leave what other nodes leave too; of a node that has not begun, nothing; in a fork, too."""
        if not node.ours:
            return
        if not node.begun:
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        with self._saving():
            merge(self.folder)
            text = json.dumps(json.loads(to_json(summary())), indent=1)
            (self.folder / "summary.json").write_text(text + "\n")
            (self.folder / "models").mkdir(exist_ok=True)
            save_file(node.learner.state_dict(), self.folder / "models" / f"{self.name}.safetensors")

    @contextmanager
    def _saving(self) -> Iterator[None]:
        """What cannot be written (a full disk) is told, and costs nothing else."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            log.warning("%s: %s: %s", self.name, self.folder, error)


def join(
    config: Source,
    model: nn.Module,
    optimizer: Optimizer,
    *,
    name: str | None = None,
    samples: int | None = None,
    out: str | os.PathLike[str] | None = None,
) -> Node:
    """Be one node of a swarm from a training loop of your own:

        with gossipfl.join("swarm.toml", model, optimizer) as node:
            for batch in node.batches(loader):
                ...
                optimizer.step()      # every algorithm.local_steps-th one exchanges with the neighbors

    config: the file that all nodes have, with a `[[node]]` table for each; its `[train]`, `[task]` and
    `[data]` say nothing here. model: its trainable parameters and float buffers are what is averaged, as
    `algorithm.share` and `algorithm.buffers` say; all of one dtype and on one device, and not moved or
    reallocated while joined. optimizer: a torch.optim.Optimizer of its parameters. name: which `[[node]]`
    this is; None: GOSSIPFL_NODE, or what torchrun, Slurm or Kubernetes set. samples: how many samples this
    node trains on; needed where phases are counted by `algorithm.local_epochs`. out: a new folder for
    records, summary and model (None: runs/NAME-TIME).

    Raises ConfigError here and on entering. On entering also Refused (the neighbors do not agree with this
    node: the first key or parameter that differs, and both values) and PeerLost (`swarm.start_timeout`). In
    optimizer.step(): TrainingDiverged, with the parameters back at the last round's, and GossipError naming a
    parameter that something has reallocated.
    """
    return Node(load_config(config), model, optimizer, name=name, samples=samples, out=out)


def _summary(made: Plan, workload: OwnWorkload, own: Lan, node: OwnNode) -> dict[str, object]:
    workload.headline, workload.higher_is_better = node.headline, not lower_is_better(node.headline)
    summary = lan.summarize(made, workload, own, node.folder, node.account())
    return {**summary, "engine": "join", "samples": workload.samples or 0}
