"""gossipfl bench: figures, each beside its limit on this machine, measured in the same run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal, NamedTuple

import click

from gossipfl.cli.lines import note_line
from gossipfl.errors import ConfigError, Problem

if TYPE_CHECKING:
    from gossipfl.drivers.bench.turns import Row, Say

Engine = Literal["nodes", "vector", "events"]
COUNTS = click.IntRange(min=1)


class Asked(NamedTuple):
    """What the options say; None and 0: as it comes."""

    nodes: int | None
    graph: str | None
    parameters: int | None
    rounds: int
    transport: str
    turns: int | None


@click.command(
    short_help="Measure this machine: figures beside their limits.",
    epilog="\b\nExamples:\n  gossipfl bench\n  gossipfl bench --parameters 5000000 --transport tcp --json"
    "\n  gossipfl bench --engine events"
    "\n  gossipfl bench --engine vector\n  gossipfl bench --engine vector --nodes 1000 --topology ring",
)
@click.option("--nodes", type=COUNTS, metavar="N", help="Number of nodes [default: 8; each engine its own].")
@click.option("--topology", "graph", metavar="GRAPH", help="The graph: see gossipfl topology list.")
@click.option("--parameters", type=COUNTS, metavar="D", help="Parameters of the model [default: 50000].")
@click.option("--rounds", type=COUNTS, metavar="R", help="Rounds of a turn [default: for about a second].")
@click.option(
    "--transport",
    type=click.Choice(["auto", "shm", "ipc", "tcp"]),
    default="auto",
    show_default=True,
    help="How bytes move between processes.",
)
@click.option(
    "--engine",
    type=click.Choice(["nodes", "vector", "events"]),
    default="nodes",
    show_default=True,
    help="nodes: real processes; vector, events: the engines of simulate.",
)
@click.option("--turns", type=COUNTS, metavar="T", help="Figure and limit are measured so often, in turns.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, nothing else.")
def bench(
    nodes: int | None,
    graph: str | None,
    parameters: int | None,
    rounds: int | None,
    transport: str,
    engine: Engine,
    turns: int | None,
    as_json: bool,
) -> None:
    """Measure this machine: every figure beside what the machine can do without gossipfl, in the same run.

    Real nodes that train nothing are compared with bare ZeroMQ processes that move the same bytes over the
    same graph; nodes that train, with those and plain PyTorch; the engines of simulate, with programs
    written for nothing else. Figure and limit take turns and medians are told, so that the ratio means
    something on a busy machine too.
    """
    asked = Asked(nodes, graph, parameters, rounds or 0, transport, turns)
    if engine != "nodes" and transport != "auto":
        wrong = f"{transport}: the {engine} engine has no sockets"
        raise ConfigError(Problem("--transport", wrong, "leave it out"))

    def say(text: str) -> None:
        note_line(f"bench: {text}")

    found = _measure(engine, asked, (lambda text: None) if as_json else say)
    if as_json:
        click.echo(json.dumps(found))
        return
    for line in _lines(found):
        click.echo(line)


def _measure(engine: Engine, asked: Asked, say: Say) -> Row:
    from gossipfl.drivers.bench import rows

    choices = rows.Choices(asked.nodes, asked.graph, asked.parameters, asked.rounds, asked.turns)
    if engine == "nodes":
        return rows.nodes(choices, asked.transport, say)
    return rows.vector(choices, say) if engine == "vector" else rows.events(choices, say)


def _lines(found: Row) -> list[str]:
    rows = found.get("rows")
    lines = [_line(row) for row in rows] if isinstance(rows, list) else _of_nodes(found)
    return [*lines, f"machine: {found['machine']}; load {found['load']}"]


def _line(row: Row) -> str:
    unit = next(key for key in row if key.endswith("_per_second"))
    shape = f"{row['what']}: {row['nodes']} nodes, {row['topology']}, {row['parameters']} parameters"
    words = unit.removesuffix("_per_second").replace("_", "-")
    return f"{shape}: {_told(row[unit])} {words}/s, limit {_told(row[f'limit_{unit}'])}, {_ratio(row)}"


_SHAPE = "{nodes} nodes, {topology}, {parameters} parameters, {transport}, {rounds} rounds × {turns} turns"
_LINES = """\
no-op training   {rounds_per_second} rounds/s, bare processes {limit_rounds_per_second}, {the_ratio}
real training    {training_rounds_per_second} rounds/s, plain PyTorch and bare processes \
{training_limit_rounds_per_second}, ratio {training_ratio}
sent             {mb_per_second_node} MB/s a node; a copy in memory {copy_gb_per_second} GB/s
start            {start_seconds} s to the last first round, {start_seconds_after_ready} s of it after the \
parent was ready
memory a node    {private_mb_node} MB private, {pss_mb_node} MB with its share of what is shared
a node's round   {cpu_seconds_round} s of processor (bare {limit_cpu_seconds_round}), \
{context_switches_round} context switches
overlap          with {overlap_training_seconds} s of training a node waits {overlap_wait_seconds} s a \
round, {overlap_wait_seconds_early} s by dpsgd-cta, which sends first"""


def _of_nodes(found: Row) -> list[str]:
    told = {key: _told(value) for key, value in found.items()}
    lines = _LINES.format(**told, the_ratio=_ratio(found))
    unseen = [] if found["unseen"] is None else [f"not told         {found['unseen']}"]
    return [_SHAPE.format(**found), *lines.splitlines(), *unseen]


def _ratio(row: Row) -> str:
    """The ratio, its range over the turns, and that of processor time."""
    cpu = "" if row["cpu_ratio"] is None else f", by processor time {_told(row['cpu_ratio'])}"
    return f"ratio {_told(row['ratio'])} ({_told(row['ratio_min'])} to {_told(row['ratio_max'])}){cpu}"


def _told(value: object) -> str:
    if not isinstance(value, int | float):
        return "-" if value is None else str(value)
    return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
