"""The network and the computers that the event engine pretends: how long a message and a step take.

A message's bytes leave one after the other: at its line's share of the sender's upload (`uplink`), and at the
rate of the line, behind what is on it. Then each bit is under way for the line's latency.
What the receiver's download takes in comes one message after the other too. Lines keep order, as TCP does,
and like TCP's, lost packets are sent again: no message is lost, it is late (`resending`). TCP's slow start
and what it makes of its rate after a loss are left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from gossipfl import draw
from gossipfl.config import Config
from gossipfl.config.presets import ROUND_TRIPS
from gossipfl.config.spreads import REGIONS
from gossipfl.draw import Purpose
from gossipfl.drivers.amounts import Amounts, OfEdges, OfPhases, of_nodes

#: Bytes of a message beside its payload, about; of a packet's payload; of a packet beside it (Ethernet, IPv4,
#: TCP with time stamps).
HEADER, PACKET, AROUND = 64, 1448, 66
#: Seconds beyond a round trip after which TCP takes a packet for lost (Linux, TCP_RTO_MIN), and how often it
#: tries (TCP_RETRIES2).
TIMEOUT, TRIES = 0.2, 15
_MBIT: Final = 1e6 / 8  # bytes a second

# what a draw is for, the first key after the purpose
_LATENCY, _BANDWIDTH, _UPLOAD, _DOWNLOAD, _COMPUTE, _JITTER, _HICCUP, _LOSS, _STRAGGLER = range(9)


def on_wire(payload: int) -> int:
    """Bytes that a message of so many bytes of payload takes on a line."""
    return payload + HEADER + AROUND * packets(payload)


def packets(payload: int) -> int:
    """Packets of a message of so many bytes of payload."""
    return -(-(payload + HEADER) // PACKET)


def resending(loss: float, count: int, round_trip: float, u: float) -> float:
    """Seconds by which a message of `count` packets is late because of those that are lost, `u` in [0, 1)
    being drawn.

    With four packets or more those behind the lost one tell of it, and it is there a round trip later; of
    fewer, and when it is lost again, the sender waits for its timer, which doubles each time (RFC 6298).
    """
    again = -math.expm1(count * math.log1p(-loss))  # the chance that any is lost
    if u >= again:
        return 0.0
    timer = round_trip + TIMEOUT
    late = round_trip if count > 3 else timer
    for k in range(count <= 3, TRIES):
        again *= loss
        if u >= again:
            break
        late += timer * 2**k
    return late


@dataclass(slots=True)
class _Line:
    """One direction of an edge."""

    latency: float
    rate: float  # bytes a second; infinite: no limit
    jitter: int  # keys of its draws
    loss: int
    free: float = 0.0  # when the last byte put on it has left
    last: float = 0.0  # when the last message arrives
    count: int = 0  # messages


class Network:
    """Virtual seconds, by `[network]`; what is drawn is keyed by the seed, the edge or node, and a count.

    Raises ConfigError for files of numbers that are missing, broken or of another shape.
    """

    def __init__(self, config: Config) -> None:
        network, n, self._seed = config.network, config.swarm.nodes, config.swarm.seed
        self._n, self._jitter, self._loss = n, network.jitter, network.loss
        self._window = network.window * 1e6
        self._regions = network.latency == REGIONS
        latency = 0.0 if self._regions else network.latency
        self._latency = OfEdges(self._amounts(latency, _LATENCY), n)
        self._bandwidth = OfEdges(self._amounts(network.bandwidth, _BANDWIDTH), n)
        self.upload = self._rates(network.upload, _UPLOAD)  # bytes a second of each node; see `uplink`
        self._download = self._rates(network.download, _DOWNLOAD)
        self.queues = any(math.isfinite(rate) for rate in self._download)  # do receivers have a queue?
        self._landing = [0.0] * n  # when a node's download is free
        compute = self._amounts(network.compute, _COMPUTE)
        self._steady = compute.spread.a if compute.fixed else None  # seconds of a step, if all take as long
        self._compute = OfPhases(compute, n)
        self._slow = [network.slow.get(str(node), 1.0) for node in range(n)]
        if network.stragglers:
            order = draw.permutation(self._seed, Purpose.NETWORK, _STRAGGLER, size=n)
            for node in order[: round(network.stragglers * n)].tolist():
                self._slow[node] *= network.straggler_factor
        self._hiccup = [draw.prefix(self._seed, Purpose.NETWORK, _HICCUP, node) for node in range(n)]
        self._lines: dict[tuple[int, int], _Line] = {}
        rates = (network.bandwidth, network.upload, network.download, network.window)
        self._plain = not any((*rates, network.jitter, network.loss))  # nothing but latency

    # ------------------------------------------------------------------ messages

    def arrival(
        self, sender: int, receiver: int, now: float, payload: int, since: float | None = None
    ) -> tuple[float, float]:
        """When a message with so many bytes of payload that has passed the sender's upload now has arrived
        whole, and for how many seconds it was arriving; before the receiver's download is looked at. `since`:
        when its first byte left, if not now."""
        line = self._lines.get((sender, receiver)) or self._line(sender, receiver)
        if self._plain:
            return now + line.latency, 0.0
        line.count += 1
        at, took = now, 0.0
        if since is not None or line.rate != math.inf:
            begin, seconds = now if since is None else since, on_wire(payload) / line.rate
            line.free = at = max(now, max(begin, line.free) + seconds)
            took = max(now - begin, seconds)
        at += line.latency
        if self._jitter:
            at += self._jitter * draw.one(line.jitter, line.count)
        if self._loss:
            u = draw.one(line.loss, line.count)
            at += resending(self._loss, packets(payload), 2 * line.latency, u)
        line.last = at = max(at, line.last)
        return at, took

    def landed(self, receiver: int, at: float, took: float, payload: int) -> float:
        """When a message that would have arrived now, after `took` seconds of arriving, has passed the
        receiver's download. To be asked in the order of arrival."""
        rate = self._download[receiver]
        begin = max(at - took, self._landing[receiver])
        self._landing[receiver] = done = max(at, begin + on_wire(payload) / rate)
        return done

    def meeting(self, one: int, other: int) -> float:
        """Seconds until a connection is open: a round trip."""
        return self._line(one, other).latency + self._line(other, one).latency

    # ------------------------------------------------------------------ computers

    def compute(self, node: int, phase: int, steps: int) -> float:
        """Seconds that optimiser steps of a node's local phase (from 0) take."""
        seconds = self._compute(node, phase) if self._steady is None else self._steady
        return seconds * steps * self._slow[node]

    def hiccup(self, node: int, phase: int) -> float:
        """Seconds that a local phase takes longer."""
        return self._jitter * draw.one(self._hiccup[node], phase) if self._jitter else 0.0

    # ------------------------------------------------------------------ making it

    def _amounts(self, value: float | str, what: int) -> Amounts:
        return Amounts(value, self._seed, what)

    def _rates(self, value: float | str, what: int) -> list[float]:
        return [rate * _MBIT or math.inf for rate in of_nodes(self._amounts(value, what), self._n)]

    def _line(self, sender: int, receiver: int) -> _Line:
        key = (sender, receiver)
        if key not in self._lines:
            latency = self._between(sender, receiver)
            rate = self._bandwidth(sender, receiver) * _MBIT or math.inf
            if self._window and latency:
                rate = min(rate, self._window / (2 * latency))
            jitter = draw.prefix(self._seed, Purpose.NETWORK, _JITTER, *key) if self._jitter else 0
            loss = draw.prefix(self._seed, Purpose.NETWORK, _LOSS, *key) if self._loss else 0
            self._lines[key] = _Line(latency, rate, jitter, loss)
        return self._lines[key]

    def _between(self, sender: int, receiver: int) -> float:
        if not self._regions:
            return self._latency(sender, receiver)
        here, there = (node * len(ROUND_TRIPS) // self._n for node in (sender, receiver))
        return (ROUND_TRIPS[here][there] + ROUND_TRIPS[there][here]) / 4 / 1000
