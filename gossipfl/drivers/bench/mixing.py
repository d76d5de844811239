"""Rounds a second of mixing x `[n, d]` by W, beside the plain ways to do it and a copy of the same memory.

scipy's CSR product, one addition of a scaled row an edge ("axpys"), and one gathered, scaled and added matrix
a neighbour ("slots") are the ways that come to mind; what counts is the best of them. All give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Final, Literal

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from gossipfl.drivers.bench.turns import Pace, Row, Say, calls, ratios, rounded, turns
from gossipfl.drivers.machine import cores
from gossipfl.drivers.mixer import Mixer
from gossipfl.learning.crew import Crew
from gossipfl.topology import schedule

SPAN: Final = 2**16  # elements of a row added at a time


@dataclass(frozen=True)
class Case:
    """What is measured."""

    graph: str
    nodes: int
    parameters: int
    turns: int = 3
    seconds: float = 0.2  # of each way in a turn
    dtype: Literal["float32", "float64"] = "float32"


class Ways:
    """The ways to compute W z, each of them on one thread but the last, `ours`, which takes every core."""

    def __init__(self, case: Case, crew: Crew) -> None:
        self._mixing = schedule(case.graph, case.nodes).mixing(0)
        self._mixer = Mixer(crew)
        self.matrix = sp.csr_array(self._mixing.matrix.astype(case.dtype))
        self.z = np.random.default_rng(0).standard_normal((case.nodes, case.parameters)).astype(case.dtype)
        self.out = np.empty_like(self.z)

    def csr(self) -> NDArray[np.floating]:
        return np.asarray(self.matrix @ self.z)

    def axpys(self) -> NDArray[np.floating]:
        matrix, z, out = self.matrix, self.z, self.out
        n, d = z.shape
        part = np.empty(SPAN, z.dtype)
        for first in range(0, d, SPAN):
            for i in range(n):
                target = out[i, first : first + SPAN]
                target.fill(0)
                for k in range(matrix.indptr[i], matrix.indptr[i + 1]):
                    scaled = part[: len(target)]
                    np.multiply(z[matrix.indices[k], first : first + SPAN], matrix.data[k], out=scaled)
                    np.add(target, scaled, out=target)
        return out

    def slots(self) -> NDArray[np.floating]:
        matrix, out = self.matrix, self.out
        degree = np.diff(matrix.indptr)
        out.fill(0)
        for slot in range(degree.max()):
            rows = np.flatnonzero(degree > slot)
            places = matrix.indptr[rows] + slot
            for some in np.array_split(np.arange(len(rows)), max(1, len(rows) // 16)):
                scaled = self.z[matrix.indices[places[some]]] * matrix.data[places[some], None]
                out[rows[some]] += scaled
        return out

    def copy(self) -> NDArray[np.floating]:
        np.copyto(self.out, self.z)
        return self.out

    def ours(self) -> NDArray[np.floating]:
        return self._mixer(self._mixing, torch.from_numpy(self.z)).numpy()


def measure(case: Case, say: Say) -> Row:
    """Medians over the turns; `ratio` is to the best of the plain ways, turn by turn. Raises ConfigError for
    a graph that is none."""
    said = f"mixing {case.graph} {case.nodes}x{case.parameters}"
    say(said)
    with Crew(cores()) as crew:
        made = Ways(case, crew)
        ways = {
            "csr": made.csr,
            "axpys": made.axpys,
            "slots": made.slots,
            "copy": made.copy,
            "ours": made.ours,
        }
        wanted = made.csr()
        for name, way in ways.items():
            if name != "copy" and not np.array_equal(way(), wanted):
                raise AssertionError(f"{name} gives other bits")

        def rate(way: Callable[[], object]) -> Callable[[], Pace]:
            return lambda: calls(way, case.seconds)

        found = turns(
            {name: rate(way) for name, way in ways.items()}, case.turns, lambda text: say(f"{said}: {text}")
        )
    best = [max(turn) for turn in zip(found["csr"], found["axpys"], found["slots"], strict=True)]
    return {
        "what": "mixing",
        "nodes": case.nodes,
        "topology": case.graph,
        "parameters": case.parameters,
        "dtype": case.dtype,
        "threads": cores(),
        "turns": case.turns,
        **ratios(found["ours"], best, "rounds_per_second"),
        **{
            f"{name}_rounds_per_second": rounded(median(pace.wall for pace in found[name]))
            for name in ("csr", "axpys", "slots", "copy")
        },
    }
