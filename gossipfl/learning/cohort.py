"""All nodes' local training at once, `[n, d]`, for the vector engine.

A step is a few large operations: `torch.func` batches the gradient over nodes, and an optimiser of
torch.optim whose elements do not see each other runs on an `[n, d]` parameter. Nodes are taken in tiles that
fit the cache; all local steps of a tile are done before the next tile's. What cannot be batched is done one
node after the other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap

from gossipfl.learning import optimizers
from gossipfl.learning.batches import Index, Stream, take
from gossipfl.learning.flat import Flat, Segment
from gossipfl.learning.models import CHUNK, evaluate, set_mode
from gossipfl.learning.training import Lesson, ModuleLearner

TILE_BYTES = 2**21  # parameters of the nodes that are trained together
EVAL_ROWS = 2**17  # test samples × models in one forward
AHEAD = 2**16  # batch indices a node draws at a time, at most

Values = Mapping[str, Tensor]  # name -> [t, *shape]

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


def module_cohort(
    flats: Sequence[Flat], streams: Sequence[Stream], lesson: Lesson, learner: Callable[[int], ModuleLearner]
) -> Cohort:
    """A batched cohort, or (and the log says why) a loop over learners.

    `flats` are the nodes' models at their start, or one that all start from.
    """
    if why := _obstacle(flats, lesson):
        log.warning("nodes are trained one after the other, not batched: %s", why)
        return LoopCohort([learner(node) for node in range(len(streams))])
    return BatchedCohort(flats, streams, lesson)


class BatchedCohort:
    """A Cohort in which a step is the same few operations for many nodes."""

    batched = True

    def __init__(self, flats: Sequence[Flat], streams: Sequence[Stream], lesson: Lesson) -> None:
        self.flat, self.lesson, self.n = flats[0], lesson, len(streams)
        self._starts = torch.stack([flat.buffer for flat in flats]).expand(self.n, -1)
        self._gradient = _gradient(self.flat, lesson)
        self._rowwise = False
        self._tiles = _tiles(self.flat, self._starts, streams, lesson)

    def start(self) -> Tensor:
        return self._starts[:, : self.flat.size].clone()

    def phase(self, x: Tensor, round: int) -> tuple[Tensor, Tensor, float]:
        plan = self.lesson.regimen
        rate, shared = plan.rate(round), self.flat.parameters[-1].stop
        after, losses = torch.empty_like(x), x.new_empty(self.n)
        after[:, shared:] = x[:, shared:]
        set_mode(self.flat.module, training=True)
        for tile in self._tiles:
            tile.theta[:, :shared] = x[tile.rows, :shared]
            constants = _views(self.flat.buffers, x[tile.rows])
            for group in tile.optimizer.param_groups:
                group["lr"] = rate
            total = x.new_zeros(len(tile.streams))
            for index in tile.batches(round, plan.batch):
                inputs, targets = self.lesson.train.batch(index.reshape(-1))
                gradients, loss = self._gradient(
                    tile.values, constants, _rows(inputs, len(index)), _rows(targets, len(index))
                )
                tile.step(gradients, plan.clip)
                total += loss
            after[tile.rows, :shared] = tile.theta[:, :shared]
            losses[tile.rows] = total / tile.steps
        return after, losses, optimizers.ratio(plan.rate, round)

    def evaluate(self, x: Tensor) -> dict[str, Tensor]:
        own = self._own()
        own = own if len(x) == self.n else own.mean(0, keepdim=True).expand(len(x), -1)
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
        for rows in torch.split(full, max(1, EVAL_ROWS // len(self.lesson.test))):
            values = _views(segments, rows)
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
            own[tile.rows] = tile.theta[:, self.flat.parameters[-1].stop :]
        return own


class LoopCohort:
    """A Cohort that trains one node after the other."""

    batched = False

    def __init__(self, learners: Sequence[ModuleLearner]) -> None:
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

    @staticmethod
    def _evaluate_row(learner: ModuleLearner, row: Tensor) -> dict[str, float]:
        learner.load(row)
        return learner.evaluate()


class Tile:
    """Nodes trained together, all with the same number of steps; each has its own row and optimiser state.

    `theta` and `gradient` are `[t, p + l]`: the shared parameters, then those that nodes keep to themselves.
    """

    def __init__(
        self,
        nodes: Index,
        streams: Sequence[Stream],
        steps: int,
        segments: Sequence[Segment],
        matrices: tuple[Tensor, Tensor],
        make: optimizers.Make,
    ) -> None:
        run = int(nodes[-1] - nodes[0]) == len(nodes) - 1
        self.rows = slice(int(nodes[0]), int(nodes[-1]) + 1) if run else torch.from_numpy(nodes)
        self.streams, self.steps = [streams[node] for node in nodes], steps
        self.theta, self.gradient = matrices
        self.values = _views(segments, self.theta)
        self._slots = _views(segments, self.gradient)
        self.optimizer = make([self.theta])
        self._first, self._drawn = 0, np.empty((len(nodes), 0, steps, 0), dtype=np.int64)

    def batches(self, round: int, batch: int) -> list[Index]:
        """The dataset indices of each step of a round, `[t, batch]`; drawn for several rounds at a time."""
        if not self._first <= round < self._first + self._drawn.shape[1]:
            count = self.steps * batch
            rounds = max(1, min(64, AHEAD // count))
            drawn = take(self.streams, round * count, rounds * count)
            self._first = round
            self._drawn = drawn.reshape(len(drawn), rounds, self.steps, batch)
        return list(self._drawn[:, round - self._first].swapaxes(0, 1))

    def step(self, gradients: Values, clip: float) -> None:
        """One optimiser step of every node; `clip` bounds the 2-norm of each node's gradient (0: off)."""
        for name, gradient in gradients.items():
            self._slots[name].copy_(gradient)
        if clip:
            norm = torch.linalg.vector_norm(self.gradient, dim=1, keepdim=True)
            self.gradient.mul_((clip / (norm + 1e-6)).clamp(max=1.0))
        self.theta.grad = self.gradient
        self.optimizer.step()


def _tiles(flat: Flat, starts: Tensor, streams: Sequence[Stream], lesson: Lesson) -> list[Tile]:
    """Nodes of equal numbers of steps, cut so that a tile's parameters are about TILE_BYTES."""
    shared, kept = flat.parameters[-1].stop, starts.shape[1] - flat.size
    shift = flat.size - shared
    moved = [s._replace(start=s.start - shift, stop=s.stop - shift) for s in flat.local]
    segments = [*flat.parameters, *moved]
    most = max(1, TILE_BYTES // ((shared + kept) * starts.element_size()))
    steps = np.array([lesson.regimen.steps(len(stream.part)) for stream in streams])
    groups = [np.flatnonzero(steps == count) for count in np.unique(steps)]
    runs = [run for group in groups for run in np.split(group, range(most, len(group), most))]
    room = starts.new_empty((2, max(map(len, runs)), shared + kept))  # tiles take turns in it
    tiles = []
    for nodes in runs:
        theta = room[0, : len(nodes)]
        if kept:
            theta = starts.new_empty(len(nodes), shared + kept)
            theta[:, shared:] = starts[torch.from_numpy(nodes), flat.size :]
        matrices = (theta, room[1, : len(nodes)])
        tiles.append(Tile(nodes, streams, int(steps[nodes[0]]), segments, matrices, lesson.regimen.make))
    return tiles


def _gradient(flat: Flat, lesson: Lesson) -> Callable[..., tuple[dict[str, Tensor], Tensor]]:
    """(values, constants, inputs, targets), each batched over nodes -> gradients by name, losses `[t]`."""

    def loss(values: Values, constants: Values, inputs: Tensor, targets: Tensor) -> Tensor:
        outputs = functional_call(flat.module, {**values, **constants}, (inputs,))
        return lesson.task.loss(outputs, targets)

    batched: Callable[..., tuple[dict[str, Tensor], Tensor]] = vmap(grad_and_value(loss))
    return batched


def _obstacle(flats: Sequence[Flat], lesson: Lesson) -> str:
    """Why the nodes cannot be trained as one; empty when they can."""
    flat, plan = flats[0], lesson.regimen
    trained = (*flat.parameters, *flat.local)
    if not plan.elementwise:
        return "the optimizer is not elementwise"
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
        _gradient(flat, lesson)(
            _views(trained, twice), _views(flat.buffers, twice), _rows(inputs, 2), _rows(targets, 2)
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


def _views(segments: Sequence[Segment], rows: Tensor) -> dict[str, Tensor]:
    """name -> the segment's columns of `[t, ...]` as `[t, *shape]`."""
    return {s.name: rows[:, s.start : s.stop].view(len(rows), *s.shape) for s in segments}


def _rows(batch: Tensor, nodes: int) -> Tensor:
    """`[nodes · b, ...]` -> `[nodes, b, ...]`."""
    return batch.view(nodes, -1, *batch.shape[1:])


def _gathered(scores: Sequence[Mapping[str, float]], like: Tensor) -> dict[str, Tensor]:
    return {name: like.new_tensor([score[name] for score in scores]) for name in scores[0]}


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
