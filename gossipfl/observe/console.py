"""The live table of a run; on anything that is no terminal, one plain line an evaluation.

It shows what records say and steers nothing: an odd record changes at most what is shown.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from gossipfl.observe.board import Board, Evaluation, Row, State
from gossipfl.observe.metrics import size, span, text
from gossipfl.observe.suspended import drawn_anew

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.live import Live as RichLive
    from rich.table import Table

    from gossipfl.config import Config

MANY, WORST = 20, 10  # up to MANY nodes are all shown; of more, the WORST ten
_AROUND = 9  # lines that are not rows of the table
_NAME = 24  # characters of a name, at most
_GAP = 2  # between two columns
_BAR = 32  # columns of the bar, where there is room
_BLOCKS = "▁▂▃▄▅▆▇█"
_STATES: Mapping[State, str] = {
    "starting": "dim",
    "up": "green",
    "suspect": "yellow",
    "slow": "yellow",
    "lost": "bold red",
    "rejoined": "cyan",
    "done": "bold green",
}


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """A curve in one line: the values scaled to their own range, thinned to `width` points."""
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return ""
    if len(finite) > width:
        finite = [finite[round(i * (len(finite) - 1) / (width - 1))] for i in range(width)]
    low, high = min(finite), max(finite)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((v - low) * scale)] for v in finite)


def plain_line(evaluation: Evaluation, metric: str, rounds: int) -> str:
    """`round 40/100  accuracy 0.912 (min 0.87 max 0.95)  consensus 0.43  12.3 s`"""
    parts = [
        f"round {evaluation.round}/{rounds}",
        f"{metric} {text(evaluation.mean)} (min {text(evaluation.low)} max {text(evaluation.high)})",
    ]
    if math.isfinite(evaluation.consensus_distance):
        parts.append(f"consensus {text(evaluation.consensus_distance)}")
    parts.append(span(evaluation.time))
    return "  ".join(parts)


class Live:
    """A context manager that is called with each record, and with notes; it never raises on what they hold.

    `plain` None: a table on a terminal, plain lines elsewhere, with NO_COLOR and on a dumb terminal. `quiet`:
    only notes, on standard error. The table stays where it was when the block ends, however it
    ends, and the cursor is back.
    """

    def __init__(
        self,
        config: Config,
        *,
        quiet: bool = False,
        plain: bool | None = None,
        stream: TextIO | None = None,
    ) -> None:
        waits = config.algorithm.exchange == "rounds"
        self.board = Board(config.names, config.swarm.rounds, waits=waits)
        what = (config.topology.title, config.algorithm.rule, config.train.task)
        self.title = " · ".join((config.swarm.name, f"{len(config.names):,} nodes", *what))
        out = sys.stdout if stream is None else stream
        self._table = not quiet and not (no_table(out) if plain is None else plain)
        self._stream = sys.stderr if quiet else out
        self._quiet = quiet
        self._lock = threading.Lock()  # a thread of rich's draws while records come in
        self._live: RichLive | None = None
        self._suspension = ExitStack()
        self._notes: deque[str] = deque(maxlen=3)
        self._began = time.monotonic()
        self._first: tuple[float, int] | None = (
            None  # when round 1 (or later) was seen first, for the time left
        )
        self._ended: float | None = None

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        if self._table:
            from rich.console import Console
            from rich.live import Live as RichLive

            self._live = RichLive(_View(self), console=Console(file=self._stream), refresh_per_second=5)
            self._suspension.enter_context(drawn_anew(self._live))
            self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._ended = time.monotonic()
            rest = self.board.rest()
        if self._live is not None:
            self._suspension.close()
            try:
                self._live.stop()
            finally:
                self._live.console.show_cursor(True)
        self._tell_evaluations(rest)

    def __call__(self, record: Mapping[str, object]) -> None:
        """Show what one record says."""
        with self._lock:
            complete = self.board.take(record)
            if self._first is None and (round := self.board.round):
                self._first = time.monotonic(), round
        self._tell_evaluations(complete)

    def note(self, text: str) -> None:
        """Show a line of text: under the table, or as a plain line."""
        line = " ".join(text.split())
        with self._lock:
            self._notes.append(line)
        self._tell([line])

    def _tell_evaluations(self, evaluations: Iterable[Evaluation]) -> None:
        if not self._quiet:
            self._tell(plain_line(e, self.board.metric, self.board.rounds) for e in evaluations)

    def _tell(self, lines: Iterable[str]) -> None:
        if self._table:
            return
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        for line in lines:
            self._stream.write(line.encode(encoding, "replace").decode(encoding) + "\n")
            self._stream.flush()


def no_table(stream: TextIO) -> bool:
    """Is this a place for plain lines: no terminal, NO_COLOR (no-color.org), a dumb terminal, or no UTF-8?"""
    return (
        not stream.isatty()
        or bool(os.environ.get("NO_COLOR"))
        or os.environ.get("TERM", "") == "dumb"
        or "utf" not in (stream.encoding or "").lower()
    )


class _View:
    """What rich draws: made anew from the board each time."""

    def __init__(self, live: Live) -> None:
        self._of = live

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        with self._of._lock:
            yield from self._parts(console)

    def _parts(self, console: Console) -> list[RenderableType]:
        from rich.text import Text

        board = self._of.board
        width = console.size.width
        title = Text(self._of.title, style="bold", no_wrap=True, overflow="ellipsis")
        parts: list[RenderableType] = [title, self._progress(width)]
        if board.evaluations:
            parts.append(self._curve(board.evaluations[-1]))
        room = max(3, console.size.height - _AROUND - len(self._of._notes))
        shown = board.rows if len(board.rows) <= min(MANY, room) else board.worst(min(WORST, room))
        if len(shown) < len(board.rows):
            parts.append(Text(self._summary(len(shown)), style="dim", no_wrap=True))
        parts.append(self._nodes(shown, width))
        parts.extend(
            Text(f"! {note}", style="yellow", no_wrap=True, overflow="ellipsis") for note in self._of._notes
        )
        return parts

    def _progress(self, width: int) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        board, now = self._of.board, self._of._ended or time.monotonic()
        words = [f"round {board.round}/{board.rounds}", span(now - self._of._began)]
        if self._of._ended is None and self._of._first and board.round > self._of._first[1]:
            since, start = self._of._first
            words.append(f"{span((now - since) * (board.rounds - board.round) / (board.round - start))} left")
        room = width - len(words[0]) - len(" · ".join(words[1:])) - 2
        bar = ProgressBar(
            max(1, board.rounds),
            board.round,
            width=max(1, min(_BAR, room)),
            complete_style="cyan",
            finished_style="green",
        )
        line = Table.grid(padding=(0, 1))
        line.add_row(words[0], *([bar] if room > 0 else []), " · ".join(words[1:]))
        return line

    def _curve(self, last: Evaluation) -> RenderableType:
        from rich.text import Text

        board = self._of.board
        line = Text(f"{board.metric} ", no_wrap=True, overflow="ellipsis")
        line.append(text(last.mean), style="bold")
        line.append(f" (min {text(last.low)} max {text(last.high)})  ")
        line.append(sparkline([e.mean for e in board.evaluations]), style="cyan")
        if math.isfinite(last.consensus_distance):
            line.append(f"  consensus {text(last.consensus_distance)}")
        return line

    def _summary(self, shown: int) -> str:
        rows = self._of.board.rows
        states: dict[State, int] = {}
        for row in rows:
            states[row.state] = states.get(row.state, 0) + 1
        counts = ", ".join(f"{states[s]:,} {s}" for s in _STATES if s in states)
        sent = size(sum(row.sent_bytes for row in rows))
        return f"{counts}; {sent} sent; the worst {shown}:"

    def _nodes(self, rows: Sequence[Row], width: int) -> Table:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        columns = fitting(columns_of(self._of.board.metric), rows, width)
        table = Table(
            box=SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True, header_style="bold"
        )
        for column in columns:
            shrinks = column.head == "node"
            table.add_column(
                column.head,
                justify="left" if column.words else "right",
                no_wrap=True,
                max_width=_NAME if shrinks else None,
                min_width=None if shrinks else column.width(rows),
            )
        for row in rows:
            *cells, state = (Text(column.write(row)) for column in columns)
            state.stylize(_STATES[row.state])
            table.add_row(*cells, state)
        return table


@dataclass(frozen=True)
class Column:
    """One of the table: `rank` 0 is always there, a higher one goes sooner where there is no room."""

    head: str
    rank: int
    write: Callable[[Row], str]
    words: bool = False

    def width(self, rows: Sequence[Row]) -> int:
        """Characters of its longest cell."""
        return max(len(self.head), *(len(self.write(row)) for row in rows), 0)


def columns_of(metric: str) -> list[Column]:
    """In the order in which they stand."""
    return [
        Column("node", 0, lambda row: row.name[:_NAME], words=True),
        Column("round", 0, lambda row: str(row.round)),
        Column("loss", 2, lambda row: text(row.loss)),
        Column(metric or "metric", 1, lambda row: text(row.metric)),
        Column("neighbors", 5, lambda row: str(row.neighbors)),
        Column("sent", 4, lambda row: size(row.sent_bytes)),
        Column("waiting", 3, lambda row: _share(row.waiting_share)),
        Column("state", 0, _state, words=True),
    ]


def fitting(columns: Sequence[Column], rows: Sequence[Row], width: int) -> list[Column]:
    """Those that there is room for, whole, in `width` characters. Where even the first ones do not fit, the
    state goes without its time."""

    def fit(some: Iterable[Column]) -> bool:
        return sum(column.width(rows) + _GAP for column in some) - _GAP <= width

    if not fit(column for column in columns if not column.rank):
        columns = [*columns[:-1], replace(columns[-1], write=lambda row: row.state)]
    last = 0
    while any(c.rank > last for c in columns) and fit(c for c in columns if c.rank <= last + 1):
        last += 1
    return [column for column in columns if column.rank <= last]


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.0%}"


def _state(row: Row) -> str:
    """`lost at 12.3 s`."""
    return row.state if math.isnan(row.since) else f"{row.state} at {span(row.since)}"
