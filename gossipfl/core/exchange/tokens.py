"""Token accounts: how often a node sends in gossip learning (Danner & Jelasity 2018, "Token Account
Algorithms: The Best of the Proactive and Reactive Worlds").

At every tick a node sends with probability proactive(a), a being its tokens, or else saves a token. For a
message that it takes in it may spend up to reactive(a, useful) tokens at once, one a send. proactive(C) = 1,
so that a never exceeds the capacity C, and a node sends at most k + C times within any k ticks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple


class Account(NamedTuple):
    """A strategy with its two numbers; `spend` is A of the paper."""

    name: str = "none"
    capacity: int = 10  # C, in tokens
    spend: int = 5  # A: the larger, the more reluctantly tokens are spent

    def proactive(self, tokens: int) -> float:
        """The probability of a send at a tick."""
        match self.name:
            case "none":
                return 1.0
            case "randomized":
                if tokens < self.spend - 1:
                    return 0.0
                return min(1.0, (tokens - self.spend + 1) / (self.capacity - self.spend + 1))
            case _:
                return 1.0 if tokens >= self.capacity else 0.0

    def reactive(self, tokens: int, useful: bool) -> float:
        """How many sends a message is worth; a fraction is rounded at random."""
        match self.name:
            case "none":
                return 0.0
            case "simple":
                return min(1.0, tokens)
            case "generalized":
                return float((self.spend - 1 + tokens) // (self.spend if useful else 2 * self.spend))
            case _:
                return tokens / self.spend if useful else 0.0


ACCOUNTS: Final[Mapping[str, str]] = {
    "none": "a send at every tick",
    "simple": "a send for each message taken in, while there are tokens",
    "generalized": "bursts that grow with the tokens",
    "randomized": "the same, smoothed by chance",
}
"""Strategies by name: a line."""
