"""A module's trainable parameters as views of one contiguous tensor: what is averaged is one `[d]` vector.

The buffer is laid out as `[shared parameters | averaged float buffers | parameters that stay local]`,
each in module order; the first two are `vector`, which is all that neighbours ever see.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gossipfl.errors import ConfigError, GossipError, Problem

ALIGNMENT = 64  # bytes: blocked kernels round alike only when their operands are aligned alike

#: Bytes of a tensor above which pointing it elsewhere costs less than copying it.
WORTH = 65_536

Signature = tuple[tuple[str, tuple[int, ...], str], ...]


class Home(NamedTuple):
    """Where a tensor hangs in the module tree: `owner._parameters[key]` or `owner._buffers[key]`."""

    owner: nn.Module
    key: str
    buffer: bool

    def tensor(self) -> Tensor | None:
        held = self.owner._buffers if self.buffer else self.owner._parameters
        return held.get(self.key)


class Segment(NamedTuple):
    """One stretch of the buffer: a tensor's first name, shape and place, and all homes of a tied one."""

    name: str
    shape: torch.Size
    start: int
    stop: int
    tensors: list[Tensor]
    homes: list[tuple[str, Home]]


class Flat:
    """A module whose shared state is one vector.

    `share` holds patterns (`fnmatch`) on parameter names: `["*"]` shares all, `["features.*"]` keeps the
    rest at home. A tied weight is shared when any of its names matches. `buffers="average"` appends the
    persistent floating-point buffers (BatchNorm's running statistics) to what is shared. Frozen parameters,
    integer buffers and buffers that are not saved stay as they are. Raises ConfigError: nothing to share,
    parameters of more than one dtype, parameters that share part of their memory.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        share: Sequence[str] = ("*",),
        buffers: Literal["average", "local"] = "average",
    ) -> None:
        self.module = module
        parameters = _group(_places(module, buffer=False))
        trainable = [group for group in parameters if any(t.requires_grad for _, _, t in group)]
        shared: list[list[Place]] = []
        own: list[list[Place]] = []
        for group in trainable:
            matches = any(fnmatchcase(name, pattern) for name, _, _ in group for pattern in share)
            (shared if matches else own).append(group)
        if not shared:
            names = ", ".join(group[0][0] for group in trainable) or "none: it has none"
            wrong = f"{list(share)} matches no trainable parameter of the model"
            raise ConfigError(Problem("algorithm.share", wrong, f"they are {names}"))
        averaged = _group(_places(module, buffer=True)) if buffers == "average" else []

        self.parameters = _segments(shared, 0)
        self.buffers = _segments(averaged, self.parameters[-1].stop)
        self.size = (self.buffers or self.parameters)[-1].stop
        self.local = _segments(own, self.size)
        segments = [*self.parameters, *self.buffers, *self.local]
        _require_one_dtype(segments)
        first = segments[0].tensors[0]
        buffer = torch.empty(segments[-1].stop, dtype=first.dtype, device=first.device)
        for segment in segments:
            buffer[segment.start : segment.stop].copy_(segment.tensors[0].detach().reshape(-1))
        self._point(buffer)

    def _point(self, buffer: Tensor) -> None:
        """Makes every tensor a view of `buffer` `[total]`; the only place where views are made."""
        if buffer.data_ptr() % ALIGNMENT:
            raise GossipError(f"the parameter buffer is not aligned to {ALIGNMENT} bytes")
        self.buffer = buffer
        self.vector = buffer[: self.size]
        for segment in (*self.parameters, *self.buffers, *self.local):
            view = buffer[segment.start : segment.stop].view(segment.shape)
            for tensor in segment.tensors:
                tensor.data = view

    def load(self, x: Tensor) -> None:
        """Copies x `[d]` into the buffer."""
        self.vector.copy_(x)

    @property
    def movable(self) -> bool:
        """May the vector have memory of its own, and does pointing every tensor there cost less than a copy
        of the numbers?"""
        segments = len(self.parameters) + len(self.buffers)
        bytes = self.size * self.buffer.element_size()
        return not self.local and self.buffer.device.type == "cpu" and bytes >= segments * WORTH

    def move(self, x: Tensor) -> None:
        """Makes x `[d]` the buffer; what was the buffer is not written again. Only where `movable`."""
        self._point(x)

    @contextmanager
    def elsewhere(self, x: Tensor) -> Iterator[None]:
        """Inside, the module has the values of x `[d]`, and the buffer is not touched."""
        kept = self.buffer
        self._point(torch.cat([x, kept[self.size :]]))
        try:
            yield
        finally:
            self._point(kept)

    def trainable(self) -> list[nn.Parameter]:
        """The parameters an optimiser steps: the shared ones, then those that stay local."""
        segments = (*self.parameters, *self.local)
        return [t for s in segments for t in s.tensors if isinstance(t, nn.Parameter) and t.requires_grad]

    def signature(self) -> Signature:
        """Name, shape and dtype of everything in `vector`, in its order: peers compare it."""
        return tuple(
            (s.name, tuple(s.shape), str(s.tensors[0].dtype).removeprefix("torch."))
            for s in (*self.parameters, *self.buffers)
        )

    def check(self) -> None:
        """Raises GossipError naming the first tensor that is no longer a view of the buffer."""
        base, width = self.buffer.data_ptr(), self.buffer.element_size()
        for segment in (*self.parameters, *self.buffers, *self.local):
            for name, home in segment.homes:
                tensor = home.tensor()
                moved = tensor is None or tensor.data_ptr() != base + segment.start * width
                if moved and segment.stop > segment.start:
                    raise GossipError(
                        f"{name} was moved out of the shared buffer: something replaced or reallocated it "
                        "(model.to(), a library that prepares models); do that before joining the swarm"
                    )


def state_dict(module: nn.Module) -> dict[str, Tensor]:
    """The module's state on the CPU, each entry in memory of its own: for safetensors and plain PyTorch."""
    return {
        name: value.detach().to("cpu", copy=True).contiguous()
        for name, value in module.state_dict().items()
        if isinstance(value, Tensor)
    }


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer of a module once, under its first name; also those buffers that it would not
    save, and parameters that are not trained."""
    yield from module.named_parameters()
    yield from module.named_buffers()


Place = tuple[str, Home, Tensor]


def _places(module: nn.Module, *, buffer: bool) -> Iterator[Place]:
    """Every place a parameter (or a persistent floating-point buffer) hangs, tied ones once for each name."""
    for prefix, owner in module.named_modules(remove_duplicate=False):
        for key, tensor in (owner._buffers if buffer else owner._parameters).items():
            if tensor is None:
                continue
            if is_lazy(tensor):
                wrong = f"{key} of the model has no shape yet"
                raise ConfigError(Problem("train.task", wrong, "run one batch through it first"))
            if buffer and (key in owner._non_persistent_buffers_set or not tensor.is_floating_point()):
                continue
            yield (f"{prefix}.{key}" if prefix else key), Home(owner, key, buffer), tensor


def _group(places: Iterator[Place]) -> list[list[Place]]:
    """Places of one storage together, in order of appearance. Raises ConfigError where two half overlap."""
    groups: dict[object, list[Place]] = {}
    for place in places:
        tensor = place[2]
        key = (tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else id(tensor)
        groups.setdefault(key, []).append(place)
    spans = sorted(
        (g[0][2].data_ptr(), g[0][2].data_ptr() + g[0][2].numel() * g[0][2].element_size(), g[0][0])
        for g in groups.values()
        if g[0][2].numel() and g[0][2].is_contiguous()
    )
    for (_, end, name), (start, _, other) in pairwise(spans):
        if start < end:
            raise ConfigError(
                Problem(
                    "train.task",
                    f"{name} and {other} of the model share part of their memory",
                    "tie whole parameters, or none",
                )
            )
    return list(groups.values())


def _segments(groups: list[list[Place]], start: int) -> list[Segment]:
    """Lays the groups one after the other from element `start` on."""
    segments: list[Segment] = []
    for group in groups:
        tensor = group[0][2]
        unique = list({id(t): t for _, _, t in group}.values())
        homes = [(name, home) for name, home, _ in group]
        segments.append(Segment(group[0][0], tensor.shape, start, start + tensor.numel(), unique, homes))
        start += tensor.numel()
    return segments


def _require_one_dtype(segments: list[Segment]) -> None:
    """Raises ConfigError naming the first tensor whose dtype differs from the first one's, or is not real."""
    first = segments[0]
    dtype = first.tensors[0].dtype
    if not dtype.is_floating_point:
        raise ConfigError(Problem("train.dtype", f"{first.name} of the model is {dtype}", "a floating dtype"))
    for segment in segments:
        if (other := segment.tensors[0].dtype) != dtype:
            raise ConfigError(
                Problem(
                    "train.dtype",
                    f"{segment.name} of the model is {other} where {first.name} is {dtype}",
                    "one dtype throughout: model.to(dtype)",
                )
            )
