"""gossipfl data: what it prints, draws and refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gossipfl.cli import main


def run(*args: str) -> Result:
    return CliRunner().invoke(main, ["data", *args], standalone_mode=True)


def test_list_names_tasks_and_partitions() -> None:
    result = run("list")

    assert result.exit_code == 0
    for name in ("digits", "fashion", "consensus", "quadratic", "dirichlet", "shards", "natural"):
        assert f"\n  {name} " in result.stdout


def test_list_loads_no_torch() -> None:
    code = (
        "import sys; from gossipfl.cli import main; main(['data', 'list'], standalone_mode=False); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_show_prints_a_row_a_node_that_adds_up() -> None:
    result = run("show", "digits", "--nodes", "4", "--partition", "shards")

    assert result.exit_code == 0
    head, columns, *rows, last = result.stdout.splitlines()
    assert head.startswith("digits: 1438 samples over 4 nodes, shards, data hash ")
    assert columns.split()[:3] == ["node", "samples", "distance"]
    cells = [row.split() for row in rows]
    assert [row[0] for row in cells] == ["0", "1", "2", "3"]
    assert sum(int(row[1]) for row in cells) == 1438
    for row in cells:
        assert sum(map(int, row[3:])) == int(row[1])
    assert "total variation" in last


def test_show_json_is_one_object_and_follows_seed_and_settings() -> None:
    shown = [
        json.loads(run("show", "digits", "--nodes", "4", "--json", *more).stdout)
        for more in ([], ["--seed", "1"], ["--set", "data.alpha=100"])
    ]

    assert shown[0]["sizes"] != shown[1]["sizes"]
    assert max(shown[2]["tv"]) < min(shown[0]["tv"])
    for one in shown:
        assert sum(one["sizes"]) == one["samples"] == 1438
        assert [sum(row) for row in one["labels"]] == one["sizes"]
    assert (shown[1]["seed"], shown[1]["partition"], shown[1]["nodes"]) == (1, "dirichlet", 4)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_show_draws(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"split.{suffix}"

    result = run("show", "digits", "--plot", str(file))

    assert result.exit_code == 0
    assert f"drawn to {file}" in result.stdout
    assert file.read_bytes().startswith(b"\x89PNG" if suffix == "png" else b"<?xml")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["consensus"], "TASK: consensus has no data to split"),
        (["digit"], "train.task: there is no task digit; did you mean digits?"),
        (["digits", "--nodes", "0"], "swarm.nodes: "),
        (["digits", "--nodes", "2000"], "swarm.nodes: 2000 nodes cannot split 1438 samples"),
        (["digits", "--partition", "dirichlett"], "data.partition: "),
        (["digits", "--partition", "natural"], "natural splits by an id column and the task has none"),
        (["digits", "--plot", "split.doc"], "--plot: split.doc has no format that can be drawn"),
        (["no_such:task"], "train.task: no_such:task: the module does not import"),
    ],
)
def test_what_cannot_be_shown_is_one_line_and_exit_2(args: list[str], message: str) -> None:
    result = run("show", *args)

    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("gossipfl: error: ") and message in result.stderr
    assert result.stderr.count("\n") == 1
