"""An asynchronous run of real processes can be repeated, to the same bits; what cannot be repeated is refused
with the file's name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import gossipfl
from gossipfl.errors import ConfigError

torch.set_num_threads(1)
pytestmark = pytest.mark.system

EXCHANGES = {
    "pairwise": {"algorithm.exchange": "pairwise"},
    "pairwise-momentum": {
        "algorithm.exchange": "pairwise",
        "algorithm.every": 2,
        "train.momentum": 0.9,
        "swarm.same_start": False,
        "train.dtype": "float64",
    },
    "push": {"algorithm.exchange": "push", "algorithm.rule": "gossip-learning", "algorithm.period": 0.3},
    "push-update-merge": {
        "algorithm.exchange": "push",
        "algorithm.rule": "gossip-learning",
        "algorithm.variant": "update-merge",
        "algorithm.account": "randomized",
        "algorithm.capacity": 4,
        "algorithm.spend": 2,
        "algorithm.period": "0.002s",
    },
    "push-random-walk": {
        "algorithm.exchange": "push",
        "algorithm.rule": "gossip-learning",
        "algorithm.variant": "random-walk",
        "algorithm.period": "0.002s",
    },
}


def record(folder: Path, exchange: str, transport: str = "auto", **more: object) -> Path:
    """A run of real processes, in `folder/run`."""
    settings = {
        "swarm.nodes": 4,
        "swarm.rounds": 12,
        "swarm.eval_every": 6,
        "algorithm.local_steps": 3,
        "wire.transport": transport,
    }
    gossipfl.swarm(None, overrides={**settings, **EXCHANGES[exchange], **more}, out=folder / "run")
    return folder / "run"


def replayed(run: Path, **overrides: object) -> gossipfl.Result:
    settings = {"algorithm.replay": str(run), **overrides}
    return gossipfl.simulate(run / "config.toml", engine="events", overrides=settings)


@pytest.mark.parametrize(
    ("exchange", "transport"),
    [
        ("pairwise", "ipc"),
        ("pairwise", "tcp"),
        ("pairwise-momentum", "ipc"),
        ("push", "ipc"),
        ("push", "tcp"),
        ("push-update-merge", "tcp"),
        ("push-random-walk", "ipc"),
    ],
)
def test_a_replay_ends_at_the_bits_of_the_run(exchange: str, transport: str, tmp_path: Path) -> None:
    # given
    run = record(tmp_path, exchange, transport)
    ended = np.load(run / "models.npz", allow_pickle=False)["x"]

    # when
    again = replayed(run)

    # then
    assert again.models.dtype == ended.dtype
    assert np.array_equal(again.models, ended)
    stored = json.loads((run / "summary.json").read_text())
    assert again.summary["per_node"] == stored["per_node"]
    assert again.summary["rounds"] == stored["rounds"] == 12
    assert again.summary["finished"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("replay"), "pairwise")


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """The run, to be spoilt."""
    return Path(shutil.copytree(run, tmp_path / "copy"))


def edit_lines(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))


def problem(run: Path, **overrides: object) -> str:
    with pytest.raises(ConfigError) as caught:
        replayed(run, **overrides)
    return str(caught.value)


def test_the_order_is_recorded_by_local_step_and_ends_when_the_node_does(run: Path) -> None:
    for path in sorted((run / "records").glob("*.jsonl")):
        meetings = [r for r in map(json.loads, path.read_text().splitlines()) if r["kind"] == "meeting"]
        steps = [m["step"] for m in meetings]
        assert steps == sorted(steps)
        assert meetings[-1]["event"] == "left"
        assert meetings[-1]["step"] == 12 * 3
        assert {"begin", "last"} <= {m["event"] for m in meetings}


def test_a_folder_that_holds_no_run_is_named(tmp_path: Path, run: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        replayed(run, **{"algorithm.replay": str(tmp_path / "nothing")})
    assert str(tmp_path / "nothing" / "config.toml") in str(caught.value)


def test_a_run_with_another_config_is_named_with_the_key(run: Path) -> None:
    text = problem(run, **{"train.lr": 0.05})
    assert str(run / "config.toml") in text
    assert "train.lr = 0.1" in text and "0.05" in text
    assert "train.batch" in problem(run, **{"train.batch": 16}), "a machine's own key, but it changes bits"


def test_keys_that_change_no_bit_may_differ(run: Path) -> None:
    ended = np.load(run / "models.npz", allow_pickle=False)["x"]
    again = replayed(run, **{"swarm.name": "again", "swarm.eval_every": 3, "network.latency": 0.5})
    assert np.array_equal(again.models, ended)


def test_a_missing_record_is_named(copy: Path) -> None:
    (copy / "records" / "node-2.jsonl").unlink()
    assert str(copy / "records" / "node-2.jsonl") in problem(copy)


def test_a_run_that_broke_off_is_named(copy: Path) -> None:
    path = copy / "records" / "node-1.jsonl"
    edit_lines(path, lambda lines: lines[: len(lines) // 2])
    assert f"{path}: ends before its node did" in problem(copy)


def test_a_run_of_rounds_has_nothing_to_repeat(copy: Path) -> None:
    path = copy / "records" / "node-0.jsonl"
    edit_lines(path, lambda lines: [line for line in lines if '"meeting"' not in line])
    assert f"{path}: holds no meetings" in problem(copy)


@pytest.mark.parametrize(
    "change",
    [{"step": -1}, {"step": "3"}, {"event": "party"}, {"peer": None}, {"session": "one"}, {"gone": 1}],
)
def test_a_meeting_that_is_none_is_named(change: dict[str, object], copy: Path) -> None:
    path = copy / "records" / "node-0.jsonl"

    def spoil(lines: list[str]) -> list[str]:
        found = [k for k, line in enumerate(lines) if '"meeting"' in line and '"peer"' in line]
        lines[found[1]] = json.dumps({**json.loads(lines[found[1]]), **change}) + "\n"
        return lines

    edit_lines(path, spoil)
    assert f"{path}: holds a meeting that is none" in problem(copy)


def test_a_run_whose_messages_were_doubled_is_refused(copy: Path) -> None:
    with (copy / "config.toml").open("a") as file:
        file.write('\n[[fault]]\nkind = "duplicate"\nat = 0.1\nshare = 0.3\nfor = 1.0\n')

    assert f"{copy / 'config.toml'}: is a run of pairwise whose messages were doubled" in problem(copy)


def test_an_order_that_does_not_follow_is_refused_and_does_not_hang(copy: Path) -> None:
    path = copy / "records" / "node-0.jsonl"

    def spoil(lines: list[str]) -> list[str]:
        lost = next(k for k, line in enumerate(lines) if '"event":"hello"' in line or '"event":"up"' in line)
        return lines[:lost] + lines[lost + 1 :]

    edit_lines(path, spoil)
    text = problem(copy)
    assert str(copy) in text and "does not follow" in text


def test_another_exchange_the_vector_engine_and_real_processes_replay_nothing(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"is a run with algorithm\.exchange = 'pairwise'"):
        gossipfl.simulate(None, engine="events", overrides={"algorithm.replay": str(run)})
    with pytest.raises(ConfigError, match=r"algorithm\.replay"):
        gossipfl.swarm(run / "config.toml", overrides={"algorithm.replay": str(run)})
    with pytest.raises(ConfigError, match=r"gossipfl simulate --engine events"):
        gossipfl.simulate(run / "config.toml", engine="vector")
