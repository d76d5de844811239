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
    """Write the report of one run, or of several, compared: one page that needs no network.

    \b
    Examples:
      gossipfl report runs/demo-20250101-120000
      gossipfl report runs/ring runs/torus -o comparison.html
    """
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
