"""The command line, the only floor that prints. A command is imported when it is used, and so is the frame of
all: a process that is one node (`lone.py`) needs none of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gossipfl.cli.frame import Frame

    main: Frame

_COMMANDS = {
    "swarm": "Train with real processes on this machine.",
    "node": "Be one node of a swarm across machines.",
    "simulate": "Train without processes or sockets: many nodes, quickly.",
    "sweep": "Run a grid of configs, resumable.",
    "check": "Validate a config; print it resolved, and its recipe.",
    "topology": "List, show and compare graphs.",
    "algorithms": "List rules, exchanges and codecs: needs, cost, source.",
    "data": "List tasks; show how data are split over nodes.",
    "watch": "Attach to what runs; detach at will.",
    "keys": "Make a node's key pair; show a public key.",
    "init": "Write a config, for one machine or for many.",
    "bench": "Measure this machine: figures beside their limits.",
    "report": "Write the report of one run, or compare several.",
}

__all__ = ["main"]


def __getattr__(name: str) -> Frame:
    if name != "main":
        raise AttributeError(f"module 'gossipfl.cli' has no attribute {name!r}")
    try:
        from gossipfl.cli.frame import Frame
    except KeyboardInterrupt:  # Ctrl-C before there is a frame that could handle it
        raise SystemExit(130) from None
    found = globals()["main"] = Frame(_COMMANDS)
    return found
