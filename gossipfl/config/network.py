"""`[network]`: the lines, computers and absences that the event engine pretends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from gossipfl.config.section import Above, Expected, Section, key
from gossipfl.config.spreads import Amount, Delay

Slow = Annotated[
    dict[str, Annotated[float, Above(0)]],
    Expected("node = FACTOR by node index, such as {3 = 10.0}"),
]


@dataclass(frozen=True, kw_only=True)
class Network(Section):
    """The network that the event engine pretends, in virtual seconds; other engines ignore it.

    An amount is a number, a distribution or a file of numbers. Everything drawn follows from the seed.
    """

    preset: Literal["none", "lan", "datacenter", "wan-5-regions", "mobile"] = key(
        "none", "Measured numbers for the keys below that are left out.", local=True
    )
    latency: Delay = key(
        0.001,
        "Seconds a bit is under way on an edge; a distribution is drawn once an edge; a file "
        "holds a row a sender and a column a receiver.",
        local=True,
    )
    jitter: float = key(
        0.0, "Seconds at most that a message, and a local phase, takes longer; uniform.", local=True, ge=0
    )
    bandwidth: Amount = key(
        0.0,
        "Mbit/s of an edge, each way for itself; messages wait for those before them. 0: no "
        "limit; a file as for latency.",
        local=True,
    )
    upload: Amount = key(
        0.0,
        "Mbit/s that a node sends at, all its neighbors together; a file holds a number a node.",
        local=True,
    )
    download: Amount = key(0.0, "Mbit/s that a node receives at; as upload.", local=True)
    window: float = key(
        0.0,
        "MB under way on an edge at most, TCP's window: no faster than that a round trip. 0: no limit.",
        local=True,
        ge=0,
    )
    loss: float = key(
        0.0,
        "Share of packets that are lost; TCP sends them again, which takes time.",
        local=True,
        ge=0,
        le=0.5,
    )
    compute: Amount = key(
        0.01,
        "Seconds of a local optimizer step; a distribution is drawn for every local phase; a "
        "file holds a row a node, whose columns are taken in turn.",
        local=True,
    )
    slow: Slow = key({}, "Stragglers: node index = how many times longer its steps take.", local=True)
    stragglers: float = key(0.0, "Share of the nodes, drawn, that are slow.", local=True, ge=0, le=1)
    straggler_factor: float = key(10.0, "How many times longer their steps take.", local=True, gt=0)
    uptime: Amount = key(0.0, "Seconds that a node stays before it goes away; 0: for ever.", local=True)
    downtime: Amount = key(0.0, "Seconds that a node is away before it comes back.", local=True)
    trace: str = key(
        "",
        "A CSV file of absences instead, a line each: node, seconds from the start when it goes, "
        "and when it comes back (empty: never).",
        local=True,
    )
