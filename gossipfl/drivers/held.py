"""A run's folder is one run's: whoever writes there holds a lock of the system on it, which is free again
whatever becomes of the process."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from gossipfl.errors import ConfigError, Problem

_TAKEN: Final = (errno.EWOULDBLOCK, errno.EACCES)
_locks: set[int] = set()  # descriptors that this process holds


@contextmanager
def held(folder: Path, key: str, *, new: bool = False) -> Iterator[None]:
    """Hold a folder that is there. new: nothing may be in it, which is seen when nobody else can begin there.

    Raises ConfigError, under `key`: another process runs there. (Folders of file systems that have no such
    locks, as some of a network, are not held.)
    """
    lock = _lock(folder, key)
    try:
        if new and any(folder.iterdir()):
            wrong = f"{folder} exists and is not empty"
            raise ConfigError(Problem(key, wrong, "choose another, or remove it"))
        yield
    finally:
        if lock is not None:
            _locks.discard(lock)
            os.close(lock)


def _lock(folder: Path, key: str) -> int | None:
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        made = os.open(folder, os.O_RDONLY)
    except OSError:  # it cannot be listed: whether it can be written to is seen elsewhere
        return None
    try:
        fcntl.flock(made, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(made)
        if error.errno not in _TAKEN:
            return None
        wrong = f"a run is going on in {folder}"
        raise ConfigError(Problem(key, wrong, "wait for its end, or stop it")) from None
    _locks.add(made)
    return made


def _let_go() -> None:
    """In a process that was forked from one that holds folders: it would hold them beyond that one's end."""
    for lock in _locks:
        with suppress(OSError):
            os.close(lock)
    _locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
