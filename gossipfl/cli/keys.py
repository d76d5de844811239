"""gossipfl keys: make a node's key pair, show a public key."""

from __future__ import annotations

from pathlib import Path

import click


@click.group(epilog="\b\nExample:\n  gossipfl keys new keys --name alice")
def keys() -> None:
    """Make a node's key pair; show a public key."""


@keys.command(epilog="\b\nExample:\n  gossipfl keys new keys --name alice")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--name", required=True, metavar="NAME", help="The node's name, or that of who watches.")
def new(folder: Path, name: str) -> None:
    """Make a key pair in DIR: NAME.secret, which stays on this machine, and NAME.public, for the others."""
    from gossipfl.transport.keys import make

    made = make(folder, name)
    click.echo(f"{made.secret}: keep it here, and to yourself")
    click.echo(f"{made.public}: for the others' swarm.toml:")
    click.echo(f'public_key = "{made.key}"')


@keys.command(epilog="\b\nExample:\n  gossipfl keys show keys/alice.public")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
def show(file: Path) -> None:
    """Print the public key of FILE, a .public or a .secret one. A secret key is never printed."""
    from gossipfl.transport.keys import public

    click.echo(public(file))
