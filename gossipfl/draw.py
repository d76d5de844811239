"""Randomness by key, never ambient: every draw is a hash of (seed, keys), the same in every process and
engine.

The hash is SplitMix64's finaliser chained over the keys (Steele, Lea & Flood 2014, "Fast splittable
pseudorandom number generators", OOPSLA), vectorised over whatever keys are arrays: a draw for 1,000 nodes is
one call.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_M1 = np.uint64(0xBF58476D1CE4E5B9)
_M2 = np.uint64(0x94D049BB133111EB)

_MASK = (1 << 64) - 1

Key = int | NDArray[np.int64] | NDArray[np.uint64]


class Purpose(IntEnum):
    """What a draw is for; part of the key, so that no two uses share numbers. Never renumber."""

    GRAPH = 1
    PARTITION = 2
    START = 3
    BATCH = 4
    PHASE = 5
    SKETCH = 6
    LATENCY = 7
    COMPUTE = 8
    CODEC = 9
    PEER = 10
    VALIDATION = 11
    NETWORK = 20


def _finalise(h: NDArray[np.uint64]) -> NDArray[np.uint64]:
    h = (h ^ (h >> np.uint64(30))) * _M1
    h = (h ^ (h >> np.uint64(27))) * _M2
    return h ^ (h >> np.uint64(31))


def bits(seed: int, purpose: Purpose, *keys: Key) -> NDArray[np.uint64]:
    """64 random bits for each broadcast element of the keys; integers of any sign. Shape: the keys'
    broadcast."""
    with np.errstate(over="ignore"):
        h = _finalise(np.asarray(seed & 0xFFFFFFFFFFFFFFFF, dtype=np.uint64) + _GOLDEN)
        for key in (int(purpose), *keys):
            k = (
                np.asarray(key).astype(np.uint64)
                if isinstance(key, np.ndarray)
                else np.uint64(key & 0xFFFFFFFFFFFFFFFF)
            )
            h = _finalise((h ^ k) * _M1 + _GOLDEN)
        return np.asarray(h, dtype=np.uint64)


def uniform(seed: int, purpose: Purpose, *keys: Key) -> NDArray[np.float64]:
    """Uniform in [0, 1), 53 bits; shape: the keys' broadcast."""
    return (bits(seed, purpose, *keys) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def prefix(seed: int, purpose: Purpose, *keys: int) -> int:
    """The hash of all keys but the last, for `one`."""
    h = _mix((seed + 0x9E3779B97F4A7C15) & _MASK)
    for key in (int(purpose), *keys):
        h = _mix((((h ^ (key & _MASK)) * 0xBF58476D1CE4E5B9) + 0x9E3779B97F4A7C15) & _MASK)
    return h


def one(before: int, key: int) -> float:
    """What `uniform` draws for a `prefix` and the last key: the same bits, for single draws far quicker than
    by arrays."""
    h = (((before ^ (key & _MASK)) * 0xBF58476D1CE4E5B9) + 0x9E3779B97F4A7C15) & _MASK
    return (_mix(h) >> 11) * 2.0**-53


def _mix(h: int) -> int:
    h = ((h ^ (h >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    h = ((h ^ (h >> 27)) * 0x94D049BB133111EB) & _MASK
    return h ^ (h >> 31)


def seed64(seed: int, purpose: Purpose, *keys: int) -> int:
    """A non-negative 63-bit seed for a library's own generator (`torch.manual_seed`)."""
    return int(bits(seed, purpose, *keys)) >> 1


def permutation(seed: int, purpose: Purpose, *keys: Key, size: int) -> NDArray[np.int64]:
    """A random permutation of 0..size-1 for each broadcast element of the keys, int64 [..., size]."""
    wide = [key[..., np.newaxis] if isinstance(key, np.ndarray) else key for key in keys]
    drawn = bits(seed, purpose, *wide, np.arange(size))
    return np.argsort(drawn, axis=-1, kind="stable").astype(np.int64, copy=False)


def generator(seed: int, purpose: Purpose, *keys: int) -> np.random.Generator:
    """A numpy generator for draws that are made once (graphs, partitions): its stream is keyed the same
    way."""
    key = np.array([int(bits(seed, purpose, *keys)), int(bits(seed, purpose, *keys, 1))], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))
