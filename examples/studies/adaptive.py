"""Do weights by loss and steps by agreement pay off on non-iid digits?

    python examples/studies/adaptive.py

Mean test accuracy over nodes, three seeds: 16 nodes, 200 rounds, SGD .1 on batches of 8, plain averaging
beside it, labels split by Dirichlet(.03) and Dirichlet(.1). `by-loss` keeps a tenth of each node's samples
from training; `mean of nine tenths` trains on as few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import gossipfl

SEEDS = (0, 1, 2)
GRAPHS = ("ring", "torus:4x4")
ALPHAS = (0.03, 0.1)
ROWS: Mapping[str, Mapping[str, object]] = {
    "dpsgd": {},
    "by-loss": {"algorithm.aggregate": "by-loss"},
    "mean of nine tenths": {"algorithm.aggregate": "examples.studies.adaptive:as_they_are"},
    "agreement": {"train.lr_schedule": "agreement"},
    "dpsgd, half the rate": {"train.lr": 0.05},
    "agreement, twice the rate": {"train.lr_schedule": "agreement", "train.lr": 0.2},
    "dpsgd, twice the rate": {"train.lr": 0.2},
    "by-loss, 5 local steps": {"algorithm.aggregate": "by-loss", "algorithm.local_steps": 5},
    "agreement, 5 local steps": {"train.lr_schedule": "agreement", "algorithm.local_steps": 5},
    "dpsgd, 5 local steps": {"algorithm.local_steps": 5},
}


def as_they_are(weights: Sequence[float], losses: Sequence[float]) -> Sequence[float]:
    """An aggregate that does not look at the losses: only the samples that by-loss keeps are missing."""
    return weights


def accuracy(keys: Mapping[str, object]) -> float:
    """Mean test accuracy over the nodes at the end of a run."""
    base: dict[str, object] = {
        "swarm.nodes": 16,
        "swarm.rounds": 200,
        "swarm.eval_every": 200,
        "train.batch": 8,
        "train.lr": 0.1,
        "data.partition": "dirichlet",
        "data.min_size": 2,
    }
    return float(gossipfl.simulate({**base, **keys}).summary["mean"])


def main() -> None:
    """Print the table: a line a row, mean (lowest, highest) of the seeds."""
    for alpha in ALPHAS:
        print(f"Dirichlet({alpha}): " + " | ".join(GRAPHS))
        for name, row in ROWS.items():
            cells = []
            for graph in GRAPHS:
                found = [
                    accuracy({"topology.graph": graph, "data.alpha": alpha, "swarm.seed": seed, **row})
                    for seed in SEEDS
                ]
                cells.append(f"{sum(found) / len(found):.3f} ({min(found):.3f}, {max(found):.3f})")
            print(f"  {name:26s} " + " | ".join(cells), flush=True)


if __name__ == "__main__":
    main()
