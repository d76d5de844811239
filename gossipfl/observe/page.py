"""The parts a report is put together from: a title, tiles with a figure each, cards with a picture each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gossipfl.observe.svg import element, escape


@dataclass(frozen=True)
class Page:
    """What a page says; `tiles` and `cards` are markup, the rest is text that is escaped when written."""

    title: str
    lead: str
    badges: Sequence[tuple[str, str]]  # (class, words)
    tiles: Sequence[str] = field(default=())
    cards: Sequence[str] = field(default=())
    colophon: str = ""


def tile(name: str, figure: str, below: str = "", *, first: bool = False) -> str:
    """One figure with its name and a line below."""
    content = element("h2", escape(name)) + element("b", escape(figure))
    content += element("span", escape(below)) if below else ""
    return element("div", content, class_="tile first" if first else "tile")


def card(title: str, body: str, note: str = "", *, wide: bool = False) -> str:
    """A titled box around markup, with a sentence of text at its foot."""
    content = element("h2", escape(title)) + body + (element("p", escape(note)) if note else "")
    return element("section", content, class_="card wide" if wide else "card")


def paired(cards: Sequence[str]) -> list[str]:
    """Cards that stand two in a row; of an odd number the last one gets the whole row."""
    whole = [*cards]
    if len(whole) % 2:
        whole[-1] = whole[-1].replace('class="card"', 'class="card wide"', 1)
    return whole


def folded(title: str, text: str) -> str:
    """A box that opens to show text as it is."""
    content = element("summary", escape(title)) + element("pre", escape(text))
    return element("section", element("details", content), class_="card wide")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: frozenset[int] = frozenset()) -> str:
    """A table of markup cells; the columns in `numbers` are set to the right."""

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(element(tag, cell, class_="n" if k in numbers else None) for k, cell in enumerate(row))

    top = element("thead", element("tr", cells("th", [escape(h) for h in head]))) if any(head) else ""
    body = element("tbody", "".join(element("tr", cells("td", row)) for row in rows))
    return element("div", element("table", top + body), class_="scroll")
