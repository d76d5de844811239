"""What CONTRIBUTING.md shows is run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import gossipfl

ROOT = Path(__file__).parents[2]
CONSENSUS = {
    "swarm.nodes": 6,
    "swarm.rounds": 7,
    "train.task": "consensus",
    "train.dtype": "float64",
    "task.dimension": 3,
}


@pytest.fixture
def page_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The page's first Python block, as the module its first line names, in the working directory."""
    page = (ROOT / "CONTRIBUTING.md").read_text()
    block = re.search(r"```python\n(# (\w+)\.py\n.*?)```", page, re.DOTALL)
    assert block is not None
    (tmp_path / f"{block[2]}.py").write_text(block[1])
    monkeypatch.chdir(tmp_path)
    return block[2]


def test_the_rule_that_the_page_adds_runs_and_is_what_its_equation_says(page_module: str) -> None:
    # given x+ = after + 1/2 (mix(after) - after) is mixing with (I + W) / 2
    own = {**CONSENSUS, "algorithm.rule": f"{page_module}:cautious", "algorithm.gamma": 0.5}
    lazy = {**CONSENSUS, "topology.weights": "lazy"}
    # when both are run
    result, expected = gossipfl.simulate(overrides=own), gossipfl.simulate(overrides=lazy)
    # then they agree
    assert result.models is not None and expected.models is not None
    np.testing.assert_allclose(result.models, expected.models, rtol=0, atol=1e-14)


def test_the_command_that_the_page_gives_sets_the_rules_own_key(page_module: str) -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    settings = re.findall(r"--set (algorithm\S+)", page)
    config = gossipfl.load_config(None, settings)
    assert config.algorithm.rule == f"{page_module}:cautious"
    step = {**CONSENSUS, "swarm.rounds": 1}
    start = gossipfl.simulate(overrides={**step, "algorithm.rule": "none"}).models
    mixed = gossipfl.simulate(overrides=step).models
    models = gossipfl.simulate(config, overrides=step).models
    assert models is not None and start is not None and mixed is not None
    np.testing.assert_allclose(models, 0.7 * start + 0.3 * mixed, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("file", "start", "end"),
    [
        ("gossipfl/topology/families/classic.py", "def path(", "\n\n\n"),
        ("gossipfl/learning/tasks/digits.py", "    return Task(", "\n    )\n"),
    ],
)
def test_the_code_that_the_page_quotes_is_the_packages_own(file: str, start: str, end: str) -> None:
    source = (ROOT / file).read_text()
    begin = source.index(start)
    quoted = source[begin : source.index(end, begin)].replace("    return Task(", "Task(")
    page = re.sub(r"\s+", " ", (ROOT / "CONTRIBUTING.md").read_text())
    assert re.sub(r"\s+", " ", quoted).strip() in page
