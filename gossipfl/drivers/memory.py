"""How this process handles memory: what is free is kept and used again."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Final

# mallopt(3)
_TRIM_THRESHOLD: Final = -1
_MMAP_MAX: Final = -4


def keep() -> None:
    """Let glibc keep what is freed, whatever its size: a vector a round is as large as the model, and memory
    that is new to a process costs as much as filling it. Where there is no glibc, nothing happens."""
    with suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
