"""What happened on the way: losses, skips, refusals and notes, over rounds."""

from __future__ import annotations

from dataclasses import replace

from gossipfl.observe.reading import Happening, Run
from gossipfl.observe.svg import WIDTH, Scale, element, label, picture, tick_text
from gossipfl.records import number

_LEFT, _RIGHT, _BOTTOM, _STEP, _HALF = 104, 20, 46, 30, 6
_KINDS, _MARKS = 12, 400  # rows, and marks in all, drawn at most
_USUAL = frozenset({"peer_up", "checkpoint", "alive"})
_BAD = frozenset({"peer_down", "rejected", "refused", "suspect", "quarantined"})


def remarkable(run: Run) -> list[Happening]:
    """What a healthy run does not have; a neighbour that leaves when all is done is healthy, and that two
    nodes meet more than once is a return."""
    lost = set(run.lost)
    back = {_pair(event): event for event in run.events if event.kind == "peer_up" and event.count > 1}
    returns = [
        replace(event, kind="rejoined", first=event.last, count=event.count - 1) for event in back.values()
    ]
    return returns + [
        event
        for event in run.events
        if event.kind not in _USUAL
        and (event.kind != "peer_down" or _peer(run, event) in lost or _pair(event) in back)
    ]


def _pair(event: Happening) -> tuple[str, str]:
    """Who says something of whom."""
    return event.name, str(event.peer)


def timeline(run: Run) -> str:
    """The SVG: a row a kind, a mark from the first round to the last, who and what under the pointer."""
    events = remarkable(run)
    kinds = list(dict.fromkeys(event.kind for event in events))[:_KINDS]
    height = len(kinds) * _STEP + _BOTTOM
    end = max([number(run.setting("swarm.rounds"), 1.0), *(float(event.last) for event in events)])
    extent = Scale(0.0, end, _LEFT, WIDTH - _RIGHT)
    ticks = extent.ticks()
    parts = []
    for value in ticks:
        x = extent.at(value)
        parts.append(element("path", class_="grid", d=f"M{x:.1f} 0V{height - _BOTTOM}"))
        parts.append(label(x, height - _BOTTOM + 17, tick_text(value, ticks), "", "middle"))
    parts.append(label((_LEFT + WIDTH - _RIGHT) / 2, height - 6, "round", "name", "middle"))
    for k, kind in enumerate(kinds):
        shown = kind if len(kind) <= 12 else f"{kind[:11]}…"
        parts.append(label(_LEFT - 10, k * _STEP + 19, shown, "", "end"))
    for event in [event for event in events if event.kind in kinds][:_MARKS]:
        start, stop = extent.at(event.first), extent.at(event.last)
        parts.append(
            element(
                "rect",
                class_="event bad" if event.kind in _BAD else "event",
                x=start - _HALF,
                y=kinds.index(event.kind) * _STEP + 15 - _HALF,
                width=stop - start + 2 * _HALF,
                height=2 * _HALF,
                rx=_HALF,
                data_tip=_words(run, event),
            )
        )
    return picture(height, "".join(parts), f"{len(events)} things happened: {', '.join(kinds)}")


def _words(run: Run, event: Happening) -> str:
    when = f"round {event.first}" if event.first == event.last else f"rounds {event.first} to {event.last}"
    times = f", {event.count:,} times" if event.count > 1 else ""
    about = f" ({_peer(run, event)})" if event.peer is not None else ""
    return f"{when}{times}\n{event.name}: {event.text or event.kind.replace('_', ' ')}{about}"


def _peer(run: Run, event: Happening) -> str:
    if isinstance(event.peer, int) and 0 <= event.peer < run.n:
        return run.names[event.peer]
    return str(event.peer)
