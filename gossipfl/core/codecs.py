"""Codecs: a vector <-> the fewer numbers that travel instead of it.

A codec works on the last axis, so it codes one node's `[d]` and all nodes' `[n, d]` alike. What a lossy one
drops is settled here, by the kind of the part (`Packing.settle`): a rule only says what its payload means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from gossipfl import plugin
from gossipfl.core.messages import Vectors
from gossipfl.core.rules.base import Part
from gossipfl.errors import ConfigError, Problem

if TYPE_CHECKING:
    from torch import Tensor

KEY: Final = "wire.codec"


class Shape(NamedTuple):
    """One tensor as it travels: how many elements, of which type ("": the parameters' own).

    below: the elements are indices, ascending, each at least 0 and less than this; 0: they are just numbers.
    """

    size: int
    dtype: str = ""
    below: int = 0

    def bytes(self, itemsize: int) -> int:
        """Of the tensor, where a parameter has `itemsize`."""
        return self.size * (_BYTES[self.dtype] if self.dtype else itemsize)


_BYTES: Final[Mapping[str, int]] = {
    "bfloat16": 2,
    "int32": 4,
    "int64": 8,
    "float32": 4,
    "float64": 8,
    "uint8": 1,
    "int8": 1,
}


class Codec(NamedTuple):
    """encode: z `[..., d]` -> tensors `[..., k]`. decode: those and a tensor `like` z -> `[..., d]`; it is
    asked for what was received, so it must give the same bits everywhere. layout: d -> what travels."""

    name: str
    encode: Callable[[Tensor], Vectors]
    decode: Callable[[Vectors, Tensor], Tensor]
    layout: Callable[[int], tuple[Shape, ...]]
    lossy: bool = True


NONE: Final = Codec("none", lambda z: (z,), lambda coded, like: coded[0], lambda d: (Shape(d),), lossy=False)


def top_k(amount: int | float) -> Codec:
    """The coordinates of largest magnitude, so many of them or (a float) such a share, at least one; the
    rest is 0. Sent as ascending int32 indices and their values (Stich, Cordonnier & Jaggi 2018, "Sparsified
    SGD with Memory")."""

    def count(d: int) -> int:
        return min(d, amount if isinstance(amount, int) else max(1, math.ceil(amount * d)))

    def encode(z: Tensor) -> Vectors:
        index = z.abs().topk(count(z.shape[-1]), dim=-1, sorted=False).indices.sort(dim=-1).values
        return (index.int(), z.gather(-1, index))

    def decode(coded: Vectors, like: Tensor) -> Tensor:
        index, values = coded
        whole = values.new_zeros((*values.shape[:-1], like.shape[-1]))
        return whole.scatter(-1, index.long(), values)

    def layout(d: int) -> tuple[Shape, ...]:
        return (Shape(count(d), "int32", d), Shape(count(d)))

    return Codec(f"topk:{amount}", encode, decode, layout)


def narrowed(inner: Codec, dtype: str) -> Codec:
    """`inner`, whose numbers travel as `dtype`, bfloat16 or float32; indices and the like as they are."""

    def narrow(z: Tensor) -> Tensor:
        return z.bfloat16() if dtype == "bfloat16" else z.float()

    def layout(d: int) -> tuple[Shape, ...]:
        return tuple(shape if shape.dtype else shape._replace(dtype=dtype) for shape in inner.layout(d))

    def encode(z: Tensor) -> Vectors:
        shapes = inner.layout(z.shape[-1])
        return tuple(t if s.dtype else narrow(t) for t, s in zip(inner.encode(z), shapes, strict=True))

    def decode(coded: Vectors, like: Tensor) -> Tensor:
        shapes = inner.layout(like.shape[-1])
        whole = (t if s.dtype else t.to(like.dtype) for t, s in zip(coded, shapes, strict=True))
        return inner.decode(tuple(whole), like)

    name = dtype if inner is NONE else f"{inner.name} in {dtype}"
    return Codec(name, encode, decode, layout)


CODECS: Final[Mapping[str, tuple[str, str]]] = {
    "none": ("every number as it is", "-"),
    "topk:K": (
        "the K largest coordinates (topk:4), or a share of them (topk:0.01)",
        "Stich, Cordonnier & Jaggi 2018",
    ),
}
"""Codecs by name: a line and a source."""


def codec(spec: str) -> Codec:
    """The codec that `wire.codec` names. Raises ConfigError."""
    name, _, argument = spec.partition(":")
    if spec == "none":
        return NONE
    if name == "topk":
        return top_k(_amount(spec, argument))
    if plugin.is_plugin(spec):
        made = plugin.load(spec, KEY)()
        if isinstance(made, Codec):
            return made
        wrong = f"{spec} returned {type(made).__name__}"
        raise ConfigError(Problem(KEY, wrong, "a gossipfl Codec is needed (gossipfl.core.codecs)"))
    raise ConfigError(Problem(KEY, f"no codec {spec!r}", f"one of {', '.join(CODECS)}, or module:function"))


def _amount(spec: str, text: str) -> int | float:
    right = "a count such as topk:4, or a share above 0 and up to 1 such as topk:0.01"
    try:
        amount = int(text) if text.isdecimal() else float(text)
    except ValueError:
        raise ConfigError(Problem(KEY, f"cannot read {spec!r}", right)) from None
    if not (amount >= 1 if isinstance(amount, int) else 0 < amount <= 1):
        raise ConfigError(Problem(KEY, f"{spec!r} keeps nothing, or more than all", right))
    return amount


class Packing(NamedTuple):
    """A rule's payload on its way: which of its parts are coded, and what comes of them at the other end."""

    parts: tuple[Part, ...]
    codec: Codec = NONE

    @property
    def lossy(self) -> bool:
        """Does any part lose something?"""
        return self.codec.lossy and any(self._coded(part) for part in self.parts)

    def _coded(self, part: Part) -> bool:
        return self.codec is not NONE and part.kind != "exact"

    def shapes(self, d: int) -> tuple[Shape, ...]:
        """What travels for one payload (over one edge) of vectors `[d]`, in order."""
        found: list[Shape] = []
        for part in self.parts:
            size = part.size(d)
            found += self.codec.layout(size) if self._coded(part) else (Shape(size),)
        return tuple(found)

    def bytes(self, d: int, itemsize: int) -> int:
        """Of one payload over one edge."""
        return sum(shape.bytes(itemsize) for shape in self.shapes(d))

    def pack(self, payload: Vectors) -> Vectors:
        """What travels, flat."""
        if self.codec is NONE:
            return payload
        flat: list[Tensor] = []
        for part, value in zip(self.parts, payload, strict=True):
            flat += self.codec.encode(value) if self._coded(part) else (value,)
        return tuple(flat)

    def unpack(self, coded: Vectors, like: Vectors) -> Vectors:
        """A payload as it is decoded; `like` is any payload of this rule: it tells the sizes."""
        if self.codec is NONE:
            return coded
        found, at = [], 0
        for part, own in zip(self.parts, like, strict=True):
            width = len(self.codec.layout(own.shape[-1])) if self._coded(part) else 1
            piece, at = coded[at : at + width], at + width
            found.append(self.codec.decode(piece, own) if self._coded(part) else piece[0])
        return tuple(found)

    def settle(self, payload: Vectors, sent: Vectors, mixed: Vectors) -> Vectors:
        """What the rule is given for `mixed`, the mean of decoded payloads.

        A "vector" part that lost something becomes z + (mixed - sent): what the node itself dropped is still
        its own, so the mean over nodes is kept. A "difference" is given as it is.
        """
        if not self.lossy:
            return mixed
        return tuple(
            own + (mean - out) if self._coded(part) and part.kind == "vector" else mean
            for part, own, out, mean in zip(self.parts, payload, sent, mixed, strict=True)
        )
