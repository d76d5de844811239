"""What is learnt on digits: accuracy by graph and by how the labels are split, against stored references."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import gossipfl

torch.set_num_threads(1)

TABLE = json.loads((Path(__file__).parent / "data" / "tables.json").read_text())["DL_digits"]
SEEDS = (0, 1, 2)


def accuracy(keys: Mapping[str, object]) -> float:
    """The mean over 16 nodes of the test accuracy of their last models; 200 rounds at rate .1, batch 8."""
    base: dict[str, object] = {
        "swarm.nodes": 16,
        "swarm.rounds": 200,
        "swarm.eval_every": 200,
        "train.lr": 0.1,
        "train.batch": 8,
    }
    mean = gossipfl.simulate(base | dict(keys)).summary["mean"]
    assert isinstance(mean, float)
    return mean


@cache
def over_seeds(graph: str, partition: str) -> float:
    """Three local steps a round; the mean over three seeds."""
    keys = {
        "topology.graph": graph,
        "algorithm.local_steps": 3,
        "data.partition": partition,
        "data.shards_per_node": 2,
    }
    return float(np.mean([accuracy(keys | {"swarm.seed": seed}) for seed in SEEDS]))


@pytest.mark.parametrize("graph", ["ring", "regular:4"])
def test_nodes_with_the_same_labels_learn_on_any_graph(graph: str) -> None:
    assert over_seeds(graph, "iid") >= 0.93


def test_two_label_shards_a_node_are_hard_on_a_ring_and_easy_with_more_neighbors() -> None:
    ring, regular, complete = (over_seeds(graph, "shards") for graph in ("ring", "regular:4", "complete"))

    assert 0.70 <= ring <= 0.92
    assert regular >= 0.89
    assert regular >= ring + 0.05
    assert complete >= 0.92


@pytest.mark.parametrize("cell", TABLE["cells"])
def test_stored_partitions_land_in_the_reference_band(cell: str, tmp_path: Path) -> None:
    # given
    split, graph = cell.split("/")
    found = []
    for k, parts in enumerate(TABLE["partitions"][split]):
        file = tmp_path / f"{k}.json"
        file.write_text(json.dumps(parts))
        keys = {
            "swarm.seed": k,
            "topology.graph": "torus:4x4" if graph == "torus4x4" else graph,
            "data.partition": "file",
            "data.file": str(file),
        }

        # when
        found.append(accuracy(keys))

    # then
    low, high = TABLE["cells"][cell]["wide_band"]
    assert low <= np.mean(found) <= high
