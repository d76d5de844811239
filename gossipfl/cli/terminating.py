"""SIGTERM, by which service managers and schedulers end what they have started, is Ctrl-C to a command."""

from __future__ import annotations

import signal
import threading
from types import FrameType


def as_interrupt() -> None:
    """From now on SIGTERM does here what SIGINT does at that moment, unless somebody has it do otherwise."""
    mine = threading.current_thread() is threading.main_thread()
    if mine and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(_: int, frame: FrameType | None) -> None:
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler):  # it is ignored, as by what a shell starts in the background
        raise KeyboardInterrupt
    handler(signal.SIGINT, frame)
