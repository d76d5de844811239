"""gossipfl check: is this config right, and what would run?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from gossipfl.cli.options import Common, common_options
from gossipfl.errors import ConfigError, Problem

if TYPE_CHECKING:
    from gossipfl.config import Config
    from gossipfl.core.recipe import Recipe


@click.command(short_help="Validate a config; print it resolved, and its recipe.")
@common_options
@click.option("--schema", is_flag=True, help="Print the JSON schema of the config, for editors, and stop.")
def check(common: Common, schema: bool) -> None:
    """Validate a config and print it with every key resolved, then its recipe: what would run, and why.

    What is printed is a config itself: the recipe stands in comments.

    \b
    Examples:
      gossipfl check
      gossipfl check swarm.toml --set algorithm.rule=d2 --topology torus:4x8 --nodes 32
      gossipfl check --schema > swarm.schema.json
    """
    if schema:
        from gossipfl.config import json_schema

        click.echo(json.dumps(json_schema(), indent=2))
        return
    config = common.load()
    _check_functions(config)
    found = resolve(config)
    _check_network(config)
    _check_machines(config)
    if common.json:
        recipe = {"rule": found.name, "keys": dict(found.params), "notes": list(found.notes)}
        click.echo(json.dumps({"config": config.to_dict(), "digest": config.digest(), "recipe": recipe}))
    elif not common.quiet:
        click.echo(config.to_toml())
        for line in recipe_lines(config, found):
            click.echo(f"# {line}")


def _check_functions(config: Config) -> None:
    """Raises ConfigError for a task that there is not, and for whatever is named by `module:function` and not
    found; those of graph, weights, rule, codec and aggregate are found as the recipe is made."""
    from gossipfl import plugin
    from gossipfl.learning.tasks import TASKS, no_such_task

    problems: list[Problem] = []
    named = {
        "train.task": config.train.task,
        "data.partition": config.data.partition,
        "swarm.writer": config.swarm.writer,
    }
    for key, name in named.items():
        try:
            if plugin.is_plugin(name):
                plugin.load(name, key)
            elif key == "train.task" and name not in TASKS:
                raise no_such_task(name)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)


def _check_network(config: Config) -> None:
    """Raises ConfigError for files of `[network]` that are missing or broken."""
    from gossipfl.drivers.absences import Absences
    from gossipfl.drivers.network import Network

    Network(config)
    Absences(config)


def _check_machines(config: Config) -> None:
    """Raises ConfigError for an edge that no [[node]] can make."""
    from gossipfl.drivers.plan import needs_sizes, plan, require_reachable

    if config.node and not needs_sizes(config):
        require_reachable(config, plan(config).edges())


def resolve(config: Config) -> Recipe:
    """The recipe of a config; raises ConfigError with the mistakes of graph, weights and rule together."""
    from gossipfl.drivers.plan import needs_sizes, plan

    sizes = None
    if needs_sizes(config):
        from gossipfl.learning.workload import workload

        sizes = workload(config).sizes
    return plan(config, sizes).recipe


def recipe_lines(config: Config, found: Recipe) -> list[str]:
    """What would run, in words."""
    algorithm, graph = config.algorithm, found.schedule.graph(0)
    mixing = f"{config.topology.title} ({config.topology.weights})"
    parts = ", ".join(part.name for part in found.rule.sends)
    keys = "".join(f", {key} = {value}" for key, value in found.params.items())
    often = "each round" if algorithm.every == 1 else f"every {algorithm.every} rounds"
    sent = f"sends {parts} to its neighbors {often}" if found.rule.sends else "sends nothing"
    sent += ", before it trains" if found.rule.early else ", after it has trained"
    if algorithm.exchange == "pairwise":
        phases = "each local phase" if algorithm.every == 1 else f"every {algorithm.every} local phases"
        sent = f"and one neighbor take the mean of the two after {phases}; nobody waits"
    elif algorithm.exchange == "push":
        unit = "" if isinstance(algorithm.period, str) else " of its local phases"
        sent = f"sends model and age to one neighbor every {algorithm.period}{unit}; nobody waits"
    return [
        f"recipe: {algorithm.exchange} x {mixing} x {found.name}{keys}",
        f"graph: {graph.n} nodes, {len(graph.edges())} edges",
        f"a node {sent}",
        *(f"note: {note}" for note in found.notes),
        f"digest: {config.digest()} (peers that train together share it)",
    ]
