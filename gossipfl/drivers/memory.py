"""How this process handles memory: what is free is kept and used again, but for models so big that what lies
free between their vectors would be as much again."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

# mallopt(3)
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_MMAP_MAX: Final = -4

#: Bytes of a model from which its memory counts for more than the time that new memory takes: with vectors of
#: two types and sizes, one heap that keeps everything grows to 16 models, where 6 are in use (seen at 5M).
BIG: Final = 64 * 1024 * 1024
#: Bytes from which a piece of memory is got from the system and given back (glibc takes no more here).
PIECE: Final = 32 * 1024 * 1024


def keep() -> None:
    """Let glibc keep what is freed, whatever its size: a vector a round is as large as the model, and memory
    that is new to a process costs as much as filling it. Where there is no glibc, nothing happens."""
    _set({_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1})


def give_back() -> None:
    """Let glibc get big pieces from the system, and give them back when they are free."""
    _set({_MMAP_THRESHOLD: PIECE, _MMAP_MAX: 65_536})


def _set(options: Mapping[int, int]) -> None:
    with suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        for option, value in options.items():
            libc.mallopt(option, value)
