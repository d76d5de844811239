"""Checkpoints: all that a node needs to go on from the end of a round, as files that are there whole or not
at all.

    checkpoints/NODE/00000120/state.safetensors    tensors: parameters, buffers, optimizer, rule, payloads
                              state.json           everything else, with digests of both

A checkpoint is written beside, synced to the disk, and gets its name last: a kill at any instant leaves those
before it as they were. No torch at import: whoever looks for checkpoints need not load any.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Container, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gossipfl.config import Config
from gossipfl.errors import GossipError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

#: Folder of a run that holds them.
FOLDER: Final = "checkpoints"
#: Of the files' form; another one is not read.
VERSION: Final = 1
#: How many a node keeps.
KEEP: Final = 2

_TENSORS, _STATE, _LOST = "state.safetensors", "state.json", "lost"
#: What may change between a run and its continuation.
_FREE: Final = frozenset(
    {
        "swarm.name",
        "swarm.rounds",
        "swarm.eval_every",
        "swarm.checkpoint_every",
        "swarm.tensorboard",
        "swarm.writer",
        "swarm.start_timeout",
        "algorithm.replay",
        "train.device",
        "data.path",
    }
)
_FREE_SECTIONS: Final = frozenset({"stop", "network", "security", "node", "fault"})
_BOUND_OF_WIRE: Final = frozenset({"wire.codec", "wire.dtype"})

Tree = Any


class Unusable(GossipError):
    """A checkpoint that cannot be gone on from; the message says why, without naming it."""


def essentials(config: Config) -> dict[str, object]:
    """What must be the same in a run and its continuation: dotted key -> value, as JSON gives it back."""
    tables = config.to_dict()
    found: dict[str, object] = {
        f"{section}.{key}": value
        for section, table in tables.items()
        if section not in _FREE_SECTIONS
        for key, value in table.items()
        if f"{section}.{key}" not in _FREE and (section != "wire" or f"wire.{key}" in _BOUND_OF_WIRE)
    }
    found["names"] = list(config.names)
    plain: dict[str, object] = json.loads(json.dumps(found))
    return plain


# ---------------------------------------------------------------------- writing


def write(folder: Path, round: int, header: Mapping[str, object], tree: Tree) -> int:
    """Write a node's checkpoint of `round` into its folder; the bytes of it.

    header: plain values, beside the tree. Raises OSError, and leaves nothing of it then.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    new = not folder.is_dir()
    folder.mkdir(parents=True, exist_ok=True)
    part, whole = folder / f".part-{round:08d}", _place(folder, round)
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir()
        tensors: dict[str, Tensor] = {}
        body = {"version": VERSION, "round": round, **header, "tree": _pack(tree, "", tensors)}
        try:
            save_file(tensors, part / _TENSORS)
        except SafetensorError as error:
            raise OSError(None, str(error), str(part / _TENSORS)) from error
        body["tensors"] = _digest(part / _TENSORS)
        text = json.dumps(body)
        digest = hashlib.sha256(text.encode()).hexdigest()
        (part / _STATE).write_text(f"{digest}\n{text}\n", encoding="ascii")
        size = sum(_sync(part / name) for name in (_TENSORS, _STATE))
        _sync(part)
        if whole.exists():
            remove(whole)
        part.rename(whole)
        _sync(folder)
        if new:
            _sync(folder.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return size


def _place(folder: Path, round: int) -> Path:
    return folder / f"{round:08d}"


def _sync(path: Path) -> int:
    """Onto the disk; the size of a file."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
        return os.fstat(handle).st_size
    finally:
        os.close(handle)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pack(tree: Tree, name: str, tensors: dict[str, Tensor]) -> Tree:
    """The tree with its tensors taken out: in place of each its name, and whether it was on the CPU."""
    import torch

    if isinstance(tree, torch.Tensor):
        while name in tensors:  # dots in keys may make two names alike
            name += "_"
        tensors[name] = tree.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name, "cpu": tree.device.type == "cpu"}
    if isinstance(tree, Mapping):
        return {
            "map": {key: _pack(value, f"{name}.{key}".strip("."), tensors) for key, value in tree.items()}
        }
    if isinstance(tree, list | tuple):
        return [_pack(value, f"{name}.{index}", tensors) for index, value in enumerate(tree)]
    return tree


# ---------------------------------------------------------------------- keeping


def rounds(folder: Path) -> list[int]:
    """The rounds of a node's checkpoints, ascending; damaged ones too."""
    try:
        return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())
    except OSError:
        return []


def remove(path: Path) -> None:
    """Take a checkpoint away, at once."""
    aside = path.with_name(f".old-{path.name}")
    with suppress(OSError):
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def lead(config: Config) -> int:
    """Rounds that a node is ahead of another at most, where all wait for each other."""
    return config.swarm.nodes * config.algorithm.every


def prune(folder: Path, stay: Container[int]) -> None:
    """Let go of all rounds but these."""
    for round in rounds(folder):
        if round not in stay:
            remove(_place(folder, round))


def clear(folder: Path, after: int) -> None:
    """Take away what is later than the round that is gone on from, and what a kill has left half done."""
    for round in rounds(folder):
        if round > after:
            remove(_place(folder, round))
    with suppress(OSError):
        (folder / _LOST).unlink(missing_ok=True)
        for path in folder.glob(".*"):
            shutil.rmtree(path, ignore_errors=True)


def mark_lost(folder: Path, why: str) -> None:
    """Note beside a node's checkpoints that the others went on without it."""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _LOST).write_text(f"{why}\n")


def is_lost(folder: Path) -> bool:
    """Did the others go on without this node?"""
    return (folder / _LOST).exists()


# ---------------------------------------------------------------------- reading


def header(folder: Path, round: int) -> dict[str, Any]:
    """What a checkpoint says, with its tensors not read but for their digest. Raises Unusable."""
    path = _place(folder, round)
    try:
        digest, _, text = (path / _STATE).read_text().partition("\n")
        if hashlib.sha256(text.rstrip("\n").encode()).hexdigest() != digest.strip():
            raise Unusable(f"is damaged: {_STATE} is not what was written")
        found: dict[str, Any] = json.loads(text)
        if found["version"] != VERSION:
            raise Unusable(f"is of version {found['version']} of the files, this gossipfl reads {VERSION}")
        if _digest(path / _TENSORS) != found["tensors"]:
            raise Unusable(f"is damaged: {_TENSORS} is not what was written")
    except OSError as error:
        raise Unusable(f"cannot be read: {Path(error.filename or path).name}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise Unusable(f"is damaged: {_STATE} is not what was written") from error
    return found


def load(folder: Path, round: int, device: torch.device | str = "cpu") -> tuple[dict[str, Any], Tree]:
    """What a checkpoint says, and its tree with the tensors in their places. Raises Unusable."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    found = header(folder, round)
    try:
        tensors = load_file(_place(folder, round) / _TENSORS)
        return found, _unpack(found.pop("tree"), tensors, device)
    except (OSError, SafetensorError, KeyError) as error:
        raise Unusable(f"is damaged: {_TENSORS}: {error}") from error


def _unpack(tree: Tree, tensors: Mapping[str, Tensor], device: torch.device | str) -> Tree:
    if isinstance(tree, list):
        return [_unpack(value, tensors, device) for value in tree]
    if not isinstance(tree, dict):
        return tree
    if "map" in tree:
        return {key: _unpack(value, tensors, device) for key, value in tree["map"].items()}
    tensor = tensors[tree["tensor"]].clone()  # a file's memory is aligned otherwise, and sums round otherwise
    return tensor if tree["cpu"] else tensor.to(device)
