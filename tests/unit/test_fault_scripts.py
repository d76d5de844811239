"""Fault scripts: what they may say, and what is told of one that is wrong."""

from __future__ import annotations

import math
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

import gossipfl
from gossipfl.cli import main
from gossipfl.config import load_config
from gossipfl.drivers import faults
from gossipfl.drivers.faults import Faults
from gossipfl.drivers.script import acts, returns
from gossipfl.errors import ConfigError

RING = [(0, 1), (1, 2), (2, 3), (0, 3)]


def wrong(*faults: dict[str, object]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config({"swarm.nodes": 4, "fault": list(faults)})
    return [str(problem) for problem in caught.value.problems]


def test_a_script_survives_the_file_that_is_written_of_it(tmp_path: Path) -> None:
    config = load_config(
        {
            "swarm.nodes": 4,
            "fault": [
                {"kind": "kill", "at": 1, "node": "node-2", "for": 2},
                {"kind": "partition", "round": 5, "groups": [[0, "node-1"]], "for": 0.5},
                {"kind": "drop", "at": 0, "share": 0.1, "until": 3},
            ],
        }
    )
    path = tmp_path / "swarm.toml"
    path.write_text(config.to_toml())

    assert load_config(path) == config == load_config(config.to_dict())
    assert load_config(path, ["fault.1.at=7"]).fault[0].at == 7
    # and peers need not agree on it
    assert config.digest() == load_config({"swarm.nodes": 4}).digest()


def test_a_script_of_its_own_comes_after_the_faults_of_the_config(tmp_path: Path) -> None:
    path = tmp_path / "script.toml"
    path.write_text('[[fault]]\nat = 3\nkind = "hang"\nnode = 0\nfor = 1\n')

    config = load_config({"fault": [{"kind": "kill", "at": 1, "node": 1}]}, None, path)

    assert [fault.kind for fault in config.fault] == ["kill", "hang"]


def test_a_script_holds_nothing_but_faults(tmp_path: Path) -> None:
    path = tmp_path / "script.toml"
    path.write_text("[swarm]\nnodes = 3\n")

    with pytest.raises(ConfigError, match=r"script.toml: swarm: is no part of a fault script"):
        load_config(None, None, path)


def test_everything_that_is_wrong_with_the_tables_is_told_at_once() -> None:
    one_of = "one of kill, restart, hang, partition, slow, drop, duplicate, reorder, corrupt"
    assert wrong(
        {"kind": "kil", "at": -1, "node": 1},
        {"at": 1, "nod": 2},
        {"kind": "drop", "at": 1, "share": 1.5, "for": 1},
    ) == [
        f"fault.1.kind: cannot be 'kil'; {one_of}",
        "fault.1.at: cannot be -1; seconds from the start of training, at least 0",
        "fault.2.nod: unknown key; did you mean node?",
        f"fault.2.kind: is missing; {one_of}",
        "fault.3.share: cannot be 1.5; a number above 0, at most 1",
    ]


def test_numbers_that_are_none_are_told_under_their_table(tmp_path: Path) -> None:
    path = tmp_path / "script.toml"
    path.write_text(
        '[[fault]]\nkind = "kill"\nnode = 0\nat = 1\n'
        '[[fault]]\nkind = "drop"\nat = inf\nshare = nan\nfor = 1\n'
    )

    with pytest.raises(ConfigError) as caught:
        load_config(None, None, path)

    assert {(p.key, p.wrong) for p in caught.value.problems} == {
        ("fault.2.share", "cannot be nan"),
        ("fault.2.at", "cannot be inf"),
    }
    (told,) = wrong({"kind": "drop", "at": math.nan, "edge": [0, 1]})
    assert told.startswith("fault.1.at: cannot be nan")


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ({"kind": "kill", "node": 1}, "at: is missing; seconds from the start of training, or round = R"),
        ({"kind": "kill", "node": 1, "at": 1, "round": 2}, "round: is set beside at"),
        ({"kind": "kill", "node": 1, "round": 2, "until": 3}, "until: is set beside round"),
        ({"kind": "kill", "node": 1, "at": 4, "until": 3}, "until: is 3, and it begins at 4"),
        ({"kind": "kill", "at": 4}, "node: is missing; whom the kill befalls"),
        ({"kind": "kill", "at": 4, "node": 4}, "node: there is no node 4; a name, or an index from 0 to 3"),
        ({"kind": "kill", "at": 4, "node": "x"}, "node: there is no node 'x'"),
        ({"kind": "hang", "at": 4, "node": 1}, "for: is missing; how long the hang lasts"),
        ({"kind": "slow", "at": 4, "edge": [0, 1], "node": 1}, "edge: is set, and a slow befalls a node"),
        ({"kind": "partition", "at": 4, "for": 1}, "groups: is missing"),
        ({"kind": "partition", "at": 4, "for": 1, "groups": [[0, 1, 2, 3]]}, "groups: leaves nobody"),
        ({"kind": "partition", "at": 4, "for": 1, "groups": [[0, 1], [1]]}, "groups: node-1 is in two"),
        ({"kind": "drop", "at": 4, "share": 0.5}, "share: is set, and without for or until"),
        ({"kind": "drop", "at": 4, "edge": [1, 1]}, "edge: begins and ends at 1"),
        ({"kind": "drop", "at": 4, "factor": 2.0}, "factor: is set, and a drop has none"),
        ({"kind": "kill", "round": 101, "node": 1}, "round: is 101, and the run has 100 rounds"),
    ],
)
def test_keys_that_do_not_go_together_are_told(fault: dict[str, object], told: str) -> None:
    assert [text for text in wrong(fault) if text.startswith(f"fault.1.{told}")]


def test_a_line_that_is_not_in_the_graph_is_told() -> None:
    config = load_config({"swarm.nodes": 4, "fault": [{"kind": "drop", "at": 0, "edge": [0, 2]}]})

    with pytest.raises(ConfigError, match=r"fault\.1\.edge: there is no line in this graph"):
        acts(config, RING)
    with pytest.raises(ConfigError, match=r"fault\.1\.edge"):
        gossipfl.simulate(config, engine="events")


def test_groups_are_told_apart_by_the_lines_between_them() -> None:
    fault = {"kind": "partition", "at": 1, "until": 3, "groups": [["node-0", 1]]}

    act = acts(load_config({"swarm.nodes": 4, "fault": [fault]}), RING)[0]

    assert act.lines == ((1, 2), (0, 3))
    assert (act.at, act.lasts, act.text) == (1.0, 2.0, "partition node-0, 1 | the others for 2 s")


def test_who_is_killed_returns_only_if_something_brings_it_back() -> None:
    tables = [{"kind": "kill", "at": 1, "node": 2}, {"kind": "restart", "at": 2, "node": 2}]

    script = acts(load_config({"swarm.nodes": 4, "fault": tables}), RING)

    assert script[0].lasts == math.inf
    assert returns(script, 2, {1}) and not returns(script, 2, {1, 2}) and not returns(script, 1, set())


def test_who_is_dead_does_not_come_to_the_round_in_which_it_would_be_started_again() -> None:
    # given a node that is killed before the round of its restart, in a graph which it holds together
    script = [{"kind": "restart", "round": 20, "node": 1}, {"kind": "kill", "round": 4, "node": 1}]
    config = {"swarm.nodes": 3, "swarm.rounds": 40, "topology.graph": "path", "fault": script}
    keys = {"train.task": "consensus", "train.dtype": "float64", "algorithm.on_death": "rewire"}

    result = gossipfl.simulate(config | keys, engine="events")

    # then it is gone for good, and gone around
    assert result.summary["lost"] == ["node-1"]
    assert result.models is not None
    assert np.abs(result.models[0] - result.models[2]).max() < 1e-9


class Hands:
    """What is done to processes, and when."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.done = 0.0, list[tuple[float, str]]()
        monkeypatch.setattr(faults, "time", SimpleNamespace(monotonic=lambda: self.now))

    def signal(self, node: int, number: int) -> None:
        self.done.append((round(self.now, 3), signal.Signals(number).name))

    def send(self, node: int, word: dict[str, object]) -> None: ...

    def restart(self, node: int) -> None:
        self.done.append((round(self.now, 3), "start"))


@pytest.mark.parametrize(
    ("script", "starts"),
    [
        ([{"kind": "kill", "at": 0.1, "for": 2}, {"kind": "kill", "at": 0.5, "for": 2}], [2.5]),
        ([{"kind": "kill", "at": 0.1, "for": 2}, {"kind": "kill", "at": 0.5, "for": 1}], [2.1]),
        ([{"kind": "kill", "at": 0.1, "for": 1}, {"kind": "kill", "at": 2, "for": 1}], [1.1, 3.0]),
        ([{"kind": "kill", "at": 0.1}, {"kind": "kill", "at": 0.5, "for": 2}], []),
        ([{"kind": "kill", "at": 0.1, "for": 2}, {"kind": "restart", "at": 0.5}], [0.5]),
        ([{"kind": "kill", "at": 0.1}, {"kind": "restart", "at": 0.5, "for": 1}], [1.5]),
    ],
)
def test_a_node_begins_again_when_the_last_of_its_kills_is_over_or_a_restart_says_so(
    script: list[dict[str, object]], starts: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = load_config({"swarm.nodes": 4, "fault": [{**fault, "node": 2} for fault in script]})
    hands = Hands(monkeypatch)
    made = Faults(acts(config, RING), config.names, tmp_path, 0.0, hands)
    made.begin()
    while (due := made.due()) is not None:
        hands.now += due
        made.act()
    assert [at for at, what in hands.done if what == "start"] == starts


def test_the_vector_engine_says_why_it_takes_no_faults(tmp_path: Path) -> None:
    path = tmp_path / "script.toml"
    path.write_text('[[fault]]\nat = 3\nkind = "hang"\nnode = 0\nfor = 1\n')

    ended = CliRunner().invoke(main, ["simulate", "--fault", str(path), "--out", str(tmp_path / "run")])

    assert ended.exit_code == 2
    assert "fault: the vector engine has neither processes nor lines" in ended.stderr
