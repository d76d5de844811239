"""Commands in processes of their own: started, watched, ended; and nothing may be left of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

import pytest

T = TypeVar("T")

#: Seconds until a test gives up on what it waits for; generous, since machines are shared.
DEADLINE = 120.0
#: The command as it is installed beside the interpreter.
GOSSIPFL = str(Path(sysconfig.get_path("scripts")) / "gossipfl")
#: The environment variable by which everything that a command starts is found again.
MARK = "GOSSIPFL_TEST_MARK"
#: The same for everything that a test session starts.
SESSION = "GOSSIPFL_TEST_SESSION"

# A shell that runs tests in the background ignores Ctrl-C, and so would everything started from here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def until(condition: Callable[[], T], what: str, deadline: float = DEADLINE) -> T:
    """The first true value of `condition`; fails the test when it does not come within `deadline` seconds."""
    end = time.monotonic() + deadline
    while not (value := condition()):
        if time.monotonic() >= end:
            pytest.fail(f"{what}: not within {deadline:g} s")
        time.sleep(0.002)
    return value


def marked(name: str, value: str) -> list[int]:
    """The living processes (no zombies) that have this variable in their environment."""
    entry = f"{name}={value}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if entry in (folder / "environ").read_bytes().split(b"\0") and state(int(folder.name)) != "Z":
                    found.append(int(folder.name))
            except OSError:
                continue
    return sorted(found)


def state(pid: int) -> str:
    """The state letter of a process: R, S, T (stopped), Z (zombie); empty when there is none."""
    return _stat(pid)[0]


def parent(pid: int) -> int:
    """The process that started this one; 0 when there is none."""
    return int(_stat(pid)[1])


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return ["", "0"]


def is_zygote(pid: int) -> bool:
    """Is this the process that forks the nodes (and not yet one of them)?"""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"gossipfl.drivers.zygote" in command


@dataclass
class Ended:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


@dataclass
class Running:
    """A command that runs. What it starts carries its mark; what it leaves behind is seen."""

    process: subprocess.Popen[bytes]
    mark: str
    out: Path
    temporary: Path
    _streams: tuple[IO[bytes], IO[bytes]]
    started_at: float = field(default_factory=time.monotonic)
    _read: dict[Path, int] = field(default_factory=dict)  # bytes of records
    _front: int = 0  # the last round in them

    def others(self) -> list[int]:
        """All living processes of this command but its first."""
        return [pid for pid in marked(MARK, self.mark) if pid != self.process.pid]

    def zygote(self) -> int | None:
        """The process that forks the nodes, if it is there."""
        return next((p for p in self.others() if is_zygote(p) and parent(p) == self.process.pid), None)

    def nodes(self) -> list[int]:
        """The nodes' processes that live, in the order of their start."""
        zygote = self.zygote()
        return [] if zygote is None else [pid for pid in self.others() if parent(pid) == zygote]

    def records(self, kind: str | None = None) -> list[dict[str, Any]]:
        """What the nodes have recorded so far."""
        lines = [
            line for f in (self.out / "records").glob("*.jsonl") for line in f.read_text().splitlines(True)
        ]
        found = [json.loads(line) for line in lines if line.endswith("\n")]
        return [r for r in found if kind is None or r["kind"] == kind]

    def reached(self, round: int) -> bool:
        """Has some node recorded this round? What has been read is not read again: this is asked all the
        time, beside nodes that want the processor."""
        for path in (self.out / "records").glob("*.jsonl"):
            with path.open("rb") as file:
                begin = self._read.get(path, 0)
                file.seek(begin if begin <= path.stat().st_size else 0)
                text = file.read()
                whole = text[: text.rfind(b"\n") + 1]
                self._read[path] = file.tell() - len(text) + len(whole)
            rounds = (r["round"] for r in map(json.loads, whole.splitlines()) if r["kind"] == "round")
            self._front = max(self._front, *rounds, 0)
        return self._front >= round

    def over(self) -> bool:
        """Has the command itself ended?"""
        return self.process.poll() is not None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the command itself, as a terminal or a person would."""
        if self.process.poll() is None:
            self.process.send_signal(number)

    def end(self, deadline: float = DEADLINE) -> Ended:
        """Wait for the command, then for all it started; fails the test when either does not end."""
        try:
            code = self.process.wait(deadline)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"the command did not end in {deadline:g} s: {self.text()}")
        until(lambda: not self.others(), f"nothing is left of it: {self.others()}", deadline)
        return Ended(code, *self.text())

    def leftovers(self) -> list[str]:
        """What gossipfl has left in the temporary folder."""
        return [path.name for path in self.temporary.iterdir() if path.name.startswith("gossipfl-")]

    def summary(self) -> dict[str, Any]:
        """The figures of summary.json."""
        found = json.loads((self.out / "summary.json").read_text())
        assert isinstance(found, dict)
        return found

    def text(self) -> tuple[str, str]:
        """What it has printed so far: standard output and standard error."""
        out, err = (Path(stream.name).read_text(errors="replace") for stream in self._streams)
        return out, err

    def kill(self) -> None:
        """Make an end of everything."""
        for pid in marked(MARK, self.mark):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait(DEADLINE)


class Start(Protocol):
    """Starts a command."""

    def __call__(
        self,
        *arguments: str,
        command: Sequence[str] | None = None,
        out: Path | None = None,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Running: ...


Until = Callable[..., Any]


@pytest.fixture(name="until")
def waits_until() -> Until:
    """`until(condition, what, deadline)`."""
    return until


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """After the last test no process of the session may live."""
    value = uuid.uuid4().hex
    os.environ[SESSION] = value
    yield
    me = os.getpid()
    until(lambda: not set(marked(SESSION, value)) - {me}, "no process of the tests is left", 30)


def python(code: str) -> list[str]:
    """The command line of a script."""
    return [sys.executable, "-c", code]


@contextmanager
def starting(folder: Path) -> Iterator[Start]:
    """A `Start` whose commands run in `folder` and leave their files in `folder/run`; nothing outlives it."""
    with ExitStack() as stack:

        def begin(
            *arguments: str,
            command: Sequence[str] | None = None,
            out: Path | None = None,
            cwd: Path | None = None,
            environment: Mapping[str, str] | None = None,
        ) -> Running:
            out, mark = out or folder / "run", uuid.uuid4().hex
            temporary = Path(tempfile.mkdtemp(prefix="gt-", dir="/tmp"))
            streams = tuple(
                stack.enter_context(temporary.with_suffix(end).open("wb")) for end in (".out", ".err")
            )
            running = Running(
                subprocess.Popen(
                    command or [GOSSIPFL, *arguments, "--out", str(out)],
                    stdin=subprocess.DEVNULL,
                    stdout=streams[0],
                    stderr=streams[1],
                    cwd=cwd or folder,
                    env={**os.environ, MARK: mark, "TMPDIR": str(temporary), **(environment or {})},
                ),
                mark,
                out,
                temporary,
                (streams[0], streams[1]),
            )
            stack.callback(_clear, running)
            return running

        yield begin


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start `gossipfl ARGUMENTS --out OUT` (or another command line) in a process of its own."""
    with starting(tmp_path) as begin:
        yield begin


@pytest.fixture(scope="module")
def start_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """The same for runs that several tests look at."""
    with starting(tmp_path_factory.mktemp("once")) as begin:
        yield begin


def _clear(running: Running) -> None:
    running.kill()
    for stream in running._streams:
        Path(stream.name).unlink(missing_ok=True)
    shutil.rmtree(running.temporary, ignore_errors=True)
