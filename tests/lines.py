"""Lines between machines, for laws under random schedules: a die says what arrives, and what is lost."""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Collection
from dataclasses import dataclass, field

from gossipfl.core.events import Effect, Event, PeerDown, PeerUp, Received, Send
from gossipfl.core.exchange.rounds import Rounds
from gossipfl.core.messages import Message


@dataclass
class Line:
    """A session of an edge: what is under way to each end; None is its end."""

    session: int
    ends: tuple[int, int]
    alive: bool = True
    under_way: dict[int, deque[Message | None]] = field(default_factory=lambda: defaultdict(deque))


class Lines:
    """Machines and the lines of their edges, newest and old. Subclasses say what a machine's effects do."""

    machines: list[Rounds]
    die: random.Random

    def __init__(self) -> None:
        self.left: set[int] = set()
        self.dead: Collection[int] = ()
        self.sessions = 0
        self.lines: dict[tuple[int, int], Line] = {}
        self.old: list[Line] = []

    def apply(self, i: int, effects: list[Effect]) -> None:
        raise NotImplementedError

    def meet(self, edges: list[tuple[int, int]]) -> None:
        """Dial every edge, and let all that comes of it arrive."""
        for edge in edges:
            self.dial(edge)
        while self.deliverable():
            self.deliver()

    def dial(self, edge: tuple[int, int]) -> None:
        self.sessions += 1
        self.lines[edge] = Line(self.sessions, edge)
        self.tell(edge[0], PeerUp(edge[1], self.sessions))

    def cut(self, line: Line) -> None:
        """The line dies: of what is under way to each end, an end of it is lost."""
        line.alive = False
        self.old.append(line)
        for i in line.ends:
            keep = self.die.randint(0, len(line.under_way[i]))
            while len(line.under_way[i]) > keep:
                line.under_way[i].pop()
            line.under_way[i].append(None)

    def deliverable(self) -> list[tuple[Line, int]]:
        lines = (*self.lines.values(), *self.old)
        return [(line, i) for line in lines for i in line.ends if line.under_way[i]]

    def deliver(self) -> None:
        self.hand_over(*self.die.choice(self.deliverable()))

    def hand_over(self, line: Line, i: int) -> None:
        """Node i reads what comes next on a line."""
        message, peer = line.under_way[i].popleft(), sum(line.ends) - i
        if message is None:
            self.tell(i, PeerDown(peer, line.session))
        else:
            self.tell(i, Received(peer, line.session, message))
        self.old = [line for line in self.old if any(line.under_way[i] for i in line.ends)]

    def tell(self, i: int, event: Event) -> None:
        if i not in self.left and i not in self.dead:
            self.apply(i, self.machines[i].handle(event, 0.0))

    def send(self, i: int, effect: Send) -> None:
        line = self.lines[min(i, effect.peer), max(i, effect.peer)]
        if line.session == effect.session and line.alive:
            line.under_way[effect.peer].append(effect.message)

    def leave(self, i: int) -> None:
        """What it sent still arrives; then its lines close, and its neighbours learn that it is gone."""
        self.left.add(i)
        for line in self.lines.values():
            if i in line.ends and line.alive:
                line.alive = False
                line.under_way[i].clear()
                line.under_way[sum(line.ends) - i].append(None)
                self.old.append(line)
        for j in self.machines[i].edges:
            self.tell(j, PeerDown(i, None, gone=True))
