"""The traced gradient, threads over tiles and blocks: faster, the same bits."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from gossipfl.config import load_config
from gossipfl.drivers.mixer import Mixer, departure, on_device
from gossipfl.learning import tiles as tiling
from gossipfl.learning.cohort import BatchedCohort
from gossipfl.learning.crew import Crew
from gossipfl.learning.tracing import batched_gradient, safe, trace
from gossipfl.learning.workload import workload
from gossipfl.topology import schedule

torch.set_num_threads(1)

MODELS: dict[str, Callable[[], nn.Module]] = {
    "perceptron": lambda: nn.Sequential(nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3)),
    "deep": lambda: nn.Sequential(
        nn.Linear(16, 6, bias=False), nn.Tanh(), nn.LayerNorm(6), nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 3)
    ),
    "written over": lambda: nn.Sequential(nn.Linear(16, 6), nn.ReLU(inplace=True), nn.Linear(6, 3)),
    "images": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(8, 3),
    ),
}  # fmt: skip


def batch_of(model: nn.Module, nodes: int) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor, Tensor]:
    """Parameters of so many nodes that differ, no constants, inputs, targets."""
    generator = torch.Generator().manual_seed(3)
    values = {
        name: p.detach() + torch.rand(nodes, *p.shape, generator=generator)
        for name, p in model.named_parameters()
    }
    inputs = torch.rand(nodes, 5, 16, generator=generator)
    return values, {}, inputs, torch.randint(0, 3, (nodes, 5), generator=generator)


def test_a_trace_works_where_torchscript_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*arguments: object, **keywords: object) -> object:
        raise RuntimeError("there is no TorchScript")

    gradient = batched_gradient(MODELS["perceptron"](), cross_entropy)
    example = batch_of(MODELS["perceptron"](), 3)
    with_it = trace(gradient, example)(*example)
    monkeypatch.setattr(torch.jit, "trace", gone)

    without = trace(gradient, example)(*example)

    assert torch.equal(with_it[1], without[1])
    assert all(torch.equal(with_it[0][name], without[0][name]) for name in with_it[0])


@pytest.mark.parametrize("name", MODELS)
def test_a_trace_gives_the_same_bits(name: str) -> None:
    model = MODELS[name]()
    gradient = batched_gradient(model, cross_entropy)
    traced = trace(gradient, batch_of(model, 7))
    values, constants, inputs, targets = batch_of(model, 7)
    inputs, targets = inputs.flip(0), targets.roll(1, 1)

    for _ in range(4):  # whatever runs it may rewrite it once it has seen it run
        traced(values, constants, inputs, targets)
    (ours, loss), (theirs, expected) = (f(values, constants, inputs, targets) for f in (traced, gradient))

    assert torch.equal(loss, expected)
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_only_what_pytorch_wrote_is_traced() -> None:
    class Own(nn.Sequential):
        pass

    hooked = nn.Linear(2, 2)
    hooked.register_forward_hook(lambda module, inputs, output: output)

    assert safe(MODELS["deep"](), cross_entropy)
    assert safe(MODELS["deep"](), partial(cross_entropy, label_smoothing=0.1))
    assert safe(nn.Linear(2, 2), nn.MSELoss()) and safe(nn.Linear(2, 2), mse_loss)
    assert not safe(Own(nn.Linear(2, 2)), cross_entropy)
    assert not safe(nn.Sequential(Own()), cross_entropy)
    assert not safe(hooked, cross_entropy)
    assert not safe(nn.Linear(2, 2), lambda output, target: cross_entropy(output, target))


def digits_after(rounds: int, workers: int, **train: object) -> tuple[Tensor, Tensor, BatchedCohort]:
    config = load_config(
        {
            "swarm": {"nodes": 20, "rounds": rounds},
            "train": {"batch": 8, "momentum": 0.9, "weight_decay": 0.01, **train},
            "algorithm": {"local_epochs": 1} if workers % 2 else {},
            "data": {"partition": "quantity"},
        }
    )
    with Crew(workers) as crew:
        cohort = workload(config).cohort(crew)
        assert isinstance(cohort, BatchedCohort)
        x, losses = cohort.start(), torch.zeros(0)
        for round in range(rounds):
            x, losses, _ = cohort.phase(x, round)
    return x, losses, cohort


def test_tracing_and_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling, "BYTES", 4 * 4810 * 4)
    monkeypatch.setattr("gossipfl.learning.cohort.TRACE_AFTER", 10**9)
    x, losses, plain = digits_after(12, 2)
    monkeypatch.setattr("gossipfl.learning.cohort.TRACE_AFTER", 3)

    again, also, traced = digits_after(12, 4)

    assert not plain._traces and traced._traces
    assert torch.equal(x, again) and torch.equal(losses, also)


def test_what_the_tracer_does_not_know_is_trained_untraced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*arguments: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr("gossipfl.learning.cohort.TRACE_AFTER", 1)
    monkeypatch.setattr("gossipfl.learning.cohort.trace", refuse)

    with caplog.at_level(logging.INFO):
        x, _, cohort = digits_after(3, 2)

    assert "the gradient is not traced: RuntimeError: no" in caplog.text
    assert caplog.text.count("not traced") == 1
    assert not cohort._traces and x.isfinite().all()


class TestCrew:
    @pytest.mark.parametrize("workers", [1, 3])
    def test_results_come_in_the_order_of_the_pieces(self, workers: int) -> None:
        with Crew(workers) as crew:
            assert crew.map(lambda k: k * k, range(20)) == [k * k for k in range(20)]

    @pytest.mark.parametrize("workers", [1, 3])
    def test_what_a_piece_raises_is_raised(self, workers: int) -> None:
        with Crew(workers) as crew, pytest.raises(ZeroDivisionError):
            crew.map(lambda k: 1 // k, [2, 1, 0])

    def test_each_thread_has_the_threads_of_pytorch_that_it_was_given(self) -> None:
        with Crew(2, threads=1) as crew:
            assert set(crew.map(lambda k: torch.get_num_threads(), range(8))) == {1}


class TestMixer:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("graph", ["ring", "star", "regular:4", "one-peer-exponential"])
    def test_blocks_and_threads_change_no_bit(
        self, graph: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("gossipfl.drivers.mixer.BLOCK", 3 * 50 * 8)
        mixings = schedule(graph, 16)
        z = torch.randn(16, 50, dtype=dtype)
        with Crew(3) as crew:
            mix = Mixer(crew)
            for round in (0, 1, 0, 5):
                expected = mixings.mixing(round).matrix.astype(z.numpy().dtype) @ z.numpy()

                assert np.array_equal(mix(mixings.mixing(round), z).numpy(), expected)

    def test_matrices_that_never_come_back_are_not_kept(self) -> None:
        mix, mixings = Mixer(), schedule("epidemic:4", 12)
        z = torch.randn(12, 5)

        for round in range(200):
            got = mix(mixings.mixing(round), z)
            assert torch.equal(
                got, torch.from_numpy(mixings.mixing(round).matrix.astype(np.float32) @ z.numpy())
            )

        assert len(mix._made) <= 64

    @pytest.mark.parametrize("graph", ["regular:4", "star"])
    def test_a_device_sums_the_same_up_to_rounding(self, graph: str) -> None:
        mixing, z = schedule(graph, 16).mixing(0), torch.randn(16, 50, dtype=torch.float64)

        assert (on_device(mixing, z) - Mixer()(mixing, z)).abs().max() < 1e-12

    def test_the_departure_is_the_relative_distance_of_each_row(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("gossipfl.drivers.mixer.BLOCK", 2 * 9 * 4)
        given, got = torch.randn(7, 9), torch.randn(7, 9)
        given[3] = 0

        found = departure(given, got)

        expected = (given - got).norm(dim=1) / given.norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
        assert torch.equal(found, expected)
