"""digits: 8×8 images of handwritten digits, a perceptron 64-64-10. The data are in the package."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from gossipfl.learning.datasets import Files, locate
from gossipfl.learning.task import Task, accuracy

FILES = Files("digits", ("digits.npz",), "gossipfl.learning.tasks", "pip install gossipfl")
TRAIN = 1438  # the first rows of the canonical permutation; the other 359 are the test set


def model() -> nn.Module:
    """64-64-10 with ReLU; PyTorch's own start, which is U(±1/√fan_in) for weights and biases of `Linear`."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def digits(path: str = "") -> Task:
    """The task on its canonical split: pixels/16 `[1438, 64]` to train on, `[359, 64]` to test on."""
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
