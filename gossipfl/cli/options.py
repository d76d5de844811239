"""The options that commands share, gathered into one `Common`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from gossipfl.config import Config

_SHORT = {
    "nodes": ("N", "swarm.nodes", "Number of nodes."),
    "topology": ("GRAPH", "topology.graph", "The graph: see gossipfl topology list."),
    "task": ("TASK", "train.task", "Model and data: see gossipfl data list."),
    "rounds": ("R", "swarm.rounds", "Rounds to run."),
    "seed": ("S", "swarm.seed", "The seed of everything drawn."),
}


@dataclass(frozen=True)
class Common:
    """What the common options say."""

    source: str | None
    settings: tuple[str, ...]  # KEY=VALUE, in the order in which they win
    out: Path | None
    save_models: bool
    json: bool
    quiet: bool
    script: str | None = None  # a file of faults

    def load(self) -> Config:
        """The config, validated; raises ConfigError with every mistake."""
        from gossipfl.config import load_config

        return load_config(self.source, self.settings, self.script)


fault_option = click.option(
    "--fault",
    metavar="FILE",
    help="A fault script: [[fault]] tables, which come after those of CONFIG.",
)


def common_options(command: Callable[..., object]) -> Callable[..., object]:
    """Give a command CONFIG and the common options: one `Common`, and its own options beside it."""

    @functools.wraps(command)
    def run(
        config: str | None,
        settings: tuple[str, ...],
        out: Path | None,
        save_models: bool,
        json: bool,
        quiet: bool,
        **others: object,
    ) -> object:
        short = tuple(
            f"{key}={value}"
            for name, (_, key, _) in _SHORT.items()
            if (value := others.pop(name, None)) is not None
        )
        return command(Common(config, settings + short, out, save_models, json, quiet), **others)

    decorators = [click.argument("config", required=False, metavar="[CONFIG]")]
    decorators += [
        click.option(f"--{name}", metavar=metavar, help=text) for name, (metavar, _, text) in _SHORT.items()
    ]
    decorators += [
        click.option(
            "--set",
            "settings",
            metavar="KEY=VALUE",
            multiple=True,
            help="Set any key of the config, such as train.lr=0.05; repeatable.",
        ),
        click.option(
            "--out",
            type=click.Path(path_type=Path),
            metavar="DIR",
            help="Folder for what the run leaves [default: runs/NAME-TIME].",
        ),
        click.option("--save-models", is_flag=True, help="Keep every node's final parameters."),
        click.option("--json", is_flag=True, help="Print the result as one JSON object, nothing else."),
        click.option("--quiet", is_flag=True, help="Print nothing but mistakes and losses."),
    ]
    for decorate in reversed(decorators):
        run = decorate(run)
    return run
