"""Do two nodes that meet mean the same swarm?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

#: Told in a greeting, and not compared: which process speaks.
INSTANCE = "instance"
#: Told in a greeting, and compared where both ends tell it: a loop of somebody's own does not show its data.
DATA = "data"
#: Between two parameters in `parameters`.
BETWEEN = "; "


def differs(mine: Mapping[str, object], theirs: Mapping[str, object]) -> str | None:
    """How the sender of `mine` differs from that of `theirs`, first of all, for the latter to read after the
    former's name: `has algorithm.rule = d2, you have dpsgd`. None if they agree.

    The protocol comes first, then the config's keys, then what is made of them.
    """
    if mine is theirs:
        return None
    for key in _order({*mine, *theirs} - {INSTANCE}):
        one, other = mine.get(key), theirs.get(key)
        if one == other or (key == DATA and None in (one, other)):
            continue
        if key == "parameters":
            return _parameter(str(one), str(other))
        if key == "protocol":
            return f"speaks version {_shown(one)} of the protocol, you speak {_shown(other)}"
        return f"has {key} = {_shown(one)}, you have {_shown(other)}"
    return None


def _order(keys: set[str]) -> Iterator[str]:
    yield from sorted(keys, key=lambda key: (key != "protocol", "." not in key, key != "parameters", key))


def _shown(value: object) -> str:
    text = "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if 0 < len(text) <= 200 else f"{text[:197]}..." if text else '""'


def _parameter(mine: str, theirs: str) -> str:
    """The first parameter of two models that differs."""
    ones, others = mine.split(BETWEEN), theirs.split(BETWEEN)
    for index in range(max(len(ones), len(others))):
        one, other = ("".join(ends[index : index + 1]) for ends in (ones, others))
        if one != other:
            return f"has parameter {one or 'no more'}, you have {other or 'no more'}"
    raise AssertionError("equal texts differ in no part")
