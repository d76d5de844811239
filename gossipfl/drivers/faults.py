"""A fault script that happens to real processes: what the zygote does to its nodes, and when.

Processes are killed, stopped and started by the zygote; what befalls lines and messages, and how slow a node
is, it tells the nodes concerned over their control lines (`meddling`). docs/faults.md says what each means.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from pathlib import Path
from typing import Final, Protocol

from gossipfl.config.fault import OF_MESSAGES
from gossipfl.drivers.script import Act, Downs, returns
from gossipfl.records import Recorder, last_round

#: The records of what was done; beside those of the nodes.
RECORDS: Final = "faults.jsonl"


class Hands(Protocol):
    """What is done to nodes' processes, by whoever started them."""

    def signal(self, node: int, number: int) -> None:
        """Send a signal to a node that lives."""

    def send(self, node: int, word: dict[str, object]) -> None:
        """Tell a node that lives."""

    def restart(self, node: int) -> None:
        """Start a node's process again, from its newest checkpoint; kill it first if it lives."""


class Faults:
    """A script under way."""

    def __init__(
        self, script: Sequence[Act], names: Sequence[str], folder: Path, epoch: float, hands: Hands
    ) -> None:
        """folder: the run's; epoch: of its clock, in `time.monotonic()`."""
        self._script, self._names, self._folder, self._epoch, self._hands = (
            script,
            names,
            folder,
            epoch,
            hands,
        )
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._begun = False
        self._made: dict[int, int] = {}  # rounds, as far as nodes have told
        self._waiting = [act for act in script if act.at is None]
        self._done: set[int] = set()
        self._returning: set[int] = set()  # nodes that are to be started again
        self._downs = Downs()

    def begin(self) -> None:
        """Training begins."""
        if not self._begun:
            self._begun = True
            for act in self._script:
                if act.at is not None:
                    self._put(act.at, lambda act=act: self._happen(act))  # type: ignore[misc]

    def made(self, node: int, rounds: int) -> None:
        """A node has made so many rounds."""
        for act in [act for act in self._waiting if rounds >= act.round and node in act.nodes]:
            self._waiting.remove(act)
            self._put(0.0, lambda act=act: self._happen(act))  # type: ignore[misc]

    def due(self) -> float | None:
        """Seconds until something is due; None: nothing is known to be."""
        return max(0.0, self._heap[0][0] - time.monotonic()) if self._heap else None

    def act(self) -> None:
        """Do what is due."""
        while self._heap and self._heap[0][0] <= time.monotonic():
            heappop(self._heap)[2]()

    def returns(self, node: int) -> bool:
        """Is a node whose process has ended to be started again?"""
        return node in self._returning

    @property
    def coming(self) -> bool:
        """Is a node to be started again at a time that is known?"""
        return bool(self._returning) and bool(self._heap)

    # ------------------------------------------------------------------ what happens

    def _put(self, after: float, what: Callable[[], None]) -> None:
        self._order += 1
        heappush(self._heap, (time.monotonic() + after, self._order, what))

    def _happen(self, act: Act) -> None:
        node = act.nodes[0]
        self._done.add(act.number)
        self._record(act, node)
        match act.kind:
            case "kill" | "restart":
                self._kill(act, node)
            case "hang":
                self._hands.signal(node, signal.SIGSTOP)
                self._put(act.lasts, lambda: self._hands.signal(node, signal.SIGCONT))
            case "slow":
                self._tell(act, {node: {"factor": act.factor}})
            case "partition":
                self._tell(act, {i: {"peers": peers} for i, peers in _peers(act).items()})
            case _:
                words = {"share": act.share, "once": not act.lasts}
                self._tell(act, {i: {"peers": peers, **words} for i, peers in _peers(act).items()})

    def _kill(self, act: Act, node: int) -> None:
        lasts = act.lasts if act.kind == "kill" or act.lasts else 0.0
        if lasts < math.inf or returns(self._script, node, self._done, self._waiting):
            self._returning.add(node)
        if lasts > 0:
            self._downs.down(act)
            self._hands.signal(node, signal.SIGKILL)
        if lasts == 0:
            self._put(lasts, lambda: self._restart(node))
        elif lasts < math.inf:
            self._put(lasts, lambda: self._restart(node) if self._downs.over(act) else None)

    def _restart(self, node: int) -> None:
        self._downs.up(node)
        self._returning.add(node)
        self._hands.restart(node)
        self._returning.discard(node)

    def _tell(self, act: Act, words: dict[int, dict[str, object]]) -> None:
        for node, word in words.items():
            self._hands.send(node, {"fault": {"kind": act.kind, "number": act.number, **word}})
        if 0 < act.lasts < math.inf:
            self._put(act.lasts, lambda: self._over(act, list(words)))

    def _over(self, act: Act, nodes: list[int]) -> None:
        for node in nodes:
            self._hands.send(node, {"fault": {"kind": act.kind, "number": act.number, "over": True}})

    def _record(self, act: Act, node: int) -> None:
        now, records = time.monotonic() - self._epoch, self._folder / "records"
        round = max(act.round, last_round(records / f"{self._names[node]}.jsonl"))
        with Recorder(records / RECORDS, node, self._names[node]) as recorder:
            recorder.write("fault", round=round, time=now, fault=act.kind, number=act.number, text=act.text)


def _peers(act: Act) -> dict[int, list[int]]:
    """The lines of a fault as each end sees them. Of a message that is struck alone, one end is enough."""
    found: dict[int, list[int]] = {}
    for i, j in act.lines:
        found.setdefault(i, []).append(j)
        if act.lasts or act.kind not in OF_MESSAGES:
            found.setdefault(j, []).append(i)
    return found
