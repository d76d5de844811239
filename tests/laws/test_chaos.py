"""What must hold whatever happens: random fault schedules of fixed seeds (`make chaos` draws fresh ones)."""

from __future__ import annotations

import os

import pytest

from tests import chaos

#: Seeds in a batch, and batches; more of them: GOSSIPFL_CHAOS=100.
BATCH = 25
BATCHES = int(os.environ.get("GOSSIPFL_CHAOS", "10"))


@pytest.mark.parametrize("batch", range(BATCHES))
def test_whatever_happens_what_must_hold_holds(batch: int) -> None:
    seeds = range(batch * BATCH, (batch + 1) * BATCH)

    failed = [
        chaos.line(seed, wrong) for seed in seeds if (wrong := chaos.trial(seed, again=not seed % 20)[1])
    ]

    assert not failed, "\n".join(failed)


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(200049, id="what is counted late is forgotten with the round in which it was"),
        pytest.param(200376, id="a directed ring without one of its nodes is a chain"),
        pytest.param(200451, id="relay-sum begins anew while a node is down"),
        pytest.param(221402601632, id="who waits for a round to be started again in does not make it"),
        pytest.param(316417558845, id="a process that goes on at the end has nothing of its last round"),
        pytest.param(403045, id="a payload of the process before counts after the next one has begun"),
    ],
)
def test_what_once_failed_holds(seed: int) -> None:
    assert chaos.trial(seed)[1] == []


def test_the_seeds_draw_every_disaster_every_exchange_and_every_rule() -> None:
    drawn = [chaos.draw(seed) for seed in range(BATCH * BATCHES)]

    faults = {fault["kind"] for config in drawn for fault in config["fault"]}  # type: ignore[attr-defined]
    rules = {config.get("algorithm.rule", "dpsgd") for config in drawn}
    exchanges = {config.get("algorithm.exchange", "rounds") for config in drawn}
    assert faults == set(chaos.KINDS)
    assert rules >= {*chaos.SYMMETRIC, "push-sum", "relay-sum", "gossip-learning"}
    assert exchanges == {"rounds", "pairwise", "push"}


@pytest.mark.parametrize("what", ["answered", "meet"])
def test_a_defect_is_found(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # given an exchange without one of the parts that it needs
    if what == "answered":
        from gossipfl.core.exchange.pairwise import Pairwise

        monkeypatch.setattr(Pairwise, "_resume", lambda self, line, hello: self._over(line) or [])
        kind = "pairwise"
    else:
        from gossipfl.core.exchange.edge import Edge

        whole = Edge.meet
        monkeypatch.setattr(Edge, "meet", lambda self, hello, inc: whole(self, hello, inc)[:0])
        kind = "rounds"
    seeds = [s for s in range(300) if chaos.draw(s).get("algorithm.exchange", "rounds") == kind][:40]

    assert any(chaos.trial(seed)[1] for seed in seeds)
