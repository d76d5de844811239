"""Sphinx extension: the gallery of graphs, drawn and described from the code whenever the docs are built.

Writes `generated/gallery.md`, which `gallery.md` includes, and a picture for every graph beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gossipfl.topology import FAMILIES, describe, schedule
from gossipfl.topology.families import Arguments
from gossipfl.topology.picture import graph_figure, save

if TYPE_CHECKING:
    from sphinx.application import Sphinx

NODES = 16
WITH_ARGUMENTS = {
    "barbell": ["barbell:5"],
    "regular": ["regular:4"],
    "erdos-renyi": ["erdos-renyi:0.3"],
    "small-world": ["small-world:4,0.1"],
    "geometric": ["geometric:0.4"],
    "base": ["base:1", "base:2", "base:3"],
    "epidemic": ["epidemic:4", "epidemic:4,local"],
    "matching": ["matching", "matching:torus"],
}
"""What is drawn of families that take arguments; of the others, the bare name."""

COLUMNS = (
    "graph",
    "nodes",
    "ρ",
    "diameter",
    "effective neighbours (γ = .9, .99)",
    "messages a round",
    "rounds to exact",
)


def specs() -> Iterator[tuple[str, str]]:
    """(family, spec) of every picture."""
    for family in FAMILIES:
        for spec in WITH_ARGUMENTS.get(family, [family]):
            yield family, spec


def entry(family: str, spec: str, folder: Path) -> tuple[str, str]:
    """A graph's section, and its row in the table; its picture goes into the folder."""
    nodes = None if FAMILIES[family].size(Arguments(spec, spec.partition(":")[2])) else NODES
    figures = describe(spec, nodes)
    name = spec.replace(":", "-").replace(",", "-").replace(".", "") + ".svg"
    save(graph_figure(schedule(spec, nodes), ""), folder / name)
    effective = figures["effective_neighbours"]
    near, far = effective.values() if isinstance(effective, dict) else (None, None)
    exact = figures["rounds_to_exact"]
    keys = ("n", "rho", "diameter", "messages_per_round")
    keys = ("n", "rho", "diameter", "messages_per_round")
    nodes_, rho, diameter, messages = (_said(figures[key]) for key in keys)
    exactly = "never" if exact is None else str(exact)
    both = f"{_said(near)}, {_said(far)}"
    row = (f"[`{spec}`](#{anchor(spec)})", nodes_, rho, diameter, both, messages, exactly)
    source = FAMILIES[family].source
    about = FAMILIES[family].line[0].upper() + FAMILIES[family].line[1:]
    section = (
        f"({anchor(spec)})=\n\n## `{spec}`\n\n{about}." + (f" Source: {source}." if source else "") + "\n\n"
        f"```{{image}} generated/{name}\n:alt: {spec} of {nodes_} nodes\n:width: {_width(spec)}\n```\n\n"
        f"ρ {rho}, diameter {diameter}, effective neighbours {both} (γ = .9, .99), "
        f"{messages} messages a round, rounds to exact consensus: {exactly}.\n"
    )
    return section, f"| {' | '.join(row)} |"


def write_gallery(folder: Path) -> Path:
    """Write gallery.md and its pictures into the folder; the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    made = [entry(family, spec, folder) for family, spec in specs()]
    table = "\n".join(
        [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|", *(row for _, row in made), "", ""]
    )
    page = folder / "gallery.md"
    page.write_text(table + "\n".join(section for section, _ in made), encoding="utf-8")
    return page


def anchor(spec: str) -> str:
    """The section's target in the page."""
    return "graph-" + spec.replace(":", "-").replace(",", "-").replace(".", "")


def _width(spec: str) -> str:
    return "100%" if FAMILIES[spec.partition(":")[0]].make is None else "55%"


def _said(value: object) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _generate(app: Sphinx) -> None:
    write_gallery(Path(app.srcdir) / "generated")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx: the gallery is written before the sources are read."""
    app.connect("builder-inited", _generate)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
