"""The folder that a run leaves its files in."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gossipfl.errors import ConfigError, Problem


@contextmanager
def run_folder(out: Path | None, name: str, key: str = "--out") -> Iterator[Path]:
    """A new or empty folder for a run; taken away again if the run fails before it leaves anything.

    Nothing is ever overwritten: raises ConfigError, under `key`, where `out` is in use.
    """
    path = out
    try:
        path = _default_folder(name, key) if out is None else _chosen_folder(out, key)
    except BaseException:
        if path is not None:
            _take_away(path)
        raise
    with kept_if_used(path):
        yield path


@contextmanager
def kept_if_used(path: Path) -> Iterator[None]:
    """A run's folder is taken away if the run fails before it leaves anything there."""
    try:
        yield
    except BaseException:
        _take_away(path)
        raise


def _take_away(path: Path) -> None:
    if path.is_dir() and not any(path.iterdir()):
        path.rmdir()


def _default_folder(name: str, key: str) -> Path:
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for suffix in ("", *(f"-{i}" for i in range(2, 1000))):
        path = Path("runs", stem + suffix)
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            if not path.exists():  # it is `runs` that is no folder
                raise
            continue
        return path
    raise ConfigError(Problem(key, f"runs/{stem} and its like are taken", f"choose a folder with {key}"))


def _chosen_folder(path: Path, key: str) -> Path:
    if path.exists() and not path.is_dir():
        raise ConfigError(Problem(key, f"{path} is a file", f"choose another {key}, or remove it"))
    if path.is_dir() and any(path.iterdir()):
        raise ConfigError(
            Problem(key, f"{path} exists and is not empty", f"choose another {key}, or remove it")
        )
    path.mkdir(parents=True, exist_ok=True)
    return path
