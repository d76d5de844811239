"""gossipfl watch: attach to what runs, detach at will."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gossipfl.cli.outlets import unheard
from gossipfl.errors import ConfigError, PeerLost, Problem

if TYPE_CHECKING:
    from gossipfl.config import Config
    from gossipfl.observe.console import Live
    from gossipfl.records import Record

_EVERY = 0.2  # seconds between two looks
_GONE = 15.0  # seconds without any node until there is nothing to watch


@click.command(short_help="Attach to what runs; detach at will.")
@click.argument("source", metavar="RUN_DIR | CONFIG", type=click.Path(path_type=Path))
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="Set any key of the config.")
def watch(source: Path, settings: tuple[str, ...]) -> None:
    """Show the live table of a swarm that runs, until it has ended or Ctrl-C. Nothing is written, and nobody
    trains any differently for it.

    RUN_DIR: the folder of a run on this machine. CONFIG: the file of a swarm across machines; then a secret
    key of security.keys must be one that security.allow lists.

    \b
    Examples:
      gossipfl watch runs/demo-20250101-120000
      gossipfl watch swarm.toml
    """
    if source.is_dir():
        config, records = _folder(source)
    else:
        config, records = _network(source, settings)
    from gossipfl.observe.console import Live

    with Live(config) as live:
        for index, peer in enumerate(config.node if not source.is_dir() else ()):
            if not peer.address:
                live.board.lost(index)  # as far as can be seen from here
                live.note(f"{peer.name} has no address: it cannot be watched from here")
        try:
            for batch in records:
                for record in batch:
                    live(record)
                if _over(live) or unheard():
                    break
        except KeyboardInterrupt:
            return


def _over(live: Live) -> bool:
    return all(row.state in ("done", "lost") for row in live.board.rows)


def _folder(path: Path) -> tuple[Config, Iterator[list[Record]]]:
    """Follow the files of a run, until it has its summary."""
    from gossipfl.config import load_config
    from gossipfl.observe.follow import Follower

    if not (path / "config.toml").is_file():
        right = "the folder of a run, such as runs/NAME-TIME"
        raise ConfigError(Problem(str(path), "is no folder of a run: it has no config.toml", right))

    def follow() -> Iterator[list[Record]]:
        import time

        follower = Follower(path)
        while True:
            ended = (path / "summary.json").exists()
            yield (found := follower.poll())
            if ended and not found:
                return
            time.sleep(_EVERY)

    return load_config(path / "config.toml"), follow()


def _network(path: Path, settings: tuple[str, ...]) -> tuple[Config, Iterator[list[Record]]]:
    """Read the records of all nodes over the network."""
    from gossipfl.config import load_config

    config = load_config(path, settings)
    from gossipfl.drivers.watching import watching

    reader = watching(config)

    def read() -> Iterator[list[Record]]:
        import time

        seen, last = False, time.monotonic()
        with reader:
            while True:
                yield reader.poll(_EVERY)
                if reader.up:
                    seen, last = True, time.monotonic()
                elif time.monotonic() - last > _GONE:
                    if seen:
                        return
                    addresses = ", ".join(peer.address for peer in config.node if peer.address)
                    raise PeerLost(f"no node can be reached at {addresses}: is one running?")
                if reader.refused:
                    names = ", ".join(config.names[j] for j in sorted(reader.refused))
                    right = "everyone's file must list it"
                    raise ConfigError(Problem("security.allow", f"{names} does not list this key", right))

    return config, read()
