"""What a node says of itself: one JSON object a line, in a file of its own that any reader can merge.

A file is only ever appended to. A process that dies leaves at most one torn line, which readers skip.
In a record `round` counts what is finished: the first round's says 1, an evaluation before training 0.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self, runtime_checkable

Record = dict[str, object]

_KNOWN = 64  # kinds of records of numbers whose names are kept
_ROWS = 4096  # numbers held back at most until they are lines
_TAIL = 1 << 16  # bytes at the end of a file in which there is a whole record
_FLUSH_AT = 256 * 1024  # bytes held back at most between two flushes


@runtime_checkable
class _Listable(Protocol):
    def tolist(self) -> object: ...


def _plain(value: object) -> object:
    """Numpy and torch values as JSON knows them; NaN and infinities as null (JSON has no word for them)."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, _Listable):
        return _plain(value.tolist())
    if value is None or isinstance(value, str | int):
        return value
    return str(value)


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_plain).encode


def to_json(value: Mapping[str, object]) -> str:
    """One line of strict JSON for a mapping of plain, numpy or torch values; non-finite floats are null."""
    try:
        return _encode(value)
    except ValueError:  # a NaN or an infinity somewhere inside: rare, so only then is everything looked at
        return _encode(_plain(value))


_NUMBERS = frozenset((int, float))
_templates: dict[tuple[str, ...], str] = {}


def _numbers(values: Mapping[str, object]) -> str | None:
    """JSON of names and numbers, without its braces, each after a comma: what rounds are told in. None: there
    are other values, or such as JSON has no word for."""
    numbers = tuple(values.values())
    if not _NUMBERS.issuperset(map(type, numbers)) or not math.isfinite(sum(numbers)):  # type: ignore[arg-type]
        return None
    names = tuple(values)
    template = _templates.get(names)
    if template is None:
        template = "".join(f',"{name}":%r' for name in names)
        if len(_templates) < _KNOWN:
            _templates[names] = template
    return template % numbers


class Form:
    """Records of one kind that say the same numbers each time: rounds. A recorder keeps them as numbers until
    it writes them out, many at a time."""

    def __init__(self, kind: str, names: Mapping[str, type[int] | type[float]]) -> None:
        """names: of the fields, in order, and what each is. A whole number is less than 2^53."""
        self.kind, self.names = kind, tuple(names)
        fields = "".join(f',"{name}":{"%d" if of is int else "%r"}' for name, of in names.items())
        self.template = f',"round":%d,"time":%.6f,"kind":"{kind}"{fields}}}\n'


class Recorder:
    """Writes the records of one node to `path`, creating its folder; an existing file is continued.

    Recording never stops training: when the disk is full or the path cannot be written, `failed` says so
    (path and reason, once) and what follows is dropped. Lines are held back until `flush` or the end of the
    `with`.
    """

    def __init__(self, path: Path, node: int, name: str) -> None:
        self.path, self.node, self.name = path, node, name
        self.failed = ""
        self._file: BinaryIO | None = None
        self._held: list[str] = []
        self._size = 0
        self._form: Form | None = None  # of the rows that are held
        self._rows = array("d")
        self._head = _encode({"node": node, "name": name})[:-1]

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab", buffering=0)
            if self._file.tell() and not self._whole():
                self._file.write(b"\n")  # the last writer died inside a line: begin a fresh one
        except OSError as error:
            self._fail(error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()
        if self._file is not None:
            try:
                self._file.close()
            except OSError as closing:
                self._fail(closing)
            self._file = None

    def write(self, kind: str, *, round: int, time: float, **fields: object) -> None:
        """Add one record; `time` is in seconds since the start. Outside the `with` it is dropped."""
        if self._file is None or self.failed:
            return
        rest = _numbers(fields)
        if rest is None:
            rest = f",{to_json(fields)[1:-1]}"
        line = f'{self._head},"round":{round},"time":{time:.6f},"kind":"{kind}"{rest}}}\n'
        if self._rows:
            self._spell()
        self._held.append(line)
        self._size += len(line)
        if self._size > _FLUSH_AT:
            self.flush()

    def fill(self, form: Form, *row: float) -> None:
        """Add one record of this form: round, time and its numbers. One that is not finite is null."""
        if self._file is None or self.failed:
            return
        if not math.isfinite(sum(row)):
            fields = dict(zip(form.names, row[2:], strict=True))
            self.write(form.kind, round=int(row[0]), time=row[1], **fields)
            return
        if self._form is not form:
            self._spell()
            self._form = form
        self._rows.extend(row)
        if len(self._rows) > _ROWS:
            self._spell()

    def _spell(self) -> None:
        """The rows that are held, as lines."""
        if self._form is None or not self._rows:
            return
        width, rows = 2 + len(self._form.names), self._rows.tolist()
        template = self._head.replace("%", "%%") + self._form.template
        text = "".join([template % tuple(rows[at : at + width]) for at in range(0, len(rows), width)])
        del self._rows[:]
        self._held.append(text)
        self._size += len(text)
        if self._size > _FLUSH_AT:
            self.flush()

    def flush(self) -> None:
        """Hand what was held back to the operating system."""
        if self._rows:
            self._spell()
        if self._file is None or not self._held:
            return
        left = memoryview("".join(self._held).encode("utf-8", "replace"))
        self._held.clear()
        self._size = 0
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            self._fail(error)

    def position(self) -> int:
        """Bytes that the file holds, once it is flushed."""
        self.flush()
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def _whole(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, 2)
            return file.read(1) == b"\n"

    def _fail(self, error: OSError) -> None:
        if not self.failed:
            self.failed = f"{self.path}: {error.strerror or error}; records from here on are not kept"
        self._held.clear()
        del self._rows[:]
        self._size = 0


def parse(line: bytes | str) -> Record | None:
    """The record on one line; None for a torn, empty or foreign one."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def read(path: Path) -> Iterator[Record]:
    """The records of one file in the order written; torn and foreign lines are skipped.

    Raises OSError if the file cannot be read.
    """
    with path.open("rb") as file:
        for line in file:
            record = parse(line)
            if record is not None:
                yield record


def newest(path: Path, kind: str = "") -> Mapping[str, object]:
    """The newest record of a file that grows, of one kind or of any; empty if there is none among the last:
    what is held back by its writer is not seen."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL))
            lines = file.read().splitlines()
    except OSError:
        return {}
    found = (record for line in reversed(lines) if (record := parse(line)) is not None)
    return next((record for record in found if kind in ("", record.get("kind"))), {})


def last_round(path: Path) -> int:
    """The round of the newest record, or 0."""
    return int(number(newest(path).get("round"), 0.0))


def scan(run_dir: Path) -> Iterator[Record]:
    """All records of a run, finished or not, each node's in the order written.

    From `records/*.jsonl`; from `metrics.jsonl` where only that was kept; none where nothing was recorded.
    """
    for file in sorted((run_dir / "records").glob("*.jsonl")) or [run_dir / "metrics.jsonl"]:
        if file.is_file():
            yield from read(file)


def read_run(run_dir: Path) -> list[Record]:
    """What `scan` gives, ordered by time and then node."""
    return in_order(scan(run_dir))


def in_order(records: Iterable[Record]) -> list[Record]:
    """Sorted by time and then node."""
    return sorted(records, key=_order)


def merge(run_dir: Path) -> Path:
    """Write `metrics.jsonl`: all lines of `records/*.jsonl`, ordered by time and then node. Returns its path.

    The file appears whole or not at all; a run without `records/` keeps the file it has. Raises OSError if it
    cannot be written.
    """
    target = run_dir / "metrics.jsonl"
    files = sorted((run_dir / "records").glob("*.jsonl"))
    if not files:
        target.touch()
        return target
    lines: list[tuple[tuple[float, float], bytes]] = []
    for path in files:
        with path.open("rb") as file:
            for line in file:
                record = parse(line)
                if record is not None:
                    lines.append((_order(record), line if line.endswith(b"\n") else line + b"\n"))
    lines.sort(key=lambda keyed: keyed[0])
    part = target.with_suffix(".jsonl.part")
    try:
        with part.open("wb") as file:
            file.writelines(line for _, line in lines)
        part.replace(target)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    return target


def number(value: object, otherwise: float = math.nan) -> float:
    """A record's field as a float; `otherwise` for what is missing, null or no number."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else otherwise


#: What `tally` counts, and the kind of record that is counted.
TALLIED: Mapping[str, str] = {
    "suspects": "suspect",
    "deaths": "peer_down",
    "rejoined": "peer_up",
    "skips": "skip",
    "corrections": "correction",
    "rejected": "rejected",
    "quarantined": "quarantined",
}


def tally(records: Iterable[Mapping[str, object]]) -> dict[str, int]:
    """How often things went wrong, or well again, by what the nodes say. A death is told by each neighbor; of
    the times that two nodes met, the first is none of coming back."""
    counts, met = dict.fromkeys(TALLIED, 0), set[tuple[object, object]]()
    names = {kind: name for name, kind in TALLIED.items()}
    for record in records:
        kind = record.get("kind")
        if kind == "peer_up":
            pair = record.get("node"), record.get("peer")
            counts["rejoined"] += pair in met
            met.add(pair)
        elif isinstance(kind, str) and kind in names:
            counts[names[kind]] += 1
    return counts


def _order(record: Record) -> tuple[float, float]:
    return number(record.get("time"), 0.0), number(record.get("node"), -1.0)
