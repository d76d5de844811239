"""Every graph by name. A family is a pure function of (n, arguments, seed); one file for each kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gossipfl.topology.families import classic, exponential, lattice, named, random
from gossipfl.topology.families.base import Arguments, Family

SCHEDULES: Final = (
    Family(
        "one-peer-exponential",
        "round t: i sends to i + 2^(t mod ceil(log2 n)); exact if n is a power of two",
        "one-peer-exponential",
        source="Assran et al. 2019; Ying et al. 2021",
    ),
    Family(
        "base",
        "Base-(K+1): degree at most K (1), exact consensus in few rounds for every n",
        "base:2",
        arguments="K",
        source="Takezawa et al. 2023",
    ),
    Family(
        "epidemic",
        "a fresh random S-regular graph a round (oracle), or S random targets a node (local)",
        "epidemic:4",
        arguments="S[,oracle|,local]",
        source="de Vos et al. 2023",
    ),
    Family(
        "matching",
        "a fresh random matching a round: of everyone, or of a graph's edges",
        "matching:torus:4x4",
        arguments="[GRAPH]",
        source="Boyd et al. 2006",
    ),
)
"""Graphs that change from round to round: schedules.py makes them."""

FAMILIES: Final[Mapping[str, Family]] = {
    family.name: family
    for family in (
        *classic.FAMILIES,
        *lattice.FAMILIES,
        *exponential.FAMILIES,
        *random.FAMILIES,
        *named.FAMILIES,
        *SCHEDULES,
    )
}

__all__ = ["FAMILIES", "SCHEDULES", "Arguments", "Family"]
