"""Draws docs/_static/live.svg: the live table of a real `gossipfl swarm`, when most of it is done.

python docs/record_live.py
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.text import Text

import gossipfl
from gossipfl.observe.console import Live, _View

AT = 70
"""The round (of 100) that is shown."""
COLUMNS = 78


class Camera(Live):
    """A live table that keeps what it shows when all nodes have finished round AT."""

    picture: str | None = None

    def __call__(self, record: Mapping[str, object]) -> None:
        super().__call__(record)
        if self.picture is None and self.board.round >= AT:
            console = Console(file=io.StringIO(), record=True, width=COLUMNS, force_terminal=True)
            console.print(Text("$ gossipfl swarm", style="bold"))
            console.print(_View(self))
            self.picture = self_contained(console.export_svg(title="gossipfl swarm"))


def self_contained(svg: str) -> str:
    """Without fonts from elsewhere, and without trailing blanks."""
    svg = re.sub(r"@font-face\s*\{.*?\}\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code, monospace", "'Fira Code', 'DejaVu Sans Mono', Menlo, Consolas, monospace")
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    return "\n".join(line.rstrip() for line in svg.splitlines() if line.strip()) + "\n"


def main() -> None:
    """Run a swarm and write the picture."""
    config = gossipfl.load_config()
    with Camera(config, plain=False, stream=io.StringIO()) as camera:
        gossipfl.swarm(config, watch=camera)
    assert camera.picture is not None
    (Path(__file__).parent / "_static" / "live.svg").write_text(camera.picture)


if __name__ == "__main__":
    main()
