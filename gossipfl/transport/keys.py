"""Key pairs as files: `NAME.secret`, which only its owner may read, and `NAME.public`, for everyone."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

from gossipfl.config.lan import PUBLIC, SECRET, key_bytes, key_text
from gossipfl.errors import ConfigError, Problem
from gossipfl.transport.curve import Pair, new_pair, public_of

_HEAD = {
    SECRET: "# A gossipfl secret key. It stays on this machine: whoever has it is this node.\n",
    PUBLIC: "# A gossipfl public key, for the others' swarm.toml.\n",
}


class Made(NamedTuple):
    """A new pair: where its halves lie, and the public one as text."""

    secret: Path
    public: Path
    key: str


def make(folder: Path, name: str) -> Made:
    """Write a new pair into `folder`, which is made if need be.

    Raises ConfigError: a bad name, a pair that is there already.
    """
    if not name or not all(c.isalnum() or c in "_-." for c in name) or name[0] in ".-" or len(name) > 64:
        raise ConfigError(Problem("--name", f"cannot be {name!r}", "letters, digits, '_', '-' and '.'"))
    made = Made(folder / f"{name}.secret", folder / f"{name}.public", "")
    for path in made[:2]:
        if path.exists():
            raise ConfigError(Problem(str(path), "is there already", "another --name, or remove both halves"))
    pair = new_pair()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write(made.secret, SECRET, pair.secret, 0o600)
    _write(made.public, PUBLIC, pair.public, 0o644)
    return made._replace(key=key_text(pair.public))


def _write(path: Path, prefix: str, raw: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(descriptor, mode)
        file.write(f"{_HEAD[prefix]}{key_text(raw, prefix)}\n")


def load(path: Path) -> Pair:
    """The pair of a secret key's file.

    Raises ConfigError: no such file, one that others may read, one without a secret key.
    """
    how = "gossipfl keys new DIR --name NAME makes a pair"
    try:
        mode = path.stat().st_mode
        text = path.read_text(errors="replace")
    except OSError as error:
        raise ConfigError(Problem(str(path), f"cannot be read: {error.strerror}", how)) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        wrong = f"is a secret key that others may read (mode {stat.S_IMODE(mode):o})"
        right = f"chmod 600 {path}; if anyone has read it, make a new pair"
        raise ConfigError(Problem(str(path), wrong, right))
    try:
        secret = key_bytes(_line(text), SECRET)
    except ValueError:
        wrong = "is a public key" if _line(text).startswith(PUBLIC) else "holds no secret key"
        raise ConfigError(Problem(str(path), f"{wrong}, where a secret one is meant", how)) from None
    return Pair(public_of(secret), secret)


def public(path: Path) -> str:
    """The public key of a file with either half. Raises ConfigError."""
    try:
        line = _line(path.read_text(errors="replace"))
    except OSError as error:
        wrong = f"cannot be read: {error.strerror}"
        raise ConfigError(Problem(str(path), wrong, "give NAME.public or NAME.secret")) from error
    if line.startswith(SECRET):
        return key_text(load(path).public)
    try:
        return key_text(key_bytes(line))
    except ValueError:
        raise ConfigError(Problem(str(path), "holds no key", "give NAME.public or NAME.secret")) from None


def _line(text: str) -> str:
    """The first line that is no comment."""
    return next((line.strip() for line in text.splitlines() if line.strip() and line[:1] != "#"), "")
