"""Records: appended, strict JSON, and readable after any kind of death."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gossipfl.core.events import Note
from gossipfl.drivers.connected import AT_ONCE, Connected
from gossipfl.drivers.neighborhood import End
from gossipfl.records import Form, Recorder, last_round, merge, newest, number, read, read_run, tally

FULL = Path("/dev/full")  # every write to it fails with "no space left on device"


def record(path: Path, node: int, *times: float) -> None:
    with Recorder(path, node, f"node-{node}") as recorder:
        for k, time in enumerate(times):
            recorder.write("round", round=k, time=time, loss=0.5)


def test_a_record_begins_with_the_fixed_keys_and_keeps_its_fields(tmp_path: Path) -> None:
    path = tmp_path / "records" / "node-3.jsonl"
    with Recorder(path, 3, "node-3") as recorder:
        recorder.write("round", round=7, time=1.25, loss=0.5, neighbors=[2, 4])
    line = path.read_text()
    assert list(json.loads(line)) == ["node", "name", "round", "time", "kind", "loss", "neighbors"]
    assert json.loads(line) == {
        "node": 3,
        "name": "node-3",
        "round": 7,
        "time": 1.25,
        "kind": "round",
        "loss": 0.5,
        "neighbors": [2, 4],
    }


def test_a_record_without_fields_is_whole(tmp_path: Path) -> None:
    with Recorder(tmp_path / "a.jsonl", 0, "a") as recorder:
        recorder.write("note", round=0, time=0)
    assert next(read(tmp_path / "a.jsonl"))["kind"] == "note"


def test_names_and_texts_of_any_script_survive(tmp_path: Path) -> None:
    with Recorder(tmp_path / "a.jsonl", 0, 'Zoë "日本"\n') as recorder:
        recorder.write("note", round=0, time=0, text="</script>\u2028\ud800")
    (line,) = read(tmp_path / "a.jsonl")
    assert line["name"] == 'Zoë "日本"\n'
    assert str(line["text"]).startswith("</script>\u2028")


def test_numpy_values_are_written_as_numbers_and_what_is_not_finite_as_null(tmp_path: Path) -> None:
    with Recorder(tmp_path / "a.jsonl", 0, "a") as recorder:
        recorder.write(
            "eval", round=0, time=0, f=np.float32(0.5), i=np.int64(3), v=np.arange(2.0), p=tmp_path
        )
        recorder.write(
            "eval", round=1, time=0, loss=float("nan"), f=np.float32("inf"), v=np.array([1.0, np.nan])
        )
    first, second = read(tmp_path / "a.jsonl")
    assert (first["f"], first["i"], first["v"], first["p"]) == (0.5, 3, [0.0, 1.0], str(tmp_path))
    assert (second["loss"], second["f"], second["v"]) == (None, None, [1.0, None])
    assert "NaN" not in (tmp_path / "a.jsonl").read_text()


def test_lines_are_held_until_flush_and_written_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with Recorder(path, 0, "a") as recorder:
        recorder.write("note", round=0, time=0)
        assert path.stat().st_size == 0
        recorder.flush()
        assert len(list(read(path))) == 1
        recorder.write("note", round=1, time=0)
    assert [r["round"] for r in read(path)] == [0, 1]


def test_what_is_held_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with Recorder(path, 0, "a") as recorder:
        recorder.write("note", round=0, time=0, text="x" * 300_000)
        assert path.stat().st_size > 300_000


def test_a_torn_last_line_is_skipped_and_a_resumed_node_goes_on_after_it(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    record(path, 0, 1.0, 2.0)
    with path.open("ab") as file:
        file.write('{"node":0,"name":"é'.encode()[:-1])  # killed in the middle of a character
    assert len(list(read(path))) == 2
    record(path, 0, 3.0)
    assert [r["time"] for r in read(path)] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("line", [b"[1, 2]", b"7", b"\x00\xff", b"", b"[" * 100_000])
def test_lines_that_are_no_records_are_skipped(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(line + b'\n{"node":1}\n')
    assert list(read(path)) == [{"node": 1}]


def test_the_newest_round_of_a_file_that_grows_is_that_of_its_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    assert last_round(path) == 0
    with Recorder(path, 0, "a") as recorder:
        for round in range(2000):
            recorder.write("round", round=round, time=0.0, loss=0.5, text="x" * 100)
        recorder.write("reset", round=3000, time=1.0)
    assert newest(path, "round")["round"] == 1999 and newest(path, "eval") == {}
    with path.open("a") as file:
        file.write('{"node":0,"round":20')
    assert last_round(path) == 3000


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_said_once_and_never_raised() -> None:
    with Recorder(FULL, 0, "a") as recorder:
        recorder.write("note", round=0, time=0)
        recorder.flush()
        said = recorder.failed
        recorder.write("note", round=1, time=0)
        recorder.flush()
    assert "/dev/full: No space left on device" in said
    assert recorder.failed == said


def test_a_path_that_cannot_be_written_is_said_and_never_raised(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with Recorder(tmp_path / "file" / "a.jsonl", 0, "a") as recorder:
        recorder.write("note", round=0, time=0)
    assert "a.jsonl" in recorder.failed or "file" in recorder.failed


def test_merge_orders_all_nodes_by_time_and_then_node(tmp_path: Path) -> None:
    record(tmp_path / "records" / "node-1.jsonl", 1, 0.0, 1.0, 3.0)
    record(tmp_path / "records" / "node-0.jsonl", 0, 1.0, 2.0)
    path = merge(tmp_path)
    assert path == tmp_path / "metrics.jsonl"
    assert [(r["time"], r["node"]) for r in read(path)] == [(0, 1), (1, 0), (1, 1), (2, 0), (3, 1)]
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["metrics.jsonl", "records"]


def test_merge_leaves_torn_lines_out(tmp_path: Path) -> None:
    record(tmp_path / "records" / "a.jsonl", 0, 0.0)
    with (tmp_path / "records" / "a.jsonl").open("ab") as file:
        file.write(b'{"node":0,"ti')
    record(tmp_path / "records" / "b.jsonl", 1, 0.5)
    assert [json.loads(line)["node"] for line in merge(tmp_path).read_text().splitlines()] == [0, 1]


def test_merge_of_a_run_without_records_keeps_its_metrics(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"node":0}\n')
    assert list(read(merge(tmp_path))) == [{"node": 0}]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert list(read(merge(empty))) == []


def test_a_run_is_read_while_it_is_running_and_after_its_records_are_gone(tmp_path: Path) -> None:
    assert read_run(tmp_path) == []
    record(tmp_path / "records" / "b.jsonl", 1, 0.0, 2.0)
    record(tmp_path / "records" / "a.jsonl", 0, 1.0)
    running = read_run(tmp_path)
    assert [r["time"] for r in running] == [0.0, 1.0, 2.0]
    merge(tmp_path)
    for path in (tmp_path / "records").iterdir():
        path.unlink()
    assert read_run(tmp_path) == running


@pytest.mark.parametrize("kind", sorted(AT_ONCE))
def test_what_befalls_the_neighbors_of_a_node_can_be_read_at_once(kind: str, tmp_path: Path) -> None:
    around = SimpleNamespace(end=lambda peer: End("closed", 0.1))
    with Recorder(tmp_path / "a.jsonl", 0, "a") as recorder:
        node = SimpleNamespace(
            recorder=recorder, rounds=3, now=1.0, _abroad=None, _bypass=None, _around=around
        )
        Connected._note(node, Note(kind, 1))  # type: ignore[arg-type]
        assert [record["kind"] for record in read(recorder.path)] == [kind]


def test_number_reads_fields_of_any_kind() -> None:
    assert number(3) == 3.0
    assert np.isnan(number(None))
    assert [number(v, 0.0) for v in ("7", True, None, [])] == [0.0] * 4


def test_what_happened_is_counted_and_the_first_meeting_is_no_return() -> None:
    records = [
        {"node": 0, "peer": 1, "kind": "peer_up"},
        {"node": 1, "peer": 0, "kind": "peer_up"},
        {"node": 0, "peer": 1, "kind": "suspect"},
        {"node": 0, "peer": 1, "kind": "peer_down"},
        {"node": 0, "peer": 1, "kind": "skip"},
        {"node": 0, "peer": 1, "kind": "skip"},
        {"node": 0, "peer": 1, "kind": "peer_up"},
        {"node": 0, "peer": 1, "kind": "correction"},
        {"node": 0, "kind": "round"},
    ]
    assert tally(records) == {
        "suspects": 1,
        "deaths": 1,
        "rejoined": 1,
        "skips": 2,
        "corrections": 1,
        "rejected": 0,
        "quarantined": 0,
    }


def test_rows_of_numbers_are_the_records_that_write_makes_in_their_place_among_others(tmp_path: Path) -> None:
    form = Form("round", {"loss": float, "neighbors": int})
    for name in ("a", "b"):
        with Recorder(tmp_path / f"{name}.jsonl", 0, "50 % node") as recorder:
            for round, loss in ((1, 0.1), (2, 1e-9), (3, float("nan")), (4, 2.0)):
                if name == "a":
                    recorder.fill(form, round, 0.25, loss, 2)
                else:
                    recorder.write("round", round=round, time=0.25, loss=loss, neighbors=2)
                if round == 2:
                    recorder.write("note", round=round, time=0.25, text="between")
    assert (tmp_path / "a.jsonl").read_text() == (tmp_path / "b.jsonl").read_text()


def test_more_rows_than_are_held_are_all_written(tmp_path: Path) -> None:
    form = Form("round", {"bytes": int})
    with Recorder(tmp_path / "a.jsonl", 0, "a") as recorder:
        for round in range(20_000):
            recorder.fill(form, round, round / 8, 2**40 + round)
    found = list(read(tmp_path / "a.jsonl"))
    assert [r["round"] for r in found] == list(range(20_000))
    assert found[-1]["bytes"] == 2**40 + 19_999
