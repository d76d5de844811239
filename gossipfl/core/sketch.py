"""Count-sketches: 1,024 numbers that stand for a vector of any length when distances are asked for.

Charikar, Chen & Farach-Colton 2002, "Finding frequent items in data streams" (ICALP), section 3, one row.
Entry k goes to bucket h(k) with sign s(k), both keyed by the seed, so every node of a swarm sketches alike.
The map is linear and E‖sketch(v)‖² = ‖v‖² with a relative standard deviation of at most √(2 / 1024) = 4.4 %;
so nodes that never send their parameters to a watcher still let it see how far apart they are. A vector of at
most 1,024 entries is its own sketch.
"""

from __future__ import annotations

import base64
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gossipfl.draw import Purpose, bits

BUCKETS = 1024
_CHUNK = 1 << 16  # entries hashed or summed at a time, so that the temporaries stay in cache


@lru_cache(maxsize=4)
def _slots(seed: int, d: int) -> NDArray[np.uint16]:
    """[d]: bucket + BUCKETS · (sign is minus), 11 random bits for each entry."""
    if d <= BUCKETS:
        return np.arange(d, dtype=np.uint16)
    slots = np.empty(d, dtype=np.uint16)
    for start in range(0, d, _CHUNK):
        index = np.arange(start, min(start + _CHUNK, d))
        slots[start : start + _CHUNK] = bits(seed, Purpose.SKETCH, index) >> np.uint64(53)
    return slots


def sketch(x: ArrayLike, seed: int) -> NDArray[np.float32]:
    """The sketch of each vector, [..., d] -> float32 [..., 1024]. Tensors: on the CPU, without grad."""
    array = np.asarray(x)
    slots = _slots(seed, array.shape[-1])
    rows = array.reshape(-1, array.shape[-1])
    sums = np.zeros((len(rows), 2 * BUCKETS))
    for row, total in zip(rows, sums, strict=True):
        for start in range(0, len(row), _CHUNK):
            part = slice(start, start + _CHUNK)
            total += np.bincount(slots[part], weights=row[part], minlength=2 * BUCKETS)
    with np.errstate(over="ignore", invalid="ignore"):
        signed = (sums[:, :BUCKETS] - sums[:, BUCKETS:]).astype(np.float32)
    return signed.reshape(*array.shape[:-1], BUCKETS)


def encode(buckets: NDArray[np.float32]) -> str:
    """A sketch, float32 [1024], as base64 of its little-endian bytes."""
    return base64.b64encode(np.ascontiguousarray(buckets, dtype="<f4").tobytes()).decode("ascii")


def decode(text: str) -> NDArray[np.float32]:
    """The inverse of `encode`, float32 [1024]. Raises ValueError for anything else."""
    raw = base64.b64decode(text, validate=True)
    if len(raw) != 4 * BUCKETS:
        raise ValueError(f"a sketch has {4 * BUCKETS} bytes, not {len(raw)}")
    return np.frombuffer(raw, dtype="<f4").astype(np.float32)


def consensus_distance(buckets: ArrayLike) -> float:
    """sqrt(mean over nodes of ‖x_i − x̄‖²) estimated from the nodes' sketches, [n, 1024]; NaN for none."""
    rows = np.asarray(buckets, dtype=np.float64)
    if rows.size == 0:
        return float("nan")
    return float(np.sqrt(np.mean(np.sum((rows - rows.mean(axis=0)) ** 2, axis=1))))
