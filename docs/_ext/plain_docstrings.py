"""Docstrings are plain text with `code` in single backticks; make of them what Sphinx reads."""

from __future__ import annotations

import re

from sphinx.application import Sphinx


def restructured(line: str) -> str:
    """`code` becomes a literal; characters that would mean something elsewhere do not."""
    pieces = re.split(r"`+([^`]+)`+", line)
    return "".join(
        f"``{piece}``" if i % 2 else re.sub(r"([|*\\]|_(?=\W|$))", r"\\\1", piece)
        for i, piece in enumerate(pieces)
    )


def _process(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    lines[:] = [restructured(line) for line in lines]


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", _process)
    return {"parallel_read_safe": True}
