"""A live table and Ctrl-Z: while it is stopped the cursor is the shell's, and what the shell wrote stays."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.live import Live


@contextmanager
def drawn_anew(live: Live) -> Iterator[None]:
    """Inside, a command that is stopped and goes on draws its table anew, beneath what is there by then.
    (Only a main thread hears of it, and only where there is such a thing as stopping.)"""
    if not hasattr(signal, "SIGTSTP") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def forget(number: int = 0, frame: FrameType | None = None) -> None:
        live._live_render._shape = None  # it would move the cursor up by so many lines, which are the shell's

    def stop(number: int, frame: FrameType | None) -> None:
        with live._lock:  # nothing is drawn now
            live.console.show_cursor(True)
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTSTP)
            signal.signal(signal.SIGTSTP, stop)  # here it goes on
            forget()
            live.console.show_cursor(False)

    before = {number: signal.getsignal(number) for number in (signal.SIGTSTP, signal.SIGCONT)}
    if before[signal.SIGTSTP] is signal.SIG_IGN:  # a shell without job control: nobody could let it go on
        yield
        return
    signal.signal(signal.SIGTSTP, stop)
    signal.signal(signal.SIGCONT, forget)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
