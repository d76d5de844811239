"""A swarm on this machine, seen from whoever asks for it: a command, a script, a notebook. No torch in here.

The zygote is a fresh process in a session of its own; what it says is read line by line.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Final

from gossipfl.config import Config
from gossipfl.drivers import gpu, heeding
from gossipfl.drivers.resuming import Found
from gossipfl.errors import GossipError, PeerLost

#: Seconds that the zygote may take to end the nodes before it is killed with all of them.
GRACE: Final = 1.4
#: Modules are found where the caller finds them, and nowhere else: a file `random.py` beside someone's
#: notebook must not become everyone's `random`.
ZYGOTE: Final = (
    "import gc, sys; gc.disable(); sys.path[:] = sys.argv[2:];"  # until all is loaded: no garbage to speak of
    " from gossipfl.drivers.zygote import main; sys.exit(main(sys.argv[1]))"
)
#: Characters that the path of a socket's folder may have (a socket's own path is limited to about a hundred).
SHORT: Final = 80

#: How glibc handles the nodes' memory: what is free is kept and used again, whatever its size. A vector a
#: round is as large as the model, and new memory costs as much as filling it. The heap is made of huge pages
#: where the system has them for those who ask: forks take little more than half the time.
MEMORY: Final = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_ARENA_MAX": "1",
}

Word = Mapping[str, object]


class Swarm:
    """The processes of one run. Entering starts them; on leaving, none is left."""

    def __init__(
        self, config: Config, folder: Path, *, save_models: bool = False, resume: Found | None = None
    ) -> None:
        self._config, self._folder, self._save_models, self._resume = config, folder, save_models, resume
        self._selector = selectors.DefaultSelector()
        self._rest = b""
        self._process: subprocess.Popen[bytes] | None = None
        self._scratch: Path | None = None
        self._asks = -1  # the process reads what is written here
        self._log: IO[bytes] | None = None
        self._started = False  # are there nodes, which have something to keep?

    def __enter__(self) -> Swarm:
        try:
            with undisturbed():
                self._scratch = scratch_folder()
            self._start()
        except BaseException:  # Ctrl-C too: what has been started by then must not stay
            self._end()
            raise
        return self

    def _start(self) -> None:
        job = {
            "config": self._config.to_dict(),
            "folder": str(self._folder.absolute()),
            "epoch": time.monotonic(),
            "save_models": self._save_models,
            "resume": {} if self._resume is None else dict(self._resume.rounds),
            "lost": {} if self._resume is None else dict(self._resume.lost),
        }
        environment = {**MEMORY, **os.environ}
        if self._config.train.device in ("cpu", "auto"):
            environment.setdefault("OMP_NUM_THREADS", str(self._config.train.threads))
            # PyTorch that sees a GPU cannot be forked
            job["gpus"] = environment.get(gpu.VISIBLE)
            environment[gpu.VISIBLE] = ""
        self._log = (self._folder / "log.txt").open("ab")
        path = [str(Path(entry).absolute()) for entry in sys.path]
        with undisturbed():
            end, self._asks = os.pipe()
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-c", ZYGOTE, str(self._scratch), *path],
                    stdin=end,
                    stdout=subprocess.PIPE,
                    stderr=self._log,
                    start_new_session=True,  # the terminal's Ctrl-C is ours to act on
                    env=environment,
                    bufsize=0,
                )
                heeding.wakes(end, self._process.pid)
            finally:
                os.close(end)
        assert self._process.stdout is not None
        self._selector.register(self._process.stdout, selectors.EVENT_READ)
        self._write((json.dumps(job) + "\n").encode())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        try:
            if kind is None:
                self._process.wait()
            elif self._started and self._process.poll() is None:
                self._write(b"stop\n")
                self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._end()

    def _end(self) -> None:
        """Leave nothing, however little there was."""
        if self._process is not None:
            kill_group(self._process.pid)
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
        if self._asks >= 0:
            os.close(self._asks)
        if self._log is not None:
            self._log.close()
        self._selector.close()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._asks, data) :]
        except BrokenPipeError:
            return  # it has ended: what it said last is still to be read

    def words(self, timeout: float) -> Iterator[Word | None]:
        """What the zygote says, as it says it, and a None after each `timeout` seconds of silence; ends with
        it."""
        assert self._process is not None and self._process.stdout is not None
        while True:
            if not self._selector.select(timeout):
                yield None
                continue
            data = os.read(self._process.stdout.fileno(), 65_536)
            if not data:
                return
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                word = json.loads(line)
                self._started = self._started or "started" in word
                yield word

    def wordless(self) -> GossipError:
        """What to raise where the processes have ended without a word: somebody has killed the one that holds
        all others, or it has failed as it should not."""
        assert self._process is not None
        code, log = self._process.wait(), self._folder / "log.txt"
        if code < 0:
            return PeerLost(f"every node was lost: the process that starts them was killed by signal {-code}")
        lines = log.read_text(errors="replace").strip().splitlines()
        what = f"{lines[-1]}; more is in {log}" if lines else f"exit status {code}"
        return GossipError(f"the nodes ended without a word: {what}")


def scratch_folder() -> Path:
    """A new folder for this run's sockets, with a path that is short enough for them."""
    usual = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="gossipfl-", dir=usual if len(usual) < SHORT else "/tmp"))


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ctrl-C comes after this. What is being made inside would be nobody's: it is there, and not known yet.
    (To block the signal would not do: a thread of some library takes it then.)"""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield  # it does not come here
        return
    came: list[FrameType | None] = []
    signal.signal(signal.SIGINT, lambda _, frame: came.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            handler(signal.SIGINT, came[0])


def kill_group(group: int) -> None:
    """SIGKILL to a process group, if it is still there."""
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
