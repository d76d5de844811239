"""A LAN in a box: each machine a network namespace of its own, with addresses, on one bridge."""

from __future__ import annotations

import fcntl
import os
import pty
import random
import shutil
import socket
import struct
import subprocess
import sys
import sysconfig
import termios
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from gossipfl.config.toml import toml_document
from gossipfl.records import read
from gossipfl.transport import keys

if TYPE_CHECKING:
    from tests.system.conftest import Running, Start, Until

GOSSIPFL = str(Path(sysconfig.get_path("scripts")) / "gossipfl")
PORT = 7700
LINES = 400  # digits that each machine holds


def command(*words: str) -> None:
    """Run a command that must succeed."""
    subprocess.run(words, check=True, capture_output=True)


class Box:
    """Machines on a bridge, the i-th with 10.77.0.(i+1) and fd77::(i+1); unmade on leaving."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names, self._id = names, uuid.uuid4().hex[:6]
        self._undo = ExitStack()

    def __enter__(self) -> Box:
        with ExitStack() as stack:
            hub = self._make(stack, "hub")
            command(*self.inside("hub", *["ip", "link", "add", "name", "hub", "type", "bridge"]))
            command(*self.inside("hub", *["ip", "link", "set", "hub", "up"]))
            for i, name in enumerate(self.names):
                self._make(stack, name)
                command(
                    *self.inside(name, *f"ip link add eth type veth peer name {name} netns {hub}".split())
                )
                command(*self.inside("hub", *f"ip link set {name} master hub up".split()))
                command(*self.inside(name, *f"ip addr add 10.77.0.{i + 1}/24 dev eth".split()))
                command(*self.inside(name, *f"ip addr add fd77::{i + 1}/64 dev eth nodad".split()))
                command(*self.inside(name, *["ip", "link", "set", "eth", "up"]))
                command(*self.inside(name, *["ip", "link", "set", "lo", "up"]))
            self._undo = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._undo.close()

    def _make(self, stack: ExitStack, name: str) -> str:
        command("ip", "netns", "add", self.machine(name))
        stack.callback(command, "ip", "netns", "del", self.machine(name))
        return self.machine(name)

    def machine(self, name: str) -> str:
        """The namespace of a machine."""
        return f"gfl-{self._id}-{name}"

    def inside(self, name: str, *words: str) -> list[str]:
        """A command line, run on a machine."""
        return ["ip", "netns", "exec", self.machine(name), *words]

    def line(self, name: str, state: str) -> None:
        """Pull a machine's cable (down), or put it back (up)."""
        command(*self.inside("hub", "ip", "link", "set", name, state))

    def rate(self, name: str, rate: str) -> None:
        """Let what a machine sends out be no faster."""
        command(
            *self.inside(name, *f"tc qdisc add dev eth root tbf rate {rate} burst 64kb latency 300ms".split())
        )


class Swarm:
    """The machines of a box, their keys and their file in one folder, and the nodes started on them."""

    def __init__(self, box: Box, folder: Path, start: Start) -> None:
        self.box, self.folder, self.start, self.gossipfl = box, folder, start, GOSSIPFL
        self.file = folder / "swarm.toml"

    def write(self, *names: str, ip: int = 4, only_dial: str = "", **sections: dict[str, Any]) -> Path:
        """swarm.toml for these machines (none: all of them), and their keys."""
        nodes = []
        for i, name in enumerate(self.box.names):
            if names and name not in names:
                continue
            made = keys.make(self.folder / "keys", name)
            host = f"10.77.0.{i + 1}" if ip == 4 else f"[fd77::{i + 1}]"
            address = "" if name == only_dial else f"{host}:{PORT}"
            nodes.append({"name": name, "address": address, "public_key": made.key})
        self.file.write_text(toml_document(sections, node=nodes))
        return self.file

    def node(
        self,
        name: str,
        *more: str,
        on: str = "",
        file: Path | None = None,
        run: str = "",
        prefix: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Running:
        """Start a node: on its machine, or `on` another."""
        out = self.folder / (run or name)
        line = [*prefix, GOSSIPFL, "node", str(file or self.file), "--name", name, *more, "--out", str(out)]
        return self.start(command=self.box.inside(on or name, *line), out=out, environment=environment)

    def watch(self, on: str, folder: str, file: Path | None = None) -> list[str]:
        """The command line of who watches, on a machine, with the key in a folder."""
        own = f"security.keys={self.folder / folder}"
        return self.box.inside(on, GOSSIPFL, "watch", str(file or self.file), "--set", own)


class Screen:
    """A terminal in which a command runs, and what it has shown."""

    def __init__(self, words: list[str], cwd: Path, environment: Mapping[str, str]) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=cwd,
            env={**os.environ, "TERM": "xterm-256color", **environment},
        )
        os.close(slave)
        os.set_blocking(self._master, False)
        self._seen = b""

    def text(self) -> str:
        """All that has been shown so far."""
        try:
            while piece := os.read(self._master, 65_536):
                self._seen += piece
        except OSError:  # nothing now, or nobody there
            pass
        return self._seen.decode(errors="replace")

    def over(self) -> bool:
        """Has the command ended? What it shows is read, so that it can."""
        self.text()
        return self.process.poll() is not None

    def press(self, keys: bytes) -> None:
        """Type something."""
        os.write(self._master, keys)

    def close(self) -> None:
        """Take the terminal away."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.fixture
def box() -> Iterator[Callable[..., Box]]:
    """Makes machines of these names."""
    if sys.platform != "linux" or os.geteuid() or not (shutil.which("ip") and shutil.which("tc")):
        pytest.skip("network namespaces need Linux, root, and the commands ip and tc")
    probe = f"gfl-{uuid.uuid4().hex[:6]}"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True).returncode:
        pytest.skip("this system makes no network namespaces")
    command("ip", "netns", "del", probe)
    with ExitStack() as stack:
        yield lambda *names: stack.enter_context(Box(names))


@pytest.fixture
def swarm(box: Callable[..., Box], start: Start, tmp_path: Path) -> Callable[..., Swarm]:
    """Machines of these names, in `tmp_path`."""
    return lambda *names: Swarm(box(*names), tmp_path, start)


@pytest.fixture
def screen(tmp_path: Path) -> Iterator[Callable[..., Screen]]:
    """Runs a command in a terminal."""
    with ExitStack() as stack:

        def show(*words: str, **environment: str) -> Screen:
            made = Screen(list(words), tmp_path, environment)
            stack.callback(made.close)
            return made

        yield show


@pytest.fixture
def digits(tmp_path: Path) -> Callable[[int], Path]:
    """A machine's own files: some of the digits."""

    def cut(index: int) -> Path:
        from gossipfl.learning.tasks.digits import digits as task

        images, labels = task().train.tensors  # type: ignore[attr-defined]
        own = slice(index * LINES % 1000, index * LINES % 1000 + LINES)
        place = tmp_path / f"data-{index}"
        place.mkdir()
        np.savez(place / "digits.npz", pixels=images[own].numpy() * 16, labels=labels[own].numpy())
        return place

    return cut


@pytest.fixture
def says(until: Until) -> Callable[..., None]:
    """Waits until a node has said all of this, on standard output or error; fails if it ends before."""

    def wait(running: Running, *texts: str, times: int = 1) -> None:
        def found() -> bool:
            return all("".join(running.text()).count(text) >= times for text in texts)

        until(lambda: found() or running.over(), f"it says {texts}: {running.text()}")
        assert found(), (texts, running.text())

    return wait


@pytest.fixture
def kinds() -> Callable[[Running], list[str]]:
    """The kinds of records of a node that runs alone in its folder."""
    return lambda running: [
        str(r["kind"]) for path in (running.out / "records").iterdir() for r in read(path)
    ]


@pytest.fixture
def ports() -> Callable[[int], list[int]]:
    """So many free ports of the loopback in a row, below those that the system gives out by itself."""

    def free(count: int) -> list[int]:
        while True:
            first = random.randrange(20_000, 32_000)
            found = list(range(first, first + count))
            with ExitStack() as stack:
                try:
                    for port in found:
                        stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
                except OSError:
                    continue
                return found

    return free
