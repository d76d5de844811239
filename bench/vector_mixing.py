"""Rounds a second of mixing x `[n, d]` by W, beside the plain ways to do it and a copy of the same memory.

scipy's CSR product, one addition of a scaled row an edge ("axpys"), and one gathered, scaled and added matrix
a neighbour ("slots") are the ways that come to mind; what counts is the best of them. All give the same bits.
They run in turns, so that their ratio stands on a busy machine.

    python bench/vector_mixing.py [--turns 7] [--threads 2] [--dtype float32] [--json] [GRAPH NxD ...]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray

from gossipfl.drivers.mixer import Mixer
from gossipfl.learning.crew import Crew
from gossipfl.topology import schedule

CASES = ["ring", "256x100000", "ring", "4096x10000", "ring", "16x1000000", "regular:4", "4096x4810"]
SPAN = 2**16  # elements of a row added at a time


def measure(graph: str, n: int, d: int, dtype: str, turns: int, threads: int) -> dict[str, object]:
    """Medians over the turns; `ratio` is to the best of the plain ways, turn by turn."""
    mixing = schedule(graph, n).mixing(0)
    matrix = mixing.matrix.astype(dtype)
    z = np.random.default_rng(0).standard_normal((n, d)).astype(dtype)
    tensor, out = torch.from_numpy(z), np.empty_like(z)
    with Crew(threads) as crew:
        mixer = Mixer(crew)

        def product() -> NDArray[np.floating]:
            return np.asarray(matrix @ z)

        def axpys() -> NDArray[np.floating]:
            part = np.empty(SPAN, dtype)
            for first in range(0, d, SPAN):
                for i in range(n):
                    target = out[i, first : first + SPAN]
                    target.fill(0)
                    for k in range(matrix.indptr[i], matrix.indptr[i + 1]):
                        scaled = part[: len(target)]
                        np.multiply(z[matrix.indices[k], first : first + SPAN], matrix.data[k], out=scaled)
                        np.add(target, scaled, out=target)
            return out

        def slots() -> NDArray[np.floating]:
            degree = np.diff(matrix.indptr)
            out.fill(0)
            for slot in range(degree.max()):
                rows = np.flatnonzero(degree > slot)
                places = matrix.indptr[rows] + slot
                for some in np.array_split(np.arange(len(rows)), max(1, len(rows) // 16)):
                    scaled = z[matrix.indices[places[some]]] * matrix.data[places[some], None]
                    out[rows[some]] += scaled
            return out

        def copy() -> NDArray[np.floating]:
            np.copyto(out, z)
            return out

        def ours() -> NDArray[np.floating]:
            return mixer(mixing, tensor).numpy()

        ways = {"csr": product, "axpys": axpys, "slots": slots, "copy": copy, "ours": ours}
        wanted = product()
        for name, way in ways.items():
            assert name == "copy" or np.array_equal(way(), wanted), name
        found: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(turns):
            for name, way in ways.items():
                found[name].append(1 / _seconds(way))
    best = [max(turn) for turn in zip(found["csr"], found["axpys"], found["slots"], strict=True)]
    ratios = [a / b for a, b in zip(found["ours"], best, strict=True)]
    return {
        "graph": graph,
        "nodes": n,
        "parameters": d,
        "dtype": dtype,
        "threads": threads,
        "rounds_per_second": median(found["ours"]),
        "limit_rounds_per_second": median(best),
        "ratio": median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        **{f"{name}_rounds_per_second": median(found[name]) for name in ("csr", "axpys", "slots", "copy")},
        "turns": turns,
    }


def _seconds(way: Callable[[], object]) -> float:
    """Of one call: the best of some, within a fifth of a second."""
    times, end = [], time.perf_counter() + 0.2
    while not times or time.perf_counter() < end:
        begun = time.perf_counter()
        way()
        times.append(time.perf_counter() - begun)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("cases", nargs="*", default=CASES, metavar="GRAPH NxD")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for graph, shape in zip(given.cases[::2], given.cases[1::2], strict=True):
        n, d = map(int, shape.split("x"))
        row = measure(graph, n, d, given.dtype, given.turns, given.threads)
        if given.json:
            print(json.dumps(row), flush=True)
            continue
        plain = ", ".join(
            f"{k} {row[f'{k}_rounds_per_second']:.0f}" for k in ("csr", "axpys", "slots", "copy")
        )
        print(
            f"{graph} {shape}: {row['rounds_per_second']:.0f} rounds/s ({plain}); ratio to the best "
            f"{row['ratio']:.2f} ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
