"""gossipfl algorithms: everything there is, with costs that are counted."""

from __future__ import annotations

import json
import subprocess
import sys

from click.testing import CliRunner

from gossipfl.cli import main
from gossipfl.core.aggregate import AGGREGATES
from gossipfl.core.codecs import CODECS
from gossipfl.core.recipe import RULES


def listed() -> dict[str, list[dict[str, object]]]:
    result = CliRunner().invoke(main, ["algorithms", "--json"])
    assert result.exit_code == 0
    found: dict[str, list[dict[str, object]]] = json.loads(result.stdout)
    return found


def test_everything_that_can_be_chosen_is_listed() -> None:
    found = listed()

    names = {kind: [entry["name"] for entry in entries] for kind, entries in found.items()}
    assert names["rules"] == [*RULES, "gossip-learning"]
    assert names["codecs"] == list(CODECS)
    assert names["aggregates"] == list(AGGREGATES)
    assert names["exchanges"] == ["rounds", "pairwise", "push"]


def test_costs_are_those_of_what_a_rule_sends_and_keeps() -> None:
    rules = {rule["name"]: rule for rule in listed()["rules"]}

    sent = {name: rule["bytes"] for name, rule in rules.items()}
    kept = {name: rule["memory"] for name, rule in rules.items()}
    assert (sent["none"], sent["dpsgd"], sent["d2"]) == (0, 1, 1)
    assert sent["gradient-tracking"] == sent["diging"] == 2
    assert (kept["dpsgd"], kept["d2"], kept["choco"], kept["relay-sum"]) == (1, 2, 5, 4)


def test_needs_are_said_in_words() -> None:
    rules = {rule["name"]: rule for rule in listed()["rules"]}

    assert rules["relay-sum"]["needs"] == ["a tree: tree, path or star"]
    assert rules["none"]["needs"] == []
    assert rules["choco"]["keys"] == {"gamma": 0.2, "per_link": True}


def test_the_table_names_every_rule_and_its_source() -> None:
    wide, narrow = (CliRunner().invoke(main, ["algorithms"], env={"COLUMNS": n}) for n in ("200", "80"))

    assert wide.exit_code == narrow.exit_code == 0
    for name in [*RULES, "gossip-learning"]:
        assert name in wide.stdout
        assert name in narrow.stdout, "a name is never cut"
    assert narrow.stdout.count("et al. 2018") == 2, "nor is a source, of d2 and pairwise"
    assert "Koloskova et al. 2019" in wide.stdout


def test_torch_is_not_loaded() -> None:
    script = (
        "import sys; from gossipfl.cli import main; main(['algorithms', '--json'], standalone_mode=False);"
        " assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)
