"""gossipfl data: the tasks, and how their data are split over nodes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from gossipfl.errors import ConfigError, Problem

if TYPE_CHECKING:
    from gossipfl.config import Config


@click.group(epilog="\b\nExample:\n  gossipfl data show digits --nodes 8 --partition dirichlet")
def data() -> None:
    """List tasks; show how data are split over nodes."""


@data.command("list", epilog="\b\nExample:\n  gossipfl data list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, nothing else.")
def list_tasks(as_json: bool) -> None:
    """List the tasks and the ways to split their data."""
    from gossipfl.learning.partition import SPLITS
    from gossipfl.learning.tasks import TASKS

    partitions = {name: (split.__doc__ or "").partition("\n")[0] for name, split in SPLITS.items()}
    if as_json:
        click.echo(json.dumps({"tasks": dict(TASKS), "partitions": partitions}, ensure_ascii=False))
        return
    width = max(map(len, [*TASKS, *partitions]))
    for title, lines in (("Tasks", TASKS), ("Partitions (--partition NAME, data.partition)", partitions)):
        click.echo(f"{title}:")
        for name, line in lines.items():
            click.echo(f"  {name:{width}}  {line}")
    click.echo("Your own: module:function, for either.")


@data.command(
    epilog="\b\nExample:\n  gossipfl data show digits --nodes 8 --partition dirichlet --set data.alpha=0.1"
)
@click.argument("task")
@click.option("--nodes", metavar="N", help="Number of nodes [default: 8].")
@click.option("--partition", metavar="P", help="How the data are split [default: dirichlet].")
@click.option("--seed", metavar="S", help="The seed of the split [default: 0].")
@click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="Set any key of the config, such as data.alpha=0.1; repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, nothing else.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE", help="Draw it (png, svg, pdf).")
def show(
    task: str,
    nodes: str | None,
    partition: str | None,
    seed: str | None,
    settings: tuple[str, ...],
    as_json: bool,
    plot: Path | None,
) -> None:
    """Show who holds what of TASK: sizes, labels, distance to the labels of all."""
    from gossipfl.config import load_config

    options = {"train.task": task, "swarm.nodes": nodes, "data.partition": partition, "swarm.seed": seed}
    given = tuple(f"{key}={value}" for key, value in options.items() if value is not None)
    split = _split(load_config(None, (*settings, *given)))
    if plot is not None:
        _draw(split, plot)
    if as_json:
        click.echo(json.dumps(_described(split)))
        return
    for line in _lines(split):
        click.echo(line)
    if plot is not None:
        click.echo(f"drawn to {plot}")


class Split(NamedTuple):
    """A task's data over n nodes."""

    config: Config
    sizes: tuple[int, ...]
    data_hash: str
    classes: list[int]  # empty for a task without labels, as are the two below
    table: list[list[int]]  # [n][c], samples of each class
    distance: list[float]  # [n], total variation to the labels of all

    @property
    def title(self) -> str:
        name, partition = self.config.train.task, self.config.data.partition
        return f"{name}: {sum(self.sizes)} samples over {len(self.sizes)} nodes, {partition}"


def _split(config: Config) -> Split:
    from gossipfl.learning.partition import label_distance, label_table
    from gossipfl.learning.task import VectorTask
    from gossipfl.learning.tasks import load_task
    from gossipfl.learning.workload import workload

    task = load_task(config)
    if isinstance(task, VectorTask):
        raise ConfigError(Problem("TASK", f"{task.name} has no data to split", "see gossipfl data list"))
    load = workload(config, task)
    if task.labels is None:
        return Split(config, load.sizes, load.data_hash, [], [], [])
    classes, table = label_table(task.labels, load.parts)
    distance = label_distance(task.labels, load.parts)
    return Split(config, load.sizes, load.data_hash, classes.tolist(), table.tolist(), distance.tolist())


def _described(split: Split) -> dict[str, object]:
    config = split.config
    found: dict[str, object] = {
        "task": config.train.task,
        "nodes": config.swarm.nodes,
        "partition": config.data.partition,
        "seed": config.swarm.seed,
        "samples": sum(split.sizes),
        "sizes": split.sizes,
        "data_hash": split.data_hash,
    }
    if split.classes:
        found |= {"classes": split.classes, "labels": split.table, "tv": split.distance}
    return found


def _lines(split: Split) -> list[str]:
    """A table: a row a node, a column a class."""
    lines = [f"{split.title}, data hash {split.data_hash}"]
    rows = [["node", "samples"], *([str(node), str(size)] for node, size in enumerate(split.sizes))]
    if split.classes:
        rows[0] += ["distance", *map(str, split.classes)]
        for row, distance, counts in zip(rows[1:], split.distance, split.table, strict=True):
            row += [f"{distance:.3f}", *map(str, counts)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines += ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    if split.classes:
        lines.append(
            "distance: total variation to the labels of all; "
            f"mean {sum(split.distance) / len(split.distance):.3f}, largest {max(split.distance):.3f}"
        )
    return lines


def _draw(split: Split, path: Path) -> None:
    """Stacked bars, one a node."""
    from matplotlib.figure import Figure

    nodes = range(len(split.sizes))
    figure = Figure(figsize=(7, min(12.0, max(3.4, 1.0 + 0.25 * len(nodes)))), layout="constrained")
    axes = figure.subplots()
    if split.classes:
        from matplotlib import colormaps

        colors = colormaps["tab20" if len(split.classes) > 10 else "tab10"]
        left = [0] * len(nodes)
        for k, label in enumerate(split.classes):
            counts = [row[k] for row in split.table]
            axes.barh(nodes, counts, left=left, color=colors(k % colors.N), label=str(label))
            left = [start + count for start, count in zip(left, counts, strict=True)]
        axes.legend(title="label", bbox_to_anchor=(1.0, 1.0), loc="upper left", fontsize="small")
    else:
        axes.barh(nodes, split.sizes)
    axes.invert_yaxis()
    axes.set(xlabel="samples", ylabel="node", title=split.title)
    try:
        figure.savefig(path)
    except ValueError as error:
        formats = ", ".join(sorted(figure.canvas.get_supported_filetypes()))
        raise ConfigError(
            Problem("--plot", f"{path} has no format that can be drawn", f"one of {formats}")
        ) from error
