"""gossipfl report: one self-contained page."""

from __future__ import annotations

from pathlib import Path

import click

from gossipfl.errors import ConfigError, Problem


@click.command(short_help="Write the report of one run, or compare several.")
@click.argument("runs", metavar="RUN_DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.html",
    help="The page [default: RUN_DIR/report.html; comparison.html for several].",
)
def report(runs: tuple[Path, ...], output: Path | None) -> None:
    """Write the report of one run, of several, compared, or of a sweep: one page that needs no network.

    \b
    Examples:
      gossipfl report runs/demo-20250101-120000
      gossipfl report runs/ring runs/torus -o comparison.html
      gossipfl report runs/study                              # a sweep; its figures too
    """
    if any((run / "results.sqlite").is_file() for run in runs):
        click.echo(_sweep(runs, output))
        return
    problems = [
        Problem(
            str(run),
            "is no folder of a run: it has no config.toml",
            "give what a run left, such as runs/NAME-TIME",
        )
        for run in runs
        if not (run / "config.toml").is_file()
    ]
    if problems:
        raise ConfigError(problems)
    from gossipfl.observe.report import write_report

    path = output or (runs[0] / "report.html" if len(runs) == 1 else Path("comparison.html"))
    write_report(list(runs), path)
    click.echo(path)


def _sweep(runs: tuple[Path, ...], output: Path | None) -> Path:
    if len(runs) > 1:
        raise ConfigError(
            Problem("RUN_DIR", "a sweep's folder is among several", "one sweep, or several runs")
        )
    from gossipfl.observe.report import write_sweep_report

    return write_sweep_report(runs[0], output or runs[0] / "report.html")
