"""What processes have used and hold, as Linux tells it in /proc; nothing where there is none."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Usage(NamedTuple):
    """Since their start, over all threads of all processes."""

    cpu_seconds: float
    switches: int  # context switches, voluntary and not


class Memory(NamedTuple):
    """Bytes of a process, mean over processes."""

    private: float  # USS: what would be free again if it ended
    proportional: float  # PSS: with its share of what it shares


def usage(pids: Iterable[int]) -> Usage | None:
    """None when a process is gone, or nothing is told."""
    cpu, switches = 0, 0
    try:
        for pid in pids:
            for thread in Path(f"/proc/{pid}/task").iterdir():
                cpu += int((thread / "schedstat").read_text().split()[0])
                for line in (thread / "status").read_text().splitlines():
                    if "ctxt_switches" in line:
                        switches += int(line.rpartition(":")[2])
    except (OSError, ValueError, IndexError):
        return None
    return Usage(cpu / 1e9, switches)


def memory(pids: Iterable[int]) -> Memory | None:
    """None when a process is gone, or nothing is told."""
    private, proportional, count = 0, 0, 0
    try:
        for pid in pids:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
                name, _, rest = line.partition(":")
                size = int(rest.split()[0]) * 1024
                private += size if name in ("Private_Clean", "Private_Dirty", "Private_Hugetlb") else 0
                proportional += size if name == "Pss" else 0
            count += 1
    except (OSError, ValueError, IndexError):
        return None
    return Memory(private / count, proportional / count) if count else None
