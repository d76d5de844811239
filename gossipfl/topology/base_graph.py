"""Base-(k+1) graphs: exact consensus after finitely many rounds, for every n, with degree at most k.

Takezawa, Sato, Bao, Niwa & Yamada 2023, "Beyond Exponential Graph: Communication-Efficient Topologies for
Decentralized Learning via Finite-time Convergence" (NeurIPS), algorithms 1 (hyper-hypercube), 2 (simple
Base-(k+1)) and 3 (Base-(k+1)). A round is a list of links (i, j, w_ij), symmetric; whoever has none keeps its
value.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from gossipfl.topology import mixing
from gossipfl.topology.mixing import Mixing

Links: TypeAlias = list[tuple[int, int, float]]


@lru_cache(maxsize=4096)
def factors(n: int, largest: int) -> tuple[int, ...] | None:
    """n as a product of the fewest numbers from 2 to `largest`, ascending; None where it has a larger prime
    factor.
    """
    if n == 1:
        return ()
    best: tuple[int, ...] | None = None
    for factor in range(min(n, largest), 1, -1):
        if n % factor == 0:
            rest = factors(n // factor, largest)
            if rest is not None and (best is None or len(rest) + 1 < len(best)):
                best = tuple(sorted((*rest, factor)))
    return best


def _clique(nodes: Sequence[int]) -> Links:
    """Everyone takes the mean of these nodes."""
    share = 1.0 / len(nodes)
    return [(i, j, share) for at, i in enumerate(nodes) for j in nodes[at + 1 :]]


def hyper_hypercube(nodes: Sequence[int], k: int) -> list[Links]:
    """Algorithm 1: the mean of these nodes after as many rounds as their number has factors (up to k + 1).

    Round l averages those whose places differ only in digit l of the mixed radix.
    """
    sizes = factors(len(nodes), k + 1)
    if sizes is None:
        raise ValueError(f"{len(nodes)} has a prime factor above {k + 1}")
    rounds, stride = [], 1
    for size in sizes:
        firsts = [place for place in range(len(nodes)) if place // stride % size == 0]
        rounds.append(
            [link for first in firsts for link in _clique([nodes[first + stride * d] for d in range(size)])]
        )
        stride *= size
    return rounds


def simple_base(nodes: Sequence[int], k: int) -> list[Links]:
    """Algorithm 2: the mean of any number of nodes.

    The nodes are split by the digits of their number in base k + 1 into parts V_1, V_2, ...; part l is a_l
    blocks of (k + 1)^p_l nodes. First each part averages itself. Then, part after part, everyone in the later
    parts meets one node of each block of this part, with the weight that gives those later parts the mean of
    all and each block the right sum; those of the part who met nobody average among themselves. Last each
    block averages itself.
    """
    n, base = len(nodes), k + 1
    if n == 1:
        return []
    if factors(n, base) is not None:
        return hyper_hypercube(nodes, k)
    parts: list[list[int]] = []
    blocks: list[list[list[int]]] = []
    power, start = 1, 0
    while power * base <= n:
        power *= base
    while power >= 1:
        digit = (n - start) // power
        if digit:
            part = list(nodes[start : start + digit * power])
            parts.append(part)
            blocks.append([part[b * power : (b + 1) * power] for b in range(digit)])
            start += digit * power
        power //= base
    whole = [hyper_hypercube(part, k) for part in parts]
    inner = [[hyper_hypercube(block, k) for block in part] for part in blocks]
    rounds: list[Links] = [
        [link for part in whole if part for link in part[t % len(part)]] for t in range(len(whole[0]))
    ]
    for t in range(1 + len(inner[0][0])):
        links: Links = []
        if t < len(parts) - 1:
            links += _meet(parts, blocks, t, k)
        for level in range(len(parts)):
            done = t - level - (1 if level < len(parts) - 1 else 0)
            if done >= 0:
                links += _settle(whole[level], inner[level], done, len(parts[level]) <= k)
        rounds.append(links)
    return rounds


def _meet(parts: list[list[int]], blocks: list[list[list[int]]], level: int, k: int) -> Links:
    """Everyone in later parts with one node of each block of part `level`; the rest of that part in
    cliques.
    """
    later = [node for part in reversed(parts[level + 1 :]) for node in part]
    free = [list(block) for block in blocks[level]]
    share = len(parts[level]) / (len(parts[level]) + len(later)) / len(free)
    links = [(block.pop(), node, share) for node in later for block in free]
    rest = [node for block in free for node in block]
    for first in range(0, len(rest), k + 1):
        links += _clique(rest[first : first + k + 1])
    return links


def _settle(whole: list[Links], inner: list[list[Links]], done: int, small: bool) -> Links:
    """The round in which a part, or each of its blocks, averages itself; over again when it is through."""
    turns = [whole] if small else inner
    return [link for rounds in turns if rounds for link in rounds[done % len(rounds)]]


def base_graph(n: int, k: int) -> list[Links]:
    """Algorithm 3: n = p q, p its largest divisor with prime factors up to k + 1. Each of p groups of q
    averages itself (algorithm 2), then the p nodes at each place (algorithm 1); or algorithm 2 on all, where
    that takes fewer rounds.
    """
    p, rest = 1, n
    for prime in range(2, min(k + 1, n) + 1):
        while rest % prime == 0:
            p, rest = p * prime, rest // prime
    groups = [list(range(g * rest, (g + 1) * rest)) for g in range(p)]
    first = [simple_base(group, k) for group in groups]
    second = [hyper_hypercube([group[place] for group in groups], k) for place in range(rest)]
    rounds = [[link for one in first for link in one[t]] for t in range(len(first[0]))]
    rounds += [[link for one in second for link in one[t]] for t in range(len(second[0]))]
    simple = simple_base(list(range(n)), k)
    return simple if len(simple) < len(rounds) else rounds


def mixing_of(links: Links, n: int) -> Mixing:
    """W of a round."""
    array = np.array(links, dtype=np.float64).reshape(-1, 3)
    i, j, value = array[:, 0].astype(np.int64), array[:, 1].astype(np.int64), array[:, 2]
    return mixing.from_entries(n, np.concatenate([i, j]), np.concatenate([j, i]), np.tile(value, 2))
