"""Every example's config is right, runs, and shows what its page says it shows."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import gossipfl
from gossipfl.cli import main

EXAMPLES = Path(__file__).parents[2] / "examples"
FOLDERS = sorted(path.parent.name for path in EXAMPLES.glob("*/swarm.toml"))


def test_the_list_of_examples_names_each_folder_once() -> None:
    listed = re.findall(r"^\| \[(\w+)\]\(\1/\)", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(path.parent.name for path in EXAMPLES.glob("*/README.md"))


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_config_of_an_example_passes_check(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES / folder)
    done = CliRunner().invoke(main, ["check", "swarm.toml"])
    assert done.exit_code == 0, done.output
    assert (EXAMPLES / folder / "README.md").exists()


def test_on_the_quickstarts_data_neighbors_help(monkeypatch: pytest.MonkeyPatch) -> None:
    # given data that differ much between nodes
    config = EXAMPLES / "quickstart" / "swarm.toml"
    # when the nodes train with their neighbors, and alone
    together = gossipfl.simulate(config)
    alone = gossipfl.simulate(config, overrides={"topology.graph": "none"})
    # then what they learn together is far better
    assert together.accuracy[-1].mean() > 0.75
    assert together.accuracy[-1].mean() > alone.accuracy[-1].mean() + 0.3


def test_a_task_of_ones_own_is_learnt_and_takes_its_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    # given a folder with a task in it, as the working directory
    monkeypatch.chdir(EXAMPLES / "own_task")
    monkeypatch.delitem(sys.modules, "moons", raising=False)
    # when its config runs, and runs with data that are all noise
    clear = gossipfl.simulate("swarm.toml")
    noisy = gossipfl.simulate("swarm.toml", overrides={"task.noise": 50.0})
    # then what can be learnt is learnt by every node
    assert clear.accuracy[-1].min() > 0.9
    assert noisy.accuracy[-1].mean() < 0.7
    assert clear.config.task == {"samples": 600, "noise": 0.15}
