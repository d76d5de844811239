"""The page on algorithms names everything there is, and its configs run."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import gossipfl
from gossipfl.config import load_config
from gossipfl.core.aggregate import AGGREGATES
from gossipfl.core.recipe import RULES

PAGE = (Path(__file__).parents[2] / "docs" / "algorithms.md").read_text()


def test_every_rule_and_aggregate_stands_on_the_page() -> None:
    assert all(f"| `{rule}`" in PAGE for rule in RULES)
    assert all(name in PAGE for name in AGGREGATES)


def test_the_twin_with_a_server_runs_as_it_is_written() -> None:
    [block] = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    config = load_config(tomllib.loads(block), {"swarm.nodes": 4, "swarm.rounds": 2})

    result = gossipfl.simulate(config)

    assert result.summary["rule"] == "dpsgd" and result.summary["graph"] == "star"
    assert result.summary["finished"]
