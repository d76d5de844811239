"""A LAN in a box: each machine a network namespace of its own, with an address, on one bridge."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from gossipfl.config.toml import toml_document
from gossipfl.records import read
from gossipfl.transport import keys

if TYPE_CHECKING:
    from tests.system.conftest import Running, Start, Until

pytestmark = pytest.mark.system

GOSSIPFL = str(Path(sysconfig.get_path("scripts")) / "gossipfl")
NAMES = ("alice", "bob", "carol", "dave")
PORT = 7700
LINES = 400  # digits that each machine holds


def command(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


class Box:
    """Machines on a bridge; what was made is unmade on leaving."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names, self._id = names, uuid.uuid4().hex[:6]
        self._undo = ExitStack()

    def __enter__(self) -> Box:
        with ExitStack() as stack:
            hub = self.machine("hub")
            self._make(stack, hub)
            command("ip", "netns", "exec", hub, "ip", "link", "add", "name", "hub", "type", "bridge")
            command("ip", "netns", "exec", hub, "ip", "link", "set", "hub", "up")
            for i, name in enumerate(self.names):
                own = self.machine(name)
                self._make(stack, own)
                inside, outside = ["ip", "netns", "exec", own], ["ip", "netns", "exec", hub]
                command(
                    *inside, "ip", "link", "add", "eth", "type", "veth", "peer", "name", name, "netns", hub
                )
                command(*outside, "ip", "link", "set", name, "master", "hub", "up")
                command(*inside, "ip", "addr", "add", f"10.77.0.{i + 1}/24", "dev", "eth")
                command(*inside, "ip", "link", "set", "eth", "up")
                command(*inside, "ip", "link", "set", "lo", "up")
            self._undo = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._undo.close()

    def _make(self, stack: ExitStack, namespace: str) -> None:
        command("ip", "netns", "add", namespace)
        stack.callback(command, "ip", "netns", "del", namespace)

    def machine(self, name: str) -> str:
        return f"gfl-{self._id}-{name}"

    def inside(self, name: str, *words: str) -> list[str]:
        return ["ip", "netns", "exec", self.machine(name), *words]

    def line(self, name: str, state: str) -> None:
        """Pull a machine's cable (down), or put it back (up)."""
        command(*self.inside("hub", "ip", "link", "set", name, state))

    def rate(self, name: str, rate: str) -> None:
        """Let what a machine sends out be no faster."""
        command(
            *self.inside(name, *f"tc qdisc add dev eth root tbf rate {rate} burst 64kb latency 300ms".split())
        )


@pytest.fixture
def box() -> Iterator[Callable[..., Box]]:
    if os.geteuid() or not (shutil.which("ip") and shutil.which("tc")):
        pytest.skip("network namespaces need root, and the commands ip and tc")
    if subprocess.run(
        ["ip", "netns", "add", probe := f"gfl-{uuid.uuid4().hex[:6]}"], capture_output=True
    ).returncode:
        pytest.skip("this system makes no network namespaces")
    command("ip", "netns", "del", probe)
    with ExitStack() as stack:
        yield lambda *names: stack.enter_context(Box(names))


def write(folder: Path, names: tuple[str, ...], only_dial: str = "", **sections: dict[str, object]) -> Path:
    """swarm.toml for these machines, and their keys."""
    nodes = []
    for i, name in enumerate(names):
        made = keys.make(folder / "keys", name)
        address = "" if name == only_dial else f"10.77.0.{i + 1}:{PORT}"
        nodes.append({"name": name, "address": address, "public_key": made.key})
    file = folder / "swarm.toml"
    file.write_text(toml_document(sections, node=nodes))
    return file


def digits(folder: Path, index: int) -> Path:
    """A machine's own files: some of the digits."""
    from gossipfl.learning.tasks.digits import digits as task

    images, labels = task().train.tensors  # type: ignore[attr-defined]
    own = slice(index * LINES % 1000, index * LINES % 1000 + LINES)
    place = folder / f"data-{index}"
    place.mkdir()
    np.savez(place / "digits.npz", pixels=images[own].numpy() * 16, labels=labels[own].numpy())
    return place


def said(running: Running, text: str) -> Callable[[], bool]:
    """Has it said this, or ended?"""
    return lambda: text in running.text()[0] or running.over()


def kinds(out: Path, name: str) -> list[str]:
    return [str(r["kind"]) for r in read(out / "records" / f"{name}.jsonl")]


def test_four_machines_train_on_their_own_files_through_a_cut(
    box: Callable[..., Box], start: Start, until: Until, tmp_path: Path
) -> None:
    # given four machines of which one can only dial out, on a ring
    lan = box(*NAMES)
    config = write(
        tmp_path,
        NAMES,
        only_dial="dave",
        swarm={"rounds": 6000, "eval_every": 6000},
        data={"partition": "local"},
        wire={"heartbeat": 0.3},
    )

    def node(index: int) -> Running:
        name, files = NAMES[index], digits(tmp_path, index)
        line = [GOSSIPFL, "node", str(config), "--name", name, "--set", f"data.path={files}"]
        return start(command=lan.inside(name, *line, "--out", str(tmp_path / name)), out=tmp_path / name)

    # when they start one after the other, each when the one before says for whom it waits
    running = []
    for index in range(4):
        running.append(node(index))
        until(said(running[-1], "waits for"), f"{NAMES[index]} waits")
    # and a cable is pulled in the middle, and put back
    until(lambda: running[1].reached(200) or running[1].over(), "they train")
    lan.line("bob", "down")
    until(said(running[0], "the line to bob is down"), "alice sees that bob's line is down")
    lan.line("bob", "up")
    until(lambda: running[0].text()[0].count("met bob") == 2 or running[0].over(), "alice meets bob again")
    ended = [r.end() for r in running]
    # then all end well, having learnt, and count the cut at both ends
    assert [e.code for e in ended] == [0] * 4, [e.stdout + e.stderr for e in ended]
    for name, r in zip(NAMES, running, strict=True):
        evals = [e for e in read(r.out / "records" / f"{name}.jsonl") if e["kind"] == "eval"]
        assert float(str(evals[-1]["accuracy"])) > 0.9
        assert "sketch" not in evals[-1]
        assert (r.out / "models" / f"{name}.safetensors").exists()
    assert "peer_down" in kinds(running[0].out, "alice") and "skip" in kinds(running[0].out, "alice")


def test_who_does_not_belong_is_refused_and_told_why(
    box: Callable[..., Box], start: Start, until: Until, tmp_path: Path
) -> None:
    # given two of three machines that have met, and wait for the third
    lan = box(*NAMES[:3])
    config = write(tmp_path, NAMES[:3], swarm={"rounds": 20}, topology={"graph": "complete"})

    def node(name: str, file: Path, *more: str, run: str = "") -> Running:
        out = tmp_path / (run or name)
        line = [GOSSIPFL, "node", str(file), "--name", name, *more, "--out", str(out)]
        return start(command=lan.inside(name, *line), out=out)

    alice, bob = node("alice", config), node("bob", config)
    until(said(alice, "met bob"), "alice and bob meet")
    # when carol comes with another learning rate, then with another key; and alice comes twice
    other = node("carol", config, "--set", "train.lr=0.2", run="other")
    twice = node("alice", config, run="twice")
    (tmp_path / "elsewhere").mkdir()
    made = keys.make(tmp_path / "elsewhere", "carol")
    old = keys.public(tmp_path / "keys" / "carol.public")
    forged = tmp_path / "forged.toml"
    forged.write_text(config.read_text().replace(old, made.key))
    ended, again = other.end(), twice.end()
    stranger = node("carol", forged, "--set", f"security.keys={tmp_path / 'elsewhere'}", run="stranger")
    # then each is told why it is turned away
    assert ended.code == 4, ended
    assert "has train.lr = 0.1, you have 0.2" in ended.stderr
    assert again.code == 2, again
    assert f"10.77.0.1:{PORT} is taken" in again.stderr
    until(said(alice, "whoever answers there does not hold its key"), "the forged key is named")
    stranger.signal(signal.SIGINT)
    assert stranger.end().code == 130
    # and the right carol may come, and they train
    carol = node("carol", config)
    codes = [r.end().code for r in (alice, bob, carol)]
    assert codes == [0, 0, 0]


def test_strangers_do_not_stop_a_node_and_are_named_once(start: Start, until: Until, tmp_path: Path) -> None:
    # given two encrypted nodes on the loopback
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1], two.getsockname()[1]]
    nodes = [
        {"name": n, "address": f"127.0.0.1:{p}", "public_key": keys.make(tmp_path / "keys", n).key}
        for n, p in zip("ab", ports, strict=True)
    ]
    file = tmp_path / "swarm.toml"
    tables = {"swarm": {"rounds": 3000, "eval_every": 3000}, "security": {"encrypt": "on"}}
    file.write_text(toml_document({**tables, "topology": {"graph": "complete"}}, node=nodes))
    line = [GOSSIPFL, "node", str(file), "--name"]
    a, b = (start(command=[*line, n, "--out", str(tmp_path / n)], out=tmp_path / n) for n in "ab")
    until(lambda: b.reached(20) or b.over(), "they train")
    before = memory(b.process.pid)
    # when strangers hold connections open, and others send junk
    with ExitStack() as held:
        for i in range(500):
            s = held.enter_context(socket.create_connection(("127.0.0.1", ports[1])))
            if i % 5 == 0:
                s.sendall(bytes([i % 256]) * 5000)
        round = max(int(str(r["round"])) for r in b.records("round"))
        until(lambda: b.reached(round + 200) or b.over(), "training goes on")
        grown = memory(b.process.pid) - before
    # then training goes on, memory hardly grows, and the stranger is named once
    assert [a.end().code, b.end().code] == [0, 0]
    assert grown <= 128 * 2**20
    told = [r for r in read(b.out / "records" / "b.jsonl") if r["kind"] == "rejected"]
    assert [r["text"] for r in told] == ["127.0.0.1 connected and did not speak the protocol"]


def memory(pid: int) -> int:
    """Bytes that a process holds; 0 if it has gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def test_a_slow_line_carries_large_models_with_heartbeats_on(
    box: Callable[..., Box], start: Start, until: Until, tmp_path: Path
) -> None:
    # given two machines whose line carries 16 Mbit/s, and vectors of 8 MB
    lan = box("alice", "bob")
    lan.rate("alice", "16mbit")
    lan.rate("bob", "16mbit")
    config = write(
        tmp_path,
        ("alice", "bob"),
        swarm={"rounds": 2, "eval_every": 2},
        topology={"graph": "complete"},
        train={"task": "consensus"},
        task={"dimension": 2_000_000},
    )
    # when they average twice
    running = [
        start(
            command=lan.inside(n, GOSSIPFL, "node", str(config), "--name", n, "--out", str(tmp_path / n)),
            out=tmp_path / n,
        )
        for n in ("alice", "bob")
    ]
    assert [r.end().code for r in running] == [0, 0]
    # then no line was taken for dead, and a round takes about the line's time
    line = 8e6 * 8 / 16e6
    for name, r in zip(("alice", "bob"), running, strict=True):
        assert "peer_down" not in kinds(r.out, name)
        rounds = [x for x in read(r.out / "records" / f"{name}.jsonl") if x["kind"] == "round"]
        assert min(float(str(x["wait_s"])) for x in rounds) < 1.2 * line


def test_the_example_of_four_machines_runs_as_its_page_says(
    start: Start, until: Until, tmp_path: Path
) -> None:
    # given a copy of the example, and ports that are free
    folder = tmp_path / "lan"
    shutil.copytree(Path(__file__).parents[2] / "examples" / "lan", folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = min(free.getsockname()[1], 65_000)
    path = f"{Path(GOSSIPFL).parent}:{os.environ['PATH']}"
    # when its script is run
    running = start(command=["sh", "start.sh", str(port)], cwd=folder, environment={"PATH": path})
    ended = running.end()
    # then four nodes have trained, each on its own quarter of the digits
    assert ended.code == 0, ended
    for name in NAMES:
        run = folder / "box" / "runs" / name
        assert (run / "models" / f"{name}.safetensors").exists(), ended
        summary = json.loads((run / "summary.json").read_text())
        assert summary["finished"] and 359 <= summary["samples"] <= 360
