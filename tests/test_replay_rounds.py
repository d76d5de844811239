"""A run of rounds of real processes in which nodes died, lines broke and payloads came late can be repeated,
to the same bits; what cannot be repeated is refused with the file's name."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import gossipfl
from gossipfl.core.aggregate import Row
from gossipfl.core.events import Adopt, Note, Shift
from gossipfl.drivers.decisions import Closing, Decisions, emitted
from gossipfl.drivers.node import Node
from gossipfl.errors import ConfigError
from gossipfl.records import read
from tests.unit.test_disasters import require_numbers

torch.set_num_threads(1)
pytestmark = pytest.mark.system

FAULTS = {
    "killed": [{"kind": "kill", "round": 8, "node": 1}],
    "late": [
        {"kind": "hang", "round": 5, "node": 0, "for": 0.3},
        {"kind": "drop", "round": 8, "share": 0.05, "for": 0.3},
        {"kind": "kill", "round": 12, "node": 2},
    ],
    "slow": [{"kind": "hang", "round": 5, "node": 0, "for": 1.0}],
    "exact": [{"kind": "kill", "round": 8, "node": 1, "for": 0.2}],
    "lost": [{"kind": "kill", "round": 8, "node": 1, "for": 0.2}],
}
KEYS: dict[str, Mapping[str, object]] = {
    "killed": {"algorithm.rule": "push-sum", "topology.graph": "directed-ring", "swarm.rounds": 20},
    "late": {"wire.deadline": 0.01, "algorithm.rule": "gradient-tracking"},
    "slow": {"wire.deadline": 0.05, "wire.transport": "ipc", "train.task": "quadratic"},
    "exact": {"swarm.checkpoint_every": 1, "algorithm.rule": "dpsgd-cta", "train.momentum": 0.9},
    "lost": {},
}


def text(faults: list[dict[str, object]]) -> str:
    return "\n".join(
        "[[fault]]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in fault.items())
        for fault in faults
    )


def record(folder: Path, case: str, **more: object) -> Path:
    """A run of real processes, in `folder/run`."""
    script = folder / "script.toml"
    script.write_text(text(FAULTS[case]))
    keys = {"swarm.nodes": 4, "swarm.rounds": 60, "swarm.eval_every": 20, **KEYS[case], **more}
    gossipfl.swarm(script, overrides=keys, out=folder / "run")
    return folder / "run"


def replayed(run: Path) -> gossipfl.Result:
    settings = {"algorithm.replay": str(run)}
    return gossipfl.simulate(run / "config.toml", engine="events", overrides=settings)


def records(run: Path, node: str) -> list[dict[str, object]]:
    return list(read(run / "records" / f"{node}.jsonl"))


def kinds(run: Path) -> Counter[object]:
    """How often what was recorded, and where a node came back exactly."""
    found = [record for i in range(4) for record in records(run, f"node-{i}")]
    return Counter([r["kind"] for r in found] + [r["exact"] and "exact" for r in found if "exact" in r])


def problem(run: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        replayed(run)
    return str(caught.value)


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("exact"), "exact")


def require_bits(run: Path) -> None:
    ended = np.load(run / "models.npz", allow_pickle=False)["x"]
    stored = json.loads((run / "summary.json").read_text())

    again = replayed(run)

    living = [i for i, name in enumerate(stored["names"]) if name not in stored["lost"]]
    assert np.array_equal(again.models[living], ended[living])
    assert again.summary["per_node"] == stored["per_node"]
    assert again.summary["rounds"] == stored["rounds"] and again.summary["lost"] == stored["lost"]


def test_a_run_with_a_killed_node_is_repeated_to_the_same_bits(tmp_path: Path) -> None:
    run = record(tmp_path, "killed")
    assert kinds(run)["skip"] and kinds(run)["withheld"]

    require_bits(run)


def test_so_is_one_with_deadlines_whose_payloads_came_late(tmp_path: Path) -> None:
    run = record(tmp_path, "late")
    assert kinds(run)["skip"] and kinds(run)["correction"]
    require_numbers([r for i in range(4) for r in records(run, f"node-{i}")], neighbors=2)

    require_bits(run)


def test_what_a_slow_neighbor_is_still_being_sent_is_not_written_while_a_fast_one_has_it(
    tmp_path: Path,
) -> None:
    # given payloads of which most are still in their sender's memory while the node they go to hangs, and its
    # neighbors go on with the opposite node, in steps that write where the model is
    draw = np.random.default_rng(3)
    a, b = draw.uniform(0.5, 1.5, (4, 400_000)), draw.normal(size=(4, 400_000))
    np.savez(tmp_path / "quadratic.npz", a=a, b=b)

    run = record(tmp_path, "slow", **{"task.file": str(tmp_path / "quadratic.npz")})

    assert kinds(run)["skip"] and kinds(run)["correction"]
    require_bits(run)


def test_so_is_one_whose_node_came_back_exactly(exact: Path) -> None:
    assert kinds(exact)["exact"] and kinds(exact)["skip"]

    require_bits(exact)


def test_a_node_that_came_back_without_its_exact_state_is_named(tmp_path: Path) -> None:
    run = record(tmp_path, "lost")

    wrong = "is of a node that came back without its exact state"
    assert f"{run / 'records' / 'node-1.jsonl'}: {wrong}" in problem(run)


def test_what_does_not_follow_is_named_where_it_begins(exact: Path, tmp_path: Path) -> None:
    # given records whose node 0 had another loss once
    copy = Path(shutil.copytree(exact, tmp_path / "copy"))
    changed = records(copy, "node-0")
    next(r for r in changed if r["kind"] == "round" and r["round"] == 3)["loss"] = 0.5
    lines = [json.dumps(record) + "\n" for record in changed]
    (copy / "records" / "node-0.jsonl").write_text("".join(lines))

    text = problem(copy)

    assert "node 0 has a loss of" in text and "in round 3, and had 0.5" in text


def spoilt(exact: Path, folder: Path) -> Path:
    return Path(shutil.copytree(exact, folder / "spoilt"))


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.9])
def test_records_that_do_not_reach_the_last_round_are_named(kept: float, exact: Path, tmp_path: Path) -> None:
    copy = spoilt(exact, tmp_path)
    path = copy / "records" / "node-2.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: int(kept * len(lines))]) + "garbage")

    assert f"{path}: does not tell of round" in problem(copy)


def test_a_replay_that_ends_at_other_bits_says_so_and_leaves_no_folder_in_use(
    exact: Path, tmp_path: Path
) -> None:
    # given a run one of whose parameters was another by its lowest bit
    copy = spoilt(exact, tmp_path)
    with np.load(copy / "models.npz", allow_pickle=False) as stored:
        arrays = dict(stored)
    arrays["x"][3, 5] = np.nextafter(arrays["x"][3, 5], np.float32(np.inf))
    np.savez(copy / "models.npz", **arrays)

    with pytest.raises(ConfigError) as caught:
        gossipfl.simulate(
            copy / "config.toml",
            engine="events",
            overrides={"algorithm.replay": str(copy)},
            out=tmp_path / "out",
        )

    assert f"{copy / 'models.npz'}: has other parameters of node-3" in str(caught.value)
    assert not any((tmp_path / "out").iterdir())
    (copy / "models.npz").write_bytes(b"PK")
    assert f"{copy / 'models.npz'}: holds no models" in problem(copy)


@pytest.mark.parametrize(
    "record",
    [
        {"kind": "skip", "round": 3, "peer": 99},
        {"kind": "withheld", "round": 3, "peer": -1},
        {"kind": "correction", "round": 3, "peer": 1, "of": 60},
        {"kind": "note", "round": 3, "onward": 3},
        {"kind": "round", "round": 61},
    ],
)
def test_a_record_of_what_there_is_not_is_named(
    record: dict[str, object], exact: Path, tmp_path: Path
) -> None:
    copy = spoilt(exact, tmp_path)
    path = copy / "records" / "node-0.jsonl"
    with path.open("a") as file:
        file.write(json.dumps({"node": 0, "name": "node-0", "time": 0.5, **record}) + "\n")

    assert f"{path}: holds a record that is none" in problem(copy)


def test_a_lost_node_that_there_is_not_is_named(exact: Path, tmp_path: Path) -> None:
    copy = spoilt(exact, tmp_path)
    path = copy / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "lost": ["node-99"]}))

    assert f"{path}: has lost a node node-99, and there is none" in problem(copy)


@pytest.mark.parametrize("checkpoint", [True, False])
def test_what_shifts_the_model_waits_until_the_closed_round_is_taken_up(checkpoint: bool) -> None:
    # given a node whose last round is closed while a late payload is there
    node, done = Node.__new__(Node), list[str]()
    node.learner = SimpleNamespace(vector=torch.zeros(2), load=lambda x: done.append(f"load {x.tolist()}"))  # type: ignore[assignment]
    node.recorder = SimpleNamespace(write=lambda kind, **_: done.append(kind), flush=lambda: None)  # type: ignore[assignment]
    node._keeping = SimpleNamespace(due=lambda round: checkpoint)  # type: ignore[assignment]
    node._plan = SimpleNamespace(config=None)  # type: ignore[assignment]
    node.rounds, node._epoch, node._held, node._adopted, node._abroad = 3, 0.0, [], None, None
    adopt = Adopt(3, torch.ones(2), (), (), ())
    late = [Shift(torch.ones(2)), Note("correction", 1, round=2)]

    # when
    node._do([adopt, Note("skip", 1, round=3), *late])
    node._do(late)  # of another payload, before the node looks

    # then
    assert done == ["skip"] and node._adopted is adopt
    held, node._held, node._adopted = node._held, [], None
    node._do(held)
    assert done == ["skip", *["load [1.0, 1.0]", "shift", "correction"] * 2]


def test_what_cannot_be_compared_is_said(exact: Path, tmp_path: Path) -> None:
    run = shutil.copytree(exact, tmp_path / "run")
    (run / "models.npz").unlink()

    (told,) = replayed(run).summary["notes"]

    assert "models.npz is not there" in told


def test_a_run_that_broke_off_is_named(exact: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(exact, tmp_path / "copy"))
    (copy / "summary.json").unlink()

    assert f"{copy / 'summary.json'}: cannot be read" in problem(copy)


def test_the_last_rounds_of_a_node_that_was_killed_follow_from_what_others_took_in() -> None:
    """Nodes 1 and 2 were killed before they wrote down what they did last."""
    rows = [Row(i, tuple(sorted((j % 4, 1 / 3) for j in (i - 1, i, i + 1)))) for i in range(4)]
    whole = {round: Closing() for round in range(10)}
    zero, three = Decisions(whole | {9: Closing(absent={1})}), Decisions(whole | {7: Closing(absent={2})})
    two = Decisions({round: Closing() for round in range(4)})
    three.closings |= {8: Closing(absent={2}), 9: Closing(absent={2})}

    # node 0 took in the payload of round 8 of node 1, which had closed round 7 with that of node 2 by then
    found = emitted([zero, Decisions(), two, three], [lambda t, row=row: row for row in rows])  # type: ignore[misc]

    assert found == [9, 8, 7, 9]
    assert list(Decisions().made(8)) == list(range(8))
