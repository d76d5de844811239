"""gossipfl algorithms: what there is to choose from, what it needs, what it costs."""

from __future__ import annotations

import json

import click


@click.command(short_help="List rules, exchanges and codecs: needs, cost, source.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, nothing else.")
def algorithms(as_json: bool) -> None:
    """List the rules, exchanges, codecs and aggregates, what each needs and costs, and where it is from.

    \b
    bytes    what a round sends over an edge, times dpsgd's
    memory   x and what is kept from round to round (a node with 2 neighbors), times dpsgd's

    \b
    Examples:
      gossipfl algorithms
      gossipfl check --set algorithm.rule=d2
    """
    from gossipfl.core import catalogue

    rules = catalogue.rules()
    if as_json:
        found = {
            "rules": [rule._asdict() for rule in rules],
            "exchanges": catalogue.exchanges(),
            "codecs": catalogue.codecs(),
            "aggregates": catalogue.aggregates(),
        }
        click.echo(json.dumps(found))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()

    def show(title: str, columns: tuple[str, ...], lines: list[tuple[str, ...]]) -> None:
        table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        for column in columns:
            number = column in ("bytes", "memory")
            table.add_column(column, justify="right" if number else "left")
        table.columns[0].no_wrap = True  # names are never cut
        for line in lines:
            table.add_row(*line)
        console.print(table)

    show(
        "Rules (algorithm.rule)",
        ("rule", "what it does", "needs", "bytes", "memory", "source"),
        [
            (r.name, r.line, "; ".join(r.needs) or "-", f"{r.bytes:g}x", f"{r.memory:g}x", r.source)
            for r in rules
        ],
    )
    show(
        "Exchanges (algorithm.exchange)",
        ("exchange", "what it does", "needs", "source"),
        [tuple(map(str, e.values())) for e in catalogue.exchanges()],
    )
    show(
        "Codecs (wire.codec)",
        ("codec", "what travels", "bytes", "source"),
        [
            (str(c["name"]), str(c["line"]), f"{c['bytes']:g}x for {c['example']}", str(c["source"]))
            for c in catalogue.codecs()
        ],
    )
    show(
        "Aggregates (algorithm.aggregate)",
        ("aggregate", "what weighs"),
        [tuple(map(str, a.values())) for a in catalogue.aggregates()],
    )
    console.print("Your own: module:function, for rules, codecs and aggregates.")
