"""Ctrl-C while a process is being started."""

from __future__ import annotations

import signal
import threading

import pytest

from gossipfl.drivers.swarm import undisturbed


def test_ctrl_c_comes_when_what_was_begun_is_known() -> None:
    done: list[str] = []
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), undisturbed():
        signal.raise_signal(signal.SIGINT)
        done.append("started")

    assert done == ["started"]
    assert signal.getsignal(signal.SIGINT) is before


def test_in_another_thread_nothing_is_changed() -> None:
    seen: list[object] = []

    def other() -> None:
        with undisturbed():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]
