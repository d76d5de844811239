"""Published numbers of every synchronous algorithm, through the whole engine: vector and events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import gossipfl
from gossipfl.config import load_config
from gossipfl.draw import Purpose, permutation, seed64
from gossipfl.learning.tasks.digits import digits
from gossipfl.learning.workload import workload

torch.set_num_threads(1)

TABLES = json.loads((Path(__file__).parents[1] / "data" / "tables.json").read_text())
Engine = Literal["vector", "events"]
Array = NDArray[np.float64]
both = pytest.mark.parametrize("engine", ["vector", "events"])


def run(engine: Engine, folder: Path, arrays: dict[str, Any], rounds: int, **keys: object) -> Array:
    """The models [n, d] after so many rounds; the task is quadratic, or consensus where there is no `a`."""
    path = folder / "task.npz"
    np.savez(path, **{name: np.asarray(value, dtype=np.float64) for name, value in arrays.items()})
    dotted = {key.replace("__", "."): value for key, value in keys.items()}
    result = gossipfl.simulate(
        {
            "swarm.nodes": len(next(iter(arrays.values()))),
            "swarm.rounds": rounds,
            "swarm.eval_every": rounds,
            "train.task": "quadratic" if "a" in arrays else "consensus",
            "train.dtype": "float64",
            "task.file": str(path),
            **dotted,
        },
        engine=engine,
    )
    assert result.models is not None
    return np.asarray(result.models, dtype=np.float64)


def graph_file(folder: Path, n: int, arcs: list[list[int]], *, directed: bool) -> str:
    path = folder / "graph.json"
    links = [{"source": i, "target": j} for i, j in arcs]
    path.write_text(
        json.dumps({"directed": directed, "nodes": [{"id": i} for i in range(n)], "links": links})
    )
    return str(path)


# ---------------------------------------------------------------------- heterogeneous quadratics

SIXTEEN = np.arange(16, dtype=np.float64)[:, None]
CURVED = {"a": 1 + SIXTEEN / 15, "b": SIXTEEN}
PLAIN = {"a": np.ones((16, 1)), "b": SIXTEEN}


def error(x: Array, optimum: float) -> float:
    """(1/n) sum |x_i - x*|^2."""
    return float(((x - optimum) ** 2).sum(1).mean())


@both
@pytest.mark.parametrize(
    ("rule", "rounds", "keys", "key"),
    [
        ("dpsgd", 250, {}, "dsgd_atc_stationary"),
        ("dpsgd-cta", 250, {}, "dsgd_cta_stationary"),
        ("d2", 100, {}, "exact_diffusion_lazy_t100"),
        ("d2", 100, {"algorithm__lazy": False}, "d2_t100"),
        ("gradient-tracking", 1000, {}, "gt_semi_t1000"),
        ("diging", 1000, {}, "diging_t1000"),
    ],
)
def test_heterogeneous_quadratics_end_where_the_tables_say(
    engine: Engine, rule: str, rounds: int, keys: dict[str, object], key: str, tmp_path: Path
) -> None:
    x = run(engine, tmp_path, CURVED, rounds, algorithm__rule=rule, train__lr=0.1, **keys)

    table = TABLES["T5_quadratics"]
    assert error(x, table["xstar"]) == pytest.approx(table[key], rel=1e-6)


@pytest.mark.parametrize(
    ("engine", "rule", "lr", "rounds", "key"),
    [
        ("vector", "dpsgd", 0.1, 250, "eta_0.1_atc"),
        ("events", "dpsgd", 0.1, 250, "eta_0.1_atc"),
        ("vector", "dpsgd-cta", 0.1, 250, "eta_0.1_cta"),
        ("events", "dpsgd-cta", 0.1, 250, "eta_0.1_cta"),
        ("vector", "dpsgd", 0.01, 2000, "eta_0.01_atc"),
        ("vector", "dpsgd-cta", 0.01, 2000, "eta_0.01_cta"),
    ],
)
def test_the_floor_of_plain_averaging_falls_with_the_learning_rate(
    engine: Engine, rule: str, lr: float, rounds: int, key: str, tmp_path: Path
) -> None:
    x = run(engine, tmp_path, PLAIN, rounds, algorithm__rule=rule, train__lr=lr)

    assert error(x, 7.5) == pytest.approx(TABLES["T5_heterogeneity_floor_unit_curvature"][key], rel=1e-6)


# ---------------------------------------------------------------------- first iterates


@both
@pytest.mark.parametrize("rounds", [1, 2, 5])
@pytest.mark.parametrize(
    ("rule", "keys", "name"),
    [
        ("dpsgd", {}, "dsgd_atc"),
        ("dpsgd-cta", {}, "dsgd_cta"),
        ("dpsgd", {"algorithm__local_steps": 3}, "local_dsgd_H3"),
        ("d2", {"algorithm__lazy": False}, "d2"),
        ("d2", {}, "exact_diffusion"),
        ("gradient-tracking", {}, "gt_semi"),
        ("diging", {}, "diging"),
        ("qg", {}, "qg_dsgdm_0_9"),
    ],
)
def test_first_iterates_are_the_published_ones(
    engine: Engine, rule: str, keys: dict[str, object], name: str, rounds: int, tmp_path: Path
) -> None:
    table = TABLES["iterate_conventions_ring4"]
    arrays = {key: table[key] for key in ("a", "b", "x0")}

    x = run(engine, tmp_path, arrays, rounds, algorithm__rule=rule, train__lr=table["eta"], **keys)

    expected = table["algorithms"][name]["iterates_1_to_5"][rounds - 1]
    np.testing.assert_allclose(x, expected, rtol=0, atol=1e-14)


@both
@pytest.mark.parametrize("rounds", [1, 3, 5])
@pytest.mark.parametrize(("count", "name"), [(False, "relaysum_model_fill"), (True, "relaysum_model_count")])
def test_relay_sum_gives_the_published_iterates(
    engine: Engine, count: bool, name: str, rounds: int, tmp_path: Path
) -> None:
    table = TABLES["relaysum_conventions_path3"]
    arrays = {"a": table["a"], "b": table["b"], "x0": [table["x0_same_on_every_node"]] * 3}
    keys = {"algorithm__rule": "relay-sum", "algorithm__count": count, "topology__graph": "path"}

    x = run(engine, tmp_path, arrays, rounds, train__lr=table["eta"], **keys)

    expected = table["algorithms"][name]["iterates_1_to_5"][rounds - 1]
    np.testing.assert_allclose(x, expected, rtol=0, atol=1e-14)


@both
@pytest.mark.parametrize(("count", "name"), [(False, "relaysum_model_fill"), (True, "relaysum_model_count")])
def test_relay_sum_reaches_the_optimum(engine: Engine, count: bool, name: str, tmp_path: Path) -> None:
    table = TABLES["relaysum_conventions_path3"]
    arrays = {"a": table["a"], "b": table["b"], "x0": [table["x0_same_on_every_node"]] * 3}
    keys = {"algorithm__rule": "relay-sum", "algorithm__count": count, "topology__graph": "path"}

    x = run(engine, tmp_path, arrays, 100, train__lr=table["eta"], **keys)

    assert error(x, table["xstar"][0]) == pytest.approx(table["algorithms"][name]["mse"]["100"], rel=1e-6)


# ---------------------------------------------------------------------- compression


def spread(x: Array) -> float:
    """(1/n) sum |x_i - mean|^2."""
    return float(((x - x.mean(0)) ** 2).sum(1).mean())


@both
@pytest.mark.parametrize(
    ("rounds", "keys", "table", "tolerance"),
    [
        (10, {"algorithm__rule": "choco", "wire__codec": "topk:4"}, "choco_msd", 1e-9),
        (100, {"algorithm__rule": "choco", "wire__codec": "topk:0.2"}, "choco_msd", 1e-9),
        (
            100,
            {"algorithm__rule": "choco", "algorithm__per_link": False, "wire__codec": "topk:4"},
            "choco_msd",
            1e-9,
        ),
        (1000, {"algorithm__rule": "choco", "wire__codec": "topk:4"}, "choco_msd", 1e-3),
        (10, {"wire__codec": "topk:4"}, "naive_msd", 1e-9),
        (1000, {"wire__codec": "topk:4"}, "naive_msd", 1e-9),
        (10, {}, "exact_gossip_msd", 1e-9),
    ],
)
def test_choco_reaches_consensus_where_compression_without_memory_stalls(
    engine: Engine, rounds: int, keys: dict[str, object], table: str, tolerance: float, tmp_path: Path
) -> None:
    x0 = TABLES["T10_choco"]["x0"]

    x = run(engine, tmp_path, {"x0": x0}, rounds, **keys)

    assert spread(x) == pytest.approx(TABLES["T10_choco"][table][str(rounds)], rel=tolerance)
    np.testing.assert_allclose(x.mean(0), np.mean(x0, axis=0), rtol=0, atol=1e-12)


# ---------------------------------------------------------------------- directions, and data sizes


@both
def test_push_sum_reaches_the_plain_mean_where_arcs_go_one_way(engine: Engine, tmp_path: Path) -> None:
    table = TABLES["T11_push_sum"]
    graph = graph_file(tmp_path, 4, table["arcs_sender_receiver"], directed=True)
    x0 = [[v] for v in table["x0"]]

    x = run(engine, tmp_path, {"x0": x0}, 200, algorithm__rule="push-sum", topology__graph=graph)

    np.testing.assert_allclose(x, table["limit"], rtol=0, atol=1e-12)


@both
def test_averaging_rows_over_one_way_arcs_reaches_another_point(engine: Engine, tmp_path: Path) -> None:
    table = TABLES["T11_push_sum"]
    graph = graph_file(tmp_path, 4, table["arcs_sender_receiver"], directed=True)
    x0 = [[v] for v in table["x0"]]

    x = run(engine, tmp_path, {"x0": x0}, 200, topology__graph=graph, topology__weights="uniform")

    np.testing.assert_allclose(x, table["row_stochastic_limit"], rtol=0, atol=1e-12)


@both
def test_weights_by_data_agree_on_the_mean_by_size(engine: Engine, tmp_path: Path) -> None:
    table = TABLES["T11_push_sum"]["data_weighted"]
    keys = {"topology__graph": "path", "topology__weights": "data", "topology__pi": table["pi"]}
    x0 = {"x0": [[v] for v in table["x"]]}

    after_3, last = (run(engine, tmp_path, x0, rounds, **keys) for rounds in (3, 200))

    np.testing.assert_allclose(after_3[:, 0], table["after_3"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(last[:, 0], table["limit"], rtol=0, atol=1e-12)


@both
def test_gradient_on_complete_is_central_sgd(engine: Engine, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    a, b = draw.uniform(0.5, 2.0, (9, 5)), draw.normal(size=(9, 5))
    expected = np.zeros(5)
    for _ in range(50):
        expected = expected - 0.1 * (a * (expected - b)).mean(0)

    keys = {"algorithm__rule": "gradient", "topology__graph": "complete", "train__lr": 0.1}
    x = run(engine, tmp_path, {"a": a, "b": b}, 50, **keys)

    np.testing.assert_allclose(x, np.tile(expected, (9, 1)), rtol=0, atol=1e-12)


@both
def test_fedavg_is_the_mean_by_data_size_after_each_round(engine: Engine, tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    a, b, sizes = draw.uniform(0.5, 2.0, (4, 3)), draw.normal(size=(4, 3)), np.array([1.0, 2.0, 3.0, 4.0])
    expected = np.zeros(3)
    for _ in range(6):
        local = np.tile(expected, (4, 1))
        for _ in range(5):
            local = local - 0.1 * (a * (local - b))
        expected = (local * sizes[:, None]).sum(0) / sizes.sum()

    keys = {"algorithm__rule": "fedavg", "algorithm__local_steps": 5, "topology__pi": sizes.tolist()}
    x = run(engine, tmp_path, {"a": a, "b": b}, 6, train__lr=0.1, **keys)

    np.testing.assert_allclose(x, np.tile(expected, (4, 1)), rtol=0, atol=1e-13)


@both
@pytest.mark.parametrize(
    "settings", [{}, {"train.momentum": 0.9}, {"train.optimizer": "adam", "train.lr": 0.01}]
)
def test_none_is_plain_pytorch(engine: Engine, settings: dict[str, object]) -> None:
    """Bit for bit where a node trains as PyTorch does; to ten digits where all train as one matrix."""
    config = {
        "swarm.nodes": 3,
        "swarm.rounds": 6,
        "swarm.seed": 4,
        "algorithm.rule": "none",
        "algorithm.local_steps": 2,
        "train.batch": 8,
        "train.dtype": "float64",
        **settings,
    }
    models = gossipfl.simulate(config, engine=engine).models

    assert models is not None
    for node in range(3):
        expected = trained_alone(config, node)
        if engine == "events":
            assert models[node].tobytes() == expected.tobytes()
        np.testing.assert_allclose(models[node], expected, rtol=0, atol=1e-10)


def trained_alone(settings: dict[str, object], node: int) -> Array:
    """A node's parameters after its twelve steps, by PyTorch and the partition alone."""
    config = load_config(settings)
    load = workload(config)
    task, part = digits(), load.parts[node]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed64(config.swarm.seed, Purpose.START))
        model = task.model().double()
    inputs, targets = task.train.tensors[0].double(), task.train.tensors[1]
    if config.train.optimizer == "adam":
        optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr=config.train.lr)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=config.train.lr, momentum=config.train.momentum)
    epochs = 1 + 12 * 8 // len(part)
    order = np.concatenate(
        [part[permutation(config.swarm.seed, Purpose.BATCH, node, e, size=len(part))] for e in range(epochs)]
    )
    for step in range(12):
        batch = torch.from_numpy(order[step * 8 : step * 8 + 8])
        optimizer.zero_grad()
        task.loss(model(inputs[batch]), targets[batch]).backward()
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in model.parameters()]).numpy()
