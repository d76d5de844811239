"""Who holds a run's folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gossipfl.drivers.held import held
from gossipfl.errors import ConfigError


def elsewhere(do: Callable[[], object]) -> int:
    """0: another process, forked from this one, could do it; 1: ConfigError."""
    child = os.fork()
    if child == 0:
        code = 2
        try:
            do()
            code = 0
        except ConfigError:
            code = 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def hold(folder: Path) -> None:
    with held(folder, "--out"):
        pass


def test_a_folder_is_held_by_one_process_and_free_after_it(tmp_path: Path) -> None:
    with held(tmp_path, "--out"):
        assert elsewhere(lambda: hold(tmp_path)) == 1
    assert elsewhere(lambda: hold(tmp_path)) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_fork_does_not_hold_it_beyond_the_end_of_the_process_that_does(tmp_path: Path) -> None:
    go, wait = os.pipe()
    born, bear = os.pipe()
    with held(tmp_path, "--out"):
        child = os.fork()
        if child == 0:
            os.close(wait)
            os.write(bear, b"!")
            os.read(go, 1)  # until the other end is closed
            os._exit(0)
        os.read(born, 1)
    try:
        hold(tmp_path)
    finally:
        for end in (wait, go, born, bear):
            os.close(end)
        os.waitpid(child, 0)


def test_a_new_folder_has_to_be_empty_once_it_is_held(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("")
    with (
        pytest.raises(ConfigError, match=r"--out: .* exists and is not empty"),
        held(tmp_path, "--out", new=True),
    ):
        pass
    hold(tmp_path)
