"""Published numbers, given by real processes over ZeroMQ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import gossipfl

TABLES = json.loads((Path(__file__).parents[1] / "data" / "tables.json").read_text())
SIXTEEN = np.arange(16, dtype=np.float64)[:, None]
Array = NDArray[np.float64]


def run(folder: Path, arrays: dict[str, Any], rounds: int, **keys: object) -> Array:
    """The models [n, d] that so many rounds of real processes end with."""
    path = folder / "task.npz"
    np.savez(path, **{name: np.asarray(value, dtype=np.float64) for name, value in arrays.items()})
    result = gossipfl.swarm(
        {
            "swarm.nodes": len(next(iter(arrays.values()))),
            "swarm.rounds": rounds,
            "swarm.eval_every": rounds,
            "train.task": "quadratic" if "a" in arrays else "consensus",
            "train.dtype": "float64",
            "train.lr": 0.1,
            "task.file": str(path),
            **{key.replace("__", "."): value for key, value in keys.items()},
        }
    )
    assert result.summary["finished"] and result.models is not None
    return np.asarray(result.models, dtype=np.float64)


@pytest.mark.parametrize(
    ("rule", "rounds", "key"),
    [
        ("dpsgd", 250, "dsgd_atc_stationary"),
        ("dpsgd-cta", 250, "dsgd_cta_stationary"),
        ("d2", 100, "exact_diffusion_lazy_t100"),
        ("gradient-tracking", 1000, "gt_semi_t1000"),
        ("diging", 1000, "diging_t1000"),
    ],
)
def test_heterogeneous_quadratics_end_where_the_tables_say(
    rule: str, rounds: int, key: str, tmp_path: Path
) -> None:
    x = run(tmp_path, {"a": 1 + SIXTEEN / 15, "b": SIXTEEN}, rounds, algorithm__rule=rule)

    table = TABLES["T5_quadratics"]
    error = ((x - table["xstar"]) ** 2).sum(1).mean()
    assert error == pytest.approx(table[key], rel=1e-6)


def test_push_sum_reaches_the_plain_mean_over_arcs_that_lead_one_way(tmp_path: Path) -> None:
    table = TABLES["T11_push_sum"]
    graph = tmp_path / "arcs.json"
    links = [{"source": i, "target": j} for i, j in table["arcs_sender_receiver"]]
    graph.write_text(json.dumps({"directed": True, "nodes": [{"id": i} for i in range(4)], "links": links}))
    start = np.array(table["x0"], dtype=np.float64)[:, None]

    x = run(tmp_path, {"x0": start}, 100, algorithm__rule="push-sum", topology__graph=str(graph))

    np.testing.assert_allclose(x, table["limit"], rtol=0, atol=1e-12)


def test_choco_reaches_consensus_over_compressed_differences(tmp_path: Path) -> None:
    table = TABLES["T10_choco"]
    keys = {
        "algorithm__rule": "choco",
        "algorithm__gamma": table["gamma"],
        "wire__codec": f"topk:{table['k']}",
    }

    x = run(tmp_path, {"x0": table["x0"]}, 100, **keys)

    spread = ((x - x.mean(0)) ** 2).sum(1).mean()
    assert spread == pytest.approx(table["choco_100"], rel=1e-9)
    np.testing.assert_allclose(x.mean(0), np.mean(table["x0"], axis=0), rtol=0, atol=1e-12)


def test_relay_sum_gives_the_published_iterates(tmp_path: Path) -> None:
    table = TABLES["relaysum_conventions_path3"]
    start = [table["x0_same_on_every_node"]] * 3
    keys = {"algorithm__rule": "relay-sum", "topology__graph": "path", "train__lr": table["eta"]}

    x = run(tmp_path, {"a": table["a"], "b": table["b"], "x0": start}, 5, **keys)

    expected = table["algorithms"]["relaysum_model_fill"]["iterates_1_to_5"][4]
    np.testing.assert_allclose(x, expected, rtol=0, atol=1e-14)
