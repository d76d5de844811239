"""Memory that is used again once nobody holds it, and products into it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gossipfl
from gossipfl.drivers.mixer import product
from gossipfl.learning import memory
from gossipfl.learning.memory import Shelf
from gossipfl.topology import schedule

LIKE = torch.empty(300, 1000, dtype=torch.float64)


def test_what_somebody_holds_is_never_given_out_again() -> None:
    shelf = Shelf()
    first = shelf.empty_like(LIKE).fill_(1)
    place = first.data_ptr()
    row = first[7].view(10, 100)  # a view of a view keeps all of it
    del first

    second = shelf.empty_like(LIKE).fill_(2)
    array = shelf.empty_like(LIKE).fill_(3).numpy()[:5]
    third = shelf.empty_like(LIKE).fill_(4)

    assert torch.equal(row, torch.ones(10, 100, dtype=torch.float64))
    assert (second == 2).all() and (array == 3).all() and (third == 4).all()
    assert len({place, second.data_ptr(), array.ctypes.data, third.data_ptr()}) == 4


def test_what_nobody_holds_is_used_again() -> None:
    shelf = Shelf()
    place = shelf.empty_like(LIKE).data_ptr()

    again = shelf.empty_like(LIKE.float().repeat(1, 2))  # of another type and shape, as many bytes

    assert again.data_ptr() == place and place % memory.ALIGNED == 0
    assert (again.shape, again.dtype) == ((300, 2000), torch.float32)


def test_little_memory_is_not_kept() -> None:
    small = torch.empty(3, 4)
    shelf = Shelf()

    one, two = shelf.empty_like(small), shelf.empty_like(small)

    assert one.shape == small.shape and one.data_ptr() != two.data_ptr()
    assert not shelf._arrays


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("graph", ["ring", "star", "erdos-renyi:0.3"])
def test_a_product_into_memory_gives_the_bits_of_the_ordered_sum(graph: str, dtype: str) -> None:
    matrix = schedule(graph, 9, seed=1).mixing(0).matrix.astype(dtype)
    z = np.random.default_rng(0).standard_normal((9, 33)).astype(dtype)
    out = np.full_like(z, np.nan)

    product(matrix, z, out)

    for i in range(9):
        total = np.zeros(33, dtype)
        for k in range(matrix.indptr[i], matrix.indptr[i + 1]):
            total = total + z[matrix.indices[k]] * matrix.data[k]
        assert total.tobytes() == out[i].tobytes()


def test_four_thousand_nodes_are_mixed_as_their_matrix_says() -> None:
    config = {
        "swarm": {"nodes": 4096, "rounds": 3, "eval_every": 3},
        "topology": {"graph": "regular:4"},
        "train": {"task": "consensus", "dtype": "float64"},
        "task": {"dimension": 6},
    }
    start = gossipfl.simulate(
        {**config, "swarm": {"nodes": 4096, "rounds": 1}, "topology": {"graph": "none"}}
    )

    result = gossipfl.simulate(config)

    matrix, x = schedule("regular:4", 4096).mixing(0).matrix, start.models
    assert (matrix @ (matrix @ (matrix @ x))).tobytes() == result.models.tobytes()
