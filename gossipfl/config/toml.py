"""Writing TOML, so that `tomllib` reads the same values back bit for bit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}


def _text(value: str) -> str:
    def escape(c: str) -> str:
        if c in _ESCAPES:
            return _ESCAPES[c]
        return f"\\u{ord(c):04X}" if ord(c) < 32 or ord(c) == 127 else c

    return '"' + "".join(map(escape, value)) + '"'


def toml_key(key: str) -> str:
    """A key, quoted where TOML asks for it."""
    return key if _BARE.fullmatch(key) else _text(key)


def toml_value(value: object) -> str:
    """One value as TOML: a bool, int, float (its shortest exact decimal), str, sequence or mapping of those.

    Raises TypeError for anything else.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{toml_key(k)} = {toml_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(toml_value(v) for v in value) + "]"
    raise TypeError(f"no TOML value: {type(value).__name__}")


def toml_document(
    tables: Mapping[str, Mapping[str, object]], **arrays: Sequence[Mapping[str, object]]
) -> str:
    """A document of one level of tables, in the order given; then `arrays` of tables, `[[name]]`."""
    blocks = []
    heads = [(f"[{toml_key(name)}]", table) for name, table in tables.items()]
    heads += [(f"[[{toml_key(name)}]]", table) for name, array in arrays.items() for table in array]
    for head, table in heads:
        lines = [head]
        lines += [f"{toml_key(key)} = {toml_value(value)}" for key, value in table.items()]
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)
