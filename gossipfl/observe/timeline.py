"""What happened on the way: losses, skips, refusals and notes, over rounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from gossipfl.observe.reading import Run
from gossipfl.observe.svg import WIDTH, Scale, element, label, picture, tick_text
from gossipfl.records import Record, number

_LEFT, _RIGHT, _BOTTOM, _STEP = 104, 20, 46, 30
_DOTS = 400  # places with something to say, drawn at most
_USUAL = frozenset({"peer_up", "checkpoint"})


def remarkable(run: Run) -> list[Record]:
    """The events that a healthy run does not have; a neighbour that leaves when all is done is healthy."""
    lost = set(run.lost)

    def of_note(event: Record) -> bool:
        kind = event.get("kind")
        return kind not in _USUAL and (kind != "peer_down" or _name(run, event.get("peer")) in lost)

    return [event for event in run.events if of_note(event)]


def timeline(run: Run) -> str:
    """The SVG: a row a kind, a dot where something happened, who and what under the pointer."""
    events = remarkable(run)
    kinds = list(dict.fromkeys(str(event.get("kind")) for event in events))[:12]
    height = len(kinds) * _STEP + _BOTTOM
    last = max(
        [number(run.setting("swarm.rounds"), 1.0), *(number(e.get("round"), 0.0) for e in events), 1.0]
    )
    extent = Scale(0.0, last, _LEFT, WIDTH - _RIGHT)
    ticks = extent.ticks()
    parts = []
    for value in ticks:
        x = extent.at(value)
        parts.append(element("path", class_="grid", d=f"M{x:.1f} 0V{height - _BOTTOM}"))
        parts.append(label(x, height - _BOTTOM + 17, tick_text(value, ticks), "", "middle"))
    parts.append(label((_LEFT + WIDTH - _RIGHT) / 2, height - 6, "round", "name", "middle"))
    for k, kind in enumerate(kinds):
        parts.append(label(_LEFT - 10, k * _STEP + 19, _short(kind), "", "end"))
    said = Counter(_dot(run, event) for event in events if str(event.get("kind")) in kinds)
    for (kind, round, words), count in list(said.items())[:_DOTS]:
        tip = f"round {round}\n{words}" + (f"\n({count} records)" if count > 1 else "")
        y = kinds.index(kind) * _STEP + 15
        parts.append(
            element(
                "circle",
                class_="event bad" if kind in ("peer_down", "rejected", "refused") else "event",
                cx=extent.at(round),
                cy=y,
                r=6,
                data_tip=tip,
            )
        )
    return picture(height, "".join(parts), f"{len(events)} events: {', '.join(kinds)}")


def _dot(run: Run, event: Mapping[str, object]) -> tuple[str, int, str]:
    """What makes events one dot: the kind, the round and the words."""
    kind, round = str(event.get("kind")), int(number(event.get("round"), 0.0))
    peer = _name(run, event.get("peer"))
    if kind == "peer_down":
        return kind, round, f"{peer} is lost"
    words = f"{event.get('name')}: {event.get('text') or kind}"
    return kind, max(round, 0), words + (f" ({peer})" if peer else "")


def _name(run: Run, peer: object) -> str:
    if isinstance(peer, int) and 0 <= peer < run.n:
        return run.names[peer]
    return peer if isinstance(peer, str) else ""


def _short(kind: str) -> str:
    return kind if len(kind) <= 12 else f"{kind[:11]}…"
