"""A module's parameters as views of one vector."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from gossipfl.errors import ConfigError, GossipError
from gossipfl.learning.flat import Flat, state_dict

torch.set_num_threads(1)


class Tied(nn.Module):
    """An autoencoder whose decoder is its encoder transposed, and one parameter object under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 3, bias=False)
        self.same = nn.Linear(4, 3, bias=False)
        self.same.weight = self.encoder.weight
        self.head = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.encoder(x)) + self.same(x))


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def test_writing_the_vector_writes_the_parameters_and_the_other_way_round() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    before = [p.detach().clone() for p in module.parameters()]

    flat = Flat(module)

    assert flat.size == 4 * 3 + 3 + 3 * 2 + 2
    assert torch.equal(flat.vector, torch.cat([p.reshape(-1) for p in before]))
    flat.vector.fill_(7.0)
    assert all((p == 7.0).all() for p in module.parameters())
    with torch.no_grad():
        module[1].bias.zero_()
    assert torch.equal(flat.vector[-2:], torch.zeros(2))


def test_a_flat_module_gives_the_same_outputs_and_gradients() -> None:
    plain, flattened = Tied(), Tied()
    flattened.load_state_dict(plain.state_dict())
    flat = Flat(flattened)
    inputs = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))

    outputs = [module(inputs) for module in (plain, flat.module)]
    for output in outputs:
        output.square().sum().backward()

    assert torch.equal(*outputs)
    for ours, theirs in zip(flat.module.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


def test_an_optimizer_steps_the_vector() -> None:
    flat = Flat(nn.Linear(3, 1))
    before = flat.vector.clone()
    optimizer = torch.optim.SGD(flat.trainable(), lr=0.5)

    flat.module(torch.ones(1, 3)).sum().backward()
    optimizer.step()

    assert torch.equal(flat.vector, before - 0.5)


def test_load_copies_and_keeps_the_buffer() -> None:
    flat = Flat(nn.Linear(3, 1))
    x = torch.arange(4.0)

    flat.load(x)
    x.zero_()

    assert torch.equal(flat.vector, torch.arange(4.0))
    flat.check()


def test_a_weight_under_two_names_is_in_the_vector_once() -> None:
    flat = Flat(Tied())

    assert flat.size == 4 * 3 + 3 * 2 + 2
    flat.vector.fill_(1.0)
    assert flat.module.same.weight is flat.module.encoder.weight
    assert (flat.module.same.weight == 1.0).all()


def test_two_parameters_on_one_storage_stay_one() -> None:
    module = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    module[1].weight = nn.Parameter(module[0].weight.data)

    flat = Flat(module)
    flat.vector.fill_(2.0)

    assert flat.size == 9
    assert (module[0].weight == 2.0).all() and (module[1].weight == 2.0).all()
    assert len(flat.trainable()) == 2


def test_parameters_that_half_overlap_are_refused_by_name() -> None:
    module = nn.ParameterDict()
    whole = torch.zeros(6)
    module["one"], module["two"] = nn.Parameter(whole[:4]), nn.Parameter(whole[2:])

    with pytest.raises(ConfigError, match="one and two of the model share part of their memory"):
        Flat(module)


def test_frozen_parameters_are_left_as_they_are_and_saved() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    module[0].requires_grad_(False)
    kept = module[0].weight.detach().clone()

    flat = Flat(module)
    flat.vector.zero_()

    assert flat.size == 3 * 2 + 2
    assert [name for name, _, _ in flat.signature()] == ["1.weight", "1.bias"]
    assert torch.equal(module[0].weight, kept)
    assert torch.equal(state_dict(module)["0.weight"], kept)


def test_a_share_pattern_keeps_the_rest_local_behind_the_vector() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))

    flat = Flat(module, share=["0.*"])
    flat.vector.zero_()

    assert flat.size == 4 * 3 + 3
    assert flat.buffer.numel() == flat.size + 3 * 2 + 2
    assert (module[0].weight == 0).all() and (module[1].weight != 0).any()
    assert len(flat.trainable()) == 4
    assert module[1].weight.data_ptr() == flat.buffer[flat.size :].data_ptr()


def test_a_share_pattern_without_a_match_is_an_error_that_lists_the_names() -> None:
    with pytest.raises(ConfigError, match=r"algorithm\.share: \['encoder\.\*'\] matches no .*weight, bias"):
        Flat(nn.Linear(2, 1), share=["encoder.*"])


def test_float_buffers_are_averaged_and_integer_ones_stay() -> None:
    module = normed()

    flat = Flat(module, buffers="average")

    names = [name for name, _, _ in flat.signature()]
    assert names[-2:] == ["1.running_mean", "1.running_var"]
    assert flat.size == 15 + 6 + 8 + 6
    module.train()(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(flat.vector[-6:-3], module[1].running_mean)
    assert (flat.vector[-6:-3] != 0).all()
    assert module[1].num_batches_tracked == 1


def test_local_buffers_are_not_in_the_vector() -> None:
    flat = Flat(normed(), buffers="local")

    assert flat.size == 15 + 6 + 8
    flat.vector.zero_()
    assert (flat.module[1].running_var == 1).all()


def test_averaged_buffers_lie_between_shared_and_local_parameters() -> None:
    flat = Flat(normed(), share=["0.*", "1.*"])

    assert [s.name for s in (*flat.parameters, *flat.buffers, *flat.local)] == [
        "0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "2.weight", "2.bias",
    ]  # fmt: skip
    assert flat.size == 15 + 6 + 6


def test_the_signature_has_names_shapes_and_dtypes() -> None:
    flat = Flat(nn.Linear(3, 1).double())

    assert flat.signature() == (("weight", (1, 3), "float64"), ("bias", (1,), "float64"))


def test_mixed_dtypes_are_refused_by_the_first_that_differs() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double(), nn.Linear(2, 2).half())

    with pytest.raises(ConfigError, match=r"1\.weight of the model is torch\.float64 where 0\.weight is"):
        Flat(module)


def test_a_module_without_a_shape_is_refused() -> None:
    with pytest.raises(ConfigError, match="weight of the model has no shape yet"):
        Flat(nn.LazyLinear(3))


@pytest.mark.parametrize("sizes", [(1, 1), (3, 5), (64, 10), (127, 2)])
def test_the_buffer_is_aligned(sizes: tuple[int, int]) -> None:
    assert Flat(nn.Linear(*sizes)).buffer.data_ptr() % 64 == 0


@pytest.mark.parametrize(
    "move",
    [
        lambda m: m.double(),
        lambda m: setattr(m[1], "weight", nn.Parameter(torch.zeros(2, 3))),
        lambda m: setattr(m[1].weight, "data", torch.zeros(2, 3)),
    ],
    ids=["double", "replaced", "reallocated"],
)
def test_check_names_what_left_the_buffer(move: object) -> None:
    flat = Flat(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)))
    flat.check()

    move(flat.module)  # type: ignore[operator]

    with pytest.raises(GossipError, match=r"[01]\.weight was moved out of the shared buffer"):
        flat.check()


@pytest.mark.parametrize("make", [Tied, normed])
def test_a_saved_state_loads_into_the_plain_module(make: type[nn.Module], tmp_path: Path) -> None:
    flat = Flat(make())
    flat.vector.uniform_(generator=torch.Generator().manual_seed(1))

    save_file(state_dict(flat.module), tmp_path / "model.safetensors")
    plain = make()
    plain.load_state_dict(load_file(tmp_path / "model.safetensors"))

    inputs = torch.ones(2, 4)
    assert torch.equal(plain.eval()(inputs), flat.module.eval()(inputs))


def test_a_saved_state_does_not_follow_the_model() -> None:
    flat = Flat(nn.Linear(2, 1))
    saved = state_dict(flat.module)
    before = saved["weight"].clone()

    flat.vector.zero_()

    assert torch.equal(saved["weight"], before)
