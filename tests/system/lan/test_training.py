"""Four machines train, come what may: one after the other, through a cut, watched, on slow lines."""

from __future__ import annotations

import json
import os
import shutil
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from gossipfl.records import read
from gossipfl.transport import keys

if TYPE_CHECKING:
    from tests.system.conftest import Running, Start, Until
    from tests.system.lan.conftest import Screen, Swarm

pytestmark = pytest.mark.system

NAMES = ("alice", "bob", "carol", "dave")
CUT = 10.0  # seconds
#: A line on which a round of digits takes some 70 ms, so that a run lasts, whatever the processors can do.
RATE = "8mbit"
HOUR = 3600
#: Seconds that every wall clock of a process shows too much.
SHIFT = """
import time
real, real_ns = time.time, time.time_ns
time.time = lambda: real() + {0}
time.time_ns = lambda: real_ns() + {0} * 10**9
"""


def test_four_machines_train_on_their_own_files_watched_and_through_a_cut(
    swarm: Callable[..., Swarm],
    digits: Callable[[int], Path],
    screen: Callable[..., Screen],
    says: Callable[..., None],
    kinds: Callable[[Running], list[str]],
    until: Until,
    tmp_path: Path,
) -> None:
    # given four machines of which one can only dial out, on a ring, and two whose keys one may watch with
    lan = swarm(*NAMES, "eve")
    mallory = keys.make(tmp_path / "mallory", "watch")
    eve = keys.make(tmp_path / "eve", "watch")
    config = lan.write(
        *NAMES,
        only_dial="dave",
        swarm={"rounds": 500, "eval_every": 100},
        algorithm={"local_steps": 5},
        data={"partition": "local"},
        wire={"heartbeat": 0.3},
        security={"allow": [eve.key]},
    )

    def watch(folder: str, allowed: str) -> Screen:
        file = tmp_path / f"{folder}.toml"
        file.write_text(config.read_text().replace(eve.key, allowed))
        return screen(*lan.watch("eve", folder, file))

    for name in NAMES:
        lan.box.rate(name, RATE)
    # when they start one after the other, each when the one before says for whom it waits
    running = []
    for index, name in enumerate(NAMES):
        running.append(lan.node(name, "--set", f"data.path={digits(index)}"))
        says(running[-1], "waits for")
    alice, bob, _, dave = running
    says(alice, "bob (dials 10.77.0.2:7700)", "dave (which dials 10.77.0.1:7700)")
    says(alice, "listens at 10.77.0.1:7700; the others reach it at 10.77.0.1:7700")
    says(dave, "has no address: it only dials out")
    # and one watches who may, and one who may not
    seen, turned = watch("eve", eve.key), watch("mallory", mallory.key)
    until(lambda: all(name in seen.text() for name in NAMES) and "waiting" in seen.text(), "a live table")
    # and a cable is pulled for ten seconds, and put back
    until(lambda: bob.reached(20) or bob.over(), "they train")
    lan.box.line("bob", "down")
    pulled = time.monotonic()
    says(alice, "the line to bob is down")
    noticed = time.monotonic() - pulled
    reached = max(int(r["round"]) for r in alice.records("round"))
    until(lambda: alice.reached(reached + 20) or alice.over(), "alice goes on without bob")
    seen.press(b"\x03")
    until(seen.over, "the watcher detaches", 20)
    assert seen.process.returncode == 0
    until(lambda: time.monotonic() - pulled > CUT, "ten seconds")
    lan.box.line("bob", "up")
    restored = time.monotonic()
    says(alice, "met bob", times=2)
    healed = time.monotonic() - restored
    ended = [r.end() for r in running]
    # then all end well, having learnt, and count the cut at both ends
    assert [e.code for e in ended] == [0] * 4, [e.stdout + e.stderr for e in ended]
    for name, r in zip(NAMES, running, strict=True):
        evals = [e for e in read(r.out / "records" / f"{name}.jsonl") if e["kind"] == "eval"]
        assert float(str(evals[-1]["accuracy"])) > 0.9
        assert "sketch" not in evals[-1]
        assert (r.out / "models" / f"{name}.safetensors").exists()
    for r in (alice, bob):
        assert "peer_down" in kinds(r) and "skip" in kinds(r)
    assert noticed < 5 and healed < 10, (noticed, healed)
    # and the watcher whose key is not listed has seen nothing, and is told
    until(turned.over, "the other watcher is turned away")
    assert turned.process.returncode == 2
    assert "security.allow" in turned.text() and "does not list this key" in turned.text()
    assert any("rejected a stranger: 10.77.0.5 has a key that is not listed" in e.stdout for e in ended)
    # and the one whose key is, has left no trace
    assert not any(eve.key in e.stdout for e in ended)


def test_machines_whose_clocks_are_an_hour_apart_give_the_bits_of_the_simulator_over_ipv6_and_watched(
    swarm: Callable[..., Swarm], screen: Callable[..., Screen], until: Until, tmp_path: Path
) -> None:
    # given two machines that speak IPv6; bob's wall clock is an hour ahead, his monotonic one a day
    lan = swarm("alice", "bob", "eve")
    made = keys.make(tmp_path / "eve", "watch")
    sections: dict[str, dict[str, Any]] = {
        "swarm": {"rounds": 3000, "eval_every": 500},
        "topology": {"graph": "complete"},
        "algorithm": {"rule": "gradient-tracking"},
        "train": {"task": "quadratic", "lr": 0.01},
        "task": {"file": str(tmp_path / "task.npz")},
    }
    draw = np.random.default_rng(0)
    np.savez(tmp_path / "task.npz", a=1 + draw.random((2, 5)), b=draw.random((2, 5)))
    lan.write("alice", "bob", ip=6, **sections, security={"allow": [made.key]})
    (tmp_path / "ahead").mkdir()
    (tmp_path / "ahead" / "sitecustomize.py").write_text(SHIFT.format(HOUR))
    later = (*["unshare", "--time", "--fork", "--kill-child", "--monotonic", "86400", "--boottime", "86400"],)
    path = f"{tmp_path / 'ahead'}:{os.environ.get('PYTHONPATH', '')}"
    # when they run, and somebody watches
    bob = lan.node("bob", prefix=later, environment={"PYTHONPATH": path})
    seen = screen(*lan.watch("eve", "eve"))
    alice = lan.node("alice")
    ended = [alice.end(), bob.end()]
    # then they end as if their clocks agreed, and the watcher has seen it
    assert [e.code for e in ended] == [0, 0], ended
    until(seen.over, "the watcher sees the end")
    assert seen.process.returncode == 0
    assert "3000" in seen.text() and "[fd77::1]:7700" in ended[0].stdout
    for running in (alice, bob):
        times = [float(str(r["time"])) for r in running.records()]
        assert times == sorted(times) and times[-1] < HOUR
        assert running.summary()["seconds"] < HOUR
    # and every bit is that of virtual time, where there is no clock at all
    from gossipfl import simulate

    expected = simulate(sections, engine="events", overrides={"swarm.nodes": 2})
    for index, name in enumerate(("alice", "bob")):
        (found,) = load_file(tmp_path / name / "models" / f"{name}.safetensors").values()
        assert np.array_equal(found.ravel(), np.asarray(expected.models[index]))


def test_a_slow_line_carries_large_models_in_its_own_time_with_heartbeats_on(
    swarm: Callable[..., Swarm], kinds: Callable[[Running], list[str]], tmp_path: Path
) -> None:
    # given two machines whose line carries 16 Mbit/s, and vectors of 10 MB (GOSSIPFL_LINE_MB=40: the large
    # one)
    megabytes = int(os.environ.get("GOSSIPFL_LINE_MB", "10"))
    lan = swarm("alice", "bob")
    for name in ("alice", "bob"):
        lan.box.rate(name, "16mbit")
    lan.write(
        swarm={"rounds": 1, "eval_every": 1},
        topology={"graph": "complete"},
        train={"task": "consensus"},
        task={"dimension": megabytes * 250_000},
    )
    # when they average
    running = [lan.node("alice"), lan.node("bob")]
    ended = [r.end() for r in running]
    assert [e.code for e in ended] == [0, 0], ended
    # then no line was taken for dead, and it took a tenth more than the line's time at most
    line = megabytes * 1e6 * 8 / 16e6
    took = [float(r.records("round")[0]["wait_s"]) for r in running]
    assert all("peer_down" not in kinds(r) for r in running)
    # (who begins a little earlier waits that much longer, and the other that much less)
    print(f"{megabytes} MB over a line that needs {line:g} s: {took} s, {sum(took) / 2 / line:.3f} times")
    most = 1.1 if megabytes >= 40 else 1.25  # of a short time, a busy processor takes a larger share
    assert sum(took) / 2 < most * line, (took, line)


def test_the_example_of_four_machines_runs_as_its_page_says_and_a_fifth_joins(
    start: Start, ports: Callable[[int], list[int]], tmp_path: Path
) -> None:
    # given a copy of the example, and ports that are free
    folder = tmp_path / "lan"
    shutil.copytree(Path(__file__).parents[3] / "examples" / "lan", folder)
    port = str(ports(5)[0])
    path = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"
    # when its scripts are run, one after the other
    for script in ("start.sh", "fifth.sh"):
        ended = start(command=["sh", script, port], cwd=folder, environment={"PATH": path}).end()
        assert ended.code == 0, ended
    # then each has trained on its own part of the digits, and the four have gone on
    for name in (*NAMES, "erin"):
        left = folder / "box" / "runs" / name
        assert (left / "models" / f"{name}.safetensors").exists(), left
        summary = json.loads((left / "summary.json").read_text())
        assert summary["finished"] and summary["rounds"] == 200 and summary["nodes"] == 5
        assert summary["value"] > 0.85 and abs(summary["samples"] - 1437 / 5) < 1
    assert ended.stdout.count("goes on from its checkpoint of round 100") == 4
    assert "secret-" not in (folder / "box" / "swarm.toml").read_text()
