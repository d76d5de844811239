"""The network and the computers that the event engine pretends: how long a message and a step take."""

from __future__ import annotations

from gossipfl import draw
from gossipfl.config import Config
from gossipfl.draw import Purpose


class Network:
    """Virtual seconds, by `[network]`; what is drawn is keyed by the seed."""

    def __init__(self, config: Config) -> None:
        self._network, self._seed = config.network, config.swarm.seed
        self._slow = {int(node): factor for node, factor in config.network.slow.items()}
        self._free: dict[tuple[int, int], float] = {}  # (sender, receiver) -> last arrival: lines keep order

    def arrival(self, sender: int, receiver: int, now: float, order: int) -> float:
        """When a message that leaves now is there; `order` tells messages apart."""
        delay = self._network.latency
        if self._network.jitter:
            keys = (sender, receiver, order)
            delay += self._network.jitter * float(draw.uniform(self._seed, Purpose.LATENCY, *keys))
        at = max(now + delay, self._free.get((sender, receiver), 0.0))
        self._free[sender, receiver] = at
        return at

    def compute(self, node: int, steps: int) -> float:
        """Seconds that optimiser steps of a node take."""
        return self._network.compute * steps * self._slow.get(node, 1.0)

    def hiccup(self, node: int, phase: int) -> float:
        """Seconds that a local phase takes longer."""
        if not self._network.jitter:
            return 0.0
        return self._network.jitter * float(draw.uniform(self._seed, Purpose.COMPUTE, node, phase))
