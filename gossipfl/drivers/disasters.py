"""The event engine's disasters: what a fault script does to nodes, lines and messages in virtual time.

docs/faults.md says what each kind of fault means, here and for real processes.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from gossipfl import draw
from gossipfl.core.events import Received
from gossipfl.core.messages import Hello
from gossipfl.core.quarantine import Quarantine
from gossipfl.draw import Purpose
from gossipfl.drivers.plan import Plan
from gossipfl.drivers.script import Act, Downs, returns

if TYPE_CHECKING:
    from gossipfl.drivers.travels import Travels
    from gossipfl.drivers.world import Line

# what a draw is for, the first key after the purpose
MESSAGES: Final = 30
_AGAIN: Final = 32
#: Seconds at most after which a message that is doubled comes again.
AGAIN: Final = 0.03
#: Seconds, beside two round trips, after which a message of a line that was replaced arrives.
LATE: Final = 0.06


class Disasters:
    """A script under way in a world."""

    def __init__(self, script: Sequence[Act], plan: Plan, world: Travels) -> None:
        self._script, self._world = script, world
        self._names, self._seed = plan.config.names, plan.config.swarm.seed
        self._done: set[int] = set()  # numbers of what has happened
        self._waiting = [act for act in script if act.at is None]  # for somebody's round
        self._slow: list[Act] = []
        self._downs = Downs()
        self._messages: dict[int, Act] = {}  # of the faults of messages that last, by number
        self._again, self._count = draw.prefix(self._seed, Purpose.NETWORK, _AGAIN), itertools.count()
        self._drawn: dict[tuple[int, int, int], int] = {}  # messages of a fault's line and direction
        self._quarantines = defaultdict[int, Quarantine](Quarantine)  # of every node
        self._left: defaultdict[int, list[Line]] = defaultdict(list)  # lines that it keeps down for now

    def begin(self, begun: float) -> None:
        """Training begins."""
        for act in self._script:
            if act.at is not None:
                self._world.put(begun + act.at, act.nodes[0], partial(self._happen, act))

    def made(self, node: int, rounds: int, now: float) -> None:
        """A node has made so many rounds: what waits for that happens next."""
        due = [act for act in self._waiting if rounds >= act.round and node in act.nodes]
        for act in due:
            self._waiting.remove(act)
            self._world.put(now, node, partial(self._happen, act))

    def factor(self, node: int) -> float:
        """How many times longer a node's steps take now."""
        return math.prod(act.factor for act in self._slow if node in act.nodes)

    def apart(self, i: int, j: int) -> float:
        """When neither of two nodes leaves the other alone any more; 0: neither ever did."""
        return max(self._quarantines[i].over(j), self._quarantines[j].over(i))

    def forget(self, node: int) -> None:
        """A node's process begins again, and knows nothing of whom it has left alone."""
        self._quarantines.pop(node, None)
        for line in self._left.pop(node, ()):
            line.closed -= 1

    # ------------------------------------------------------------------ what happens

    def _happen(self, act: Act, now: float) -> None:
        world, over = self._world, now + act.lasts
        node = act.nodes[0]
        self._done.add(act.number)
        if act.kind in ("kill", "restart", "hang", "slow") and world.travellers[node].left:
            return
        world.tell(node, "fault", now, fault=act.kind, number=act.number, text=act.text)
        match act.kind:
            case "kill":
                comes_back = over < math.inf or returns(self._script, node, self._done, self._waiting)
                self._downs.down(act)
                world.kill(node, comes_back, now)
                if over < math.inf:
                    world.put(over, node, partial(self._up, act))
            case "restart" if act.lasts:
                self._downs.down(act)
                world.kill(node, True, now)
                world.put(over, node, partial(self._up, act))
            case "restart":
                self._downs.up(node)
                world.restart(node, now)
            case "hang":
                if not world.travellers[node].dead:
                    world.leave(node, over, now)
            case "slow":
                self._slow.append(act)
            case "partition":
                for edge in act.lines:
                    world.lines[edge].closed += 1
                    world.snap(world.lines[edge], now)
            case _:
                self._messages[act.number] = act
        if act.kind not in ("kill", "restart", "hang") and 0 < act.lasts < math.inf:
            world.put(over, node, partial(self._over, act))

    def _up(self, act: Act, now: float) -> None:
        if self._downs.over(act):
            self._world.restart(act.nodes[0], now)

    def _over(self, act: Act, now: float) -> None:
        if act.kind == "slow":
            self._slow.remove(act)
        elif act.kind == "partition":
            for edge in act.lines:
                line = self._world.lines[edge]
                line.closed -= 1
                self._world.mend_later(line, now)
        else:
            self._messages.pop(act.number, None)

    # ------------------------------------------------------------------ messages

    def copies(self, peer: int, event: Received, now: float) -> int:
        """How many times a message goes out; what befalls it is put into the world."""
        edge = (min(event.peer, peer), max(event.peer, peer))
        copies = 1
        for act in list(self._messages.values()):
            if not copies or not act.concerns(edge) or not self._struck(act, event.peer, peer):
                continue
            greeting = isinstance(event.message, Hello)
            if greeting and act.kind in ("duplicate", "reorder"):
                continue
            if not act.lasts:
                del self._messages[act.number]
            copies = self._strike(act, peer, event, now)
        return copies

    def _struck(self, act: Act, sender: int, receiver: int) -> bool:
        if act.share >= 1.0:
            return True
        key = (act.number, sender, receiver)
        self._drawn[key] = count = self._drawn.get(key, 0) + 1
        return draw.one(draw.prefix(self._seed, Purpose.NETWORK, MESSAGES, *key), count) < act.share

    def _strike(self, act: Act, peer: int, event: Received, now: float) -> int:
        world, sender = self._world, event.peer
        line = world.lines[min(sender, peer), max(sender, peer)]
        match act.kind:
            case "duplicate":
                later = now + AGAIN * draw.one(self._again, next(self._count))
                size = world.size(event.message)
                world.put(later, sender, partial(world.leave_for, peer, event, size))
                return 1
            case "drop":
                world.put(now, sender, partial(self._break, peer, event))
            case "corrupt":
                at = world.network.arrival(sender, peer, now, 0)[0]
                world.put(at, peer, partial(self._rejected, peer, event))
            case _:
                world.put(now, sender, partial(self._break, peer, event))
                later = now + LATE + 2 * world.network.meeting(line.low, line.high)
                world.put(later, peer, partial(self._late, peer, event))
        return 0

    def _break(self, peer: int, event: Received, now: float) -> None:
        """The line breaks of whose session the event is, if it still stands."""
        world = self._world
        if world.stands(peer, event):
            line = world.lines[min(event.peer, peer), max(event.peer, peer)]
            world.snap(line, now)
            world.mend_later(line, now)

    def _rejected(self, peer: int, event: Received, now: float) -> None:
        """Bytes that are no message have arrived: the receiver counts it and closes the line, and may leave
        the sender alone from now on."""
        world, sender = self._world, event.peer
        if world.stands(peer, event) and not world.travellers[peer].away:
            text = "bytes that are no message (a fault of the script)"
            world.tell(peer, "rejected", now, peer=sender, text=text)
            for note in self._quarantines[peer].reject(sender, now):
                world.tell(peer, note.kind, now, peer=sender, text=note.text)
                line = world.lines[min(sender, peer), max(sender, peer)]
                line.closed += 1
                quarantine = self._quarantines[peer]
                self._left[peer].append(line)
                world.put(quarantine.over(sender), peer, partial(self._let_in, peer, quarantine, line))
        self._break(peer, event, now)

    def _let_in(self, node: int, quarantine: Quarantine, line: Line, now: float) -> None:
        """A quarantine is over, if the process that began it has not ended first."""
        if self._quarantines[node] is quarantine:
            self._left[node].remove(line)
            line.closed -= 1
            self._world.mend_later(line, now)

    def _late(self, peer: int, event: Received, now: float) -> None:
        """A message of a line that has been replaced arrives all the same."""
        if not self._world.travellers[peer].away:
            self._world.hear(peer, event, now)
