"""gossipfl node: one node of a swarm across machines."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path

import click

from gossipfl.cli.frame import COMMAND


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
def node(config: str, name: str | None, settings: tuple[str, ...], out: Path | None, resume: bool) -> int:
    """Be one node of a swarm across machines. Every machine has the same CONFIG, and starts its own node.

    Nodes start in any order, minutes apart: each says for whom it waits, and where. Ctrl-C stops this node;
    the others go on.

    \b
    Examples:
      gossipfl node swarm.toml --name alice
      gossipfl node swarm.toml --name bob --set data.path=/srv/mine --out runs/first
      gossipfl node swarm.toml --name bob --set data.path=/srv/mine --out runs/first --resume
    """
    from gossipfl.cli import lone
    from gossipfl.cli.lines import note_line
    from gossipfl.config import load_config
    from gossipfl.drivers import resuming
    from gossipfl.drivers.folder import run_folder
    from gossipfl.drivers.naming import node_name
    from gossipfl.drivers.whereabouts import prepare

    loaded = load_config(config, settings)
    own = node_name(loaded, name, os.environ)
    made, _ = prepare(loaded, own)
    found = None
    if resume:
        out = out or resuming.newest_folder(own)
        found = resuming.find_own(out, loaded, own)
        for note in found.notes:
            note_line(f"{own}: {note}")
    with run_folder(out, own) if found is None or out is None else nullcontext(out) as folder:
        job = lone.Job(made, own, folder, found)
        if click.get_current_context().obj is COMMAND:
            lone.become(job)
        return lone.be(job)
