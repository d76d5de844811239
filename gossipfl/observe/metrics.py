"""Which field of a record is the headline metric, and which way is better."""

from __future__ import annotations

import math
from collections.abc import Mapping

from gossipfl.records import number

_FIXED = frozenset({"node", "name", "round", "time", "kind", "loss", "sketch", "consensus_distance"})
_LOWER = ("loss", "error", "err", "mse", "rmse", "mae", "perplexity", "distance", "gap", "cost")


def metrics_of(record: Mapping[str, object]) -> dict[str, float]:
    """The numbers of an eval record by name, the task's own metrics in its order and `loss` last."""
    found = {
        k: number(v) for k, v in record.items() if k not in _FIXED and not isinstance(v, str | list | dict)
    }
    if "loss" in record:
        found["loss"] = number(record["loss"])
    return found


def higher_is_better(metric: str) -> bool:
    """What the name of a metric suggests where nobody says it: losses, errors and distances are to be low."""
    return not any(part.endswith(_LOWER) for part in metric.lower().replace("-", "_").split("_"))


def text(value: float, digits: int = 3) -> str:
    """A number for people: significant digits, no long tails of zeros; a dash for what is not known."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}".replace("e-0", "e-").replace("e+0", "e")
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(decimals, digits)}f}"


def size(count: float) -> str:
    """Bytes for people: 1.2 MB."""
    if not math.isfinite(count):
        return "–"
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 999.5:
            return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


def span(seconds: float) -> str:
    """A length of time for people: 0.8 s, 12.3 s, 4 min 05 s, 2 h 10 min."""
    if not math.isfinite(seconds):
        return "–"
    if seconds == 0:
        return "0 s"
    if seconds < 1e-3:
        return f"{seconds * 1e6:.3g} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
