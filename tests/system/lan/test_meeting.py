"""Who does not belong, who cannot be reached, who hangs: each is named, with what there is to do."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gossipfl.transport import keys

if TYPE_CHECKING:
    from tests.system.conftest import Running, Until
    from tests.system.lan.conftest import Swarm

pytestmark = pytest.mark.system

#: A task whose model has as many hidden units as a variable says: another value, another model.
TASK = """
import os
from dataclasses import replace

from torch import nn

from gossipfl.learning.tasks.digits import digits


def task():
    width = int(os.environ.get("WIDTH", "8"))
    layers = nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10)
    return replace(digits(), model=lambda: nn.Sequential(*layers))
"""
#: A task that hangs at bob's, in a step while a file is there: with the interpreter's lock, or without it.
HANGING = """
import ctypes
import sys
import time
from dataclasses import replace
from pathlib import Path

from torch.nn.functional import cross_entropy

from gossipfl.learning.tasks.digits import digits

HERE = Path(__file__).parent if "bob" in sys.argv else Path("nowhere")


def loss(output, target):
    while (HERE / "hang").exists():
        time.sleep(0.02)
    if (HERE / "hold").exists():
        seconds = float((HERE / "hold").read_text())
        (HERE / "hold").unlink()
        ctypes.PyDLL(None).usleep(int(seconds * 1e6))  # C code that does not let go of the interpreter
    return cross_entropy(output, target)


def task():
    return replace(digits(), loss=loss)
"""
#: Lets nothing out from TCP port 7700: whoever dials it hears nothing.
FIREWALL = ("ipproto", "tcp", "sport", "7700", "blackhole")
#: A later version of the program: it speaks another protocol.
LATER = "import gossipfl.core.messages\n\ngossipfl.core.messages.PROTOCOL_VERSION = 2\n"


def test_who_does_not_belong_is_refused_and_told_why(
    swarm: Callable[..., Swarm], says: Callable[..., None], tmp_path: Path
) -> None:
    # given two of three machines that have met, and wait for the third
    lan = swarm("alice", "bob", "carol", "dave")
    (tmp_path / "own.py").write_text(TASK)
    names = ("alice", "bob", "carol")
    config = lan.write(
        *names,
        swarm={"rounds": 20},
        topology={"graph": "complete"},
        train={"task": "own:task"},
        security={"allow": []},
    )
    alice, bob = lan.node("alice"), lan.node("bob")
    says(alice, "met bob")
    # when carol comes with another learning rate, another model, another version, another key
    (tmp_path / "elsewhere").mkdir()
    made = keys.make(tmp_path / "elsewhere", "carol")
    forged = tmp_path / "forged.toml"
    forged.write_text(config.read_text().replace(keys.public(tmp_path / "keys" / "carol.public"), made.key))
    rate = lan.node("carol", "--set", "train.lr=0.2", run="rate").end()
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "sitecustomize.py").write_text(LATER)
    wide = lan.node("carol", run="wide", environment={"WIDTH": "9"}).end()
    path = f"{tmp_path / 'later'}:{os.environ.get('PYTHONPATH', '')}"
    later = lan.node("carol", run="later-run", environment={"PYTHONPATH": path}).end()
    # and alice comes twice, on her own machine and on another
    twice = lan.node("alice", run="twice")
    double = lan.node("alice", "--set", "node.alice.bind=0.0.0.0:7700", on="dave", run="double")
    stranger = lan.node(
        "carol", "--set", f"security.keys={tmp_path / 'elsewhere'}", file=forged, run="forged"
    )
    # then each is told why it is turned away
    assert rate.code == 4 and "has train.lr = 0.1, you have 0.2" in rate.stderr, rate
    assert wide.code == 4 and "has parameter 0.weight 8x64 float32, you have 0.weight 9x64" in wide.stderr, (
        wide
    )
    assert later.code == 4 and "speaks version 1 of the protocol, you speak 2" in later.stderr, later
    ended = twice.end()
    assert ended.code == 2 and "node.alice.bind: 10.77.0.1:7700 is taken by another program" in ended.stderr
    ended = double.end()
    assert ended.code == 4 and "has met another node named alice: one of the two must go" in ended.stderr, (
        ended
    )
    says(alice, "whoever answers there does not hold its key")
    stranger.signal(signal.SIGINT)
    assert stranger.end().code == 130
    # and the right carol may come, with a file that differs in comments and in what is a machine's own
    copy = tmp_path / "copy.toml"
    copy.write_text("# carol's copy\n" + config.read_text().replace("[swarm]", "\n[swarm]  # of ours"))
    own = ("--set", "node.carol.bind=0.0.0.0:7700", "--set", "train.batch=16", "--set", "train.device=cpu")
    carol = lan.node("carol", *own, file=copy)
    codes = [r.end().code for r in (alice, bob, carol)]
    assert codes == [0, 0, 0], [r.text() for r in (alice, bob, carol)]
    assert "listens at 0.0.0.0:7700; the others reach it at 10.77.0.3:7700" in carol.text()[0]


def test_an_edge_that_cannot_be_made_is_named_by_both_ends_and_one_that_hangs_by_its_neighbor(
    swarm: Callable[..., Swarm], says: Callable[..., None], until: Until, tmp_path: Path
) -> None:
    # given two machines, and a firewall before bob's that lets nobody through
    lan = swarm("alice", "bob")
    (tmp_path / "own.py").write_text(HANGING)
    lan.write(
        swarm={"rounds": 2000, "eval_every": 2000},
        topology={"graph": "complete"},
        train={"task": "own:task"},
        wire={"heartbeat": 0.1},
    )
    subprocess.run(lan.box.inside("bob", "ip", "rule", "add", *FIREWALL), check=True)
    # when both start
    alice, bob = lan.node("alice"), lan.node("bob")
    # then both name the edge, the address and the port to open
    says(alice, "no line alice–bob: 10.77.0.2:7700:", "TCP port 7700 must be open on its machine")
    says(bob, "no line bob–alice: alice has not come through to 10.77.0.2:7700")
    says(bob, "TCP port 7700 must be open on this machine")
    # and when the port is opened, they train
    subprocess.run(lan.box.inside("bob", "ip", "rule", "del", *FIREWALL), check=True)
    says(alice, "met bob")
    until(lambda: alice.reached(20) or alice.over(), "they train")
    # when a step of bob's hangs, alice names it, once, until it goes on
    began = time.monotonic()
    (tmp_path / "hang").touch()
    says(alice, "bob seems to hang: its line stands, and it has made no step for")
    (tmp_path / "hang").unlink()
    hung = time.monotonic() - began
    says(alice, "bob goes on")
    # also when C code keeps its interpreter, so that not even beats are sent, while its socket answers; for
    # longer than twice its longest pause so far, which may be its way
    (tmp_path / "soon").write_text(f"{2.5 * hung + 6}")
    (tmp_path / "soon").rename(tmp_path / "hold")
    says(alice, "bob seems to hang", "bob goes on", times=2)
    assert [alice.end().code, bob.end().code] == [0, 0]
    assert alice.text()[0].count("bob seems to hang") == 2
    assert "is down" not in "".join(alice.text() + bob.text())


def test_mistakes_that_one_machine_can_see_end_a_node_before_it_starts(
    swarm: Callable[..., Swarm], tmp_path: Path
) -> None:
    # given a file, and a secret key
    lan = swarm("alice", "bob")
    config = lan.write(topology={"graph": "complete"}, train={"task": "consensus"})
    secret = (tmp_path / "keys" / "bob.secret").read_text().splitlines()[-1]
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(config.read_text().replace(keys.public(tmp_path / "keys" / "bob.public"), secret))
    open_ = tmp_path / "open"
    open_.mkdir()
    keys.make(open_, "alice").secret.chmod(0o644)

    def ended(running: Running) -> tuple[int, str]:
        e = running.end()
        assert secret[8:] not in e.stdout + e.stderr
        assert "Traceback" not in e.stderr
        return e.code, e.stderr

    # when a node is started with each mistake, then it says so in a line, and a secret is never printed
    runs = {
        "mallory is not in the file": lan.node("mallory", on="bob"),
        "node.bob.public_key: is a secret key": lan.node("alice", file=wrong, run="2"),
        "security.allow: is a secret key": lan.node(
            "alice", "--set", f'security.allow=["{secret}"]', run="3"
        ),
        "chmod 600": lan.node("alice", "--set", f"security.keys={open_}", run="4"),
        "10.77.0.2:7700 is no address of this machine": lan.node("bob", on="alice", run="5"),
        "node.a.public_key: is a secret key": lan.start(
            command=[lan.gossipfl, "init", "--node", f"a=1.2.3.4:5,{secret}", "-o", str(tmp_path / "x")]
        ),
    }
    for text, running in runs.items():
        code, stderr = ended(running)
        assert code == 2 and text in stderr, (text, stderr)
