"""Which node holds which samples."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from gossipfl.config import Data
from gossipfl.errors import ConfigError
from gossipfl.learning.partition import Source, digest, label_distance, label_table, partition

LABELS = np.repeat(np.arange(10), 100)
SOURCE = Source(len(LABELS), LABELS)


def split(n: int, source: Source = SOURCE, seed: int = 0, **data: object) -> list[np.ndarray]:
    return list(partition(source, n, Data(**data), seed))


def test_iid_parts_differ_by_one_sample_at_most() -> None:
    assert sorted(map(len, split(7, partition="iid"))) == [142] * 1 + [143] * 6


def test_a_seed_gives_the_same_parts_and_another_seed_others() -> None:
    for name in ("iid", "dirichlet", "shards", "classes", "quantity"):
        first, again, other = (split(5, seed=seed, partition=name) for seed in (1, 1, 2))
        assert digest(first) == digest(again)
        assert digest(first) != digest(other)


def test_the_seed_fixes_the_parts_for_good() -> None:
    assert digest(split(8, partition="dirichlet")).hex()[:16] == "b02172ec83ae4698"
    assert digest(split(8, partition="iid")).hex()[:16] == "6b6ee4c1438ca3dd"


def test_a_smaller_alpha_takes_labels_further_apart() -> None:
    distances = [
        label_distance(LABELS, split(10, partition="dirichlet", alpha=alpha)).mean()
        for alpha in (100.0, 1.0, 0.1)
    ]

    assert distances[0] < 0.1 < 0.2 < distances[1] < distances[2] - 0.2


def test_dirichlet_keeps_the_smallest_size() -> None:
    sizes = [len(part) for part in split(10, partition="dirichlet", alpha=0.3, min_size=40)]

    assert min(sizes) >= 40


def test_dirichlet_without_a_split_in_bounded_draws_is_an_error() -> None:
    with pytest.raises(
        ConfigError, match=r'data\.alpha: no split over 100 .*; data\.partition = "iid", a larger'
    ):
        split(100, partition="dirichlet", alpha=0.01)


def test_two_shards_a_node_hold_few_labels() -> None:
    _, table = label_table(LABELS, split(10, partition="shards"))

    assert (table.sum(axis=1) == 100).all()
    assert ((table > 0).sum(axis=1) <= 2).all()


def test_shards_are_bounded_by_the_samples() -> None:
    with pytest.raises(
        ConfigError, match=r"data\.shards_per_node: .* cannot split 1000 samples; at most 100"
    ):
        split(10, partition="shards", shards_per_node=101)


@pytest.mark.parametrize(("n", "k"), [(10, 2), (7, 3), (5, 2), (3, 10), (40, 1)])
def test_classes_are_k_a_node_and_evenly_held(n: int, k: int) -> None:
    _, table = label_table(LABELS, split(n, partition="classes", classes_per_node=k))

    assert ((table > 0).sum(axis=1) == k).all()
    holders = (table > 0).sum(axis=0)
    assert holders.max() - holders.min() <= 1


@pytest.mark.parametrize(("n", "k"), [(4, 2), (4, 11)])
def test_classes_that_do_not_fit_are_an_error(n: int, k: int) -> None:
    with pytest.raises(ConfigError, match=r"data\.classes_per_node: .* do not fit 10 classes; from 3 to 10"):
        split(n, partition="classes", classes_per_node=k)


def test_quantity_sizes_spread_with_sigma() -> None:
    spread = [np.std([len(p) for p in split(20, partition="quantity", sigma=s)]) for s in (0.0, 0.5, 1.5)]

    assert spread[0] <= 0.5 < spread[1] < spread[2]


def test_quantity_keeps_the_smallest_size_and_says_when_it_cannot() -> None:
    assert min(map(len, split(20, partition="quantity", sigma=3.0, min_size=30))) >= 30
    with pytest.raises(ConfigError, match=r"data\.min_size: .* at most 50"):
        split(20, partition="quantity", min_size=51)


def test_natural_gives_each_group_its_node_in_order() -> None:
    groups = np.array(["leeds", "bonn", "leeds", "york", "bonn"])

    parts = split(3, Source(5, groups=groups), partition="natural")

    assert [part.tolist() for part in parts] == [[1, 4], [0, 2], [3]]


def test_natural_merges_groups_evenly_and_keeps_them_whole() -> None:
    groups = np.repeat(np.arange(6), [50, 40, 30, 20, 10, 6])

    parts = split(3, Source(len(groups), groups=groups), partition="natural")

    assert sorted(map(len, parts)) == [50, 50, 56]
    assert all(len(set(groups[a]) & set(groups[b])) == 0 for a in parts for b in parts if a is not b)


def test_natural_with_fewer_groups_than_nodes_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"swarm\.nodes: 4 nodes cannot split 3 groups; at most 3"):
        split(4, Source(6, groups=np.array([0, 1, 2, 0, 1, 2])), partition="natural")


def test_natural_takes_the_column_asked_for() -> None:
    columns: Mapping[str, np.ndarray] = {"house": np.array([0, 0, 1, 1]), "day": np.array([0, 1, 0, 1])}
    source = Source(4, groups=columns)

    assert split(2, source, partition="natural")[0].tolist() == [0, 1]
    assert split(2, source, partition="natural", column="day")[0].tolist() == [0, 2]
    with pytest.raises(ConfigError, match=r"data\.column: the task has no week; one of house, day"):
        split(2, source, partition="natural", column="week")


def test_a_column_of_a_task_without_names_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"data\.column: the task's id column has no name"):
        split(2, Source(2, groups=np.array([0, 1])), partition="natural", column="house")


@pytest.mark.parametrize("name", ["dirichlet", "shards", "classes"])
def test_label_partitions_of_a_task_without_labels_are_an_error(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} splits by labels and the task has none"):
        split(2, Source(10), partition=name)


def test_natural_of_a_task_without_groups_is_an_error() -> None:
    with pytest.raises(ConfigError, match="natural splits by an id column and the task has none"):
        split(2, Source(10), partition="natural")


def test_more_nodes_than_samples_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"swarm\.nodes: 11 nodes cannot split 10 samples; at most 10"):
        split(11, Source(10), partition="iid")


def test_a_module_that_does_not_import_is_an_error() -> None:
    with pytest.raises(
        ConfigError, match=r"data\.partition: no_such_module:split: the module does not import"
    ):
        split(2, partition="no_such_module:split")


def test_a_file_gives_its_parts(tmp_path: Path) -> None:
    file = tmp_path / "parts.json"
    file.write_text(json.dumps([[3, 1], [0, 2, 4]]))

    parts = split(2, Source(5), partition="file", file=str(file))

    assert [part.tolist() for part in parts] == [[1, 3], [0, 2, 4]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[0, 1], [2]]", "index 3 is missing"),
        ("[[0, 1], [2, 3, 1]]", "index 1 is there 2 times"),
        ("[[0, 1], [2, 3, 4]]", "index 4 is not among the 4 samples"),
        ("[[0, 1], [2, 3, -1]]", "index -1 is not among the 4 samples"),
        ("[[0, 1], [2], [3]]", "has 3 parts and swarm.nodes is 2"),
        ("[[0, 1, 2, 3], []]", "part 1 is empty"),
        ("[[0, 1], [2, 3.5]]", "part 1 is no list of indices"),
        ("[[0, 1], [2, [3]]]", "part 1 is no list of indices"),
        ('[[0, 1], "23"]', "part 1 is no list of indices"),
        ('{"a": [0, 1]}', "is a dict"),
        ("[[0, 1], [2, 3]", "is no JSON"),
    ],
)
def test_a_file_that_is_no_partition_says_why(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "parts.json"
    file.write_text(text)

    with pytest.raises(ConfigError) as caught:
        split(2, Source(4), partition="file", file=str(file))

    assert message in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.file: .*nowhere\.json cannot be read \(No such file"):
        split(2, Source(4), partition="file", file=str(tmp_path / "nowhere.json"))


def test_a_function_of_ones_own_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_split.py").write_text(
        "import numpy as np\n"
        "def halves(labels, n, seed):\n    return np.array_split(np.arange(len(labels)), n)\n"
        "def nothing(labels, n, seed):\n    return None\n"
        "def hasty(labels, n):\n    return None\n"
    )
    monkeypatch.chdir(tmp_path)

    parts = split(2, Source(4, np.zeros(4)), partition="own_split:halves")

    assert [part.tolist() for part in parts] == [[0, 1], [2, 3]]
    with pytest.raises(ConfigError, match=r"data\.partition: own_split:nothing: is a NoneType; 2 lists"):
        split(2, Source(4, np.zeros(4)), partition="own_split:nothing")
    with pytest.raises(
        ConfigError, match=r"own_split:hasty raised TypeError: .* is called with \(labels, n, seed"
    ):
        split(2, Source(4, np.zeros(4)), partition="own_split:hasty")


def test_label_distance_is_total_variation() -> None:
    labels = np.array([0, 0, 1, 1])

    assert label_distance(labels, [np.array([0, 1]), np.array([2, 3])]).tolist() == [0.5, 0.5]
    assert label_distance(labels, [np.array([0, 2]), np.array([1, 3])]).tolist() == [0.0, 0.0]
    assert label_distance(labels, [np.array([0, 1, 2]), np.array([3])]) == pytest.approx([1 / 6, 0.5])


def test_the_digest_sees_who_holds_what() -> None:
    a, b, c = np.array([0]), np.array([1]), np.array([0, 1])

    assert len({digest(parts) for parts in ([a, b], [b, a], [c], [a, b, a])}) == 4
