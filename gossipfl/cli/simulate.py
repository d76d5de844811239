"""gossipfl simulate: no processes, no sockets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from gossipfl.cli.options import Common, common_options, fault_option

if TYPE_CHECKING:
    from gossipfl.api import Result
    from gossipfl.cli.running import Watch
    from gossipfl.config import Config


@click.command(short_help="Train without processes or sockets: many nodes, quickly.")
@common_options
@fault_option
@click.option(
    "--engine",
    type=click.Choice(["vector", "events"]),
    default="vector",
    show_default=True,
    help="vector: all nodes as one matrix, fastest; events: every message, in virtual time.",
)
def simulate(common: Common, engine: Literal["vector", "events"], fault: str | None) -> int:
    """Train without processes or sockets: the same rules, all nodes in this one process.

    \b
    Examples:
      gossipfl simulate --nodes 32 --topology exponential
      gossipfl simulate swarm.toml --engine events --set network.latency=0.05
      gossipfl simulate swarm.toml --engine events --fault script.toml
      gossipfl simulate --task consensus --nodes 100 --topology torus:10x10 --json
    """
    from gossipfl.cli.running import run

    def start(config: Config, out: Path, watch: Watch) -> Result:
        from gossipfl import api

        return api.simulate(config, engine=engine, out=out, save_models=common.save_models, watch=watch)

    return run(replace(common, script=fault), start)
