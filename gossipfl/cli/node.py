"""gossipfl node: one node of a swarm across machines."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path

import click


@click.command(short_help="Be one node of a swarm across machines.")
@click.argument("config")
@click.option(
    "--name",
    metavar="NAME",
    help="Which [[node]] this is [default: GOSSIPFL_NODE, or what torchrun, Slurm or Kubernetes set].",
)
@click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="Set any key of the config, such as data.path=mine; repeatable.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder for what this node leaves [default: runs/NAME-TIME].",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on from the newest checkpoint in --out [default: of this node's newest run].",
)
def node(config: str, name: str | None, settings: tuple[str, ...], out: Path | None, resume: bool) -> None:
    """Be one node of a swarm across machines. Every machine has the same CONFIG, and starts its own node.

    Nodes start in any order, minutes apart: each says for whom it waits, and where. Ctrl-C stops this node;
    the others go on.

    \b
    Examples:
      gossipfl node swarm.toml --name alice
      gossipfl node swarm.toml --name bob --set data.path=/srv/mine --out runs/first
      gossipfl node swarm.toml --name bob --set data.path=/srv/mine --out runs/first --resume
    """
    from gossipfl.cli.frame import note_line
    from gossipfl.config.apart import load_apart
    from gossipfl.drivers.folder import run_folder
    from gossipfl.drivers.naming import node_name

    loaded = load_apart(config, settings)
    own = node_name(loaded, name, os.environ)
    from gossipfl.drivers import lan, resuming  # torch takes its time: mistakes in the file are told before

    made, place = lan.prepare(loaded, own)
    found = None
    if resume:
        out = out or resuming.newest_folder(own)
        found = resuming.find_own(out, loaded, own)
        for note in found.notes:
            note_line(f"{own}: {note}")
    with run_folder(out, own) if found is None or out is None else nullcontext(out) as folder:
        try:
            summary = lan.run(made, place, folder, lambda text: click.echo(f"{own}: {text}"), found)
        except KeyboardInterrupt:
            kept = f"records up to now are in {folder}" if folder.exists() else "it had not begun"
            note_line(f"{own}: stopped; {kept}")
            raise SystemExit(130) from None
    value = summary["value"]
    shown = f"{value:.4g}" if isinstance(value, float) else "-"
    click.echo(f"{own}: {summary['metric']} {shown} after {summary['rounds']} rounds; kept in {folder}")
