"""Payloads as the transport has to know them: their shape, and where word of them may be left."""

from __future__ import annotations

import torch
from torch import Tensor

from gossipfl.drivers.place import Place
from gossipfl.drivers.plan import Plan
from gossipfl.transport.mail import Mail
from gossipfl.transport.wire import Layout


def mail(place: Place) -> Mail | None:
    """The boxes of a node, if there are any. A process that goes on with stale state has none: who it was
    before may have left words in them, or be left some."""
    boxes = None if place.commons is None else place.commons.boxes
    if boxes is None:
        return None
    if place.anew:
        boxes.listen(place.node, on=False)
        return None
    boxes.keep(place.node)
    return Mail(boxes, place.node)


def layout(plan: Plan, x: Tensor) -> Layout:
    """What a payload looks like on the wire, of parameters like x [d]."""
    shapes = plan.recipe.packing.shapes(len(x))
    types = [getattr(torch, shape.dtype) if shape.dtype else x.dtype for shape in shapes]
    parts = tuple((shape.size, dtype) for shape, dtype in zip(shapes, types, strict=True))
    return Layout(parts, tuple(shape.below for shape in shapes), model=((len(x), x.dtype),))
