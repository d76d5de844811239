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
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's modules (`# NAME.py` is their first line) lie in the working directory."""
    page = (ROOT / "CONTRIBUTING.md").read_text()
    for code, name in re.findall(r"```python\n(# (\w+)\.py\n.*?)```", page, re.DOTALL):
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("in_a_folder")
def test_the_rule_that_the_page_adds_runs_and_is_what_its_equation_says() -> None:
    # given x+ = after + 1/2 (mix(after) - after) is mixing with (I + W) / 2
    own = {**CONSENSUS, "algorithm.rule": "cautious:cautious", "algorithm.gamma": 0.5}
    lazy = {**CONSENSUS, "topology.weights": "lazy"}
    # when both are run
    result, expected = gossipfl.simulate(overrides=own), gossipfl.simulate(overrides=lazy)
    # then they agree
    assert result.models is not None and expected.models is not None
    np.testing.assert_allclose(result.models, expected.models, rtol=0, atol=1e-14)


@pytest.mark.usefixtures("in_a_folder")
def test_the_command_that_the_page_gives_sets_the_rules_own_key() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    (command,) = re.findall(r"gossipfl simulate .*cautious:cautious.*", page)
    settings = re.findall(r"--set (\S+)", command)
    config = gossipfl.load_config(None, settings)
    assert config.algorithm.rule == "cautious:cautious"
    step = {**CONSENSUS, "swarm.rounds": 1}
    start = gossipfl.simulate(overrides={**step, "algorithm.rule": "none"}).models
    mixed = gossipfl.simulate(overrides=step).models
    models = gossipfl.simulate(config, overrides=step).models
    assert models is not None and start is not None and mixed is not None
    np.testing.assert_allclose(models, 0.7 * start + 0.3 * mixed, rtol=0, atol=1e-14)


@pytest.mark.usefixtures("in_a_folder")
def test_the_codec_that_the_page_adds_loses_little_and_choco_nothing() -> None:
    # given nodes that only average, with a byte a number
    coarse = {**CONSENSUS, "wire.codec": "coarse:coarse"}
    # when they average plainly, and with a memory of what was lost
    exact = gossipfl.simulate(overrides=CONSENSUS).models
    plain = gossipfl.simulate(overrides=coarse).models
    choco = gossipfl.simulate(overrides={**coarse, "algorithm.rule": "choco", "swarm.rounds": 300})
    # then the first is near the exact average, the second reaches it
    assert exact is not None and plain is not None and choco.models is not None
    assert 1e-6 < np.abs(plain - exact).max() < 0.1
    assert np.ptp(choco.models, axis=0).max() < 1e-7
    np.testing.assert_allclose(choco.models.mean(0), exact.mean(0), rtol=0, atol=1e-12)


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
