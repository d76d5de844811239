"""gossipfl sweep: a grid of runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gossipfl.cli.lines import INTERRUPTED, LOST, error_line, note_line

if TYPE_CHECKING:
    from gossipfl.drivers.sweep.grid import Sweep
    from gossipfl.drivers.sweep.run import Options, Progress

#: Seconds between two lines about a sweep that no terminal shows.
EVERY = 10.0


@click.command(short_help="Run a grid of configs, resumable.")
@click.argument("source", metavar="SWEEP.toml", type=click.Path(path_type=Path))
@click.option("--jobs", type=int, metavar="N", help="Runs at a time [default: one a core].")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder for what the sweep leaves; what is finished there is not run again [default: runs/NAME].",
)
@click.option("--dry-run", is_flag=True, help="Count the runs and estimate the time; run nothing.")
@click.option("--yes", is_flag=True, help="Run more than a million cells.")
@click.option("--retry", is_flag=True, help="Run cells that failed again.")
@click.option(
    "--engine", type=click.Choice(["vector", "events", "swarm"]), help="Instead of what the sweep names."
)
@click.option("--on", type=click.Choice(["ray"]), help="Run the cells on a Ray cluster, local or remote.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object, nothing else.")
@click.option("--quiet", is_flag=True, help="Print nothing but mistakes.")
def sweep(
    source: Path,
    jobs: int | None,
    out: Path | None,
    dry_run: bool,
    yes: bool,
    retry: bool,
    engine: str | None,
    on: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run every combination of a grid of configs; stop it and start it again at any time.

    \b
    SWEEP.toml:
      seeds = 3
      base = "swarm.toml"                  # or [base.swarm] nodes = 16 ...
      [grid]
      "topology.graph" = ["ring", "torus:4x4", "complete"]
      "data.alpha" = [0.1, 10.0]

    \b
    Examples:
      gossipfl sweep study.toml --dry-run
      gossipfl sweep study.toml --jobs 4 --out runs/study
      gossipfl report runs/study
    """
    from gossipfl.drivers.sweep.grid import load_sweep
    from gossipfl.drivers.sweep.run import Options, check_count

    loaded, options = load_sweep(source, engine=engine), Options(jobs, on or "", retry)
    check_count(loaded, yes)
    folder = out or Path("runs") / loaded.name
    if dry_run:
        _estimate(loaded, options, as_json)
        return
    _run(loaded, folder, options, (as_json, quiet))


def _estimate(loaded: Sweep, options: Options, as_json: bool) -> None:
    from gossipfl.drivers.sweep.run import estimate, jobs_of
    from gossipfl.observe.metrics import span
    from gossipfl.records import to_json

    cells, jobs = loaded.cells(), jobs_of(loaded, options)
    wrong = sum(bool(cell.wrong) for cell in cells)
    if as_json:
        seconds = estimate(loaded, cells, jobs)
        click.echo(to_json({"runs": len(cells), "wrong": wrong, "jobs": jobs, "seconds": seconds}))
        return
    axes = " × ".join(loaded.axes) or "one setting"
    click.echo(f"{len(cells):,} runs ({axes} × {len(loaded.seeds)} seeds), engine {loaded.engine}")
    if wrong:
        first = next(cell for cell in cells if cell.wrong)
        click.echo(f"{wrong:,} of them cannot run, such as: {first.wrong}")
    note_line("a few rounds are run for the estimate")
    click.echo(f"about {span(estimate(loaded, cells, jobs))} with {jobs} at a time")


def _run(loaded: Sweep, folder: Path, options: Options, how: tuple[bool, bool]) -> None:
    from gossipfl import api
    from gossipfl.records import to_json

    as_json, quiet = how
    seen: list[Progress] = []
    begun = time.monotonic()
    try:
        with _display(loaded.name, quiet or as_json) as show:

            def watch(progress: Progress) -> None:
                seen[:] = [progress]
                show(progress)

            result = api.run_sweep(loaded, folder, options, watch)
    except KeyboardInterrupt:
        done = (
            f"{seen[0].finished:,} of {seen[0].total:,} runs are in {folder}" if seen else "nothing was run"
        )
        note_line(f"interrupted; {done}; the same command goes on from there")
        raise SystemExit(INTERRUPTED) from None
    end = seen[0]
    if as_json:
        figures = {"runs": end.total, "failed": end.failed, "resumed": end.resumed}
        click.echo(to_json({**figures, "seconds": time.monotonic() - begun, "out": str(folder)}))
    elif not quiet:
        for line in _closing(end, folder):
            click.echo(line)
    if end.failed == end.total:
        error_line(f"every run failed: {next(e for e in result.runs['error'].tolist() if e)}")
        raise SystemExit(LOST)


def _closing(end: Progress, folder: Path) -> Iterator[str]:
    resumed = f", {end.resumed:,} of them before" if end.resumed else ""
    yield f"{end.total:,} runs{resumed}; {end.failed:,} failed"
    yield f"report: {folder / 'report.html'}"


@contextmanager
def _display(name: str, quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """A bar on a terminal, else a line now and then."""
    if quiet:
        yield lambda progress: None
    elif sys.stderr.isatty():
        with _bar(name) as show:
            yield show
    else:
        yield _Lines()


class _Lines:
    """A line at the start, one every few seconds, and one for each run that failed."""

    def __init__(self) -> None:
        self._due = 0.0

    def __call__(self, progress: Progress) -> None:
        from gossipfl.observe.metrics import span

        if progress.error and progress.last is not None:
            note_line(f"failed: {_place(progress)}: {progress.error}")
        now = time.monotonic()
        if now < self._due and progress.finished < progress.total:
            return
        self._due = now + EVERY
        left = progress.seconds_left
        rest = f", about {span(left)} left" if left else ""
        note_line(f"{progress.finished:,} of {progress.total:,} runs{rest}")


def _place(progress: Progress) -> str:
    assert progress.last is not None
    axes = [f"{value}" for value in progress.last.axes.values()]
    return ", ".join([*axes, f"seed {progress.last.seed}"])


@contextmanager
def _bar(name: str) -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    from gossipfl.observe.metrics import span

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rest]}"),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(escape(name), total=None, rest="")

        def show(progress: Progress) -> None:
            left = progress.seconds_left
            rest = f"{span(left)} left" if left else ""
            failed = f" · {progress.failed:,} failed" if progress.failed else ""
            bar.update(task, total=progress.total, completed=progress.finished, rest=rest + failed)
            if progress.error and progress.last is not None:
                bar.console.print(escape(f"failed: {_place(progress)}: {progress.error}"), highlight=False)

        yield show
