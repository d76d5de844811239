"""The frame around every command: lazy loading, one line a mistake, exit codes."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from gossipfl import __version__
from gossipfl.cli.lines import WRONG, ended, error_line, report
from gossipfl.cli.outlets import outlets
from gossipfl.cli.terminating import as_interrupt
from gossipfl.errors import ConfigError, GossipError, Problem

COMMAND: Final = object()
"""What a context holds where this process is the command, and nobody's who calls it."""


class Frame(click.Group):
    """The `gossipfl` group: `commands` is name -> one line of help; NAME lives in `gossipfl.cli.NAME`.

    A module is imported only when its command is used, so `gossipfl --help` loads nothing heavy.
    """

    def __init__(self, commands: Mapping[str, str]) -> None:
        super().__init__(
            name="gossipfl",
            help="Train one model on many nodes, with no server: nodes average with their neighbors."
            "\n\n\b\nExamples:\n  gossipfl swarm\n  gossipfl simulate --nodes 32 --topology torus:4x8"
            "\n  gossipfl COMMAND --help",
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
            params=[
                click.Option(
                    ["--version"],
                    is_flag=True,
                    is_eager=True,
                    expose_value=False,
                    callback=_show_version,
                    help="Show the version.",
                )
            ],
        )
        self.lines = dict(commands)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.lines)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.lines:
            return None
        command = getattr(importlib.import_module(f"gossipfl.cli.{cmd_name}"), cmd_name)
        if not isinstance(command, click.Command):
            raise TypeError(f"gossipfl.cli.{cmd_name}.{cmd_name} is no command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.lines and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], self.lines, n=1)
            right = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(self.lines)}"
            raise ConfigError(Problem(args[0], "no such command", right))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self.lines.items()))

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run, and exit with the code; what a user can cause never shows a traceback."""

        def run() -> Any:
            name = prog_name or "gossipfl"
            if args is None:
                extra.setdefault("obj", COMMAND)
            return super(Frame, self).main(args, name, complete_var, standalone_mode=False, **extra)

        if not standalone_mode:
            return run()
        with outlets():
            try:
                as_interrupt()
                returned = run()
                code = returned if isinstance(returned, int) else 0
            except (click.ClickException, click.Abort, GossipError, KeyboardInterrupt, OSError) as error:
                code = _report(error)
            code = ended(code)
        sys.exit(code)


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"gossipfl {__version__}")
        ctx.exit()


def _report(error: BaseException) -> int:
    """Say what went wrong in one line (for each mistake); the exit code."""
    if isinstance(error, click.ClickException):
        return _report_usage(error)
    return report(KeyboardInterrupt() if isinstance(error, click.Abort) else error)


def _report_usage(error: click.ClickException) -> int:
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    if ctx and isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
        click.echo(ctx.get_help())
        return 0
    path = ctx.command_path if ctx else "gossipfl"
    key, wrong, right = path, error.format_message(), f"see {path} --help"
    if isinstance(error, click.NoSuchOption):
        key, wrong = error.option_name, "no such option"
        if error.possibilities:
            right = f"did you mean {error.possibilities[0]}?"
    elif isinstance(error, click.BadOptionUsage):
        key = error.option_name
    elif isinstance(error, click.BadParameter) and error.param and ctx:
        key = error.param.opts[-1] if isinstance(error.param, click.Option) else error.param.make_metavar(ctx)
        wrong = error.message or "is missing"
    wrong = wrong.rstrip(".")
    error_line(str(Problem(key, wrong[:1].lower() + wrong[1:], right)))
    return WRONG
