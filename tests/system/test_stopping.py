"""Ending early, with real processes."""

from __future__ import annotations

import pytest

import gossipfl

pytestmark = pytest.mark.system


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
def test_real_processes_end_in_the_round_in_which_the_event_engine_ends(transport: str) -> None:
    keys = {
        "swarm.nodes": 6,
        "swarm.rounds": 300,
        "swarm.eval_every": 3,
        "data.partition": "iid",
        "stop.target": {"metric": "accuracy", "value": 0.8},
        "wire.transport": transport,
    }

    simulated = gossipfl.simulate(keys, engine="events")
    real = gossipfl.swarm(keys)

    assert real.summary["finished"]
    assert 3 < real.summary["rounds"] < 300
    assert real.summary["rounds"] == simulated.summary["rounds"]
    assert real.models is not None and simulated.models is not None
    assert real.models.tobytes() == simulated.models.tobytes()
    assert {r["round"] for r in real.records if r["kind"] == "eval"} >= {real.summary["rounds"]}


def test_seconds_end_a_swarm_of_real_processes_together() -> None:
    keys = {"swarm.nodes": 4, "swarm.rounds": 1_000_000, "swarm.eval_every": 1_000_000, "stop.seconds": 0.5}

    result = gossipfl.swarm(keys)

    ends = {r["node"]: r["round"] for r in result.records if r["kind"] == "round"}
    assert len(ends) == 4
    assert set(ends.values()) == {result.summary["rounds"]}
    assert result.summary["finished"]
