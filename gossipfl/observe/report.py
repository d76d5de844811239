"""One self-contained page about a run, or about several compared, made of what they left in their folders.

No request leaves it, and nothing in it runs but a tooltip.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from gossipfl import __version__
from gossipfl.observe.comparison import comparison
from gossipfl.observe.page import Page
from gossipfl.observe.reading import read_folder
from gossipfl.observe.single import single
from gossipfl.observe.svg import element, escape

_LOGO = (
    '<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="2" aria-hidden="true">'
    '<path d="M12 4 4.4 9.5l2.9 9h9.4l2.9-9z"/><g fill="currentColor" stroke="none">'
    '<circle cx="12" cy="4" r="3"/><circle cx="4.4" cy="9.5" r="3"/><circle cx="7.3" cy="18.5" r="3"/>'
    '<circle cx="16.7" cy="18.5" r="3"/><circle cx="19.6" cy="9.5" r="3"/></g></svg>'
)
# No source but the page itself: a browser refuses whatever else a name or a note might try to bring in.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def write_report(run_dirs: Sequence[Path], path: Path) -> Path:
    """Write the page of one run, or of several compared, to `path`; returns it.

    The file appears whole or not at all. Raises OSError if a folder cannot be read or the page not written.
    """
    runs = [read_folder(Path(folder)) for folder in run_dirs]
    return write_page(single(runs[0]) if len(runs) == 1 else comparison(runs), path)


def write_sweep_report(folder: Path, path: Path) -> Path:
    """Write the page of a sweep to `path`, and its figures as SVG and PDF into `figures/` beside it; returns
    the page's path. Raises ConfigError where the folder is no sweep's, and OSError."""
    from gossipfl.observe.sweep_figures import write_figures
    from gossipfl.observe.sweep_page import sweep_page
    from gossipfl.observe.sweep_reading import read_sweep

    study = read_sweep(folder)
    write_figures(study, path.parent / "figures")
    return write_page(sweep_page(study), path)


def write_page(page: Page, path: Path) -> Path:
    """Write a page as one self-contained file, whole or not at all; returns its path. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(_html(page), encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _html(page: Page) -> str:
    folder = files("gossipfl.observe")
    style = folder.joinpath("report.css").read_text(encoding="utf-8")
    script = folder.joinpath("report.js").read_text(encoding="utf-8")
    badges = "".join(element("li", escape(words), class_=class_) for class_, words in page.badges)
    header = (
        element("p", f"{_LOGO}gossipfl", class_="eyebrow")
        + element("h1", escape(page.title))
        + element("p", escape(page.lead), class_="lead")
        + (element("ul", badges, class_="badges") if badges else "")
    )
    tiles = element("section", "".join(page.tiles), class_="tiles") if page.tiles else ""
    cards = element("section", "".join(page.cards), class_="cards")
    footer = element("footer", escape(f"Written by gossipfl {__version__}. {page.colophon}"))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(page.title)} · gossipfl</title><style>\n{style}</style></head>\n"
        f"<body><main>{element('header', header)}\n{tiles}\n{cards}\n{footer}</main>"
        f'<div id="tip" hidden></div><script>\n{script}</script></body></html>\n'
    )
