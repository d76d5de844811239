"""gossipfl's side of a comparison: what its own `gossipfl bench` says. It is asked as a command, since a peer
has an environment of its own."""

from __future__ import annotations

import json
import subprocess
from typing import Any


def bench(command: str, *options: str) -> dict[str, Any]:
    """The JSON object of `gossipfl bench`; `command`: the gossipfl to run."""
    words = [command, "bench", *options, "--json"]
    done = subprocess.run(words, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def tell(what: str, peer: float, own: float) -> None:
    """A line with both figures and the ratio."""
    print(f"{what}: peer {peer:,.4g}, gossipfl {own:,.4g}, {own / peer:,.3g} times as much", flush=True)
