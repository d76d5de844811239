"""What every rule needs: each law refuses with its reason and names a choice that works."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gossipfl import ConfigError
from gossipfl.config import load_config
from gossipfl.core.recipe import RULES
from gossipfl.drivers.plan import Plan, plan


def planned(rule: str, graph: str = "ring", n: int = 8, plain: int = 0, **keys: object) -> Plan:
    """The plan of a config; keys are dotted, with __ for the dot."""
    dotted = {key.replace("__", "."): value for key, value in keys.items()}
    base = {"swarm.nodes": n, "topology.graph": graph, "algorithm.rule": rule}
    return plan(load_config({**base, **dotted}), (1,) * n, plain)


def refusal(rule: str, graph: str = "ring", n: int = 8, **keys: object) -> dict[str, str]:
    """The mistakes: key -> words."""
    with pytest.raises(ConfigError) as caught:
        planned(rule, graph, n, **keys)
    return {problem.key: str(problem) for problem in caught.value.problems}


def notes(rule: str, graph: str = "ring", n: int = 8, **keys: object) -> str:
    return " / ".join(planned(rule, graph, n, **keys).recipe.notes)


@pytest.mark.parametrize(
    ("rule", "graph", "keys", "key", "because", "instead"),
    [
        ("d2", "base:2", {}, "algorithm.rule", "same mixing matrix in every round", "gradient-tracking"),
        ("d2", "ring", {"algorithm__every": 2}, "algorithm.rule", "every round", "algorithm.every = 1"),
        ("d2", "star", {"topology__weights": "uniform"}, "topology.weights", "symmetric", "metropolis"),
        ("d2", "exponential", {}, "topology.weights", "symmetric", "undirected"),
        ("choco", "epidemic:2", {}, "algorithm.rule", "same mixing matrix", "static graph"),
        ("choco", "star", {"topology__weights": "uniform"}, "topology.weights", "cancel", "metropolis"),
        (
            "gradient-tracking",
            "star",
            {"topology__weights": "uniform"},
            "topology.weights",
            "trackers' mean is not the mean displacement",
            "metropolis",
        ),
        ("diging", "epidemic:2,local", {}, "topology.weights", "columns of W that sum to 1", "dpsgd"),
        ("relay-sum", "ring", {}, "topology.graph", "along a tree", "tree, path or star"),
        ("relay-sum", "path", {"algorithm__every": 2}, "topology.graph", "changes", "algorithm.every = 1"),
        (
            "push-sum",
            "star",
            {"topology__weights": "uniform"},
            "topology.weights",
            "mass",
            "column-stochastic",
        ),
        ("push-sum", "epidemic:2,local", {}, "topology.weights", "mass", "dpsgd"),
        ("fedavg", "ring", {}, "topology.graph", "all must be neighbors", "dpsgd on this graph"),
        ("fedsgd", "star", {}, "topology.graph", "all must be neighbors", "gradient on this graph"),
        (
            "fedsgd",
            "complete",
            {"algorithm__local_steps": 3},
            "algorithm.local_steps",
            "one gradient",
            "fedavg",
        ),
        (
            "fedsgd",
            "complete",
            {"algorithm__local_epochs": 1},
            "algorithm.local_epochs",
            "one gradient",
            "fedavg",
        ),
        ("push-sum", "ring", {"wire__codec": "topk:0.1"}, "wire.codec", "never sends again", "choco"),
        ("relay-sum", "path", {"wire__codec": "topk:4"}, "wire.codec", "never sends again", "choco"),
        (
            "d2",
            "complete",
            {"wire__codec": "topk:4", "algorithm__lazy": False},
            "algorithm.lazy",
            "diverges where topk:4 leaves parts out",
            "choco",
        ),
        ("d2", "ring", {"algorithm__aggregate": "by-loss"}, "algorithm.aggregate", "diverges", "dpsgd"),
        (
            "gradient",
            "ring",
            {"algorithm__aggregate": "by-loss"},
            "algorithm.aggregate",
            "something else",
            "dpsgd",
        ),
        (
            "dpsgd",
            "ring",
            {"algorithm__aggregate": "by-loss", "wire__codec": "topk:4"},
            "algorithm.aggregate",
            "leaves parts of them out",
            "none",
        ),
        (
            "d2",
            "ring",
            {"train__lr_schedule": "agreement"},
            "train.lr_schedule",
            "carries displacements",
            "dpsgd",
        ),
        (
            "none",
            "ring",
            {"train__lr_schedule": "agreement"},
            "train.lr_schedule",
            "exchanges nothing",
            "dpsgd",
        ),
        (
            "dpsgd-cta",
            "ring",
            {"algorithm__average_optimizer": True},
            "algorithm.average_optimizer",
            "sends before it trains",
            "dpsgd",
        ),
        (
            "none",
            "ring",
            {"algorithm__average_optimizer": True},
            "algorithm.average_optimizer",
            "exchanges nothing",
            "dpsgd",
        ),
        ("none", "ring", {"stop__patience": 3}, "stop", "exchanges nothing", "swarm.rounds"),
        (
            "dpsgd",
            "star",
            {"topology__weights": "column-stochastic"},
            "topology.weights",
            "rows of W do not sum to 1",
            "push-sum",
        ),
        (
            "dpsgd",
            "star",
            {"topology__weights": "constant:0.5"},
            "topology.weights",
            "an eigenvalue of W is 3.0000 in size",
            "metropolis",
        ),
        ("dpsgd", "ring", {"wire__codec": "zip"}, "wire.codec", "no codec 'zip'", "topk:K"),
        ("dpsgd", "ring", {"wire__codec": "topk:0"}, "wire.codec", "keeps nothing", "topk:0.01"),
        ("dpsgd", "ring", {"wire__codec": "topk:1.5"}, "wire.codec", "more than all", "topk:0.01"),
        ("dpsgd", "ring", {"wire__codec": "topk:x"}, "wire.codec", "cannot read", "topk:4"),
        ("dpsgd", "ring", {"algorithm__aggregate": "best"}, "algorithm.aggregate", "no aggregate", "by-loss"),
        ("dpsgd", "ring", {"algorithm__gamma": 0.3}, "algorithm.gamma", "unknown key", "no keys of its own"),
    ],
)
def test_a_broken_law_is_refused_with_its_reason_and_a_way_out(
    rule: str, graph: str, keys: dict[str, object], key: str, because: str, instead: str
) -> None:
    words = refusal(rule, graph, **keys)[key]

    wrong, _, right = words.partition("; ")
    assert because in wrong
    assert instead in right


@pytest.mark.parametrize(
    "keys",
    [
        {"wire__codec": "topk:4"},
        {"algorithm__aggregate": "by-loss"},
        {"algorithm__average_optimizer": True},
        {"train__lr_schedule": "agreement"},
    ],
)
def test_asynchronous_exchanges_refuse_what_needs_rounds(keys: dict[str, object]) -> None:
    [words] = refusal("dpsgd", algorithm__exchange="pairwise", **keys).values()

    assert "no common rounds" in words
    assert 'exchange = "rounds"' in words


def test_all_broken_laws_are_told_at_once() -> None:
    words = refusal("choco", "exponential", algorithm__every=2, algorithm__aggregate="by-loss")

    assert words.keys() == {"algorithm.rule", "topology.weights", "algorithm.aggregate"}


def test_d2_on_an_even_ring_takes_the_lazy_matrix_and_says_so() -> None:
    made = planned("d2", "ring", 8).recipe

    assert np.linalg.eigvalsh(made.schedule.mixing(0).dense())[0] > -1 / 3
    assert "(I+W)/2 is taken" in made.notes[0]
    assert "algorithm.lazy = false" in made.notes[0]


def test_d2_keeps_w_where_it_may_and_where_one_insists() -> None:
    free, insisted = planned("d2", "ring", 9).recipe, planned("d2", "ring", 8, algorithm__lazy=False).recipe

    assert not free.notes and not insisted.notes
    assert insisted.schedule.mixing(0).dense()[0, 0] == pytest.approx(1 / 3)
    assert insisted.params["lazy"] is False


@pytest.mark.parametrize("keys", [{}, {"algorithm__lazy": True}])
def test_d2_takes_the_lazy_matrix_where_a_codec_leaves_parts_out(keys: dict[str, object]) -> None:
    made = planned("d2", "complete", 8, wire__codec="topk:4", **keys).recipe

    np.testing.assert_allclose(made.schedule.mixing(0).dense(), (np.eye(8) + 1 / 8) / 2, atol=1e-15)
    assert ("(I+W)/2 is taken, W itself diverges" in " ".join(made.notes)) == (not keys)


def test_push_sum_takes_column_stochastic_weights_where_the_default_does_not_fit(tmp_path: Path) -> None:
    file = tmp_path / "lopsided.json"
    arcs = [(0, 1), (1, 2), (2, 0), (2, 3), (3, 0)]
    links = [{"source": i, "target": j} for i, j in arcs]
    file.write_text(json.dumps({"directed": True, "nodes": [{"id": i} for i in range(4)], "links": links}))

    made = planned("push-sum", str(file), 4).recipe

    columns = made.schedule.mixing(0).dense().sum(0)
    np.testing.assert_allclose(columns, 1.0, atol=1e-15)
    assert "column-stochastic are taken" in made.notes[0]
    assert "metropolis" in refusal("dpsgd", str(file), 4)["topology.weights"]


def test_push_sum_leaves_weights_that_fit() -> None:
    assert notes("push-sum", "star") == ""


def test_weights_that_do_not_keep_the_mean_are_noted() -> None:
    assert "weighted mean" in notes("dpsgd", "star", topology__weights="uniform")
    assert "weighted mean" not in notes("dpsgd", "star")


def test_gradient_off_complete_is_noted() -> None:
    assert "drift apart" in notes("gradient", "ring")
    assert notes("gradient", "complete") == ""


def test_a_codec_without_memory_is_noted_and_choco_is_not() -> None:
    assert "rule choco sends it later" in notes("dpsgd", wire__codec="topk:4")
    assert notes("choco", wire__codec="topk:4") == ""
    assert "set wire.codec" in notes("choco")


def test_named_rules_fill_in_what_is_left_open() -> None:
    config = load_config({"algorithm.rule": "fedavg"})

    assert config.topology.graph == "complete"
    assert config.topology.weights == "data"
    assert (config.algorithm.local_epochs, config.algorithm.local_steps) == (1, 0)
    assert load_config({"algorithm.rule": "fedsgd"}).algorithm.local_steps == 1


def test_named_rules_leave_what_is_set() -> None:
    config = load_config(
        {"algorithm.rule": "fedavg", "algorithm.local_steps": 5, "topology.weights": "metropolis"}
    )

    assert (config.algorithm.local_epochs, config.algorithm.local_steps) == (0, 5)
    assert config.topology.weights == "metropolis"


def test_fedavg_gives_every_node_the_mean_by_data_size() -> None:
    sizes = (10, 20, 30, 40)
    config = load_config({"algorithm.rule": "fedavg", "swarm.nodes": 4})

    w = plan(config, sizes).recipe.schedule.mixing(0).dense()

    np.testing.assert_allclose(w, np.tile(np.array(sizes) / 100, (4, 1)), atol=1e-15)


def test_buffers_and_optimizer_state_ride_beside_a_rule_that_remembers() -> None:
    tracked, averaged = planned("gradient-tracking", plain=3), planned("dpsgd", plain=3)

    assert [part.name for part in tracked.recipe.rule.sends] == ["model", "tracker", "plain"]
    assert tracked.recipe.packing.bytes(10, 4) == (7 + 7 + 3) * 4
    assert [part.name for part in averaged.recipe.rule.sends] == ["model"]
    assert averaged.recipe.packing.bytes(10, 4) == 40


@pytest.mark.parametrize("rule", [r for r in RULES if r not in ("relay-sum", "fedavg", "fedsgd")])
def test_every_rule_runs_on_the_default_ring(rule: str) -> None:
    assert planned(rule).recipe.name == rule
