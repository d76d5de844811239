"""All nodes' local training at once, `[n, d]`, for the vector engine.

A step is a few large operations: `torch.func` batches the gradient over nodes, and an optimiser of
torch.optim whose elements do not see each other runs on many nodes' parameters. Nodes are taken in tiles that
fit the cache, each tile by one thread; all local steps of a tile are done before the next tile's. What cannot
be batched is done one node after the other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, vmap

from gossipfl.learning import optimizers
from gossipfl.learning.batches import Stream
from gossipfl.learning.carrying import CarryingLearner
from gossipfl.learning.crew import ALONE, Crew
from gossipfl.learning.flat import Flat
from gossipfl.learning.memory import Shelf
from gossipfl.learning.models import CHUNK, evaluate, set_mode
from gossipfl.learning.tiles import Tile, tiles, views
from gossipfl.learning.tracing import Gradient, Values, batched_gradient, safe, trace
from gossipfl.learning.training import Lesson, ModuleLearner

EVAL_ROWS = 2**17  # test samples × models in one forward
TRACE_AFTER = 50  # steps of a tile after which tracing has paid, about

log = logging.getLogger(__name__)


class Cohort(Protocol):
    """All nodes' models and data, behind one matrix x `[n, d]`."""

    batched: bool  # does a step train many nodes at once?

    def start(self) -> Tensor:
        """The starting x, `[n, d]`, a copy."""
        ...

    def phase(self, x: Tensor, round: int) -> tuple[Tensor, Tensor, float]:
        """The local phase of a round (from 0): x `[n, d]` -> x after, mean losses `[n]`, eta_t / eta_{t-1}.

        x itself is left as it was.
        """
        ...

    def evaluate(self, x: Tensor) -> dict[str, Tensor]:
        """`loss` and the task's metrics of each row of x `[m, d]`, `[m]` each.

        With m = n a row is a node's, with whatever that node does not share; other rows (a mean model) take
        the mean of the parameters that nodes do not share.
        """
        ...

    def validate(
        self, models: Tensor, nodes: NDArray[np.int64], whose: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """For each of `nodes` `[e]` the loss of the row `whose` `[e]` of models `[n, d]` on the samples that
        the node keeps from training: `[e]`, 0 where it keeps none."""
        ...


def module_cohort(
    flats: Sequence[Flat],
    streams: Sequence[Stream],
    lesson: Lesson,
    learner: Callable[[int], ModuleLearner | CarryingLearner],
    crew: Crew = ALONE,
) -> Cohort:
    """A batched cohort, or (and the log says why) a loop over learners.

    `flats` are the nodes' models at their start, or one that all start from.
    """
    if why := obstacle(flats, lesson):
        log.warning("nodes are trained one after the other, not batched: %s", why)
        return LoopCohort([learner(node) for node in range(len(streams))])
    return BatchedCohort(flats, streams, lesson, crew)


class BatchedCohort:
    """A Cohort in which a step is the same few operations for many nodes."""

    batched = True

    def __init__(
        self, flats: Sequence[Flat], streams: Sequence[Stream], lesson: Lesson, crew: Crew = ALONE
    ) -> None:
        self.flat, self.lesson, self.n, self.crew = flats[0], lesson, len(streams), crew
        self._starts = torch.stack([flat.buffer for flat in flats]).expand(self.n, -1)
        self._gradient = batched_gradient(self.flat.module, lesson.task.loss)
        self._traceable = safe(self.flat.module, lesson.task.loss)
        self._untraced = 0  # steps of a tile so far
        self._traces: dict[int, Gradient] = {}  # by nodes in a tile
        self._streams = streams
        self._rowwise = False
        self._shelf = Shelf()
        self._tiles = tiles(self.flat, self._starts, streams, lesson.regimen)

    def start(self) -> Tensor:
        return self._starts[:, : self.flat.size].clone()

    def phase(self, x: Tensor, round: int) -> tuple[Tensor, Tensor, float]:
        rate = self.lesson.regimen.rate
        after, losses = self._shelf.empty_like(x), x.new_empty(self.n)
        set_mode(self.flat.module, training=True)
        self._trace(x)

        def train(tile: Tile) -> None:
            losses[tile.rows] = self._train(tile, x, after, round)

        # what is not traced borrows the one module, so tiles must take turns
        (self.crew if self._traces else ALONE).map(train, self._tiles)
        return after, losses, optimizers.ratio(rate, round)

    def _train(self, tile: Tile, x: Tensor, after: Tensor, round: int) -> Tensor:
        """A tile's local phase, from its rows of x to those of `after`; its nodes' mean losses `[t]`."""
        plan = self.lesson.regimen
        gradient = self._traces.get(len(tile.streams), self._gradient)
        constants = tile.begin(x, after, plan.rate(round))
        total = x.new_zeros(len(tile.streams))
        for index in tile.batches(round, plan.batch):
            inputs, targets = self.lesson.train.batch(index.reshape(-1))
            gradients, loss = gradient(
                tile.values, constants, rows_of(inputs, len(index)), rows_of(targets, len(index))
            )
            tile.step(gradients, plan.clip)
            total += loss
        tile.end(after)
        return total / tile.steps

    def _trace(self, x: Tensor) -> None:
        """Traces the gradient for every size of tile, once so many steps were made that it pays."""
        if self._traces or not self._traceable:
            return
        self._untraced += sum(tile.steps for tile in self._tiles)
        sizes = {len(tile.streams): tile for tile in self._tiles}
        if self._untraced < TRACE_AFTER * len(sizes):
            return
        for size, tile in sizes.items():
            inputs, targets = self.lesson.train.batch(np.zeros(size * self.lesson.regimen.batch, np.int64))
            constants = tile.begin(x, torch.empty_like(x), 0.0)
            example = (tile.values, constants, rows_of(inputs, size), rows_of(targets, size))
            try:
                self._traces[size] = trace(self._gradient, example)
            except Exception as error:  # whatever the tracer does not know
                log.info("the gradient is not traced: %s", _first_line(error))
                self._traceable = False
                self._traces.clear()
                return

    def evaluate(self, x: Tensor) -> dict[str, Tensor]:
        own = self._own()
        own = own if len(x) == self.n else own.mean(0, keepdim=True).expand(len(x), -1)
        x = x.to(own.device)
        full = torch.cat([x, own], dim=1)
        set_mode(self.flat.module, training=False)
        if not self._rowwise:
            try:
                return self._evaluate_batched(full)
            except Exception as error:  # whatever the model or a metric does that vmap does not
                log.warning("models are evaluated one after the other, not batched: %s", _first_line(error))
                self._rowwise = True
        return _gathered([self._evaluate_row(row) for row in full], x)

    @torch.no_grad()
    def validate(
        self, models: Tensor, nodes: NDArray[np.int64], whose: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        own, found = self._own(), np.zeros(len(nodes))
        set_mode(self.flat.module, training=False)
        for node in np.unique(nodes):
            at = np.flatnonzero(nodes == node)
            held = self._streams[node].held
            if len(held):
                rows = torch.cat([models[whose[at]], own[node].expand(len(at), -1)], dim=1)
                found[at] = self._losses(rows, *self.lesson.train.batch(held)).tolist()
        return found

    def _losses(self, rows: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each model `[m, total]` on the same samples, `[m]`."""
        module = self.flat.module

        def loss(values: Values) -> Tensor:
            outputs = torch.as_tensor(functional_call(module, dict(values), (inputs,)))
            return self.lesson.task.loss(outputs, targets)

        values = views((*self.flat.parameters, *self.flat.buffers, *self.flat.local), rows)
        return torch.stack([loss({name: v[k] for name, v in values.items()}) for k in range(len(rows))])

    @torch.no_grad()
    def _evaluate_batched(self, full: Tensor) -> dict[str, Tensor]:
        """Scores of the rows of `[m, total]`."""
        task, module = self.lesson.task, self.flat.module
        inputs, targets = self.lesson.test.all()
        segments = (*self.flat.parameters, *self.flat.buffers, *self.flat.local)

        def forward(values: Values, chunk: Tensor) -> Tensor:
            return torch.as_tensor(functional_call(module, dict(values), (chunk,)))

        def scores(outputs: Tensor) -> dict[str, Tensor]:
            metrics = {name: metric(outputs, targets) for name, metric in task.metrics.items()}
            return {"loss": task.loss(outputs, targets), **metrics}

        found = []
        for some in torch.split(full, max(1, EVAL_ROWS // len(self.lesson.test))):
            values = views(segments, some)
            outputs = [vmap(forward, (0, None))(values, chunk) for chunk in torch.split(inputs, CHUNK)]
            found.append(vmap(scores)(torch.cat(outputs, dim=1)))
        return {name: torch.cat([part[name] for part in found]) for name in found[0]}

    def _evaluate_row(self, row: Tensor) -> dict[str, float]:
        self.flat.buffer.copy_(row)
        return evaluate(self.flat.module, self.lesson.task, self.lesson.test)

    def _own(self) -> Tensor:
        """What each node does not share, `[n, l]`."""
        own = self._starts[:, self.flat.size :].clone()
        for tile in self._tiles:
            if tile.own is not None:
                own[tile.rows] = tile.own
        return own


class LoopCohort:
    """A Cohort that trains one node after the other."""

    batched = False

    def __init__(self, learners: Sequence[ModuleLearner | CarryingLearner]) -> None:
        self.learners = learners
        self._start = torch.stack([learner.vector for learner in learners])

    def start(self) -> Tensor:
        return self._start.clone()

    def phase(self, x: Tensor, round: int) -> tuple[Tensor, Tensor, float]:
        after, losses, ratio = torch.empty_like(x), x.new_empty(len(x)), 1.0
        for node, learner in enumerate(self.learners):
            learner.load(x[node])
            losses[node], ratio, _ = learner.phase(round)
            after[node] = learner.vector
        return after, losses, ratio

    def evaluate(self, x: Tensor) -> dict[str, Tensor]:
        if len(x) == len(self.learners):
            return _gathered([self._evaluate_row(*pair) for pair in zip(self.learners, x, strict=True)], x)
        learner = self.learners[0]
        kept = learner.flat.buffer.clone()
        learner.flat.buffer.copy_(torch.stack([one.flat.buffer for one in self.learners]).mean(0))
        found = _gathered([self._evaluate_row(learner, row) for row in x], x)
        learner.flat.buffer.copy_(kept)
        return found

    def validate(
        self, models: Tensor, nodes: NDArray[np.int64], whose: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        pairs = zip(nodes.tolist(), whose.tolist(), strict=True)
        return np.array([self.learners[i].validate(models[j]) for i, j in pairs])

    @staticmethod
    def _evaluate_row(learner: ModuleLearner | CarryingLearner, row: Tensor) -> dict[str, float]:
        learner.load(row)
        return learner.evaluate()


def obstacle(flats: Sequence[Flat], lesson: Lesson) -> str:
    """Why the nodes cannot be trained as one; empty when they can."""
    flat, plan = flats[0], lesson.regimen
    trained = (*flat.parameters, *flat.local)
    if not plan.elementwise:
        return "the optimizer is fused, or not elementwise"
    if lesson.traits.stochastic:
        return "the model draws random numbers while it trains"
    if lesson.traits.moving:
        return "the model changes its buffers while it trains"
    if any(len(segment.tensors) > 1 for segment in trained):
        return "parameters of the model share memory without being one parameter"
    if not all(_same_rest(flat, other) for other in flats[1:]):
        return "frozen parameters or local buffers differ from node to node"
    twice = flat.buffer.repeat(2, 1)
    inputs, targets = lesson.train.batch(np.zeros(2 * plan.batch, dtype=np.int64))
    set_mode(flat.module, training=True)
    try:
        batched_gradient(flat.module, lesson.task.loss)(
            views(trained, twice), views(flat.buffers, twice), rows_of(inputs, 2), rows_of(targets, 2)
        )
    except Exception as error:  # whatever the model does that vmap does not
        return _first_line(error)
    return ""


def _same_rest(flat: Flat, other: Flat) -> bool:
    """Do two models agree in what is neither trained nor averaged?"""
    seen = {s.name for s in (*flat.parameters, *flat.buffers, *flat.local)}
    theirs = dict((*other.module.named_parameters(), *other.module.named_buffers()))
    return all(
        name in seen or torch.equal(tensor, theirs[name])
        for name, tensor in (*flat.module.named_parameters(), *flat.module.named_buffers())
    )


def rows_of(batch: Tensor, nodes: int) -> Tensor:
    """`[nodes · b, ...]` -> `[nodes, b, ...]`."""
    return batch.view(nodes, -1, *batch.shape[1:])


def _gathered(scores: Sequence[Mapping[str, float]], like: Tensor) -> dict[str, Tensor]:
    return {name: like.new_tensor([score[name] for score in scores]) for name in scores[0]}


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
