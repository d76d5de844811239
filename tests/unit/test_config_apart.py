"""A config that a process of its own has checked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gossipfl.config import load_config
from gossipfl.config.apart import load_apart
from gossipfl.errors import ConfigError

FILE = """
[swarm]
rounds = 7
[train]
momentum = 0.5
[task]
shape = [3, 4]
[[node]]
name = "alice"
address = "127.0.0.1:9001"
[[node]]
name = "bob"
"""
#: Nothing is built that checks, however much is asked of the config.
PROGRAM = """
import sys
from gossipfl.config import Config
from gossipfl.config.apart import load_apart
config = load_apart(sys.argv[1], ["train.lr=0.2"])
config.to_toml(), config.to_dict(), config.comparable(), config.digest(), config.names, config.encrypted
print(Config.__pydantic_complete__)
"""


def test_it_is_what_this_process_would_have_found(tmp_path: Path) -> None:
    file = tmp_path / "swarm.toml"
    file.write_text(FILE)

    apart, here = load_apart(file, ["train.lr=0.2"]), load_config(file, ["train.lr=0.2"])

    assert apart == here
    assert (apart.to_toml(), apart.digest()) == (here.to_toml(), here.digest())
    assert load_config(apart.to_dict()) == here


def test_all_mistakes_come_back(tmp_path: Path) -> None:
    mistakes = {"swarm.rounds": 0, "train.lr": -1}

    with pytest.raises(ConfigError) as here:
        load_config(None, mistakes)
    with pytest.raises(ConfigError) as apart:
        load_apart(None, mistakes)

    assert apart.value.problems == here.value.problems and len(here.value.problems) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is forked")
def test_a_process_that_is_given_a_config_holds_nothing_that_checks(tmp_path: Path) -> None:
    (tmp_path / "swarm.toml").write_text(FILE)
    line = [sys.executable, "-c", PROGRAM, str(tmp_path / "swarm.toml")]

    assert subprocess.run(line, capture_output=True, text=True, check=True).stdout == "False\n"
