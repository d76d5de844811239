"""A swarm on this machine, seen from whoever asks for it: a command, a script, a notebook. No torch in here.

The zygote is a fresh process in a session of its own; what it says is read line by line.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Final

from gossipfl.config import Config

#: Seconds that the zygote may take to end the nodes before it is killed with all of them.
GRACE: Final = 1.7

Word = Mapping[str, object]


class Swarm:
    """The processes of one run. Entering starts them; on leaving, none is left."""

    def __init__(self, config: Config, folder: Path, *, save_models: bool = False) -> None:
        self._config, self._folder, self._save_models = config, folder, save_models
        self._selector = selectors.DefaultSelector()
        self._rest = b""

    def __enter__(self) -> Swarm:
        job = {
            "config": self._config.to_dict(),
            "folder": str(self._folder.absolute()),
            "epoch": time.monotonic(),
            "save_models": self._save_models,
        }
        environment = dict(os.environ)
        if self._config.train.device in ("cpu", "auto"):
            environment.setdefault("OMP_NUM_THREADS", str(self._config.train.threads))
        if self._config.train.device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        self._log: IO[bytes] = (self._folder / "log.txt").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gossipfl.drivers.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,  # the terminal's Ctrl-C is ours to act on
            env=environment,
            bufsize=0,
        )
        assert self._process.stdout is not None
        self._selector.register(self._process.stdout, selectors.EVENT_READ)
        self._write((json.dumps(job) + "\n").encode())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._process.poll() is None and kind is not None:
                self._write(b"stop\n")
                self._process.wait(GRACE)
            else:
                self._process.wait()
        except subprocess.TimeoutExpired:
            pass
        finally:
            kill_group(self._process.pid)
            self._process.wait()
            self._selector.close()
            for stream in (self._process.stdin, self._process.stdout, self._log):
                if stream is not None:
                    stream.close()

    def _write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
        except BrokenPipeError:
            return  # it has ended: what it said last is still to be read

    def words(self, timeout: float) -> Iterator[Word | None]:
        """What the zygote says, as it says it, and a None after each `timeout` seconds of silence; ends with
        it."""
        assert self._process.stdout is not None
        while True:
            if not self._selector.select(timeout):
                yield None
                continue
            data = os.read(self._process.stdout.fileno(), 65_536)
            if not data:
                return
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                yield json.loads(line)

    def last_error(self) -> str:
        """The last line of the processes' log, for when they end without a word."""
        lines = (self._folder / "log.txt").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit status {self._process.poll()}"


def kill_group(group: int) -> None:
    """SIGKILL to a process group, if it is still there."""
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
