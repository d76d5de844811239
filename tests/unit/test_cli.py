"""The command line's frame: help without heavy imports, one line a mistake, exit codes, folders."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import resource
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from gossipfl import __version__
from gossipfl.cli import main
from gossipfl.cli.frame import Frame
from gossipfl.cli.options import Common
from gossipfl.cli.running import Watch, closing_lines, run
from gossipfl.config import Config, load_config
from gossipfl.drivers.folder import run_folder
from gossipfl.errors import (
    ConfigError,
    GossipError,
    PeerLost,
    Problem,
    Refused,
    RemoteProtocolError,
    TrainingDiverged,
)

HEAVY = ("torch", "numpy", "scipy", "pydantic", "matplotlib", "networkx", "zmq", "rich")
SUMMARY: dict[str, object] = {
    "metric": "accuracy",
    "mean": 0.91234,
    "min": 0.87,
    "max": 0.95,
    "mean_model": 0.96,
    "consensus_distance": 0.0123456,
    "rounds": 100,
    "seconds": 12.3456,
    "lost": [],
}


def invoke(*args: str) -> Result:
    return CliRunner().invoke(main, list(args))


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def command_paths() -> Iterator[tuple[str, ...]]:
    """Every command there is, groups and what is in them."""
    yield ()
    for name in main.lines:
        if importlib.util.find_spec(f"gossipfl.cli.{name}") is None:
            continue
        yield (name,)
        command = getattr(importlib.import_module(f"gossipfl.cli.{name}"), name)
        for inner in getattr(command, "commands", {}):
            yield (name, inner)


@pytest.fixture
def frame(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], Frame]:
    """A frame with one command, `act`, that does what the test says."""

    def make(act: Callable[[], None]) -> Frame:
        module = types.ModuleType("gossipfl.cli.act")
        module.act = click.command("act")(act)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "gossipfl.cli.act", module)
        return Frame({"act": "Do it."})

    return make


# Help and version


@pytest.mark.parametrize("path", list(command_paths()), ids=" ".join)
def test_every_commands_help_shows_an_example_and_loads_nothing_heavy(path: tuple[str, ...]) -> None:
    code = f"""
import sys
from gossipfl.cli import main
try:
    main([*{path!r}, "--help"])
except SystemExit as end:
    assert end.code == 0, end.code
found = [name for name in {HEAVY!r} if name in sys.modules]
assert not found, found
"""
    done = python(code)

    assert done.returncode == 0, done.stderr
    assert "Example" in done.stdout
    assert "gossipfl " + " ".join(path) in done.stdout


def test_help_answers_within_a_third_of_a_second() -> None:
    def once() -> float:  # of processor time: the machine may be busy with something else
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        python("from gossipfl.cli import main; main(['--help'])")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(once() for _ in range(5)) < 0.3


def test_the_list_of_commands_imports_none_of_them() -> None:
    code = """
import sys
from gossipfl.cli import main
main(["--help"], standalone_mode=False)
loaded = [name for name in main.lines if f"gossipfl.cli.{name}" in sys.modules]
assert not loaded, loaded
"""
    assert python(code).stderr == ""


def test_the_line_of_a_command_in_the_list_is_its_own() -> None:
    for path in command_paths():
        if len(path) == 1:
            command = getattr(importlib.import_module(f"gossipfl.cli.{path[0]}"), path[0])
            assert main.lines[path[0]] == (command.short_help or command.get_short_help_str(200))


def test_no_command_at_all_shows_the_help() -> None:
    result = invoke()

    assert result.exit_code == 0
    assert "Commands:" in result.stdout


def test_version() -> None:
    assert invoke("--version").stdout == f"gossipfl {__version__}\n"


# Mistakes on the command line


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["swrm"], "swrm: no such command; did you mean swarm?"),
        (["simulate", "--nods", "3"], "--nods: no such option; did you mean --nodes?"),
        (
            ["simulate", "--engine", "x"],
            "--engine: 'x' is not one of 'vector', 'events'; see gossipfl simulate --help",
        ),
        (["report"], "RUN_DIR...: is missing; see gossipfl report --help"),
        (["swarm", "--nodes", "0"], "swarm.nodes: cannot be 0; a whole number, at least 1, at most 1000000"),
        (
            ["check", "--nodes", "many"],
            'swarm.nodes: cannot be "many"; a whole number, at least 1, at most 1000000',
        ),
        (["check", "--set", "train.lrr=1"], "train.lrr: unknown key; did you mean train.lr?"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_exit_2(args: list[str], line: str) -> None:
    result = invoke(*args)

    assert result.stderr == f"gossipfl: error: {line}\n"
    assert (result.stdout, result.exit_code) == ("", 2)


def test_all_mistakes_of_options_file_and_settings_come_at_once(tmp_path: Path) -> None:
    file = tmp_path / "swarm.toml"
    file.write_text("[swarm]\nroudns = 3\n")

    result = invoke("swarm", str(file), "--nodes", "-1", "--set", "wire.transport=pigeon", "--set", "x")

    assert sorted(line.split(": ")[2] for line in result.stderr.splitlines()) == [
        "--set",
        "swarm.nodes",
        "swarm.roudns",
        "wire.transport",
    ]
    assert result.exit_code == 2


def test_an_option_wins_over_a_setting_and_a_file(tmp_path: Path) -> None:
    file = tmp_path / "swarm.toml"
    file.write_text("[swarm]\nnodes = 3\n")
    common = Common(str(file), ("swarm.nodes=4", "swarm.nodes=5"), None, False, False, False)

    assert common.load().swarm.nodes == 5


def test_every_short_option_sets_its_key(frame: Callable[[Callable[[], None]], Frame]) -> None:
    from gossipfl.cli.options import common_options

    seen: list[Common] = []
    group = frame(common_options(seen.append))

    result = CliRunner().invoke(
        group,
        [
            "act",
            "--nodes=5",
            "--topology=star",
            "--task=t",
            "--rounds=6",
            "--seed=7",
            "--set=train.lr=2",
            "--json",
        ],
    )

    assert result.exit_code == 0, result.output
    assert seen[0].json
    config = load_config(None, seen[0].settings)
    assert (config.swarm.nodes, config.swarm.rounds, config.swarm.seed) == (5, 6, 7)
    assert (config.topology.graph, config.train.task, config.train.lr) == ("star", "t", 2.0)


# Exit codes


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError([Problem("a", "b", "c"), Problem("d", "e")]), 2, "a: b; c\ngossipfl: error: d: e"),
        (TrainingDiverged("node-1", 3, "loss is NaN"), 3, "node-1: loss is NaN in round 3; "),
        (PeerLost("every node is gone"), 3, "every node is gone"),
        (Refused("node-2 refused: train.lr"), 4, "node-2 refused: train.lr"),
        (RemoteProtocolError("node-2: field x"), 1, "node-2: field x"),
        (GossipError("two\nlines"), 1, "two lines"),
        (PermissionError(13, "Permission denied", "/root/x"), 2, "/root/x: permission denied"),
        (OSError(28, "No space left on device", "runs/x"), 2, "runs/x: no space left on device"),
    ],
)
def test_what_a_user_can_cause_ends_in_a_line_and_its_code(
    frame: Callable[[Callable[[], None]], Frame], error: Exception, code: int, line: str
) -> None:
    def act() -> None:
        raise error

    result = CliRunner().invoke(frame(act), ["act"])

    assert result.exit_code == code
    assert result.stderr.startswith(f"gossipfl: error: {line}")
    assert "Traceback" not in result.output


def test_a_mistake_of_our_own_keeps_its_traceback(frame: Callable[[Callable[[], None]], Frame]) -> None:
    def act() -> None:
        raise ZeroDivisionError

    assert isinstance(CliRunner().invoke(frame(act), ["act"]).exception, ZeroDivisionError)


def test_an_interrupt_ends_in_130_without_a_traceback(frame: Callable[[Callable[[], None]], Frame]) -> None:
    def act() -> None:
        raise KeyboardInterrupt

    result = CliRunner().invoke(frame(act), ["act"])

    assert (result.exit_code, result.stderr.strip()) == (130, "gossipfl: interrupted")


def test_a_reader_that_goes_away_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as gone:
        code = "from gossipfl.cli import main; main(['check', '--schema'])"
        done = subprocess.run([sys.executable, "-c", code], stdout=gone, stderr=subprocess.PIPE, check=False)

    assert done.stderr == b""


# Folders


def test_a_run_gets_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda form: "noon")

    with run_folder(None, "demo") as first, run_folder(None, "demo") as second:
        (first / "a").touch()
        (second / "a").touch()

    assert [str(first), str(second)] == ["runs/demo-noon", "runs/demo-noon-2"]


def test_a_folder_in_use_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a").touch()

    with (
        pytest.raises(ConfigError, match=r"not empty; choose another --out, or remove it"),
        run_folder(tmp_path, "x"),
    ):
        pass
    with pytest.raises(ConfigError, match="is a file"), run_folder(tmp_path / "a", "x"):
        pass


def test_an_empty_folder_is_taken_and_one_that_stays_empty_goes(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"

    with pytest.raises(ConfigError), run_folder(out, "x"):
        raise ConfigError(Problem("topology.graph", "no such graph"))
    assert not out.exists()

    out.mkdir()
    with run_folder(out, "x") as path:
        (path / "config.toml").touch()
    assert (out / "config.toml").exists()


# Runs


class Ended:
    """What a run returns, as far as the command looks at it."""

    def __init__(self, summary: dict[str, object], unsaved: tuple[str, ...] = ()) -> None:
        self.summary, self.unsaved = summary, unsaved


def common(out: Path, *, json: bool = False, quiet: bool = False) -> Common:
    return Common(None, (), out, False, json, quiet)


def test_json_prints_one_object_and_notes_go_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def start(config: Config, out: Path, watch: Watch) -> Ended:
        watch({"kind": "round"})
        watch.note("spawning")
        return Ended({**SUMMARY, "mean_model": float("nan")})

    run(common(tmp_path / "out", json=True), start)

    printed = capsys.readouterr()
    assert json.loads(printed.out) == {**SUMMARY, "mean_model": None}
    assert printed.err == "gossipfl: spawning\n"


def test_an_interrupted_run_says_where_its_records_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"

    def start(config: Config, out: Path, watch: Watch) -> Ended:
        (out / "records").mkdir()
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        run(common(out, json=True), start)

    assert end.value.code == 130
    assert capsys.readouterr().err == f"gossipfl: interrupted; records up to now are in {out}\n"
    assert out.exists()


def test_a_diverged_run_says_where_its_records_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def start(config: Config, out: Path, watch: Watch) -> Ended:
        (out / "records").mkdir()
        raise TrainingDiverged("node-1", 3, "loss is NaN")

    with pytest.raises(TrainingDiverged):
        run(common(tmp_path / "out", json=True), start)

    assert str(tmp_path / "out") in capsys.readouterr().err


def test_without_a_terminal_a_run_prints_plain_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def start(config: Config, out: Path, watch: Watch) -> Ended:
        watch.note("spawning")
        return Ended(SUMMARY)

    run(common(tmp_path / "loud"), start)
    loud = capsys.readouterr()
    run(common(tmp_path / "quiet", quiet=True), start)
    quiet = capsys.readouterr()

    assert loud.out.splitlines() == ["spawning", *closing_lines(SUMMARY, tmp_path / "loud")]
    assert (quiet.out, quiet.err) == ("", "spawning\n")


def test_the_last_lines_tell_the_result(tmp_path: Path) -> None:
    (tmp_path / "report.html").touch()

    lines = closing_lines({**SUMMARY, "lost": ["node-3"]}, tmp_path)

    assert lines == [
        "accuracy: mean 0.9123, worst 0.87, best 0.95, mean model 0.96",
        "consensus distance: 0.01235",
        "lost: node-3",
        "100 rounds, 12.35 s",
        f"report: {tmp_path / 'report.html'}",
    ]


def test_the_last_lines_name_only_what_is_there(tmp_path: Path) -> None:
    # given a page that is an older one's
    (tmp_path / "report.html").touch()
    failed = f"{tmp_path / 'report.html'}: No space left on device"

    assert closing_lines(SUMMARY, tmp_path, [failed])[-1] == f"not all is kept; what is: {tmp_path}"
    assert closing_lines(SUMMARY, tmp_path / "gone", [failed])[-1] == "100 rounds, 12.35 s"


def test_a_run_that_is_not_kept_whole_ends_with_1(tmp_path: Path) -> None:
    assert run(common(tmp_path / "a"), lambda *_: Ended(SUMMARY)) == 0
    assert run(common(tmp_path / "b"), lambda *_: Ended(SUMMARY, ("b/summary.json: full",))) == 1


def test_the_worst_of_an_error_is_the_largest(tmp_path: Path) -> None:
    summary = {**SUMMARY, "metric": "rmse", "higher_is_better": False, "mean_model": None}

    assert closing_lines(summary, tmp_path)[0] == "rmse: mean 0.9123, worst 0.95, best 0.87, mean model -"


def test_ctrl_c_in_a_real_process_ends_it_quietly() -> None:
    code = """
import sys, types, click
from gossipfl.cli.frame import Frame
module = types.ModuleType("gossipfl.cli.act")
@click.command()
def act():
    import threading
    print("ready", flush=True)
    threading.Event().wait(60)
module.act = act
sys.modules["gossipfl.cli.act"] = module
Frame({"act": ""}).main(["act"])
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=30)

    assert (child.returncode, errors.strip()) == (130, "gossipfl: interrupted")


# check and report


def test_check_prints_a_config_that_says_the_same(tmp_path: Path) -> None:
    args = ["--nodes", "12", "--topology", "torus:3x4", "--set", "algorithm.rule=d2", "--set", "task.a=1"]
    printed = invoke("check", *args)
    file = tmp_path / "swarm.toml"
    file.write_text(printed.stdout)

    again = invoke("check", str(file))

    assert (again.stdout, again.exit_code) == (printed.stdout, 0)
    assert "# recipe: rounds x torus:3x4 (metropolis) x d2" in printed.stdout


def test_check_says_what_was_chosen_on_ones_behalf() -> None:
    args = ("--nodes", "12", "--topology", "ring", "--set", "algorithm.rule=d2")

    assert "# note: d2: the smallest eigenvalue" in invoke("check", *args).stdout
    assert json.loads(invoke("check", *args, "--json").stdout)["recipe"]["notes"]


def test_check_finds_the_mistakes_of_graph_and_rule_together() -> None:
    result = invoke("check", "--topology", "torus:3x3", "--set", "algorithm.rule=dpsgdd")

    assert [line.split(": ")[2] for line in result.stderr.splitlines()] == [
        "topology.graph",
        "algorithm.rule",
    ]
    assert (result.stdout, result.exit_code) == ("", 2)


@pytest.mark.parametrize(
    ("setting", "wrong"),
    [
        ("train.task=nosuch.module:task", "train.task: nosuch.module:task: the module does not import"),
        ("train.task=math:task", "train.task: math:task: math has no function task"),
        ("train.task=digit", "train.task: there is no task digit; did you mean digits?"),
        ("data.partition=math:split", "data.partition: math:split: math has no function split"),
        ("swarm.writer=nosuch:write", "swarm.writer: nosuch:write: the module does not import"),
        ("algorithm.rule=math:rule", "algorithm.rule: math:rule: math has no function rule"),
    ],
)
def test_check_finds_functions_that_are_not_there(setting: str, wrong: str) -> None:
    result = invoke("check", "--set", setting)

    assert result.exit_code == 2
    assert f"gossipfl: error: {wrong}" in result.stderr


def test_check_loads_no_torch() -> None:
    code = """
import sys
from gossipfl.cli import main
try:
    main(["check"])
except SystemExit as end:
    sys.exit(end.code or ("torch" in sys.modules and 99))
"""
    assert python(code).returncode == 0


def test_check_prints_the_schema() -> None:
    schema = json.loads(invoke("check", "--schema").stdout)

    assert schema["properties"]["swarm"]


def test_report_names_every_folder_that_holds_no_run(tmp_path: Path) -> None:
    result = invoke("report", str(tmp_path / "a"), str(tmp_path / "b"))

    assert [line.split(": ")[2] for line in result.stderr.splitlines()] == [
        str(tmp_path / "a"),
        str(tmp_path / "b"),
    ]
    assert result.exit_code == 2
