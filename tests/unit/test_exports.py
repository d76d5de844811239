"""What a run passes on while it runs: TensorBoard's curves, a writer of one's own."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

import gossipfl
from gossipfl.config import Config
from gossipfl.errors import ConfigError
from gossipfl.observe.exports import Curves

SMALL = {
    "swarm": {"nodes": 4, "rounds": 6, "eval_every": 3},
    "train": {"task": "consensus"},
    "task": {"dimension": 3},
}

WRITER = """
from contextlib import contextmanager

seen = []

@contextmanager
def writer(config, folder):
    seen.append(("begin", config.swarm.nodes, folder))
    try:
        yield seen.append
    finally:
        seen.append("end")

@contextmanager
def broken(config, folder):
    def take(record):
        raise OSError("no room")
    yield take

def none(config, folder):
    return 3
"""


class Scalars:
    """Keeps what a SummaryWriter would write."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, int], float] = {}

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.found[tag, step] = value

    def add_text(self, tag: str, text: str) -> None: ...
    def close(self) -> None: ...


class Notes:
    """Watches a run and keeps its notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def __call__(self, record: object) -> None: ...
    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with writers, in the working directory."""
    (tmp_path / "my_writers.py").write_text(WRITER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_writers", raising=False)
    return "my_writers"


def evaluation(node: int, round: int, accuracy: float) -> dict[str, object]:
    return {"node": node, "name": f"node-{node}", "round": round, "kind": "eval", "accuracy": accuracy}


def test_a_round_becomes_scalars_when_all_nodes_have_told_of_it() -> None:
    # given two nodes
    writer = Scalars()
    curves = Curves(writer, ("node-0", "node-1"))
    # when one has evaluated, there is no mean yet; when both have, there is
    curves.take(evaluation(0, 5, 0.5))
    assert ("accuracy/mean", 5) not in writer.found
    curves.take(evaluation(1, 5, 0.7))
    assert writer.found["accuracy/mean", 5] == pytest.approx(0.6)
    assert (writer.found["accuracy/min", 5], writer.found["accuracy/max", 5]) == (0.5, 0.7)
    assert writer.found["nodes/accuracy/node-1", 5] == 0.7


def test_rounds_that_a_lost_node_never_reached_are_written_at_the_end() -> None:
    writer = Scalars()
    curves = Curves(writer, ("node-0", "node-1"))
    curves.take(evaluation(0, 5, 0.5))
    curves.take({"node": 0, "round": 5, "kind": "round", "loss": 2.0})
    curves.finish()
    assert writer.found["accuracy/mean", 5] == 0.5
    assert writer.found["training/loss", 5] == 2.0


def test_a_writer_of_ones_own_gets_every_record_between_its_begin_and_end(module: str) -> None:
    result = gossipfl.simulate(SMALL, overrides={"swarm.writer": f"{module}:writer"})
    seen = sys.modules[module].seen
    assert seen[0] == ("begin", 4, None)
    assert seen[-1] == "end"
    assert seen[1:-1] == list(result.records)
    assert len(result.records) == 4 * (6 + 2)


def test_a_writer_that_fails_is_told_of_once_and_the_run_goes_on(module: str) -> None:
    watch = Notes()
    result = gossipfl.simulate(SMALL, overrides={"swarm.writer": f"{module}:broken"}, watch=watch)
    assert result.summary["finished"] is True
    assert [note for note in watch.notes if "no room" in note] == [
        f"swarm.writer {module}:broken failed and is left out from now on: OSError: no room"
    ]


@pytest.mark.parametrize(
    ("spec", "wrong"),
    [
        ("nowhere:writer", "does not import"),
        ("my_writers:gone", "no function gone"),
        ("my_writers:none", "returns no"),
    ],
)
def test_a_writer_that_cannot_be_had_is_named_before_anything_runs(
    module: str, spec: str, wrong: str
) -> None:
    with pytest.raises(ConfigError, match=wrong):
        gossipfl.simulate(SMALL, overrides={"swarm.writer": spec})


def test_a_writer_is_named_as_module_and_function() -> None:
    with pytest.raises(ConfigError, match=r"swarm\.writer: cannot be \"wandb\""):
        gossipfl.load_config({"swarm": {"writer": "wandb"}})


def test_where_tensorboard_is_not_installed_the_error_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ConfigError, match=r'swarm\.tensorboard: .* pip install "gossipfl\[tensorboard\]"'):
        gossipfl.simulate(SMALL, overrides={"swarm.tensorboard": True}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_tensorboard_needs_a_folder() -> None:
    with pytest.raises(ConfigError, match=r"swarm\.tensorboard: has no folder"):
        gossipfl.simulate(SMALL, overrides={"swarm.tensorboard": True})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_what_a_run_wrote(tmp_path: Path) -> None:
    # given TensorBoard itself
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
    )
    # when a run writes for it
    result = gossipfl.simulate(SMALL, overrides={"swarm.tensorboard": True}, out=tmp_path / "run")
    # then it reads the curves that the result has
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    mean = {event.step: event.value for event in events.Scalars("error/mean")}
    assert list(mean) == [3, 6]
    assert math.isclose(mean[6], float(result.metrics["error"][-1].mean()), rel_tol=1e-5)
    assert "consensus_distance" in events.Tags()["scalars"]


def test_exports_are_a_machines_own() -> None:
    plain, wanted = Config(), gossipfl.load_config({"swarm": {"tensorboard": True}})
    assert plain.digest() == wanted.digest()
