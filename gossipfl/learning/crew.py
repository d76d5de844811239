"""Threads that take turns at pieces of one computation, each piece done whole by one of them.

How many there are changes when a piece is done, never what comes out: bits do not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

import torch

A = TypeVar("A")
B = TypeVar("B")


class Crew:
    """A context manager: `workers` threads that live as long as its block; with one, the caller does all.

    `threads` is what PyTorch may use within a piece.
    """

    def __init__(self, workers: int = 1, threads: int = 1) -> None:
        self.workers, self.threads = max(1, workers), threads
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self.workers > 1:
            prepare = partial(torch.set_num_threads, self.threads)
            self._pool = ThreadPoolExecutor(self.workers, "crew", prepare)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def map(self, work: Callable[[A], B], pieces: Iterable[A]) -> list[B]:
        """`work` of every piece, in the order of the pieces; raises what the first of them raised."""
        pieces = list(pieces)
        if self._pool is None or len(pieces) < 2:
            return [work(piece) for piece in pieces]
        return list(self._pool.map(work, pieces))


ALONE = Crew()
"""Nobody but the caller."""
