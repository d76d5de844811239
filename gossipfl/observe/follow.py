"""Follow a run by its files: each poll gives the records that have been written since the last one.

Whoever follows only reads. Nothing in the swarm knows of it, and nothing changes when it is gone.
"""

from __future__ import annotations

import os
from pathlib import Path

from gossipfl.records import Record, in_order, parse

_AT_ONCE = 1 << 22  # bytes read of one file in a poll, so that a long run is caught up with in pieces


class Follower:
    """Reads `run_dir/records/*.jsonl` as they grow. Files and the folder itself may come later.

    A line counts once its end is there, so a torn one waits until it is whole. No file stays open.
    """

    def __init__(self, run_dir: Path) -> None:
        self.folder = run_dir / "records"
        self._read: dict[str, int] = {}  # file name -> bytes taken

    def skip(self) -> None:
        """Leave out what is written by now."""
        for path in self.folder.glob("*.jsonl"):
            self._read[path.name] = path.stat().st_size

    def poll(self) -> list[Record]:
        """The records that are new, ordered by time and then node; never raises for what files do."""
        records: list[Record] = []
        try:
            with os.scandir(self.folder) as entries:
                grown = [
                    entry
                    for entry in entries
                    if entry.name.endswith(".jsonl") and entry.stat().st_size != self._read.get(entry.name, 0)
                ]
        except OSError:
            return records
        for entry in grown:
            try:
                records.extend(self._take(entry))
            except OSError:  # gone or unreadable at this moment: the next poll sees
                continue
        return in_order(records)

    def _take(self, entry: os.DirEntry[str]) -> list[Record]:
        start = self._read.get(entry.name, 0)
        with Path(entry.path).open("rb", buffering=0) as file:
            if start > file.seek(0, 2):
                start = 0  # not the file it was: begin again
            file.seek(start)
            data = file.read(_AT_ONCE)
            while len(data) % _AT_ONCE == 0 and b"\n" not in data and (more := file.read(_AT_ONCE)):
                data += more  # a single line longer than a whole piece
        whole = data.rfind(b"\n") + 1
        self._read[entry.name] = start + whole
        parsed = (parse(line) for line in data[:whole].splitlines())
        return [record for record in parsed if record is not None]
