"""gossipfl topology: list, show and compare graphs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from gossipfl.errors import ConfigError, Problem

DIGITS_MLP = 4810
"""Numbers in the model of the digits task: the size bytes are counted for unless another is given."""

_ROWS = (
    ("nodes", "n"),
    ("edges", "edges"),
    ("degree: min, mean, max", ("degree_min", "degree_mean", "degree_max")),
    ("diameter", "diameter"),
    ("connected", "connected"),
    ("directed", "directed"),
    ("weights", "weights"),
    ("rho", "rho"),
    ("spectral gap", "spectral_gap"),
    ("effective neighbours at .9, .99", "effective_neighbours"),
    ("rounds to exact consensus", "rounds_to_exact"),
    ("rounds to consensus 1e-3", "rounds_to_consensus"),
    ("schedule length", "schedule_length"),
    ("messages a round", "messages_per_round"),
    ("bytes a round", "bytes_per_round"),
)

TEXT = "what it is"

Decorator = Callable[[Callable[..., None]], Callable[..., None]]


def _options(*, several: bool) -> Decorator:
    """What `show` and `compare` share."""
    plot = "Draw a picture: .svg, .png or .pdf."
    given = [
        click.option("--nodes", type=int, metavar="N", help="Nodes [default: what the graph says]."),
        click.option("--weights", default="metropolis", metavar="W", show_default=True, help="Makes W."),
        click.option(
            "--seed", type=int, default=0, metavar="S", show_default=True, help="For random graphs."
        ),
        click.option(
            "--parameters",
            type=click.IntRange(min=1),
            default=DIGITS_MLP,
            metavar="D",
            show_default=True,
            help="Numbers in a model, of 4 bytes each.",
        ),
        click.option("--pi", metavar="A,B,...", help="The nodes' data sizes, for --weights data."),
        click.option("--allow-disconnected", is_flag=True, help="Also a graph in pieces."),
        click.option("--json", "as_json", is_flag=True, help="Print JSON, nothing else."),
        click.option("--plot", type=click.Path(path_type=Path), metavar="FILE", help=plot),
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(given):
            command = option(command)
        return click.argument("graphs" if several else "graph", nargs=-1 if several else 1, required=True)(
            command
        )

    return decorate


@click.group(short_help="List, show and compare graphs.")
def topology() -> None:
    """Graphs, their mixing matrices and schedules: what each costs, and what it buys.

    \b
    Examples:
      gossipfl topology list
      gossipfl topology show torus:4x8 --nodes 32
      gossipfl topology compare ring torus exponential base:1 complete --nodes 32
    """


@topology.command("list", short_help="Every graph and weight by name.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, nothing else.")
def list_(as_json: bool) -> None:
    """Every graph, schedule and weight by name, with its arguments.

    \b
    Example:
      gossipfl topology list
    """
    from gossipfl.topology.families import FAMILIES
    from gossipfl.topology.weights import OTHERS, SCHEMES

    graphs = [
        {
            "name": family.name,
            "arguments": family.arguments,
            "example": family.example,
            "description": family.line,
            "schedule": family.make is None,
            "source": family.source,
        }
        for family in FAMILIES.values()
    ]
    weights = [
        {"name": name, "description": scheme.line, "source": scheme.source}
        for name, scheme in SCHEMES.items()
    ]
    weights += [{"name": name, "description": line, "source": ""} for name, line in OTHERS.items()]
    if as_json:
        click.echo(json.dumps({"graphs": graphs, "weights": weights}, indent=2))
        return
    _print_table("Graphs", ("GRAPH", TEXT), [(entry["example"], _line(entry)) for entry in graphs])
    _print_table("Weights", ("W", TEXT), [(entry["name"], _line(entry)) for entry in weights])
    click.echo("GRAPH may be a file too (.edges .graphml .json .npy), and GRAPH or W module:function.")


def _line(entry: Mapping[str, object]) -> str:
    return f"{entry['description']} ({entry['source']})" if entry["source"] else str(entry["description"])


@topology.command(short_help="The figures of one graph, and its picture.")
@_options(several=False)
def show(graph: str, **options: Any) -> None:
    """Figures and a picture of GRAPH: a name (see list), a file, or module:function.

    \b
    Examples:
      gossipfl topology show ring --nodes 16
      gossipfl topology show topologies/nsfnet.graphml --weights fmmc --plot nsfnet.svg
      gossipfl topology show base:2 --nodes 25 --json
    """
    figures = _figures(graph, options)
    if options["plot"] is not None:
        from gossipfl.topology import picture
        from gossipfl.topology.schedules import schedule

        picture.check_ending(options["plot"])
        made = schedule(
            graph,
            options["nodes"],
            seed=options["seed"],
            weights=options["weights"],
            pi=_sizes(options["pi"]),
            allow_disconnected=options["allow_disconnected"],
        )
        title = f"{figures['name']}, {figures['n']} nodes, ρ = {_said(figures['rho'])}"
        picture.save(picture.graph_figure(made, title), options["plot"])
    if options["as_json"]:
        click.echo(json.dumps(figures, indent=2))
        return
    rows = [(label, _cell(figures, key)) for label, key in _ROWS]
    for key in ("residual", "contraction"):
        if figures[key] is not None:
            rows.append((key, _said(figures[key])))
    _print_table(str(figures["name"]), ("", ""), rows)
    _note_plot(options["plot"])


@topology.command(short_help="Rank several graphs: cost against speed.")
@_options(several=True)
def compare(graphs: tuple[str, ...], **options: Any) -> None:
    """Rank GRAPH... by the rounds they take to consensus, then by messages a round.

    \b
    Example:
      gossipfl topology compare ring torus exponential base:1 complete --nodes 32 --plot compare.svg
    """
    rows: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for graph in graphs:
        try:
            rows.append(_figures(graph, options))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    rows.sort(key=_rank)
    if options["plot"] is not None:
        from gossipfl.topology import picture

        nodes = sorted({int(row["n"]) for row in rows})
        title = f"{' or '.join(map(str, nodes))} nodes, weights {options['weights']}"
        picture.save(picture.comparison_figure(rows, title), options["plot"])
    if options["as_json"]:
        click.echo(json.dumps(rows, indent=2))
        return
    heads = ("GRAPH", "rho", "n.9", "n.99", "exact", "1e-3", "messages", "total")
    _print_table("By rounds to consensus, then messages a round", heads, [_ranked(row) for row in rows])
    click.echo("n.9, n.99: effective neighbours at γ = .9 and .99. exact, 1e-3: rounds to consensus.")
    click.echo("messages: of all nodes in a round; total: of all nodes until 1e-3.")
    _note_plot(options["plot"])


def _figures(graph: str, options: Mapping[str, Any]) -> dict[str, Any]:
    from gossipfl.topology.describing import describe

    return describe(
        graph,
        options["nodes"],
        weights=options["weights"],
        seed=options["seed"],
        parameters=options["parameters"],
        pi=_sizes(options["pi"]),
        allow_disconnected=options["allow_disconnected"],
    )


def _sizes(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(Problem("--pi", f"{text!r} is no list of numbers", "such as 10,20,30,40")) from None


def _rank(row: Mapping[str, Any]) -> tuple[float, float]:
    rounds = row["rounds_to_consensus"]
    return (float("inf") if rounds is None else rounds, row["messages_per_round"])


def _ranked(row: Mapping[str, Any]) -> tuple[str, ...]:
    rounds, messages = row["rounds_to_consensus"], row["messages_per_round"]
    near, far = row["effective_neighbours"].values()
    cells = (row["rho"], near, far, row["rounds_to_exact"], rounds, messages)
    total = None if rounds is None else rounds * messages
    return (row["name"], *(_said(cell, 4) for cell in (*cells, total)))


def _cell(figures: Mapping[str, Any], key: str | tuple[str, ...]) -> str:
    value = [figures[one] for one in key] if isinstance(key, tuple) else figures[key]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return ", ".join(_said(one) for one in value)
    if key == "schedule_length" and value is None:
        return "never the same"
    if key in ("rounds_to_exact", "rounds_to_consensus") and value is None:
        return "never"
    return _said(value)


def _said(value: object, digits: int = 6) -> str:
    """A number as people read it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _print_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=title,
        box=SIMPLE_HEAD,
        show_header=any(heads),
        title_justify="left",
        pad_edge=False,
        collapse_padding=True,
    )
    for place, head in enumerate(heads):
        words = place == 0 or head == TEXT
        table.add_column(head, justify="left" if words else "right", no_wrap=head != TEXT)
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    Console(highlight=False).print(table)


def _note_plot(path: Path | None) -> None:
    if path is not None:
        click.echo(path)
