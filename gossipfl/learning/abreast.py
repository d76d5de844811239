"""Local phases of many nodes at once, for the event engine, with the bits of each node's own learner.

A node's phase depends on nothing but the x at its start, so phases that are under way together are computed
together: one traced gradient (`tracing`) and one optimizer for a tile of nodes. Whether batched operations
give a learner's bits depends on their shapes and on the kernels of this machine. So the first phases are made
both ways, and if a bit differs, nodes are traced one after the other; if that differs too, they are not.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gossipfl.learning import optimizers
from gossipfl.learning.batches import Index, Stream, take
from gossipfl.learning.cohort import obstacle, rows_of
from gossipfl.learning.flat import ALIGNMENT
from gossipfl.learning.lean import stepper
from gossipfl.learning.learner import Learner, Phase
from gossipfl.learning.models import set_mode
from gossipfl.learning.tiles import BYTES, views
from gossipfl.learning.tracing import Gradient, gradient_of_each, safe, trace, unrolled_gradient
from gossipfl.learning.training import ModuleLearner

#: Nodes of a tile: from here on a step hardly gets cheaper a node, and fewer are left over.
TILE: Final = 16
#: A tile that is not full pays from so many nodes on; with fewer of them each trains by itself.
FEW: Final = 2
#: Steps of a run from which on a trace pays.
WORTH: Final = 4000
#: So many tiles are made both ways, at most one a round: an optimizer's state begins with the second.
CHECKED: Final = 5
#: Batch indices that are drawn ahead, at most, for all nodes together.
AHEAD: Final = 2**22

log = logging.getLogger(__name__)


class Made(NamedTuple):
    """A local phase: x after `[d]`, what the phase was, and whether all of it is known to be finite."""

    after: Tensor
    phase: Phase
    sound: bool = False


class Work(NamedTuple):
    """A local phase to be made: whose, from which x `[d]`, and of which round (from 0)."""

    node: int
    x: Tensor
    round: int


def alone(learner: Learner, x: Tensor, round: int) -> Made:
    """A phase by a node's own learner."""
    if learner.still:
        return Made(x, learner.phase(round))
    learner.load(x)
    phase = learner.phase(round)
    return Made(learner.vector.clone(), phase)


class Abreast:
    """Nodes that train together. What a learner keeps between phases stays with it, so that it may make any
    of its phases by itself."""

    def __init__(self, learners: Sequence[ModuleLearner], most: int) -> None:
        self.learners, self.lesson, flat = learners, learners[0].lesson, learners[0].flat
        self._flat, self._size = flat, most
        width, item = flat.buffer.numel(), flat.buffer.element_size()
        self._width = -(-width * item // ALIGNMENT) * ALIGNMENT // item
        self._segments = (*flat.parameters, *flat.local)
        self._parameters = [flat.buffer.new_empty(0) for _ in self._segments]
        self._optimizer = self.lesson.regimen.make(self._parameters)
        self._advance = stepper(self._optimizer)
        self._keeps = optimizers.keeps(self.lesson.regimen.make)
        self._ways = [gradient_of_each, unrolled_gradient]  # left to be tried, the quickest first
        self._gradient: Gradient | None = None
        self._ahead = {
            count: _Ahead([n.stream if n.count == count else None for n in learners], count * self._batch)
            for count in {learner.count for learner in learners}
        }
        self._phases = [0] * len(learners)  # made so far, by node
        self._checked: set[int] = set()

    @property
    def _batch(self) -> int:
        return self.lesson.regimen.batch

    def kind(self, node: int, round: int) -> Hashable:
        """Phases of one kind may be asked for together: as many steps at the same rate; where the optimizer
        keeps a count of them, as many before."""
        before = self._phases[node] if self._keeps else 0
        return self.learners[node].count, self.lesson.regimen.rate(round), before

    def phases(self, works: Sequence[Work]) -> list[Made]:
        """Phases of one kind, one a node, in the order given."""
        made: list[Made] = []
        for at in range(0, len(works), self._size):
            tile = works[at : at + self._size]
            few = not self._ways or len(tile) < FEW
            made += self._one_by_one(tile) if few else self._together(tile)
        for work in works:
            self._phases[work.node] += 1
        return made

    def _one_by_one(self, works: Sequence[Work]) -> list[Made]:
        return [alone(self.learners[work.node], work.x, work.round) for work in works]

    def _together(self, works: Sequence[Work]) -> list[Made]:
        """A tile's phases."""
        try:
            rows, losses, steps = self._train(works)
        except Exception as error:  # whatever the tracer does not know
            if self._gradient is not None:
                raise
            self._next(f"no trace of {self._ways[0].__name__} ({type(error).__name__})")
            return self._one_by_one(works)
        count, size, rate = len(works), self._flat.size, self.lesson.regimen.rate
        sound = bool(torch.isfinite(rows[:count, :size].sum()) & torch.isfinite(losses.sum()))
        made = [
            Made(after[:size], Phase(loss / steps, optimizers.ratio(rate, work.round), steps), sound)
            for work, after, loss in zip(works, rows.unbind(), losses.tolist(), strict=False)
        ]
        if len(self._checked) < CHECKED and works[0].round not in self._checked:
            return self._check(works, made)
        if self._flat.local:
            for work, row in zip(works, rows, strict=False):
                self.learners[work.node].flat.buffer[size:] = row[size : self._flat.buffer.numel()]
        self._put_state(works)
        return made

    def _check(self, works: Sequence[Work], made: list[Made]) -> list[Made]:
        """The same phases by the nodes' own learners; where they differ, the next way is taken."""
        own = self._one_by_one(works)
        if all(map(_same, made, own)):
            self._checked.add(works[0].round)
        else:
            self._next(f"{self._ways[0].__name__} rounds otherwise")
        return own

    def _next(self, why: str) -> None:
        del self._ways[0]
        self._checked.clear()
        self._gradient = None
        log.info("nodes are trained %s: %s", "otherwise" if self._ways else "one after the other", why)

    def _train(self, works: Sequence[Work]) -> tuple[Tensor, Tensor, int]:
        """Rows `[tile, width]` after the phase, the sums of the losses `[tile]`, and the steps; the last
        node's once more where the tile is not full."""
        works = [*works, *[works[-1]] * (self._size - len(works))]
        learners = [self.learners[work.node] for work in works]
        round, count = works[0].round, learners[0].count
        index = self._ahead[count].take(works).reshape(self._size, count, self._batch)
        rows = self._flat.buffer.new_empty(self._size, self._width)
        rows[:, : self._flat.size] = torch.stack([work.x for work in works])
        if self._flat.local:
            own = [learner.flat.buffer[self._flat.size :] for learner in learners]
            rows[:, self._flat.size : self._flat.buffer.numel()] = torch.stack(own)
        set_mode(self._flat.module, training=True)
        values, constants = views(self._segments, rows), views(self._flat.buffers, rows)
        self._take_state(learners)
        for parameter, value in zip(self._parameters, values.values(), strict=True):
            parameter.data = value
        for group in self._optimizer.param_groups:
            group["lr"] = self.lesson.regimen.rate(round)
        losses = rows.new_zeros(self._size)
        for step in range(count):
            inputs, targets = self.lesson.train.batch(index[:, step].reshape(-1))
            arguments = values, constants, rows_of(inputs, self._size), rows_of(targets, self._size)
            gradient = self._gradient = self._gradient or self._traced(*arguments)
            gradients, loss = gradient(*arguments)
            for parameter, found in zip(self._parameters, gradients.values(), strict=True):
                parameter.grad = found
            self._advance()
            losses = losses + loss if step else loss
        return rows, losses, count

    def _traced(self, *example: Any) -> Gradient:
        """Raises whatever the tracer does not know."""
        return trace(self._ways[0](self._flat.module, self.lesson.task.loss), example, literal=True)

    # ------------------------------------------------------------------ what an optimizer keeps

    def _take_state(self, learners: Sequence[ModuleLearner]) -> None:
        """Each of the learners' states by node; numbers, which depend on the count of steps alone, of one."""
        self._optimizer.state.clear()
        own = [learner.optimizer.state for learner in learners]
        if not own[0]:
            return
        for place, parameter in enumerate(self._parameters):
            states = [state[learner.trainable[place]] for state, learner in zip(own, learners, strict=True)]
            self._optimizer.state[parameter] = {
                name: torch.stack([state[name] for state in states]) if _by_element(value) else _copied(value)
                for name, value in states[0].items()
            }

    def _put_state(self, works: Sequence[Work]) -> None:
        for place, parameter in enumerate(self._parameters):
            for name, value in self._optimizer.state.get(parameter, {}).items():
                for row, work in enumerate(works):
                    learner = self.learners[work.node]
                    state = learner.optimizer.state[learner.trainable[place]]
                    state[name] = value[row] if _by_element(value) else _copied(value)


class _Ahead:
    """The batch indices of some nodes, `count` a round, drawn for many rounds at a time."""

    def __init__(self, streams: Sequence[Stream | None], count: int) -> None:
        self._streams = [stream for stream in streams if stream is not None]
        places = np.cumsum([stream is not None for stream in streams]) - 1
        self._row: Index = places.astype(np.int64)  # by node
        self._count = count
        self._rounds = max(1, min(64, AHEAD // (len(self._streams) * count)))
        self._drawn: dict[int, Index] = {}  # by what rounds are drawn with it; the newest two

    def take(self, works: Sequence[Work]) -> Index:
        """`[works, count]`."""
        found = np.empty((len(works), self._count), dtype=np.int64)
        for row, work in enumerate(works):
            block, within = divmod(work.round, self._rounds)
            found[row] = self._block(block)[self._row[work.node], within]
        return found

    def _block(self, block: int) -> Index:
        """`[nodes, rounds, count]`."""
        if block not in self._drawn:
            many = self._rounds * self._count
            drawn = take(self._streams, block * many, many)
            if len(self._drawn) > 1:
                del self._drawn[min(self._drawn)]
            self._drawn[block] = drawn.reshape(len(drawn), self._rounds, self._count)
        return self._drawn[block]


def abreast(learners: Sequence[Learner], steps: int) -> Abreast | None:
    """All nodes of a run of so many local steps, where it pays to train them together and they can be; the
    log says why not."""
    own = [learner for learner in learners if isinstance(learner, ModuleLearner)]
    if len(own) < len(learners) or len(own) < FEW or steps < WORTH:
        return None
    why = _obstacle(own)
    if why:
        log.info("nodes are trained one after the other: %s", why)
        return None
    return Abreast(own, _most(own[0]))


def _most(learner: ModuleLearner) -> int:
    buffer = learner.flat.buffer
    return min(TILE, BYTES // (buffer.numel() * buffer.element_size()))


def _obstacle(learners: Sequence[ModuleLearner]) -> str:
    flat, lesson = learners[0].flat, learners[0].lesson
    if flat.buffer.device.type != "cpu":
        return "they are not on the CPU"
    if _most(learners[0]) < FEW:
        return "the model is large"
    if lesson.regimen.clip:
        return "gradients are clipped"
    if lesson.train.tensors is None:
        return "samples are made anew each time"
    if any(segment.shape == () for segment in (*flat.parameters, *flat.local)):
        return "a parameter is a single number"
    if not safe(flat.module, lesson.task.loss):
        return "the model or its loss is not PyTorch's own"
    return obstacle([learner.flat for learner in learners], lesson)


def _same(one: Made, other: Made) -> bool:
    return torch.equal(one.after, other.after) and one.phase == other.phase


def _by_element(value: object) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0


def _copied(value: object) -> object:
    return value.clone() if isinstance(value, Tensor) else value
