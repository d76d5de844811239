"""What happened on the way: faults, losses, returns, skips, refusals and notes, over rounds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from gossipfl.observe.reading import Happening, Run
from gossipfl.observe.svg import WIDTH, Scale, element, label, picture, tick_text
from gossipfl.records import number

_LEFT, _RIGHT, _BOTTOM, _STEP, _HALF = 104, 56, 46, 30, 6
_KINDS = 12  # rows drawn at most
_FEW = 24  # of so many happenings of a kind each is drawn; of more, how many there were
_COLUMNS = 100  # in which they are counted
_NAMED = 6  # who and what, under the pointer, at most
_LANES = (-2, -6, 2, 6)  # what lasts is a line: beside, not upon, what another says at the time
_USUAL = frozenset({"peer_up", "checkpoint", "alive"})
_BAD = frozenset({"peer_down", "rejected", "refused", "suspect", "quarantined"})
_FIRST = ("fault", "suspect", "slow", "peer_down", "rejoined", "skip", "correction")


def remarkable(run: Run) -> list[Happening]:
    """What a healthy run does not have; a neighbour that leaves when all is done is healthy."""
    lost = set(run.lost)
    back = {_pair(event) for event in run.events if event.kind == "rejoined"}
    return [
        event
        for event in run.events
        if event.kind not in _USUAL
        and (event.kind != "peer_down" or _peer(run, event) in lost or _pair(event) in back)
    ]


def _pair(event: Happening) -> tuple[str, str]:
    """Who says something of whom."""
    return event.name, str(event.peer)


def timeline(run: Run) -> str:
    """The SVG: a row a kind. A mark is where something was, a line from its first round to its last; of a
    kind with many, bars show how many there were. Who and what is under the pointer, the sum at the end."""
    found = defaultdict[str, list[Happening]](list)
    for event in remarkable(run):
        found[event.kind].append(event)
    kinds = sorted(found, key=lambda kind: _FIRST.index(kind) if kind in _FIRST else len(_FIRST))[:_KINDS]
    height = len(kinds) * _STEP + _BOTTOM
    last = max((event.last for events in found.values() for event in events), default=0)
    extent = Scale(0.0, max(number(run.setting("swarm.rounds"), 1.0), float(last)), _LEFT, WIDTH - _RIGHT)
    ticks = extent.ticks()
    parts = []
    for value in ticks:
        x = extent.at(value)
        parts.append(element("path", class_="grid", d=f"M{x:.1f} 0V{height - _BOTTOM}"))
        parts.append(label(x, height - _BOTTOM + 17, tick_text(value, ticks), "", "middle"))
    parts.append(label((_LEFT + WIDTH - _RIGHT) / 2, height - 6, "round", "name", "middle"))
    for k, kind in enumerate(kinds):
        events, middle = found[kind], k * _STEP + 15
        shown = kind.replace("_", " ") if len(kind) <= 12 else f"{kind[:11]}…"
        parts.append(label(_LEFT - 10, middle + 4, shown, "", "end"))
        parts.append(label(WIDTH - _RIGHT + 10, middle + 4, f"{sum(e.count for e in events):,}"))
        draw = _marks if len(events) <= _FEW else _bars
        parts.extend(draw(run, events, extent, middle))
    total = sum(event.count for events in found.values() for event in events)
    return picture(height, "".join(parts), f"{total:,} things happened: {', '.join(kinds)}")


def _class(kind: str) -> str:
    return "event bad" if kind in _BAD else "event"


def _marks(run: Run, events: Sequence[Happening], extent: Scale, middle: float) -> list[str]:
    """Each where it was: lines first, points upon them."""
    parts, lasting = [], 0
    for event in sorted(events, key=lambda event: event.first - event.last):
        start, stop, half = extent.at(event.first), extent.at(event.last), float(_HALF)
        centre = middle
        if stop - start > 2 * _HALF:
            centre, half, lasting = middle + _LANES[lasting % len(_LANES)], 2.0, lasting + 1
        parts.append(
            element(
                "rect",
                class_=_class(event.kind),
                x=start - half,
                y=centre - half,
                width=stop - start + 2 * half,
                height=2 * half,
                rx=half,
                data_tip=_words(run, event),
            )
        )
    return parts


def _bars(run: Run, events: Sequence[Happening], extent: Scale, middle: float) -> list[str]:
    """How many there were, in columns of rounds; the highest is as high as the row."""
    edges = np.linspace(extent.low, extent.high, min(_COLUMNS, max(1, int(extent.high))) + 1)
    last = len(edges) - 2
    counts, who = np.zeros(last + 1), defaultdict[int, dict[str, float]](dict)
    for event in events:
        a, b = (min(int(np.searchsorted(edges, r, "right")) - 1, last) for r in (event.first, event.last))
        counts[a : b + 1] += event.count / (b - a + 1)
        for column in range(a, b + 1):
            named = f"{event.name}{_about(run, event)}"
            who[column][named] = who[column].get(named, 0.0) + event.count / (b - a + 1)
    parts, kind = [], events[0].kind
    for column in map(int, np.flatnonzero(counts)):
        high = max(2.0, 2 * _HALF * counts[column] / counts.max())
        start, stop = extent.at(edges[column]), extent.at(edges[column + 1])
        names = sorted(who[column], key=lambda name: -who[column][name])
        more = [f"and {len(names) - _NAMED} more"] if len(names) > _NAMED else []
        times = f"{kind.replace('_', ' ')} {max(1, round(counts[column])):,} times"
        when = f"rounds {edges[column]:.0f} to {edges[column + 1]:.0f}, {times}"
        parts.append(
            element(
                "rect",
                class_=_class(kind),
                x=start,
                y=middle + _HALF - high,
                width=max(1.0, stop - start - 0.5),
                height=high,
                data_tip="\n".join((when, *names[:_NAMED], *more)),
            )
        )
    return parts


def _words(run: Run, event: Happening) -> str:
    when = f"round {event.first}" if event.first == event.last else f"rounds {event.first} to {event.last}"
    times = f", {event.count:,} times" if event.count > 1 else ""
    return f"{when}{times}\n{event.name}: {event.text or event.kind.replace('_', ' ')}{_about(run, event)}"


def _about(run: Run, event: Happening) -> str:
    return f" ({_peer(run, event)})" if event.peer is not None else ""


def _peer(run: Run, event: Happening) -> str:
    if isinstance(event.peer, int) and 0 <= event.peer < run.n:
        return run.names[event.peer]
    return str(event.peer)
