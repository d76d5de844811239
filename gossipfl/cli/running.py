"""What `swarm` and `simulate` share: a folder, a live display, the last lines, and how a run may end."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import click

from gossipfl.cli.lines import UNKEPT, note_line
from gossipfl.cli.options import Common
from gossipfl.cli.outlets import unwritten
from gossipfl.drivers import checkpoint
from gossipfl.drivers.folder import run_folder
from gossipfl.errors import ConfigError, PeerLost, Problem, TrainingDiverged
from gossipfl.records import to_json

if TYPE_CHECKING:
    from gossipfl.config import Config


class Watch(Protocol):
    """Is told each record as it comes, and notes."""

    def __call__(self, record: Mapping[str, object]) -> None: ...
    def note(self, text: str) -> None: ...


class Ended(Protocol):
    """What a run returns, as far as its last lines need it."""

    @property
    def summary(self) -> Mapping[str, object]: ...
    @property
    def unsaved(self) -> Sequence[str]: ...


Start = Callable[["Config", Path, Watch], Ended]


class Notes:
    """Watches without a display: only notes are told, on standard error."""

    def __call__(self, record: Mapping[str, object]) -> None:
        """A record; not shown."""

    def note(self, text: str) -> None:
        note_line(text)


def run(common: Common, start: Start, resume: Path | None = None) -> int:
    """Load the config, run it under a live display, and print how it ended; the exit code. `resume`: the
    folder of a run that goes on, with its config if there is no other."""
    config = common.load() if resume is None else _resumed(common, resume)
    with run_folder(common.out, config.swarm.name) if resume is None else nullcontext(resume) as out:
        try:
            with _display(common, config) as watch:
                result = start(config, out, watch)
        except KeyboardInterrupt:
            kept = f"; records up to now are in {out}" if any(out.iterdir()) else ""
            note_line(f"interrupted{kept}{_how_to_go_on(out)}")
            raise SystemExit(130) from None
        except TrainingDiverged:
            note_line(f"records up to then are in {out}")
            raise
        except PeerLost:
            note_line(f"records up to then are in {out}{_how_to_go_on(out)}")
            raise
    if common.json:
        click.echo(to_json(result.summary))
    elif not common.quiet:
        for line in closing_lines(result.summary, out, result.unsaved):
            click.echo(line)
    if unwritten():
        note_line(f"the run has ended; what it leaves is in {out}")
    return UNKEPT if result.unsaved else 0


def _how_to_go_on(out: Path) -> str:
    kept = any((out / checkpoint.FOLDER).glob("*/[0-9]*"))
    return f"; gossipfl swarm --resume {shlex.quote(str(out))} goes on from its checkpoints" if kept else ""


def _resumed(common: Common, folder: Path) -> Config:
    if common.out is not None:
        wrong = "cannot be given with --resume: a run goes on in its own folder"
        raise ConfigError(Problem("--out", wrong, "leave it out"))
    source = folder / "config.toml"
    if not source.is_file():
        wrong = f"{folder} is no folder of a run: it has no config.toml"
        raise ConfigError(Problem("--resume", wrong, "what was given, or shown, as --out"))
    config = replace(common, source=common.source or str(source)).load()
    if common.source is None and common.script is None:
        config = replace(config, fault=())  # they have happened
    return config


def _display(common: Common, config: Config) -> AbstractContextManager[Watch]:
    if common.json:
        return nullcontext(Notes())
    from gossipfl.observe.console import Live

    return Live(config, quiet=common.quiet)


def closing_lines(summary: Mapping[str, object], out: Path, unsaved: Sequence[str] = ()) -> list[str]:
    """How a run ended, in a few lines. unsaved: what is not kept, each with its path first."""
    low, high = _figure(summary, "min"), _figure(summary, "max")
    worst, best = (low, high) if summary.get("higher_is_better", True) else (high, low)
    mean, mean_model = _figure(summary, "mean"), _figure(summary, "mean_model")
    lines = [
        f"{summary.get('metric')}: mean {mean}, worst {worst}, best {best}, mean model {mean_model}",
        f"consensus distance: {_figure(summary, 'consensus_distance')}",
    ]
    lost = summary.get("lost")
    if isinstance(lost, Sequence) and lost:
        lines.append(f"lost: {', '.join(map(str, lost))}")
    lines.append(f"{summary.get('rounds')} rounds, {_figure(summary, 'seconds')} s")
    report = out / "report.html"
    if report.exists() and not any(text.startswith(f"{report}:") for text in unsaved):
        lines.append(f"report: {report}")
    elif not unsaved:
        lines.append(f"records: {out}")
    elif out.is_dir() and any(out.iterdir()):
        lines.append(f"not all is kept; what is: {out}")
    return lines


def _figure(summary: Mapping[str, object], key: str) -> str:
    value = summary.get(key)
    return f"{value:.4g}" if isinstance(value, int | float) and math.isfinite(value) else "-"
