"""Nodes that go away and come back in the event engine's network."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import gossipfl
from gossipfl.cli import main
from gossipfl.config import load_config
from gossipfl.drivers.absences import Absence, Absences, read_trace
from gossipfl.errors import ConfigError, PeerLost
from gossipfl.learning.workload import workload

torch.set_num_threads(1)

NAMES = ("alice", "bob", "carol")
#: Often away, for longer than it takes the others to notice.
CHURN: Mapping[str, object] = {
    "network.uptime": "exponential:0.5",
    "network.downtime": "exponential:0.3",
    "wire.heartbeat": 0.02,
}


def keys(n: int = 6, rounds: int = 60, **more: object) -> dict[str, object]:
    return {
        "train.task": "consensus",
        "task.dimension": 5,
        "train.dtype": "float64",
        "swarm.nodes": n,
        "swarm.rounds": rounds,
        **more,
    }


def run(config: Mapping[str, object]) -> gossipfl.Result:
    return gossipfl.simulate(config, engine="events")


def kinds(result: gossipfl.Result, node: int) -> list[str]:
    return [str(r["kind"]) for r in result.records if r["node"] == node]


def trace(tmp_path: Path, text: str) -> str:
    (tmp_path / "trace.csv").write_text(text)
    return str(tmp_path / "trace.csv")


# ---------------------------------------------------------------------- who is away when


def test_a_trace_names_nodes_by_index_or_name(tmp_path: Path) -> None:
    path = trace(tmp_path, "# node, goes, back\n2, 1.5, 3\nalice, 0, 2\n2, 3, 4\nbob, 7,\n")

    assert read_trace(Path(path), NAMES) == {
        0: [Absence(0.0, 2.0)],
        1: [Absence(7.0, math.inf)],
        2: [Absence(1.5, 3.0), Absence(3.0, 4.0)],
    }


@pytest.mark.parametrize(
    ("text", "where", "wrong"),
    [
        ("1, 5, 6\n1, 2, 3\n", ":2", "node 1 goes at 2, and is away until 6; each node's absences one after"),
        ("1, 5, 6\n1, 5.5, 7\n", ":2", "node 1 goes at 5.5, and is away until 6"),
        ("1, 5, 5\n", ":1", "comes back at 5, and goes at 5; later"),
        ("3, 1, 2\n", ":1", "there is no node '3'; a name, or an index from 0 to 2"),
        ("dave, 1, 2\n", ":1", "there is no node 'dave'"),
        ("-1, 1, 2\n", ":1", "there is no node '-1'"),
        ("1, -1, 2\n", ":1", "cannot be '-1'; seconds from the start"),
        ("1, nan, 2\n", ":1", "cannot be 'nan'"),
        ("1, 1, inf\n", ":1", "cannot be 'inf'"),
        ("1, 1\n", ":1", "has 2 values; node, goes, back"),
        ("\n# nobody\n", "", "holds no absence"),
    ],
)
def test_a_trace_that_is_wrong_is_named_with_its_line(
    text: str, where: str, wrong: str, tmp_path: Path
) -> None:
    path = trace(tmp_path, text)

    with pytest.raises(ConfigError) as caught:
        read_trace(Path(path), NAMES)

    assert str(caught.value).startswith(f"{path}{where}: {wrong}")


def test_drawn_sessions_follow_each_other_and_begin_at_different_times() -> None:
    config = load_config(None, {"network.uptime": 10.0, "network.downtime": "uniform:1,2"})

    found = [list(itertools.islice(Absences(config).of(node), 20)) for node in range(8)]

    assert len({absences[0].goes for absences in found}) == 8
    for absences in found:
        assert 0 < absences[0].goes <= 10
        stays = [b.goes - a.back for a, b in itertools.pairwise(absences)]
        assert stays == pytest.approx([10.0] * 19)
        assert all(1 <= a.back - a.goes <= 2 for a in absences)
    assert found[3] == list(itertools.islice(Absences(config).of(3), 20))


def test_how_long_nodes_stay_can_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "uptime.csv").write_text("1\n2\n4\n")
    stays = {"swarm.nodes": 3, "network.uptime": str(tmp_path / "uptime.csv"), "network.downtime": 1.0}

    found = [list(itertools.islice(Absences(load_config(None, stays)).of(i), 2)) for i in range(3)]

    assert [b.goes - a.back for a, b in found] == pytest.approx([1.0, 2.0, 4.0])
    (tmp_path / "uptime.csv").write_text("1\n0\n4\n")
    with pytest.raises(ConfigError, match=r"uptime\.csv: holds a 0; seconds above 0"):
        Absences(load_config(None, stays))


# ---------------------------------------------------------------------- what comes of it


@pytest.mark.parametrize("graph", ["ring", "complete"])
@pytest.mark.parametrize("seed", range(3))
def test_what_nodes_hold_together_is_kept_whoever_goes_and_comes(graph: str, seed: int) -> None:
    # given nodes that only average, and go away often
    config = keys(**CHURN, **{"swarm.seed": seed, "topology.graph": graph})
    load = workload(load_config(config))
    before = np.stack([load.learner(node).x.numpy() for node in range(6)]).mean(0)

    # when
    result = run(config)

    # then all finish, edges were skipped, and the mean is what it was
    assert result.summary["finished"] and result.models is not None
    assert result.models.mean(0) == pytest.approx(before, abs=1e-13)
    all_kinds = [str(r["kind"]) for r in result.records]
    assert {"away", "back", "skip", "peer_down", "peer_up"} <= set(all_kinds)
    # and the same config gives the same bits
    again = run(config).models
    assert again is not None and again.tobytes() == result.models.tobytes()


@pytest.mark.parametrize("rule", ["d2", "gradient-tracking", "diging", "qg", "push-sum"])
def test_every_rule_finishes_while_nodes_go_and_come(rule: str) -> None:
    result = run(keys(**CHURN, **{"algorithm.rule": rule, "network.loss": 0.1, "network.upload": 1.0}))

    assert result.summary["finished"]
    assert result.models is not None and np.isfinite(result.models).all()
    assert "back" in {r["kind"] for r in result.records}


@pytest.mark.parametrize("exchange", ["pairwise", "push"])
def test_asynchronous_exchanges_go_on_while_nodes_go_and_come(exchange: str) -> None:
    rule = "gossip-learning" if exchange == "push" else "dpsgd"
    config = keys(**CHURN, **{"algorithm.exchange": exchange, "algorithm.rule": rule})

    first, again = run(config), run(config)

    assert first.summary["finished"] and first.models is not None and again.models is not None
    assert first.models.tobytes() == again.models.tobytes()
    assert "back" in {r["kind"] for r in first.records}


def test_a_short_absence_is_a_pause_that_nobody_notices(tmp_path: Path) -> None:
    # given a node that is back before five heartbeats have passed
    path = trace(tmp_path, "2, 0.1, 1.1\n")
    plain = run(keys())

    result = run(keys(**{"network.trace": path, "wire.heartbeat": 0.5}))

    # then the bits are as if it had stayed, a second later
    assert result.models is not None and plain.models is not None
    assert result.models.tobytes() == plain.models.tobytes()
    assert result.summary["seconds"] == pytest.approx(float(str(plain.summary["seconds"])) + 1.0, abs=0.02)
    assert not {"skip", "peer_down"} & {r["kind"] for r in result.records}


def test_a_node_that_is_noticed_missing_is_not_waited_for(tmp_path: Path) -> None:
    # given a node that is away for 10 s from the first second on
    path = trace(tmp_path, "2, 0.1, 10.1\n")
    result = run(keys(**{"network.trace": path, "wire.heartbeat": 0.1}))

    # then its neighbours notice after five heartbeats, and make their rounds without it
    downs = {r["node"]: r["time"] for r in result.records if r["kind"] == "peer_down" and r["node"] != 2}
    assert {node: pytest.approx(0.6, abs=0.01) for node in (1, 3)} == downs
    ends = {r["node"]: float(str(r["time"])) for r in result.records if r["kind"] == "round"}
    assert all(ends[node] < 2.0 for node in (0, 1, 3, 4, 5))
    assert ends[2] > 10.0
    assert result.summary["finished"]


def test_who_never_comes_back_is_lost_and_the_others_finish(tmp_path: Path) -> None:
    path = trace(tmp_path, "2, 0.1,\n")

    result = run(keys(**{"network.trace": path, "wire.heartbeat": 0.1}))

    assert result.summary["lost"] == ["node-2"]
    assert (result.summary["finished"], result.summary["nodes_finished"]) == (False, 5)
    per_node = result.summary["per_node"]
    assert isinstance(per_node, list) and [value is None for value in per_node].index(True) == 2
    assert kinds(result, 2)[-1] == "away"


def test_a_swarm_of_which_nobody_comes_back_is_lost(tmp_path: Path) -> None:
    path = trace(tmp_path, "".join(f"{node}, 0.1,\n" for node in range(6)))
    config = keys(**{"network.trace": path})

    with pytest.raises(PeerLost, match="every node was lost"):
        run(config)
    # and the command says so in a line
    settings = [f"--set={key}={value}" for key, value in config.items()]
    out = str(tmp_path / "run")
    ended = CliRunner().invoke(main, ["simulate", "--engine", "events", "--quiet", "--out", out, *settings])
    assert ended.exit_code == 3
    assert "every node was lost" in ended.stderr and "Traceback" not in ended.stderr


def test_a_swarm_that_is_killed_is_lost_by_its_faults() -> None:
    faults = [{"kind": "kill", "node": i, "round": 5} for i in range(3)]
    with pytest.raises(PeerLost) as caught:
        gossipfl.simulate({"swarm": {"nodes": 3, "rounds": 60}, "fault": faults}, engine="events")
    assert str(caught.value) == "every node was lost: all were killed, and not started again (fault)"


def test_sessions_too_short_to_meet_in_end_all_the_same() -> None:
    # given nodes that are away again before a connection is open
    config = keys(n=4, rounds=5, **{"network.latency": 1.0, "wire.heartbeat": 0.01})

    result = run({**config, "network.uptime": 0.5, "network.downtime": 0.5})

    assert result.summary["finished"]


def test_check_reads_the_files_of_the_network(tmp_path: Path) -> None:
    path = trace(tmp_path, "9, 1, 2\n")

    ended = CliRunner().invoke(main, ["check", "--set", f"network.trace={path}"])

    assert ended.exit_code == 2
    assert f"{path}:1: there is no node '9'" in ended.stderr
