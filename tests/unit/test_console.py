"""The live display: a table on a terminal, plain lines elsewhere, and never an error of its own."""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from gossipfl.config import Config, load_config
from gossipfl.core.sketch import encode, sketch
from gossipfl.observe.board import Board, Row
from gossipfl.observe.console import Live, columns_of, fitting, no_table, sparkline
from gossipfl.observe.follow import Follower
from gossipfl.observe.metrics import higher_is_better, metrics_of, size, span, text
from gossipfl.records import Recorder


def config(nodes: int = 3, rounds: int = 20) -> Config:
    return load_config(None, {"swarm.nodes": nodes, "swarm.rounds": rounds})


def round_record(node: int, round: int, **fields: object) -> dict[str, object]:
    usual = {"loss": 0.5, "train_s": 0.06, "wait_s": 0.03, "mix_s": 0.01, "sent_bytes": 1000, "neighbors": 2}
    return {"node": node, "round": round, "time": round / 10, "kind": "round"} | usual | fields


def eval_record(node: int, round: int, accuracy: float, **fields: object) -> dict[str, object]:
    usual = {"loss": 1.0, "accuracy": accuracy}
    return {"node": node, "round": round, "time": round / 10, "kind": "eval"} | usual | fields


def plain(records: list[dict[str, object]], nodes: int = 3, **options: bool) -> list[str]:
    stream = io.StringIO()
    with Live(config(nodes), stream=stream, **options) as live:
        for record in records:
            live(record)
    return stream.getvalue().splitlines()


class Terminal:
    """A real terminal whose screen output is collected."""

    def __init__(self) -> None:
        self.output = b""

    @contextmanager
    def open(self) -> Iterator[io.TextIOWrapper]:
        controller, terminal = pty.openpty()
        reader = threading.Thread(target=self._collect, args=(controller,))
        reader.start()
        try:
            with os.fdopen(terminal, "w", encoding="utf-8") as stream:
                yield stream
        finally:  # the block may end in an interrupt, and what came before it is still to be read
            reader.join()
            os.close(controller)

    def _collect(self, controller: int) -> None:
        try:
            while data := os.read(controller, 65536):
                self.output += data
        except OSError:  # Linux says EIO when the other end is closed
            return

    def wait_for(self, text: str, since: int = 0) -> bool:
        """Has this been written, by now or within a minute?"""
        end = time.monotonic() + 60
        while text.encode() not in self.output[since:] and time.monotonic() < end:
            time.sleep(0.005)
        return text.encode() in self.output[since:]

    def text(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.output.decode())


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "40")
    monkeypatch.setenv("TERM", "xterm-256color")
    return Terminal()


# ---------------------------------------------------------------- plain lines


def test_without_a_terminal_each_complete_evaluation_is_one_plain_line() -> None:
    lines = plain([eval_record(i, 10, a) for i, a in enumerate((0.9, 0.8, 0.7))])
    assert lines == ["round 10/20  accuracy 0.800 (min 0.700 max 0.900)  1.0 s"]


def test_the_line_comes_when_the_last_node_has_reported_and_not_before() -> None:
    stream = io.StringIO()
    with Live(config(2), stream=stream) as live:
        live(eval_record(0, 10, 0.5))
        assert stream.getvalue() == ""
        live(eval_record(1, 10, 0.5))
        assert stream.getvalue().startswith("round 10/20")


def test_sketches_of_all_nodes_give_the_consensus_distance() -> None:
    x = np.random.default_rng(0).normal(size=(3, 4000))
    lines = plain([eval_record(i, 10, 0.5, sketch=encode(sketch(x[i], 0))) for i in range(3)])
    said = float(re.findall(r"consensus (\S+)", lines[0])[0])
    exact = np.sqrt(np.mean(np.sum((x - x.mean(axis=0)) ** 2, axis=1)))
    assert said == pytest.approx(exact, rel=0.1)


def test_an_exact_consensus_distance_is_taken_as_it_is() -> None:
    lines = plain([eval_record(i, 10, 0.5, consensus_distance=0.25) for i in range(3)])
    assert "consensus 0.250" in lines[0]


def test_a_lost_node_is_no_longer_waited_for() -> None:
    lines = plain(
        [
            round_record(1, 7),
            eval_record(0, 10, 0.5),
            eval_record(2, 10, 0.7),
            {"node": 0, "round": 10, "kind": "peer_down", "peer": 1},
            {"node": 2, "round": 10, "kind": "peer_down", "peer": "node-1"},
        ]
    )
    assert lines == [
        "round 10/20  accuracy 0.600 (min 0.500 max 0.700)  1.0 s",
    ]


def test_an_evaluation_that_stays_incomplete_is_told_at_the_end() -> None:
    assert plain([eval_record(0, 10, 0.5)]) == ["round 10/20  accuracy 0.500 (min 0.500 max 0.500)  1.0 s"]


def test_a_node_that_is_done_is_not_lost_when_it_leaves() -> None:
    board = Board(["node-0", "node-1"], 20)
    board.take(round_record(1, 20))
    board.take({"node": 0, "round": 20, "kind": "peer_down", "peer": 1})
    assert board.rows[1].state == "done"


def test_a_node_is_suspected_lost_and_back_with_the_times_of_that() -> None:
    # given what node 0 says of node 1, and node 1 of itself
    board = Board(["node-0", "node-1"], 20)

    def shown(record: dict[str, object]) -> tuple[str, float]:
        board.take({"round": 5, **record})
        return board.rows[1].state, board.rows[1].since

    about = {"node": 0, "peer": 1}
    assert shown({**about, "kind": "peer_up", "time": 0.1})[0] == "starting"
    assert shown({**round_record(1, 5), "time": 1.0})[0] == "up"
    assert shown({**about, "kind": "suspect", "time": 5.0, "since": 4.2}) == ("suspect", 4.2)
    assert shown({**round_record(1, 6), "time": 4.1}) == ("suspect", 4.2)
    assert shown({**about, "kind": "alive", "time": 5.2})[0] == "up"
    assert shown({**about, "kind": "suspect", "time": 7.0, "since": 6.2}) == ("suspect", 6.2)
    assert shown({**about, "kind": "peer_down", "time": 7.5}) == ("lost", 7.5)
    # then what it wrote before that, and is read now, does not bring it back
    assert shown({**round_record(1, 7), "time": 6.0}) == ("lost", 7.5)
    assert shown({**about, "kind": "peer_up", "time": 9.0}) == ("rejoined", 9.0)
    # and after a while it is one like the others
    assert shown({**round_record(1, 8), "time": 12.0}) == ("rejoined", 9.0)
    assert shown({**round_record(1, 9), "time": 20.0})[0] == "up"


def test_quiet_tells_only_notes_and_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    with Live(config(1), quiet=True, stream=stream) as live:
        live(eval_record(0, 10, 0.5))
        live.note("the disk is full")
    assert stream.getvalue() == ""
    assert capsys.readouterr().err == "the disk is full\n"


def test_a_note_is_one_line_whatever_is_in_it() -> None:
    stream = io.StringIO()
    with Live(config(), stream=stream) as live:
        live.note("first\n  second\tthird")
    assert stream.getvalue() == "first second third\n"


def test_what_the_stream_cannot_encode_is_replaced() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    with Live(config(), stream=stream) as live:
        live.note("naïve")
    assert raw.getvalue() == b"na?ve\n"


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"node": None, "kind": "round"},
        {"node": 99, "round": 1, "kind": "round"},
        {"node": -1, "round": 1, "kind": "eval"},
        {"node": 0, "round": "soon", "kind": "eval"},
        {"node": 0, "round": 1, "kind": "round", "loss": None, "neighbors": "two", "sent_bytes": []},
        {"node": 0, "round": 1, "kind": "eval", "accuracy": None, "sketch": "####"},
        {"node": 0, "round": 1, "kind": "eval"},
        {"node": 0, "round": 1, "kind": "peer_down"},
        {"node": 0, "round": 1, "kind": "peer_down", "peer": 4.5},
        {"node": 0, "round": 1, "kind": "something new"},
        {"node": 0, "round": 1, "kind": ["odd"]},
    ],
)
def test_odd_records_never_raise(record: Mapping[str, object], terminal: Terminal) -> None:
    with Live(config(), stream=io.StringIO()) as live:
        live(record)
    with terminal.open() as stream, Live(config(), stream=stream) as live:
        live(record)
    assert "node-2" in terminal.text()


# ---------------------------------------------------------------- a terminal


def test_on_a_terminal_a_table_shows_every_node(terminal: Terminal) -> None:
    with terminal.open() as stream, Live(config(), stream=stream) as live:
        for i in range(3):
            live(round_record(i, 10, loss=0.125 + i))
            live(eval_record(i, 10, 0.9))
        live(round_record(0, 20))
        live(
            {"node": 0, "round": 10, "kind": "peer_down", "peer": 2, "time": 12.34},
        )
        live.note("something to know")
    screen = terminal.text().rsplit("demo · 3 nodes · ring · dpsgd · digits", 1)[1]
    assert "accuracy 0.900" in screen
    assert re.search(r"node-0 +20 .* 2 kB +30% +done", screen)
    assert re.search(r"node-1 +10 +1.12 +0.900 +2 +1 kB +30% +up", screen)
    assert re.search(r"node-2 +10 .* lost at 12.3 s", screen)
    assert "! something to know" in screen


def test_of_many_nodes_the_worst_ten_are_shown(terminal: Terminal) -> None:
    with terminal.open() as stream, Live(config(100), stream=stream) as live:
        for i in range(100):
            live(eval_record(i, 10, 1 - i / 200))
    screen = terminal.text().rsplit("100 up", 1)[1]
    assert "the worst 10" in screen
    assert set(re.findall(r"node-\d+", screen)) == {f"node-{i}" for i in range(90, 100)}


def test_the_table_fits_a_small_terminal(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "16")
    with terminal.open() as stream, Live(config(20), stream=stream) as live:
        live(eval_record(7, 10, 0.5))
    screen = terminal.text().rsplit("demo · 20 nodes", 1)[1]
    assert len(screen.splitlines()) <= 16
    assert "node-7" in screen


@pytest.mark.parametrize(
    ("columns", "heads"),
    [
        (36, "node round state"),
        (42, "node round accuracy state"),
        (60, "node round loss accuracy waiting state"),
        (100, "node round loss accuracy neighbors sent waiting state"),
    ],
)
def test_a_narrow_table_leaves_columns_out_and_keeps_the_others_whole(
    columns: int, heads: str, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    with terminal.open() as stream, Live(config(), stream=stream) as live:
        for i in range(3):
            live(round_record(i, 10))
            live(eval_record(i, 10, 0.9))
        live({"node": 0, "round": 10, "kind": "peer_down", "peer": 2, "time": 12.34})
    rows = terminal.text().rsplit("demo · 3", 1)[1].splitlines()
    assert heads.split() in [row.split() for row in rows]
    assert any(re.match(r"node-2 +10 .*lost at 12.3 s *$", row) for row in rows)
    assert not any("…" in row for row in rows if row.startswith(("node", "round")))


def test_where_hardly_anything_fits_the_state_goes_without_its_time() -> None:
    row = Row("a-name-of-some-length", round=1200, state="rejoined", since=12.3)
    columns = fitting(columns_of("accuracy"), [row], 40)
    assert [column.write(row) for column in columns] == ["a-name-of-some-length", "1200", "rejoined"]


@pytest.mark.skipif(not hasattr(signal, "SIGTSTP"), reason="nothing is stopped here")
def test_after_ctrl_z_the_table_is_drawn_beneath_what_the_shell_wrote(terminal: Terminal) -> None:
    program = """
import sys
from gossipfl.config import load_config
from gossipfl.observe.console import Live
with Live(load_config(None, {"swarm.nodes": 3})):
    sys.stdin.read()
"""
    with terminal.open() as stream, ExitStack() as stack:
        # given a table, of a process that a shell of this session could let go on
        running = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=stream, process_group=0
        )
        stack.callback(running.kill)
        assert terminal.wait_for("node-2") and running.stdin is not None
        # when it is stopped, and goes on
        running.send_signal(signal.SIGTSTP)
        assert os.WIFSTOPPED(os.waitpid(running.pid, os.WUNTRACED)[1])
        assert terminal.wait_for("\x1b[?25h"), "the shell has its cursor"
        before = len(terminal.output)
        running.send_signal(signal.SIGCONT)
        assert terminal.wait_for("node-2", before)
        running.stdin.close()
        assert running.wait(60) == 0
    # then no line goes up before the new table is there
    anew = terminal.output[before:].decode()
    assert "\x1b[1A" not in anew[: anew.index("node-0")]


def test_the_cursor_is_back_after_an_interrupt(terminal: Terminal) -> None:
    with pytest.raises(KeyboardInterrupt), terminal.open() as stream, Live(config(), stream=stream) as live:
        live(round_record(0, 3))
        raise KeyboardInterrupt
    assert terminal.output.rfind(b"\x1b[?25h") > terminal.output.rfind(b"\x1b[?25l") >= 0
    assert threading.active_count() == 1


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_plain_lines_without_escape_codes_where_they_are_asked_for(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with terminal.open() as stream, Live(config(1), stream=stream) as live:
        live(eval_record(0, 10, 0.5))
    assert terminal.output.decode().splitlines() == [
        "round 10/20  accuracy 0.500 (min 0.500 max 0.500)  1.0 s"
    ]


def test_a_terminal_that_is_not_utf8_gets_plain_lines(terminal: Terminal) -> None:
    with terminal.open() as stream:
        assert not no_table(stream)
        stream.reconfigure(encoding="latin-1")
        assert no_table(stream)


# ---------------------------------------------------------------- pieces


def test_the_worst_are_the_lost_then_the_lowest_accuracy() -> None:
    board = Board(["a", "b", "c", "d"], 20)
    for i, accuracy in enumerate((0.9, 0.2, 0.5, 0.8)):
        board.take(eval_record(i, 10, accuracy))
    board.lost("d")
    assert [row.name for row in board.worst(3)] == ["d", "b", "c"]


def test_the_round_of_a_swarm_is_not_that_of_one_who_comes_back_and_never_goes_down() -> None:
    board = Board(["a", "b", "c"], 200)
    for i, round in enumerate((160, 161, 68)):
        board.take(round_record(i, round))
    assert board.round == 160
    board.lost(1)
    board.take({"node": 0, "round": 160, "kind": "peer_up", "peer": 2, "time": 30.0})
    assert board.round == 160


def test_the_last_round_is_everyones() -> None:
    board = Board(["a", "b", "c"], 20)
    board.take(round_record(0, 20))
    board.take(round_record(1, 20))
    assert board.round == 19
    board.take(round_record(2, 20))
    assert board.round == 20


def test_for_an_error_the_worst_is_the_highest() -> None:
    board = Board(["a", "b"], 20)
    for i, error in enumerate((0.1, 3.0)):
        board.take({"node": i, "round": 1, "kind": "eval", "error": error})
    assert not board.higher_is_better
    assert board.worst(1)[0].name == "b"


def test_the_headline_is_the_first_metric_and_loss_only_where_there_is_no_other() -> None:
    assert list(metrics_of(eval_record(0, 1, 0.5, f1=0.4, sketch="..."))) == ["accuracy", "f1", "loss"]
    assert list(metrics_of({"kind": "eval", "loss": 1.0})) == ["loss"]


@pytest.mark.parametrize(
    ("metric", "higher"),
    [
        ("accuracy", True),
        ("f1", True),
        ("auc", True),
        ("loss", False),
        ("error_rate", False),
        ("RMSE", False),
    ],
)
def test_a_metric_s_name_says_which_way_is_better(metric: str, higher: bool) -> None:
    assert higher_is_better(metric) is higher


def test_a_sparkline_rises_with_its_values() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([]) == sparkline([float("nan")]) == ""
    assert len(sparkline(list(range(1000)))) == 24


def test_numbers_are_written_for_people() -> None:
    assert [text(v) for v in (0.9123, 12.345, 1234.5, 0.0, 1.5e-7, 2e9, float("nan"))] == [
        "0.912", "12.3", "1,234", "0", "1.50e-7", "2.00e9", "–",
    ]  # fmt: skip
    assert [size(v) for v in (12, 1500, 2.5e6, 3e12)] == ["12 B", "1.5 kB", "2.5 MB", "3 TB"]
    assert [span(v) for v in (0.0005, 0.25, 12.34, 245, 7800)] == [
        "500 µs", "250 ms", "12.3 s", "4 min 05 s", "2 h 10 min",
    ]  # fmt: skip


# ---------------------------------------------------------------- following files


def test_a_follower_gives_each_record_once_as_files_appear_and_grow(tmp_path: Path) -> None:
    follower = Follower(tmp_path)
    assert follower.poll() == []  # nothing there yet, not even the folder
    records = tmp_path / "records"
    with Recorder(records / "b.jsonl", 1, "b") as b:
        b.write("note", round=0, time=2.0)
        b.flush()
        assert [r["node"] for r in follower.poll()] == [1]
        with Recorder(records / "a.jsonl", 0, "a") as a:
            a.write("note", round=0, time=3.0)
        b.write("note", round=1, time=2.5)
        b.flush()
        assert [(r["node"], r["time"]) for r in follower.poll()] == [(1, 2.5), (0, 3.0)]
        assert follower.poll() == []


def test_a_follower_waits_until_a_torn_line_is_whole(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    path, follower = tmp_path / "records" / "a.jsonl", Follower(tmp_path)
    path.write_bytes(b'{"node":0}\n{"no')
    assert follower.poll() == [{"node": 0}]
    assert follower.poll() == []
    with path.open("ab") as file:
        file.write(b'de":1}\nrubbish\n')
    assert follower.poll() == [{"node": 1}]


def test_a_follower_takes_a_line_of_any_length(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    follower = Follower(tmp_path)
    long = "x" * (5 << 20)
    (tmp_path / "records" / "a.jsonl").write_text(f'{{"text":"{long}"}}\n')
    assert follower.poll() == [{"text": long}]


def test_a_follower_passes_over_other_files_and_begins_again_with_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "notes.txt").write_text('{"node":9}\n')
    path, follower = tmp_path / "records" / "a.jsonl", Follower(tmp_path)
    path.write_text('{"node":0}\n{"node":1}\n')
    assert len(follower.poll()) == 2
    path.write_text('{"node":2}\n')
    assert follower.poll() == [{"node": 2}]
