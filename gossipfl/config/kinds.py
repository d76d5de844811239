"""What values of a config can be: types, with notes for whoever checks them, and in words."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated

from gossipfl.config.section import After, Before, Expected, Pattern, Shortest
from gossipfl.plugin import is_plugin

PARTITIONS = ("iid", "dirichlet", "shards", "classes", "quantity", "natural", "file", "local")


def _tuple(value: object) -> object:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def _known(names: tuple[str, ...]) -> Callable[[str], str]:
    def check(value: str) -> str:
        if value not in names and not is_plugin(value):
            raise ValueError("unknown name")
        return value

    return check


def _spell(value: float | str) -> float | str:
    """A spell of time: a number above 0, or a text such as "0.2s"."""
    text = value.removesuffix("s") if isinstance(value, str) and value.endswith("s") else value
    if isinstance(text, str) and (text is value or not re.fullmatch(r"\d+(\.\d*)?|\.\d+", text)):
        raise ValueError("no seconds")
    if not float(text) > 0:
        raise ValueError("not above 0")
    return value


Name = Annotated[
    str,
    Pattern(r"^\w[\w.-]{0,63}$"),
    Expected("up to 64 letters, digits, '_', '-' and '.' (it names the run's folder)"),
]


def sequence(value: object) -> object:
    """A list as a tuple; anything else as it is."""
    return tuple(value) if isinstance(value, list) else value


GraphSpec = Annotated[
    str | tuple[str, ...],
    Before(sequence),
    Shortest(1),
    Expected(
        'a graph such as "ring", "torus:4x8" or "regular:4", a file, "module:function",'
        " or a list of them, one a round in turn"
    ),
]
WeightsSpec = Annotated[str, Shortest(1), Expected('weights such as "metropolis", or "module:function"')]
CodecSpec = Annotated[
    str, Shortest(1), Expected('a codec such as "none" or "topk:0.01", or "module:function"')
]
AggregateSpec = Annotated[
    str, Shortest(1), Expected('an aggregate such as "mean" or "by-loss", or "module:function"')
]
RuleSpec = Annotated[str, Shortest(1), Expected('a rule such as "dpsgd", or "module:function"')]
TaskSpec = Annotated[str, Shortest(1), Expected('a task such as "digits", or "module:function"')]
WriterSpec = Annotated[str, After(_known(("",))), Expected('a "module:function", or "" for none')]
PartitionSpec = Annotated[
    str,
    After(_known(PARTITIONS)),
    Expected(f'one of {", ".join(PARTITIONS)}, or "module:function"'),
]
OptimizerName = Annotated[
    str, Pattern(r"^[A-Za-z]\w*$"), Expected('the name of a torch.optim class, such as "sgd" or "adam"')
]
Device = Annotated[
    str, Pattern(r"^(auto|cpu|mps|cuda(:\d+)?)$"), Expected('"auto", "cpu", "cuda", "cuda:1" or "mps"')
]
Period = Annotated[
    float | str,
    After(_spell),
    Expected('a number above 0 (of the node\'s own local phases), or seconds such as "0.2s"'),
]
Patterns = Annotated[
    tuple[str, ...],
    Before(_tuple),
    Shortest(1),
    Expected('a list of parameter names, * for any text, such as ["*"] or ["encoder.*"]'),
]
