"""Graphs with a name of their own: Petersen's, and two social networks that every paper on graphs knows."""

from __future__ import annotations

from typing import Final

import numpy as np

from gossipfl.topology import layout
from gossipfl.topology.families.base import Arguments, Family, wrong
from gossipfl.topology.graph import Graph, from_pairs

KARATE: Final = """
    0: 1 2 3 4 5 6 7 8 10 11 12 13 17 19 21 31
    1: 2 3 7 13 17 19 21 30
    2: 3 7 8 9 13 27 28 32
    3: 7 12 13
    4: 6 10
    5: 6 10 16
    6: 16
    8: 30 32 33
    9: 33
    13: 33
    14: 32 33
    15: 32 33
    18: 32 33
    19: 33
    20: 32 33
    22: 32 33
    23: 25 27 29 32 33
    24: 25 27 31
    25: 31
    26: 29 33
    27: 33
    28: 31 33
    29: 32 33
    30: 32 33
    31: 32 33
    32: 33
"""
"""Each member's later friends: Zachary 1977, "An information flow model for conflict and fission in small
groups".
"""

DAVIS: Final = """
    0: 18 19 20 21 22 23 25 26
    1: 18 19 20 22 23 24 25
    2: 19 20 21 22 23 24 25 26
    3: 18 20 21 22 23 24 25
    4: 20 21 22 24
    5: 20 22 23 25
    6: 22 23 24 25
    7: 23 25 26
    8: 22 24 25 26
    9: 24 25 26 29
    10: 25 26 27 29
    11: 25 26 27 29 30 31
    12: 24 25 26 27 29 30 31
    13: 23 24 26 27 28 29 30 31
    14: 24 25 27 28 29
    15: 25 26
    16: 26 28
    17: 26 28
"""
"""Each woman's events: Davis, Gardner & Gardner 1941, "Deep South"."""

WOMEN: Final = (
    "Evelyn Jefferson",
    "Laura Mandeville",
    "Theresa Anderson",
    "Brenda Rogers",
    "Charlotte McDowd",
    "Frances Anderson",
    "Eleanor Nye",
    "Pearl Oglethorpe",
    "Ruth DeSand",
    "Verne Sanderson",
    "Myra Liddel",
    "Katherina Rogers",
    "Sylvia Avondale",
    "Nora Fayette",
    "Helen Lloyd",
    "Dorothy Murchison",
    "Olivia Carleton",
    "Flora Price",
)


def _pairs(table: str) -> list[tuple[int, int]]:
    """`i: j k ...` a line, as pairs."""
    rows = (line.split(":") for line in table.strip().splitlines())
    return [(int(i), int(j)) for i, others in rows for j in others.split()]


def _exactly(n: int, size: int, name: str) -> None:
    if n != size:
        raise wrong(f"{name} has {size} nodes, not {n}", f"{size} nodes")


def petersen(n: int, arguments: Arguments, seed: int) -> Graph:
    """Ten nodes of degree 3: a pentagon, a pentagram, and five spokes."""
    _exactly(n, 10, "petersen")
    five = range(5)
    outer = [(i, (i + 1) % 5) for i in five]
    spokes = [(i, i + 5) for i in five]
    inner = [(5 + i, 5 + (i + 2) % 5) for i in five]
    at = np.concatenate([layout.circle(5), layout.circle(5, 0.5)])
    return from_pairs("petersen", 10, outer + spokes + inner, positions=at)


def karate(n: int, arguments: Arguments, seed: int) -> Graph:
    """The 34 members of a karate club and their 78 friendships."""
    _exactly(n, 34, "karate")
    return from_pairs("karate", 34, _pairs(KARATE))


def davis(n: int, arguments: Arguments, seed: int) -> Graph:
    """18 women and the 14 events they went to: bipartite, 89 edges."""
    _exactly(n, 32, "davis")
    labels = WOMEN + tuple(f"E{event}" for event in range(1, 15))
    women = np.stack([np.full(18, -0.8), np.linspace(1, -1, 18)], axis=1)
    events = np.stack([np.full(14, 0.8), np.linspace(1, -1, 14)], axis=1)
    return from_pairs("davis", 32, _pairs(DAVIS), labels=labels, positions=np.concatenate([women, events]))


FAMILIES = (
    Family(
        "petersen", "Petersen's graph: 10 nodes of degree 3", "petersen", petersen, size=lambda arguments: 10
    ),
    Family(
        "karate",
        "Zachary's karate club: 34 members, 78 friendships",
        "karate",
        karate,
        size=lambda arguments: 34,
        source="Zachary 1977",
    ),
    Family(
        "davis",
        "Davis' southern women: 18 women, 14 events",
        "davis",
        davis,
        size=lambda arguments: 32,
        source="Davis et al. 1941",
    ),
)
