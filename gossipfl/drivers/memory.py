"""How this process handles memory: what is free is kept and used again, but for models so big that what lies
free between their vectors would be as much again. What processes that are forked from this one write into,
they hold alone: they are left few old pages to write into."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

# mallopt(3)
_TRIM_THRESHOLD: Final = -1
_TOP_PAD: Final = -2
_MMAP_THRESHOLD: Final = -3
_MMAP_MAX: Final = -4
_ARENA_MAX: Final = -8
# prctl(2)
_NO_HUGE_PAGES: Final = 41

#: Bytes of a model from which its memory counts for more than the time that new memory takes: with vectors of
#: two types and sizes, one heap that keeps everything grows to 16 models, where 6 are in use (seen at 5M).
BIG: Final = 64 * 1024 * 1024
#: Bytes from which a piece of memory is got from the system and given back (glibc takes no more here).
PIECE: Final = 32 * 1024 * 1024

#: Bytes that glibc may keep at the heap's end, where it is to keep as little as it can.
SPARED: Final = 128 * 1024
#: Bytes of a model up to which a megabyte that a node holds besides counts.
SMALL: Final = 2**20
#: Bytes of the pieces by which what lies free between others is used up, and how many are taken at a time.
_PIECES: Final = (4096, 3072, 2048, 1536, *range(1024, 16, -16))
_AT_ONCE: Final = 50
#: The largest piece that Python takes from pools of its own, how much larger each kind is than the one
#: before, the size of a pool, and where its first piece lies.
_POOLED, _STEP, _POOL, _FIRST = 512, 16, 16_384, 48
#: Pieces of a kind after which its pools are left as they are, full or not.
_ENOUGH: Final = 20_000


class _Held(ctypes.Structure):
    """mallinfo2(3); of its ten figures the last two: bytes that are free, and those at its end."""

    _fields_ = (("others", ctypes.c_size_t * 8), ("fordblks", ctypes.c_size_t), ("keepcost", ctypes.c_size_t))


def keep() -> None:
    """Let glibc keep what is freed, whatever its size: a vector a round is as large as the model, and memory
    that is new to a process costs as much as filling it. Where there is no glibc, nothing happens."""
    _set({_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1})


def give_back() -> None:
    """Let glibc get big pieces from the system, and give them back when they are free."""
    _set({_MMAP_THRESHOLD: PIECE, _MMAP_MAX: 65_536})


def spare() -> None:
    """Let glibc keep as little as it can: one heap for all threads, whose end goes back as soon as it is
    free, and vectors outside of it. For a process that is one node with a small model."""
    _set({_ARENA_MAX: 1, _TRIM_THRESHOLD: SPARED, _TOP_PAD: SPARED // 2})


def usual() -> None:
    """What glibc comes to by itself where big pieces come and go: of a process that turns out to need it."""
    _set({_MMAP_THRESHOLD: PIECE, _TRIM_THRESHOLD: 2 * PIECE})


def tidy() -> None:
    """Give the system what has been free since everything was made ready: of a node's process, 3 MB."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))


def loaded() -> None:
    """Everything is imported, with the collector off: what there is by now is never looked at again. (To look
    for garbage among half a million objects takes a tenth of a second each time.)"""
    gc.freeze()
    gc.enable()


def seal(model: int) -> None:
    """Before forks, of nodes with a model of so many bytes: nothing of what this process holds is collected
    any more, and nothing is free between it. A child then writes its own things side by side into new pages,
    instead of each into the hole of an old page, which it would copy. (Big models are left the holes in which
    their vectors fit.) What is in huge pages stays there: a fork copies one entry for 512 pages. What a child
    with a small model needs besides is less than such a page."""
    gc.collect()
    sys._clear_type_cache()  # or a child gives back each name in it, one a page, when it finds others
    if model < SMALL:
        with suppress(OSError, AttributeError):  # not glibc, or an old one
            _fill(ctypes.CDLL(None))
        _fill_pools()
        if sys.platform == "linux":
            with suppress(OSError, AttributeError):
                ctypes.CDLL(None).prctl(_NO_HUGE_PAGES, 1, 0, 0, 0)
    gc.freeze()


def _fill(libc: ctypes.CDLL) -> None:
    """Use up what is free between other things, up to the heap's end."""
    libc.mallinfo2.restype = _Held
    for size in _PIECES:
        left = _between(libc)
        while True:
            for _ in range(_AT_ONCE):
                libc.malloc(ctypes.c_size_t(size))
            before, left = left, _between(libc)
            if left > before - size * _AT_ONCE // 2:  # most came from the end
                break
    libc.malloc_trim(ctypes.c_size_t(0))


def _fill_pools() -> None:
    """The same in Python's own pools: use up what is free of each size, until one is begun that was empty."""
    take = ctypes.pythonapi.PyObject_Malloc
    take.restype, take.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    for size in range(_STEP, _POOLED + 1, _STEP):
        begun = last = 0  # where pieces lie side by side from the first of a pool on
        for _ in range(_ENOUGH):
            at = take(size)
            if at % _POOL == _FIRST:
                begun = at
            elif not last < at <= last + 2 * size:  # the number that tells where takes one, too
                begun = 0
            last = at
            if begun and at > begun + 2 * size:
                break


def _between(libc: ctypes.CDLL) -> int:
    """Bytes that are free, but for those at the heap's end."""
    held = libc.mallinfo2()
    return int(held.fordblks - held.keepcost)


def _set(options: Mapping[int, int]) -> None:
    with suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        for option, value in options.items():
            libc.mallopt(option, value)
