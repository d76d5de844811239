"""What the README and the documentation tell is so: names, commands, keys, code."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import gossipfl
from gossipfl.cli import main
from gossipfl.core.asynchronous import RULE_OF
from gossipfl.core.codecs import CODECS
from gossipfl.core.recipe import RULES
from gossipfl.learning.partition import SPLITS
from gossipfl.learning.tasks import TASKS
from gossipfl.topology import FAMILIES, WEIGHTS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").glob("**/*.md")),
    ROOT / "topologies" / "README.md",
]


def _row(head: str) -> set[str]:
    """The names in backticks of a row of the table of what is there."""
    row = re.search(rf"^\| {head} \| (.*) \|$", README, re.MULTILINE)
    assert row is not None
    return set(re.findall(r"`([^`]+)`", row[1]))


@pytest.mark.parametrize(
    ("head", "names"),
    [
        ("rules", {*RULES, RULE_OF["push"]}),
        ("exchanges", {"rounds", *RULE_OF}),
        ("graphs", {name for name, family in FAMILIES.items() if family.make is not None} | {".npy"}),
        ("schedules", {name for name, family in FAMILIES.items() if family.make is None}),
        ("weights", set(WEIGHTS)),
        ("partitions", set(SPLITS)),
        ("tasks", set(TASKS)),
        ("codecs", set(CODECS)),
    ],
)
def test_the_readme_names_all_there_is_and_nothing_else(head: str, names: set[str]) -> None:
    assert _row(head) == names


def test_the_readme_names_every_command_once() -> None:
    told = re.findall(r"^\| `gossipfl (\w+)", README, re.MULTILINE)
    assert sorted(told) == sorted(main.list_commands(click.Context(main)))


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) < 200


@pytest.mark.parametrize("page", [page.relative_to(ROOT).as_posix() for page in PAGES])
def test_what_a_page_links_to_is_there(page: str) -> None:
    text = (ROOT / page).read_text()
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    missing = [t for t in targets if "://" not in t and not ((ROOT / page).parent / t).exists()]
    assert missing == []


def _commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for line in page.read_text().splitlines():
            for part in line.split("&&"):
                if re.match(r"(\$ )?gossipfl [a-z]", part.strip()):
                    yield page.relative_to(ROOT).as_posix(), part.strip().removeprefix("$ ")


COMMANDS = sorted(set(_commands()))


def _parse(command: click.Command, name: str, arguments: list[str]) -> list[click.Context]:
    context = command.make_context(name, arguments, resilient_parsing=False)
    if not isinstance(command, click.Group):
        return [context]
    sub, inner, rest = command.resolve_command(
        context, [*getattr(context, "_protected_args", ()), *context.args]
    )
    assert sub is not None and inner is not None
    return [context, *_parse(inner, sub, rest)]


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[f"{page}: {line}" for page, line in COMMANDS])
def test_a_command_that_a_page_shows_is_one_and_its_keys_are_right(page: str, line: str) -> None:
    # given a line of a page, without its comment, redirection and what stands for a value
    words = [word for word in shlex.split(line, comments=True) if word != "..."]
    words = words[: words.index(">")] if ">" in words else words
    # when the command line takes it apart
    *_, last = _parse(main, "gossipfl", words[1:])
    # then it fits, and what it sets is valid
    given = last.params
    short = {"nodes": "swarm.nodes", "rounds": "swarm.rounds", "topology": "topology.graph"}
    settings = [f"{key}={given[name]}" for name, key in short.items() if given.get(name) is not None]
    settings += [text for text in given.get("settings") or () if not text.startswith("task.")]
    if given.get("config"):  # a replay is judged with the exchange of the run's own config
        settings += ["algorithm.exchange=pairwise"] * any("replay=" in text for text in settings)
    gossipfl.load_config(None, settings)


def test_the_code_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given the page's code, in an empty folder
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    # when it runs
    exec(compile(code, "README.md", "exec"), names)
    # then a task of one's own was learnt, and the run can be loaded again
    result, again = names["result"], names["again"]
    assert isinstance(result, gossipfl.Result) and isinstance(again, gossipfl.Result)
    assert result.accuracy[-1].shape == (10,)
    assert result.accuracy[-1].mean() > 0.9
    assert again.summary["per_node"] == result.summary["per_node"]
