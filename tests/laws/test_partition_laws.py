"""Laws of partitions: whatever is asked for, every sample is in exactly one part."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from gossipfl.config import Data
from gossipfl.errors import ConfigError
from gossipfl.learning.partition import SPLITS, Parts, Source, label_distance, partition

NAMES = sorted(set(SPLITS) - {"file"})


@st.composite
def splits(draw: st.DrawFn, names: list[str] = NAMES) -> tuple[Source, int, Data, int]:
    samples = draw(st.integers(12, 200))
    classes = draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    source = Source(samples, rng.integers(0, classes, samples), rng.integers(0, 30, samples))
    data = Data(
        partition=draw(st.sampled_from(names)),
        alpha=draw(st.floats(0.05, 1e3)),
        min_size=draw(st.integers(1, 5)),
        shards_per_node=draw(st.integers(1, 4)),
        classes_per_node=draw(st.integers(1, classes)),
        sigma=draw(st.floats(0.0, 4.0)),
    )
    return source, draw(st.integers(1, 12)), data, draw(st.integers(0, 2**63 - 1))


def made(source: Source, n: int, data: Data, seed: int) -> Parts:
    """The parts; what cannot be made is refused as a config error, and only so."""
    try:
        return partition(source, n, data, seed)
    except ConfigError:
        assume(False)
        raise


@given(splits())
def test_every_index_is_in_exactly_one_part(asked: tuple[Source, int, Data, int]) -> None:
    source, n, *_ = asked

    parts = made(*asked)

    assert len(parts) == n
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(source.samples))


@given(splits())
def test_parts_are_ascending_and_not_empty(asked: tuple[Source, int, Data, int]) -> None:
    for part in made(*asked):
        assert len(part) > 0
        assert (np.diff(part) > 0).all()


@given(splits(["dirichlet", "quantity"]))
def test_the_smallest_size_holds_where_it_is_promised(asked: tuple[Source, int, Data, int]) -> None:
    assert min(map(len, made(*asked))) >= asked[2].min_size


@given(splits())
def test_label_distances_lie_in_the_unit_interval(asked: tuple[Source, int, Data, int]) -> None:
    source = asked[0]
    assert source.labels is not None

    distances = label_distance(source.labels, made(*asked))

    assert ((distances >= 0) & (distances <= 1)).all()
