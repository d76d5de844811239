"""What a node gives away of its memory is not written again: it may be on its way to a slow neighbor yet."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gossipfl.config import load_config
from gossipfl.core.aggregate import BLOCK, PIECE, SMALL, WHOLE, Departure, departure, hasten, ordered_sum
from gossipfl.core.events import Adopt
from gossipfl.drivers.telling import sound
from gossipfl.learning.flat import Flat
from gossipfl.learning.training import ModuleLearner
from gossipfl.learning.workload import workload


def learner(task: str = "tardy:wide") -> ModuleLearner:
    config = load_config(
        {
            "swarm": {"nodes": 2},
            "algorithm": {"aggregate": "by-loss", "validation": 0.2},
            "train": {"task": task, "batch": 8},
        }
    )
    found = workload(config).learner(0)
    assert isinstance(found, ModuleLearner)
    return found


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.syspath_prepend(str(request.path.parent.parent))  # where `tardy` is


def test_a_local_phase_after_a_move_leaves_what_was_sent_alone() -> None:
    node = learner()
    assert node.movable
    node.phase(0)
    sent = node.vector.detach()
    kept = sent.clone()

    node.move(sent.clone())
    node.phase(1)

    assert torch.equal(sent, kept)
    assert not torch.equal(node.vector, kept)
    assert node.x is node.vector


def test_a_moved_model_learns_as_one_that_was_copied_to() -> None:
    one, other = learner(), learner()
    for round in range(3):
        one.phase(round)
        other.phase(round)
        one.move(one.vector.detach() * 0.5)
        other.load(other.vector.detach() * 0.5)

    assert torch.equal(one.vector, other.vector)
    assert one.evaluate() == other.evaluate()


def test_to_look_at_another_model_does_not_write_to_ones_own() -> None:
    node = learner()
    before, version = node.vector.data_ptr(), node.vector._version
    own = node.validate(node.vector.detach().clone())

    assert node.validate(torch.zeros_like(node.vector)) != own
    assert node.vector.data_ptr() == before
    assert node.vector._version == version
    assert node.validate(node.vector.detach().clone()) == own


def test_a_model_of_many_small_tensors_or_with_parts_of_its_own_is_copied() -> None:
    small = nn.Sequential(*[nn.Linear(4, 4) for _ in range(8)])
    large = nn.Sequential(nn.Linear(512, 512), nn.Linear(512, 512))

    assert not Flat(small).movable
    assert Flat(large).movable
    assert not Flat(large, share=["0.*"]).movable


@pytest.mark.parametrize("size", [7, BLOCK - 1, 2 * BLOCK + 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_sum_into_memory_has_the_bits_of_one_into_new(size: int, dtype: torch.dtype) -> None:
    values = [torch.randn(size).to(dtype) for _ in range(3)]
    values[0][:3], values[1][:3], values[2][:3] = -0.0, -0.0, -0.0
    terms = list(zip((0.25, 0.5, 0.25), values, strict=True))
    into, seen = torch.full((size,), torch.nan, dtype=dtype), Departure(values[1])

    total = ordered_sum(terms, into, seen)

    assert total is into
    assert bits(total) == bits(ordered_sum(terms)) == bits(plain(terms))
    assert seen.value() == departure(values[1], total)


def test_of_large_vectors_a_quarter_tells_how_far_they_are_apart() -> None:
    given = torch.randn(WHOLE + 1)
    got = given + 0.1 * torch.randn(WHOLE + 1)
    exact = float((given - got).norm() / given.norm())

    assert departure(given, got) == pytest.approx(exact, rel=0.01)
    assert departure(given[:-1], got[:-1]) == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("size", [1000, WHOLE + 1])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_no_finite_distance_hides_a_number_that_is_none(size: int, value: float) -> None:
    given = torch.ones(size)
    got = given.clone()
    assert sound(Adopt(0, got, (given,), (got,), (), departure(given, got)))

    got[-1] = value

    assert not sound(Adopt(0, got, (given,), (got,), (), departure(given, got)))


NAN, INF, LEAST = torch.nan, torch.inf, 2.0**-149
#: What rounding, signs and exceptions are about.
AWKWARD = (0.0, -0.0, LEAST, -LEAST, 2.0**-126, 3 * LEAST, 1.0, 1 + 2.0**-23, 1e38, -1e38, INF, -INF, NAN)


@pytest.mark.parametrize("size", [SMALL + 1, PIECE, 3 * PIECE + 7, BLOCK + 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [2, 3, 7])
def test_a_process_without_scipy_sums_to_the_same_bits(
    size: int, dtype: torch.dtype, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = torch.Generator().manual_seed(size + count)
    awkward = torch.tensor(AWKWARD, dtype=dtype)
    values = [torch.randn(size, generator=draw, dtype=dtype) * 10.0**k for k in range(count)]
    for value in values:
        at = torch.randint(size, (size // 8,), generator=draw)
        value[at] = awkward[torch.randint(len(awkward), at.shape, generator=draw)]
        value[: len(awkward)] = awkward  # of all at once: what is -0.0 everywhere is +0.0 in the sum
    terms = [(float(w), value) for w, value in zip(torch.rand(count, generator=draw), values, strict=True)]
    with np.errstate(all="ignore"):
        hasten(size)
        by_scipy = ordered_sum(terms)
        monkeypatch.delitem(sys.modules, "scipy.sparse")

        by_numpy = ordered_sum(terms)

    assert bits(by_numpy.nan_to_num(7.0)) == bits(by_scipy.nan_to_num(7.0))
    assert torch.equal(by_numpy.isnan(), by_scipy.isnan())
    assert torch.equal(by_numpy.nan_to_num(7.0), plain(terms).nan_to_num(7.0))


def plain(terms: list[tuple[float, Tensor]]) -> Tensor:
    wide = [(w, v.float() if v.dtype.itemsize < 4 else v) for w, v in terms]
    total = torch.zeros_like(wide[0][1])
    for weight, value in wide:
        total = total + value * weight
    return total.to(terms[0][1].dtype)


def bits(x: Tensor) -> bytes:
    return x.view(torch.uint8).numpy().tobytes()
