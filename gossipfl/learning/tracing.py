"""A gradient batched over nodes, traced once into its few tensor operations.

`torch.func` finds out anew at each call what to do; for small models that costs as much as doing it. A trace
repeats the same operations, hence the same bits, for tensors of the same shapes. It also repeats whatever
Python decided while it was made, so only code that decides by shapes alone is traced: PyTorch's own modules
and losses.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call, grad, grad_and_value, vmap

Values = Mapping[str, Tensor]  # name -> [t, *shape]
Gradient = Callable[[Values, Values, Tensor, Tensor], tuple[dict[str, Tensor], Tensor]]
"""(values, constants, inputs, targets), each batched over nodes -> gradients by name, losses `[t]`."""

_OWN = ("torch.nn.modules.", "torch.nn.functional")
_ATEN = torch.ops.aten


def batched_gradient(module: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> Gradient:
    """The gradient of the loss of a module for many sets of parameters at once; it borrows the module."""

    def lost(values: Values, constants: Values, inputs: Tensor, targets: Tensor) -> Tensor:
        return loss(functional_call(module, {**values, **constants}, (inputs,)), targets)

    batched: Gradient = vmap(grad_and_value(lost))
    return batched


def gradient_of_each(module: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> Gradient:
    """As `batched_gradient`, but each node's loss is computed by itself: a batched one sums in another order
    than one node's own, and rounds otherwise."""

    def lost(values: Values, constants: Values, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        outputs = torch.as_tensor(functional_call(module, {**values, **constants}, (inputs,)))
        return loss(outputs, targets), outputs

    def gradient(
        values: Values, constants: Values, inputs: Tensor, targets: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        gradients, outputs = vmap(grad(lost, has_aux=True))(values, constants, inputs, targets)
        return gradients, torch.stack([loss(*pair) for pair in zip(outputs, targets, strict=True)])

    return gradient


def unrolled_gradient(module: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> Gradient:
    """The same node by node, with each operation that one node by itself would do: to be traced."""

    def lost(values: Values, inputs: Tensor, targets: Tensor) -> Tensor:
        return loss(functional_call(module, dict(values), (inputs,)), targets)

    def gradient(
        values: Values, constants: Values, inputs: Tensor, targets: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        found, losses = [], []
        for k in range(len(inputs)):
            own, rest = ({name: value[k] for name, value in every.items()} for every in (values, constants))
            one, value = grad_and_value(lambda v, r=rest, k=k: lost({**v, **r}, inputs[k], targets[k]))(own)
            found.append(one)
            losses.append(value)
        return {name: torch.stack([one[name] for one in found]) for name in values}, torch.stack(losses)

    return gradient


def safe(module: nn.Module, loss: object) -> bool:
    """Is what the two compute a function of shapes and values alone, whenever they are called?"""
    return all(_plain(part) for part in module.modules()) and _known(loss)


def trace(
    gradient: Gradient, example: tuple[Values, Values, Tensor, Tensor], literal: bool = False
) -> Gradient:
    """`gradient` for arguments of the shapes of `example`, without the parts that change nothing.

    The result keeps no state: threads may call it at once. literal: to the last bit, for a little more time.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    traced = make_fx(gradient)(*example)
    if not any(_writes(node) for node in traced.graph.nodes):
        _simplify(traced.graph)
    traced.graph.set_codegen(fx.graph.CodeGen())  # tensors in a row, no trees to take apart and to build
    traced.recompile()
    names = tuple(example[0])
    run = _without_python(traced, example, literal)

    def repeat(
        values: Values, constants: Values, inputs: Tensor, targets: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        *gradients, losses = run(*values.values(), *constants.values(), inputs, targets)
        return dict(zip(names, gradients, strict=True)), losses

    return repeat


def _without_python(
    traced: fx.GraphModule, example: tuple[Values, Values, Tensor, Tensor], literal: bool
) -> Callable[..., Sequence[Tensor]]:
    """The same operations, called one after the other without Python between them: that takes a third of the
    time of a small model, and threads would wait for each other for it. TorchScript does it, where it still
    is there; else the trace as it is."""
    values, constants, inputs, targets = example
    flat = [t.detach() for t in (*values.values(), *constants.values(), inputs, targets)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # PyTorch calls it deprecated, and has nothing that starts at once
            script = torch.jit.trace(traced, flat, check_trace=False, strict=False)  # type: ignore[no-untyped-call]
            with _literally(literal):
                script(*flat)
    except Exception:  # whatever it does not know
        return traced

    def run(*tensors: Tensor) -> Sequence[Tensor]:
        with _literally(literal):
            found: Sequence[Tensor] = script(*tensors)
            return found

    return run


@contextmanager
def _literally(literal: bool) -> Iterator[None]:
    """Without TorchScript's own changes, in this thread: it takes `addmm` apart, which rounds otherwise."""
    before = torch._C._get_graph_executor_optimize()
    torch._C._set_graph_executor_optimize(before and not literal)
    try:
        yield
    finally:
        torch._C._set_graph_executor_optimize(before)


def _plain(module: nn.Module) -> bool:
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return type(module).__module__.startswith(_OWN) and not any(hooks)


def _known(loss: object) -> bool:
    if isinstance(loss, partial):
        return _known(loss.func)
    if isinstance(loss, nn.Module):
        return all(_plain(part) for part in loss.modules())
    return getattr(loss, "__module__", "").startswith(_OWN)


def _writes(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _simplify(graph: fx.Graph) -> None:
    """Leaves out what gives its argument back, and computes once what is computed twice alike."""
    seen: dict[object, fx.Node] = {}
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        same = _same(node)
        if same is None:
            key = (node.target, _frozen(node.args), _frozen(node.kwargs))
            same = seen.setdefault(key, node)
        if same is not node:
            node.replace_all_uses_with(same)
    graph.eliminate_dead_code()


def _same(node: fx.Node) -> fx.Node | None:
    """The earlier node whose value this one has, element for element, strides included."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node):
        return None
    if node.target in (_ATEN.view.default, _ATEN._unsafe_view.default, _ATEN.expand.default):
        before, after = source.meta["val"], node.meta["val"]
        if before.shape == after.shape and before.stride() == after.stride():
            return source
    if node.target is _ATEN.mul.Scalar and node.args[1] == 1 and type(node.args[1]) is int:
        return source
    twice = node.target is _ATEN.transpose.int and source.target is _ATEN.transpose.int
    if twice and node.args[1:] == source.args[1:] and isinstance(source.args[0], fx.Node):
        return source.args[0]
    return None


def _frozen(value: object) -> object:
    if isinstance(value, Mapping):
        return tuple((key, _frozen(item)) for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(map(_frozen, value))
    return value if isinstance(value, fx.Node) else (type(value), value)
