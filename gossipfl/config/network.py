"""`[network]`: the lines, computers and absences that the event engine pretends."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gossipfl.config.sections import LOCAL, Expected, Section
from gossipfl.config.spreads import Amount, Delay

Slow = Annotated[
    dict[str, Annotated[float, Field(gt=0)]],
    Expected("node = FACTOR by node index, such as {3 = 10.0}"),
]


class Network(Section):
    """The network that the event engine pretends, in virtual seconds; other engines ignore it.

    An amount is a number, a distribution or a file of numbers. Everything drawn follows from the seed.
    """

    preset: Literal["none", "lan", "datacenter", "wan-5-regions", "mobile"] = Field(
        "none",
        description="Measured numbers for the keys below that are left out.",
        json_schema_extra=LOCAL,
    )
    latency: Delay = Field(
        0.001,
        description="Seconds a bit is under way on an edge; a distribution is drawn once an edge; a file "
        "holds a row a sender and a column a receiver.",
        json_schema_extra=LOCAL,
    )
    jitter: float = Field(
        0.0,
        ge=0,
        description="Seconds at most that a message, and a local phase, takes longer; uniform.",
        json_schema_extra=LOCAL,
    )
    bandwidth: Amount = Field(
        0.0,
        description="Mbit/s of an edge, each way for itself; messages wait for those before them. 0: no "
        "limit; a file as for latency.",
        json_schema_extra=LOCAL,
    )
    upload: Amount = Field(
        0.0,
        description="Mbit/s that a node sends at, all its neighbors together; a file holds a number a node.",
        json_schema_extra=LOCAL,
    )
    download: Amount = Field(
        0.0, description="Mbit/s that a node receives at; as upload.", json_schema_extra=LOCAL
    )
    window: float = Field(
        0.0,
        ge=0,
        description="MB under way on an edge at most, TCP's window: no faster than that a round trip. 0: no "
        "limit.",
        json_schema_extra=LOCAL,
    )
    loss: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="Share of packets that are lost; TCP sends them again, which takes time.",
        json_schema_extra=LOCAL,
    )
    compute: Amount = Field(
        0.01,
        description="Seconds of a local optimizer step; a distribution is drawn for every local phase; a "
        "file holds a row a node, whose columns are taken in turn.",
        json_schema_extra=LOCAL,
    )
    slow: Slow = Field(
        default_factory=dict,
        description="Stragglers: node index = how many times longer its steps take.",
        json_schema_extra=LOCAL,
    )
    stragglers: float = Field(
        0.0, ge=0, le=1, description="Share of the nodes, drawn, that are slow.", json_schema_extra=LOCAL
    )
    straggler_factor: float = Field(
        10.0, gt=0, description="How many times longer their steps take.", json_schema_extra=LOCAL
    )
    uptime: Amount = Field(
        0.0,
        description="Seconds that a node stays before it goes away; 0: for ever.",
        json_schema_extra=LOCAL,
    )
    downtime: Amount = Field(
        0.0, description="Seconds that a node is away before it comes back.", json_schema_extra=LOCAL
    )
    trace: str = Field(
        "",
        description="A CSV file of absences instead, a line each: node, seconds from the start when it goes, "
        "and when it comes back (empty: never).",
        json_schema_extra=LOCAL,
    )
