"""gossipfl swarm: real processes on this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gossipfl.cli.options import Common, common_options, fault_option

if TYPE_CHECKING:
    from gossipfl.api import Result
    from gossipfl.cli.running import Watch
    from gossipfl.config import Config


@click.command(short_help="Train with real processes on this machine.")
@common_options
@fault_option
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Go on with the run in this folder, from its newest checkpoints.",
)
def swarm(common: Common, resume: Path | None, fault: str | None) -> int:
    """Train with real processes on this machine: one a node, talking over ZeroMQ, nobody in charge.

    With no CONFIG: 8 nodes on a ring learn handwritten digits. The run leaves config.toml, metrics.jsonl,
    summary.json and report.html in its folder.

    \b
    Examples:
      gossipfl swarm
      gossipfl swarm --nodes 16 --topology torus:4x4 --set train.lr=0.05
      gossipfl swarm swarm.toml --out runs/first --set swarm.checkpoint_every=20
      gossipfl swarm --nodes 4 --fault script.toml
      gossipfl swarm --resume runs/first
      gossipfl swarm --resume runs/first --set swarm.rounds=500
    """
    from gossipfl.cli.running import run

    def start(config: Config, out: Path, watch: Watch) -> Result:
        from gossipfl import api

        return api.swarm(config, out=out, save_models=common.save_models, resume=resume, watch=watch)

    return run(replace(common, script=fault), start, resume)
