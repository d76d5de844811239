"""What a process that is one node does not load."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest

from gossipfl.config import load_config
from gossipfl.config.toml import toml_document

GOSSIPFL = str(Path(sysconfig.get_path("scripts")) / "gossipfl")
#: Each of them costs a node megabytes that it has no use for.
UNUSED = ("scipy", "pydantic", "click", "rich", "networkx", "matplotlib", "multiprocessing.pool", "tomllib")
PROGRAM = """
import atexit, sys
atexit.register(lambda: print("loaded", *sys.modules))
from gossipfl.cli.lone import main
main()
"""
ALONE = {
    "swarm": {"rounds": 3},
    "topology": {"graph": "none"},
    "data": {"partition": "iid"},
    "node": [{"name": "alice"}],
}


def test_a_node_that_is_handed_its_config_loads_nothing_that_checks_draws_or_solves(tmp_path: Path) -> None:
    config = load_config({**ALONE, "train": {"momentum": 0.5}})
    (tmp_path / "run").mkdir()
    job = {"config": config.to_dict(), "plan": None, "name": "alice", "folder": "run", "found": None}

    with tempfile.TemporaryFile() as file:
        file.write(json.dumps({**job, "path": sys.path, "arguments": ["gossipfl"]}).encode())
        file.flush()
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        line = [sys.executable, "-c", PROGRAM, str(file.fileno())]
        done = subprocess.run(
            line, cwd=tmp_path, capture_output=True, text=True, pass_fds=[file.fileno()], timeout=120
        )

    assert done.returncode == 0, done.stderr
    loaded = done.stdout.rpartition("loaded ")[2].split()
    assert "torch" in loaded and [name for name in UNUSED if name in loaded] == []
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["finished"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it goes on in the process that has checked")
def test_the_command_becomes_the_node_and_stays_the_process_that_it_was(tmp_path: Path) -> None:
    (tmp_path / "alone.py").write_text(
        "import os, sys\n"
        "from gossipfl.learning.tasks.digits import digits\n"
        "def task():\n"
        "    print('it is', os.getpid(), 'pydantic' in sys.modules, sys.warnoptions, sys.argv[1:])\n"
        "    return digits()\n"
    )
    tables = {name: table for name, table in ALONE.items() if name != "node"}
    text = toml_document({**tables, "train": {"task": "alone:task"}}, node=ALONE["node"])  # type: ignore
    (tmp_path / "swarm.toml").write_text(text)

    line = [sys.executable, "-W", "error::FutureWarning", GOSSIPFL, "node", "swarm.toml", "--name", "alice"]
    with subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as running:
        said, _ = running.communicate(timeout=120)

    assert running.returncode == 0
    arguments = ["node", "swarm.toml", "--name", "alice"]
    assert f"it is {running.pid} False ['error::FutureWarning'] {arguments}" in said
    assert "alice: accuracy" in said


def test_mistakes_are_told_without_torch(tmp_path: Path) -> None:
    machines = [
        {"name": name, "address": f"127.0.0.1:{k}"} for k, name in enumerate(("alice", "bob", "carol"), 1)
    ]
    tables = {"algorithm": {"rule": "relay-sum"}}  # on a ring, which is no tree
    (tmp_path / "swarm.toml").write_text(toml_document(tables, node=machines))
    line = [sys.executable, "-X", "importtime", GOSSIPFL, "node", "swarm.toml", "--name", "alice"]

    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    assert done.returncode == 2
    assert "gossipfl: error: topology.graph: " in done.stderr
    assert not re.search(r"\| +torch$", done.stderr, re.MULTILINE)
    assert not (tmp_path / "runs").exists()
