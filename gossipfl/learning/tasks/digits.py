"""digits: 8×8 images of handwritten digits, a perceptron 64-64-10. The data are in the package."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from gossipfl.errors import ConfigError, Problem
from gossipfl.learning.datasets import Files, locate
from gossipfl.learning.task import Task, accuracy

FILES = Files("digits", ("digits.npz",), "gossipfl.learning.tasks", "pip install gossipfl")
_OWN = "pixels [m, 64], from 0 to 16, and labels [m]"
TRAIN = 1438  # the first rows of the canonical permutation; the other 359 are the test set


def model() -> nn.Module:
    """64-64-10 with ReLU; PyTorch's own start, which is U(±1/√fan_in) for weights and biases of `Linear`."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def digits(path: str = "", *, own: bool = False) -> Task:
    """The task on its canonical split: pixels/16 `[1438, 64]` to train on, `[359, 64]` to test on.

    own: train on what lies in `path/digits.npz` instead (`pixels` `[m, 64]`, 0 to 16, and `labels` `[m]`).
    Raises ConfigError: files that are not there, or hold something else.
    """
    task = _canonical("" if own else path)
    if not own:
        return task
    if not path:
        wrong = 'is empty while data.partition is "local"'
        raise ConfigError(Problem("data.path", wrong, "this node's folder, with its digits.npz"))
    file = locate(FILES, path) / "digits.npz"
    try:
        with np.load(file, allow_pickle=False) as stored:
            pixels = torch.from_numpy(stored["pixels"].astype(np.float32) / 16)
            labels = torch.from_numpy(stored["labels"].astype(np.int64))
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(Problem(str(file), f"cannot be read ({error})", _OWN)) from error
    if pixels.ndim != 2 or pixels.shape[1] != 64 or labels.shape != pixels.shape[:1] or not len(labels):
        wrong = f"holds pixels {list(pixels.shape)} and labels {list(labels.shape)}"
        raise ConfigError(Problem(str(file), wrong, _OWN))
    return replace(task, train=TensorDataset(pixels, labels), labels=labels.numpy())


def _canonical(path: str) -> Task:
    with np.load(locate(FILES, path) / "digits.npz", allow_pickle=False) as stored:
        order = stored["permutation"].astype(np.int64)
        pixels = torch.from_numpy(stored["pixels"][order].astype(np.float32) / 16)
        labels = torch.from_numpy(stored["labels"][order].astype(np.int64))
    return Task(
        name="digits",
        model=model,
        train=TensorDataset(pixels[:TRAIN], labels[:TRAIN]),
        test=TensorDataset(pixels[TRAIN:], labels[TRAIN:]),
        loss=cross_entropy,
        metrics={"accuracy": accuracy},
        labels=labels[:TRAIN].numpy(),
    )
