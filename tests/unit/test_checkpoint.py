"""A checkpoint is there whole or not at all, and what is wrong with one is said."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from gossipfl.config import load_config
from gossipfl.drivers import checkpoint, resuming
from gossipfl.drivers.common_round import Hold, stay
from gossipfl.drivers.keeping import Keeping, Life
from gossipfl.errors import ConfigError
from gossipfl.learning import workload

torch.set_num_threads(1)

NAMES = ("node-0", "node-1", "node-2")
CONFIG = load_config({"swarm.nodes": 3, "swarm.rounds": 100})
TREE = {"x": torch.arange(5.0), "list": [1, None, 0.1, {"a.b": torch.ones(2)}], "empty": torch.empty(0)}


def written(folder: Path, rounds: dict[str, list[int]], **header: Any) -> Path:
    for name, found in rounds.items():
        for round in found:
            head = {"essentials": checkpoint.essentials(CONFIG), "records": 0, **header}
            checkpoint.write(folder / checkpoint.FOLDER / name, round, head, TREE)
    return folder


def place(folder: Path, name: str, round: int) -> Path:
    return folder / checkpoint.FOLDER / name / f"{round:08d}"


def refused(folder: Path, **changes: object) -> list[str]:
    with pytest.raises(ConfigError) as error:
        resuming.find(folder, load_config(CONFIG, changes or None))
    return [str(problem) for problem in error.value.problems]


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    written(tmp_path, {"node-0": [7]}, note="n")

    said, tree = checkpoint.load(tmp_path / checkpoint.FOLDER / "node-0", 7)

    assert (said["round"], said["note"]) == (7, "n")
    assert torch.equal(tree["x"], TREE["x"]) and torch.equal(tree["list"][3]["a.b"], torch.ones(2))
    assert tree["list"][:3] == [1, None, 0.1] and not len(tree["empty"])


@pytest.mark.parametrize("file", ["state.json", "state.safetensors"])
@pytest.mark.parametrize("how", ["cut", "flipped", "gone", "empty"])
def test_a_damaged_checkpoint_is_told_of_and_an_older_one_taken(file: str, how: str, tmp_path: Path) -> None:
    written(tmp_path, {name: [10, 20] for name in NAMES})
    path = place(tmp_path, "node-1", 20) / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    match how:
        case "cut":
            path.write_bytes(path.read_bytes()[:-9])
        case "flipped":
            path.write_bytes(data)
        case "gone":
            path.unlink()
        case _:
            path.write_bytes(b"")

    found = resuming.find(tmp_path, CONFIG)

    assert dict(found.rounds) == dict.fromkeys(NAMES, 10)
    assert (
        len(found.notes) == 1
        and f"node-1/00000020 {'cannot be read' if how == 'gone' else 'is'}" in found.notes[0]
    )
    assert found.notes[0].endswith("an older one is taken") and file in found.notes[0]

    place(tmp_path, "node-2", 10).joinpath("state.json").write_text("{}")
    assert "damaged" in refused(tmp_path)[0] or how == "gone"


def test_another_version_is_named(tmp_path: Path) -> None:
    written(tmp_path, {name: [10] for name in NAMES}, version=checkpoint.VERSION + 1)

    assert "is of version 2 of the files, this gossipfl reads 1" in refused(tmp_path)[0]


def test_a_folder_without_checkpoints_says_how_to_have_some(tmp_path: Path) -> None:
    assert refused(tmp_path) == [
        f"--resume: {tmp_path} holds no checkpoint; nodes write them where swarm.checkpoint_every is set"
    ]


def test_nodes_go_on_from_the_newest_round_that_all_have(tmp_path: Path) -> None:
    written(tmp_path, {"node-0": [10, 20, 30], "node-1": [10, 20], "node-2": [20, 30]})
    assert set(resuming.find(tmp_path, CONFIG).rounds.values()) == {20}


def test_where_nothing_is_common_nobody_is_left_out_unless_it_was_lost(tmp_path: Path) -> None:
    written(tmp_path, {"node-0": [50, 60], "node-1": [10], "node-2": [50, 60]})
    assert "no round in common: node-1 has none after round 10" in refused(tmp_path)[0]

    checkpoint.mark_lost(tmp_path / checkpoint.FOLDER / "node-1", "killed")
    found = resuming.find(tmp_path, CONFIG)

    assert dict(found.rounds) == {"node-0": 60, "node-2": 60} and list(found.lost) == ["node-1"]


@pytest.mark.parametrize(("newest", "lost"), [(60, ["node-1"]), (12, [])])
def test_who_was_lost_long_before_does_not_take_the_others_back(
    tmp_path: Path, newest: int, lost: list[str]
) -> None:
    # the oldest is there because one of the others was far behind
    written(tmp_path, {"node-0": [10, newest], "node-1": [10], "node-2": [10, newest]})
    checkpoint.mark_lost(tmp_path / checkpoint.FOLDER / "node-1", "killed")

    found = resuming.find(tmp_path, CONFIG)

    assert list(found.lost) == lost
    assert set(found.rounds.values()) == {newest if lost else 10}


def test_only_who_was_lost_long_before_is_left_out(tmp_path: Path) -> None:
    written(tmp_path, {"node-0": [10, 60, 61], "node-1": [10], "node-2": [10, 60]})
    for name in ("node-1", "node-2"):
        checkpoint.mark_lost(tmp_path / checkpoint.FOLDER / name, "killed")

    found = resuming.find(tmp_path, CONFIG)

    assert list(found.lost) == ["node-1"] and dict(found.rounds) == {"node-0": 60, "node-2": 60}


def test_what_matters_must_be_as_it_was_and_the_rest_may_change(tmp_path: Path) -> None:
    written(tmp_path, {name: [10] for name in NAMES})

    assert refused(tmp_path, **{"train.lr": 0.2, "algorithm.rule": "qg"}) == [
        f"algorithm.rule: is qg, and was dpsgd in {tmp_path}; as it was",
        f"train.lr: is 0.2, and was 0.1 in {tmp_path}; as it was",
    ]
    assert refused(tmp_path, **{"swarm.nodes": 4}) == [
        f"swarm.nodes: is 4, and was 3 in {tmp_path}; as it was"
    ]
    older = checkpoint.essentials(CONFIG)  # as written before some key existed
    assert older.pop("train.clip") == 0.0
    written(tmp_path, {name: [12] for name in NAMES}, essentials=older)
    assert refused(tmp_path, **{"train.clip": 1.0}) == [
        f"train.clip: is 1.0, and was 0.0 in {tmp_path}; as it was"
    ]
    free = {"swarm.rounds": 500, "swarm.eval_every": 3, "wire.transport": "tcp", "stop.patience": 3}
    assert set(resuming.find(tmp_path, load_config(CONFIG, free)).rounds.values()) == {12}
    done = load_config(CONFIG, {"swarm.rounds": 10})
    assert set(resuming.find(tmp_path, done).rounds.values()) == {12}  # it was killed before it was summed up
    (tmp_path / resuming.SUMMARY).touch()
    assert "has made 12" in refused(tmp_path, **{"swarm.rounds": 10})[0]


def test_records_after_the_checkpoint_are_cut_and_later_checkpoints_go(tmp_path: Path) -> None:
    written(tmp_path, {name: [10] for name in NAMES}, records=4)
    written(tmp_path, {"node-0": [20]})
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "node-0.jsonl").write_text("{}\n\n{}")
    place(tmp_path, "node-0", 0).with_name(".part-00000030").mkdir()

    resuming.rewind(tmp_path, resuming.find(tmp_path, CONFIG))

    assert (tmp_path / "records" / "node-0.jsonl").read_text() == "{}\n\n"
    assert [p.name for p in place(tmp_path, "node-0", 0).parent.iterdir()] == ["00000010"]


def test_the_newest_two_are_kept_and_everything_that_somebody_may_go_back_to(tmp_path: Path) -> None:
    written(tmp_path, {"node-0": list(range(1, 9))})
    folder = tmp_path / checkpoint.FOLDER / "node-0"

    for hold, most, kept in (
        (Hold(), 8, [1, 2, 3, 4, 5, 6, 7, 8]),
        (Hold(4), 8, [4, 5, 6, 7, 8]),
        (Hold(4), 3, [4, 7, 8]),
        (Hold(4, 5), 3, [4, 5, 7, 8]),
        (Hold(8), 3, [7, 8]),
        (None, 3, [7, 8]),
    ):
        assert sorted(stay(range(1, 9), hold, most)) == kept
    checkpoint.prune(folder, {4, 7, 8, 9})
    assert checkpoint.rounds(folder) == [4, 7, 8]


def test_nothing_goes_before_it_is_known_that_all_have_something_newer(tmp_path: Path) -> None:
    config = load_config(CONFIG, {"swarm.checkpoint_every": 1})
    learner = workload.workload(config).learner(0)
    keeping = Keeping(config, 0, tmp_path, dict.fromkeys(resuming.HASHES, ""), pytest.fail)

    keeping.hold = Hold()
    for round in range(1, 5):
        keeping.write(round, Life(0.0, 0.0, 0, 0, None), {}, learner)
    assert checkpoint.rounds(keeping.folder) == [1, 2, 3, 4]

    keeping.hold = Hold(4)
    keeping.write(5, Life(0.0, 0.0, 0, 0, None), {}, learner)
    assert checkpoint.rounds(keeping.folder) == [4, 5]


def test_a_place_that_cannot_be_written_costs_the_checkpoint_and_a_line(tmp_path: Path) -> None:
    config = load_config(CONFIG, {"swarm.checkpoint_every": 5})
    (tmp_path / checkpoint.FOLDER).write_text("in the way")
    learner, said = workload.workload(config).learner(0), list[str]()
    keeping = Keeping(config, 0, tmp_path, dict.fromkeys(resuming.HASHES, ""), said.append)

    for round in (5, 10):
        assert keeping.due(round)
        assert keeping.write(round, Life(0.0, 0.0, 0, 0, None), {}, learner) is None
        assert not keeping.due(round)

    assert len(said) == 1 and said[0].endswith("the checkpoint of round 5 is not kept")
    (tmp_path / checkpoint.FOLDER).unlink()
    assert keeping.write(15, Life(0.0, 0.0, 0, 0, None), {}, learner)


def _writes(folder: str) -> None:
    torch.set_num_threads(1)
    for round in count(1):
        x = torch.full((200_000,), float(round))
        checkpoint.write(Path(folder), round, {}, {"x": x, "round": round})
        checkpoint.prune(Path(folder), {round, round - 1})


def test_a_kill_at_any_instant_leaves_one_that_can_be_read(tmp_path: Path) -> None:
    die, last = random.Random(), 0
    kills = int(os.environ.get("GOSSIPFL_KILLS", "12"))
    for kill in range(kills):
        folder = tmp_path / str(kill)
        process = multiprocessing.get_context("fork").Process(target=_writes, args=(str(folder),))
        process.start()
        end = time.monotonic() + 60
        while len(checkpoint.rounds(folder)) < 2 and time.monotonic() < end:
            time.sleep(0.001)
        time.sleep(die.random() * 0.05)  # the instant
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()

        found = checkpoint.rounds(folder)
        assert 1 <= len(found) <= 3
        for round in found:
            _, tree = checkpoint.load(folder, round)
            assert tree["round"] == round and bool((tree["x"] == round).all()) and len(tree["x"]) == 200_000
        last = max(last, found[-1])
        checkpoint.clear(folder, found[-1])
        assert not list(folder.glob(".*"))
    assert last > 2


@pytest.mark.parametrize(
    "name",
    sorted(
        name
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type)
        and issubclass(kind, torch.optim.Optimizer)
        and kind is not torch.optim.Optimizer
        and name not in ("SparseAdam", "Muon")  # they take no dense, or no one-dimensional, gradients
    ),
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_optimizer_goes_on_to_the_bit(name: str, dtype: str, tmp_path: Path) -> None:
    keys = {"swarm.nodes": 2, "train.optimizer": name.lower(), "train.lr": 0.01, "train.dtype": dtype}
    load = workload.workload(load_config(keys))
    whole, other = load.learner(0), load.learner(0)
    for round in range(3):
        whole.phase(round)

    checkpoint.write(tmp_path, 3, {}, whole.kept())
    other.restore(checkpoint.load(tmp_path, 3)[1])

    assert torch.equal(other.vector, whole.vector)
    for round in (3, 4):
        assert whole.phase(round) == other.phase(round)
    assert torch.equal(other.vector, whole.vector)
