"""fashion: 28×28 images of clothes in 10 classes (Fashion-MNIST), the image benchmark.

Xiao, Rasul & Vollgraf 2017, "Fashion-MNIST: a novel image dataset for benchmarking machine learning
algorithms" (arXiv:1708.07747). The files are those of Debian's package.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from gossipfl.errors import ConfigError, Problem
from gossipfl.learning.datasets import Files, locate
from gossipfl.learning.task import Task, accuracy

SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
"""file, decompressed -> its digest."""

FILES = Files(
    "fashion-mnist",
    tuple(f"{name}.gz" for name in SHA256),
    "",
    "apt-get install dataset-fashion-mnist (or fetch that package elsewhere and set data.path)",
)

MEAN, DEVIATION = 0.2860, 0.3530  # of the training set's pixels in [0, 1]


def cnn() -> nn.Module:
    """3×3 convolutions to 32 and 64 channels, each halved by a maximum, then 128 units; 421,642 numbers."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 7 * 7, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def mlp() -> nn.Module:
    """784-128-10 with ReLU; 101,770 numbers."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


MODELS: Mapping[str, Callable[[], nn.Module]] = {"cnn": cnn, "mlp": mlp}


def fashion(keys: Mapping[str, object], path: str = "") -> Task:
    """60,000 standardised images `[1, 28, 28]` to train on, 10,000 to test on; `model`: cnn (default) or mlp.

    Raises ConfigError: data that are not there or are others, an unknown key or model.
    """
    problems = [
        Problem(f"task.{key}", "unknown key", "fashion has one: model") for key in keys if key != "model"
    ]
    name = keys.get("model", "cnn")
    if not isinstance(name, str) or name not in MODELS:
        near = get_close_matches(str(name), MODELS, 1)
        right = f"did you mean {near[0]}?" if near else f"one of {', '.join(MODELS)}"
        problems.append(Problem("task.model", f"fashion has no model {name!r}", right))
    if problems:
        raise ConfigError(problems)
    images, labels, test_images, test_labels = _load(locate(FILES, path))
    return Task(
        name="fashion",
        model=MODELS[str(name)],
        train=TensorDataset(images, labels),
        test=TensorDataset(test_images, test_labels),
        loss=cross_entropy,
        metrics={"accuracy": accuracy},
        labels=labels.numpy(),
    )


@lru_cache(maxsize=1)
def _load(folder: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and labels to train on, then to test on; read once a process."""
    first, second, third, fourth = (_read(folder, name, digest) for name, digest in SHA256.items())
    return _images(first), _labels(second), _images(third), _labels(fourth)


def _read(folder: Path, name: str, digest: str) -> bytes:
    """What a file holds behind its header. Raises ConfigError where that is not Fashion-MNIST."""
    file = folder / f"{name}.gz"
    try:
        content = gzip.decompress(file.read_bytes())
    except (OSError, EOFError, ValueError) as error:
        wrong = f"{file} cannot be read ({error})"
        raise ConfigError(Problem("data.path", wrong, f"run: {FILES.install}")) from error
    if hashlib.sha256(content).hexdigest() != digest:
        wrong = f"{file} is not the file of that name of Fashion-MNIST"
        raise ConfigError(Problem("data.path", wrong, f"SHA-256 {digest[:16]}… when decompressed"))
    return content[4 + 4 * content[3] :]  # IDX: a word whose last byte counts the axes, then their lengths


def _images(pixels: bytes) -> Tensor:
    images = torch.from_numpy(np.frombuffer(pixels, np.uint8).astype(np.float32))
    return images.div_(255).sub_(MEAN).div_(DEVIATION).view(-1, 1, 28, 28)


def _labels(content: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(content, np.uint8).astype(np.int64))
