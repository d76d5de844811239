"""A machine that comes back when the others are done: it gets what they have left for it, and ends."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from gossipfl.config import load_config
from gossipfl.drivers import checkpoint
from gossipfl.learning.workload import workload

if TYPE_CHECKING:
    from tests.system.conftest import Running, Until
    from tests.system.lan.conftest import Swarm

pytestmark = pytest.mark.system

ROUNDS, KILLED = 1500, 50
STAYS = "has made all rounds; stays up to 30 s for bob"


def vector(node: Running) -> np.ndarray:
    """The model that a node has left."""
    parts = load_file(next((node.out / "models").iterdir()))
    return np.concatenate([part.ravel() for part in parts.values()])


def away(made: Swarm, until: Until, says: Callable[..., None], *, loses: bool) -> list[Running]:
    """Three nodes of which bob is killed, and started again with its cable out, until the others are done;
    alice, bob, carol. loses: it loses its newest checkpoint."""
    alice, bob, carol = (made.node(name) for name in ("alice", "bob", "carol"))
    until(lambda: bob.reached(KILLED) or bob.over(), "they train")
    bob.process.kill()
    bob.process.wait()
    assert bob.process.returncode == -signal.SIGKILL, "it has not ended before"
    says(alice, "the line to bob is down")
    says(carol, "the line to bob is down")
    made.box.line("bob", "down")
    if loses:
        kept = bob.out / "checkpoints" / "bob"
        shutil.rmtree(kept / f"{max(checkpoint.rounds(kept)):08d}")
    again = made.node("bob", "--resume")
    says(again, "waits for alice")
    says(alice, STAYS)
    says(carol, STAYS)
    return [alice, again, carol]


def test_one_that_meets_a_neighbor_that_is_done_takes_its_model_and_ends(
    swarm: Callable[..., Swarm], says: Callable[..., None], until: Until
) -> None:
    # given three machines on a ring, one away with an old checkpoint, one done, and one gone for good
    made = swarm("alice", "bob", "carol")
    made.write(swarm={"rounds": ROUNDS, "eval_every": ROUNDS, "checkpoint_every": 20})
    alice, bob, carol = away(made, until, says, loses=True)
    carol.process.kill()
    carol.process.wait()
    # when the first comes back
    made.box.line("bob", "up")
    ended = [alice.end(), bob.end()]
    # then it has the model of the one that is done, evaluated, and waits for nobody else
    assert [e.code for e in ended] == [0, 0], [e.stdout + e.stderr for e in ended]
    said = ended[1].stdout
    assert (
        "its checkpoint is older than what its neighbors know of it: it ends with a model of theirs" in said
    )
    assert "alice has made all rounds, and carol is not there: waits for nobody any more" in said
    assert f"takes the model that alice has after round {ROUNDS}" in said
    assert "TCP port" not in said.rpartition("met alice")[2]
    assert np.array_equal(vector(bob), vector(alice))
    found = bob.summary()
    assert found["finished"] and found["rounds"] == ROUNDS and found["value"] == alice.summary()["value"]


def test_one_that_comes_back_exactly_when_the_others_are_done_moves_nothing(
    swarm: Callable[..., Swarm], says: Callable[..., None], until: Until
) -> None:
    # given three machines with numbers of their own, one away with its exact state, two done
    made = swarm("alice", "bob", "carol")
    tables: dict[str, dict[str, Any]] = {
        "swarm": {"rounds": ROUNDS, "eval_every": ROUNDS, "checkpoint_every": 1, "same_start": False},
        "train": {"task": "consensus", "dtype": "float64"},
        "task": {"dimension": 4},
        "data": {"partition": "iid"},
    }
    load = workload(load_config(made.write(**tables)))
    mean = np.stack([load.learner(i).x.numpy() for i in range(3)]).mean(0)
    nodes = away(made, until, says, loses=False)
    # when it comes back
    made.box.line("bob", "up")
    ended = [one.end() for one in nodes]
    # then what was sent before counts at both ends, and all end
    assert [e.code for e in ended] == [0, 0, 0], [e.stdout + e.stderr for e in ended]
    assert "older than what its neighbors know" not in ended[1].stdout
    assert np.abs(np.stack([vector(one) for one in nodes]).mean(0) - mean).max() < 1e-12
    assert nodes[1].summary()["rounds"] == ROUNDS
