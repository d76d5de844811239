"""Count-sketches: linear, unbiased, and as exact as the paper says."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from gossipfl.core.sketch import BUCKETS, consensus_distance, decode, encode, sketch


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_a_sketch_is_linear_in_the_vector() -> None:
    a, b = normal(1, 5000), normal(2, 5000)
    np.testing.assert_allclose(
        sketch(2 * a - b, seed=3), 2 * sketch(a, seed=3) - sketch(b, seed=3), atol=1e-5
    )


def test_a_single_entry_lands_in_one_bucket_with_its_size() -> None:
    x = np.zeros(200_000)  # longer than one chunk
    x[150_001] = -2.5
    c = sketch(x, seed=0)
    assert np.count_nonzero(c) == 1
    assert np.abs(c).sum() == 2.5


def test_entries_spread_over_all_buckets_with_both_signs() -> None:
    c = np.array([sketch(row, seed=0) for row in np.eye(4096)])
    assert (np.count_nonzero(c, axis=0) > 0).mean() > 0.95  # expected: 1 - e^-4 = 0.98
    assert 0.45 < (c.sum(axis=1) > 0).mean() < 0.55


def test_nodes_with_one_seed_sketch_alike_and_another_seed_differs() -> None:
    x = normal(4, 3000)
    assert np.array_equal(sketch(x, seed=7), sketch(x.copy(), seed=7))
    assert not np.array_equal(sketch(x, seed=7), sketch(x, seed=8))


def test_a_matrix_is_sketched_row_by_row() -> None:
    x = normal(5, 3, 1700).astype(np.float32)
    assert sketch(x, seed=1).shape == (3, BUCKETS)
    assert np.array_equal(sketch(x, seed=1)[2], sketch(x[2], seed=1))


def test_the_squared_norm_is_unbiased_with_the_spread_of_the_paper() -> None:
    # sqrt(2 / 1024) = 4.4 % for a dense vector
    x = normal(6, 8000)
    ratios = np.array([np.sum(sketch(x, seed).astype(float) ** 2) for seed in range(200)]) / np.sum(x**2)
    assert abs(ratios.mean() - 1) < 0.012
    assert 0.037 < ratios.std() < 0.052


@pytest.mark.parametrize("shape", ["independent", "one direction", "few entries"])
def test_the_consensus_distance_of_eight_nodes_is_within_a_few_percent(shape: str) -> None:
    d = 20_000
    away = normal(7, 8, d)
    if shape == "one direction":  # the worst case: every node off along the same line
        away = normal(7, 8, 1) * normal(8, d)
    elif shape == "few entries":
        away = away * (np.arange(d) % 1000 == 0)
    x = normal(9, d) * 30 + away  # what all share is far larger than what divides them
    exact = np.sqrt(np.mean(np.sum((x - x.mean(axis=0)) ** 2, axis=1)))
    errors = np.array([consensus_distance(sketch(x, seed)) for seed in range(40)]) / exact - 1
    assert np.sqrt(np.mean(errors**2)) < 0.04
    assert np.abs(errors).max() < 0.10


def test_a_vector_of_no_more_entries_than_buckets_is_its_own_sketch() -> None:
    x = normal(12, 4, BUCKETS).astype(np.float32)
    assert np.array_equal(sketch(x, seed=5), x)
    assert np.array_equal(sketch(x[:, :10], seed=5)[:, :10], x[:, :10])
    assert not sketch(x[:, :10], seed=5)[:, 10:].any()


def test_equal_nodes_are_at_distance_zero() -> None:
    assert consensus_distance(sketch(np.tile(normal(10, 1500), (4, 1)), seed=0)) == 0.0


def test_nobody_has_no_distance() -> None:
    assert np.isnan(consensus_distance([]))


def test_a_sketch_survives_its_text_form_bit_by_bit() -> None:
    c = sketch(normal(11, 1999), seed=2)
    assert np.array_equal(decode(encode(c)), c)
    assert decode(encode(c)).dtype == np.float32


@pytest.mark.parametrize("text", ["", "####", base64.b64encode(b"1234").decode()])
def test_what_is_no_sketch_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"sketch|base64"):
        decode(text)
