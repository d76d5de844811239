"""The models a run leaves: all parameters as one array, and files that plain PyTorch loads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from gossipfl.drivers.outcome import Outcome
from gossipfl.drivers.telling import plain
from gossipfl.learning.flat import state_dict
from gossipfl.learning.workload import Workload


def save_array(path: Path, outcome: Outcome, names: Sequence[str]) -> None:
    """`x` [n, d] in node order, `names` [n] and `present` [n], as .npz, whole or not at all. Raises
    OSError."""
    part = path.with_suffix(".part")
    try:
        with part.open("wb") as file:
            np.savez(file, x=plain(outcome.x), names=np.array(names), present=np.array(outcome.present))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def save_models(folder: Path, workload: Workload, outcome: Outcome, names: Sequence[str]) -> None:
    """models.npz, models/NODE.safetensors of every node that left its parameters, and
    models/mean.safetensors.

    Raises OSError.
    """
    save_array(folder / "models.npz", outcome, names)
    (folder / "models").mkdir(exist_ok=True)
    for name, x, present in zip(names, outcome.x, outcome.present, strict=True):
        if present:
            _save(folder / "models" / f"{name}.safetensors", workload, x)
    if any(outcome.present):
        mean = outcome.x[torch.tensor(outcome.present)].mean(0)
        _save(folder / "models" / "mean.safetensors", workload, mean)


def _save(path: Path, workload: Workload, x: Tensor) -> None:
    save_state(path, state_dict(workload.module(x)))


def save_state(path: Path, state: dict[str, Tensor]) -> None:
    """A state_dict as a file that plain PyTorch loads, whole or not at all. Raises OSError."""
    part = path.with_suffix(".part")
    try:
        save_file(state, part)
        part.replace(path)
    except SafetensorError as error:
        raise OSError(f"{path.name}: {error}") from error
    finally:
        part.unlink(missing_ok=True)
