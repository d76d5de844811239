"""Amounts that differ: a number, a distribution in words, or a file of numbers."""

from __future__ import annotations

from typing import Annotated, Final, NamedTuple

from gossipfl.config.section import After, Expected

FILES: Final = (".csv", ".txt", ".npy")
"""What the name of a file of numbers ends in."""
MOST: Final = 1e300
"""The largest amount: what is multiplied with it stays finite."""
WIDEST: Final = 10.0
"""The largest standard deviation of a logarithm."""
_ARGUMENTS: Final = {"uniform": 2, "lognormal": 2, "exponential": 1}


class Spread(NamedTuple):
    """An amount, or how it is distributed.

    constant: `a`. uniform: from `a` to `b`. lognormal: median `a`, and `b` the standard deviation of the
    logarithm. exponential: mean `a`. file: numbers in the file `name`.
    """

    kind: str
    a: float = 0.0
    b: float = 0.0
    name: str = ""


def spread(value: float | str) -> Spread:
    """What a config's value means. Raises ValueError for what means nothing, or could be below 0."""
    if not isinstance(value, str):
        return Spread("constant", _amount(value))
    if value.lower().endswith(FILES):
        return Spread("file", name=value)
    kind, colon, rest = value.partition(":")
    texts = rest.split(",") if colon else []
    if len(texts) != _ARGUMENTS.get(kind, -1):
        raise ValueError("no distribution")
    a, b = (*(_amount(float(text)) for text in texts), 0.0)[:2]
    if (kind == "uniform" and a > b) or (kind != "uniform" and a == 0):
        raise ValueError("an empty range, or a middle of 0")
    if kind == "lognormal" and b > WIDEST:
        raise ValueError("a spread beyond all numbers")
    return Spread(kind, a, b)


def _amount(value: float) -> float:
    if not 0 <= value <= MOST:
        raise ValueError("no amount")
    return float(value)


def _meant(value: float | str) -> float | str:
    spread(value)
    return value


def _meant_or_regions(value: float | str) -> float | str:
    return value if value == REGIONS else _meant(value)


REGIONS: Final = "5-regions"
"""The latency between nodes spread evenly over five continents: see `presets`."""
_WORDS: Final = (
    'a number, at least 0; "uniform:LOW,HIGH", "lognormal:MEDIAN,SIGMA" or "exponential:MEAN"; or a file '
    "(.csv .txt .npy)"
)
Amount = Annotated[float | str, After(_meant), Expected(_WORDS)]
Delay = Annotated[float | str, After(_meant_or_regions), Expected(f'{_WORDS}, or "{REGIONS}"')]
