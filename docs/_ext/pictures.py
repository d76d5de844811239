"""`{picture} NAME`: a picture of the concepts, drawn by the build in a light and a dark version."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from docutils import nodes
from docutils.parsers.rst import directives
from drawings import DRAWINGS, THEMES
from matplotlib import rc_context
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

HERE = Path(__file__).parent


class Picture(SphinxDirective):
    """Both versions; the theme shows the one that fits the page."""

    required_arguments = 1
    option_spec = {"alt": directives.unchanged_required}  # noqa: RUF012 (docutils' own way)

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        if name not in DRAWINGS:
            raise self.error(f"no picture {name!r}; there are {', '.join(DRAWINGS)}")
        return [
            nodes.image(
                uri=f"/generated/{name}-{theme}.svg",
                alt=self.options.get("alt", name),
                classes=["gossipfl-picture", f"only-{theme}"],
            )
            for theme in THEMES
        ]


def _current(path: Path, *sources: Path) -> bool:
    return path.exists() and all(path.stat().st_mtime >= source.stat().st_mtime for source in sources)


def draw_all(app: Sphinx) -> None:
    """Draw what is missing or older than what draws it."""
    folder = Path(app.srcdir) / "generated"
    folder.mkdir(exist_ok=True)
    for name, draw in DRAWINGS.items():
        paths = {theme: folder / f"{name}-{theme}.svg" for theme in THEMES}
        if all(_current(path, HERE / "drawings.py") for path in paths.values()):
            continue
        for theme, path in paths.items():
            _save(draw, THEMES[theme], path)


def _save(draw: Callable[[dict[str, str]], Any], colors: dict[str, str], path: Path) -> None:
    settings = {"svg.hashsalt": "gossipfl", "font.family": "sans-serif", "font.size": 10}
    with rc_context(settings):
        figure = draw(colors)
        figure.savefig(path, transparent=True, bbox_inches="tight", pad_inches=0.05, metadata={"Date": None})


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("picture", Picture)
    app.connect("builder-inited", draw_all)
    return {"parallel_read_safe": True}
