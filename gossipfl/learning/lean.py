"""PyTorch's optimizers without its compiler.

They tell it to leave them alone, and load it to be able to, where nobody compiles anything: two to three
seconds, and 70 MB in each process.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import torch
from torch.optim import Optimizer

#: Methods that are kept from the compiler, and the attribute under which PyTorch keeps the function that is.
_KEPT: Final = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
_MARK: Final = "__dynamo_disable"


@contextmanager
def uncompiled() -> Iterator[None]:
    """Inside, optimizers are made without the compiler; whatever compiles later finds them as they were."""
    methods = [inspect.unwrap(getattr(Optimizer, name)) for name in _KEPT]
    marked = [] if "torch._dynamo" in sys.modules else [m for m in methods if not hasattr(m, _MARK)]
    for method in marked:
        setattr(method, _MARK, method)
    try:
        yield
    finally:
        for method in marked:
            with suppress(AttributeError):
                delattr(method, _MARK)


def stepper(optimizer: Optimizer) -> Callable[[], object]:
    """`optimizer.step` of one of torch.optim's, as PyTorch wrote it: without what is wrapped around it for
    profiles, hooks and the compiler. Others', and one whose steps can be differentiated, as they are."""
    kind = type(optimizer)
    raw = inspect.unwrap(kind.step)
    if not kind.__module__.startswith("torch.optim.") or optimizer.defaults.get("differentiable"):
        return optimizer.step

    def step() -> None:
        with torch.no_grad():
            raw(optimizer)

    return step
