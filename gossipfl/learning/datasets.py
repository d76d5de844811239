"""Where a task's data are found on this machine. Nothing is ever downloaded.

Looked for in this order: the folder `data.path`, `$GOSSIPFL_DATA/NAME`, the operating system's packages
(`datasets/NAME` in the data folders of the XDG base directory specification), an installed Python package.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from gossipfl.errors import ConfigError, Problem


class Files(NamedTuple):
    """A data set on disk: its name, its files, the Python package that may carry it (or ""), how to get."""

    name: str
    files: tuple[str, ...]
    package: str
    install: str  # the exact command that brings it


def locate(wanted: Files, path: str = "") -> Path:
    """The first folder that holds all the files. Raises ConfigError with the command that installs them.

    A `path` that is given is the only place looked in.
    """
    if path:
        folders: Sequence[Path] = [Path(path)]
    else:
        folders = [*_environment(wanted.name), *_system(wanted.name), *_package(wanted.package)]
    for folder in folders:
        if all((folder / file).is_file() for file in wanted.files):
            return folder
    wrong = f"{wanted.name}: no folder holds {', '.join(wanted.files)}"
    if folders:
        wrong += f" (looked in {', '.join(map(str, folders))})"
    raise ConfigError(Problem("data.path", wrong, f"run: {wanted.install}"))


def _environment(name: str) -> list[Path]:
    root = os.environ.get("GOSSIPFL_DATA")
    return [Path(root) / name] if root else []


def _system(name: str) -> list[Path]:
    roots = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    return [Path(root) / "datasets" / name for root in roots.split(":") if root]


def _package(package: str) -> list[Path]:
    try:
        spec = find_spec(package) if package else None
    except ModuleNotFoundError:
        return []
    return [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
