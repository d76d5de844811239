"""gossipfl init: write a config."""

from __future__ import annotations

from pathlib import Path

import click

from gossipfl.errors import ConfigError, Problem

_HEAD = """\
# One swarm, one file: the same on every machine. gossipfl check {file} says what would run; every other key
# and its default is in the documentation.
"""


@click.command(short_help="Write a config, for one machine or for many.")
@click.option(
    "--node",
    "machines",
    metavar="NAME=ADDRESS,PUBLIC_KEY",
    multiple=True,
    help="A machine: ADDRESS is HOST:PORT, or empty if it can only dial out; repeatable.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("swarm.toml"),
    show_default=True,
    metavar="FILE",
    help="The file to write; one that is there is never overwritten.",
)
def init(machines: tuple[str, ...], output: Path) -> None:
    """Write a config: with --node, one for many machines, made of their names, addresses and public keys.

    Nobody's secret is needed, and none is made: that is done on its own machine, by gossipfl keys new.

    \b
    Examples:
      gossipfl init
      gossipfl init --node alice=10.0.0.1:7700,pub-… --node bob=,pub-… -o swarm.toml
    """
    from gossipfl.config import load_config
    from gossipfl.config.toml import toml_document
    from gossipfl.drivers.plan import plan, require_reachable

    tables: dict[str, dict[str, object]] = {
        "swarm": {"name": output.stem, "rounds": 100},
        "topology": {"graph": "ring" if len(machines) != 2 else "complete"},
        "algorithm": {"rule": "dpsgd", "local_steps": 1},
        "train": {"task": "digits", "lr": 0.1, "batch": 32},
        "data": {"partition": "local" if machines else "dirichlet"},
    }
    array = [_node(text) for text in machines]
    if not machines:
        tables["swarm"]["nodes"] = 8
    config = load_config({**tables, **({"node": array} if array else {})})
    if machines:
        require_reachable(config, plan(config).edges())
    text = _HEAD.format(file=output) + "\n" + toml_document(tables, node=array)
    try:
        with output.open("x") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(Problem("-o", f"{output} is there already", "another name, or remove it")) from None
    click.echo(f"{output}: {f'{len(array)} machines' if array else '8 nodes on this machine'}")


def _node(text: str) -> dict[str, object]:
    """`NAME=ADDRESS,PUBLIC_KEY`, the key left out where nothing is encrypted."""
    name, equals, rest = text.partition("=")
    address, _, key = rest.partition(",")
    if not equals or not name:
        raise ConfigError(Problem("--node", "is not NAME=ADDRESS,PUBLIC_KEY", "alice=10.0.0.1:7700,pub-…"))
    table: dict[str, object] = {"name": name.strip(), "address": address.strip()}
    if key.strip():
        table["public_key"] = key.strip()
    return table
