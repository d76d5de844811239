"""bfloat16, in every engine: parameters and averages that are rounded once, or only what travels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gossipfl
from gossipfl.core.aggregate import ordered_sum
from gossipfl.core.codecs import codec, narrowed
from gossipfl.drivers.mixer import Mixer
from gossipfl.topology import schedule
from gossipfl.transport.wire import Decoder, Layout, Who, encode

torch.set_num_threads(1)

HALF = {"train.dtype": "bfloat16"}


def test_engines_and_real_processes_give_the_same_bits_of_an_average() -> None:
    config = {"swarm": {"nodes": 6, "rounds": 8}, "train": {"task": "consensus"}, "task": {"dimension": 40}}

    runs = [
        gossipfl.simulate(config, overrides=HALF, engine="vector"),
        gossipfl.simulate(config, overrides=HALF, engine="events"),
        gossipfl.swarm(config, overrides=HALF),
    ]

    vector, events, swarm = (run.models for run in runs)
    assert vector.tobytes() == events.tobytes() == swarm.tobytes()
    assert (vector == torch.from_numpy(vector).bfloat16().float().numpy()).all()
    half, whole = (
        run.summary["sent_bytes_per_node"] for run in (runs[1], gossipfl.simulate(config, engine="events"))
    )
    assert half == whole / 2


def test_digits_are_learnt_in_bfloat16() -> None:
    config = {"swarm": {"nodes": 8, "rounds": 80, "eval_every": 80}, "data": {"partition": "iid"}}

    whole, half = gossipfl.simulate(config), gossipfl.simulate(config, overrides=HALF)

    assert whole.summary["mean"] > 0.75
    assert half.summary["mean"] == pytest.approx(whole.summary["mean"], abs=0.05)
    assert half.summary["mean"] != whole.summary["mean"]


def test_a_sum_of_many_terms_is_rounded_once() -> None:
    values = [torch.full((5,), 1.0 + k / 128, dtype=torch.bfloat16) for k in range(16)]
    exact = sum(float(v[0]) for v in values) / 16

    mean = ordered_sum([(1 / 16, value) for value in values])

    assert mean.dtype is torch.bfloat16
    assert float(mean[0]) == float(torch.tensor(exact).bfloat16())


def test_rows_of_a_matrix_are_mixed_as_nodes_mix() -> None:
    mixing = schedule("regular:4", 10).mixing(0)
    z = torch.from_numpy(np.random.default_rng(0).standard_normal((10, 30))).bfloat16()

    mixed = Mixer()(mixing, z)

    for i in range(10):
        columns, weights = mixing.row(i)
        own = ordered_sum([(float(w), z[j]) for j, w in zip(columns, weights, strict=True)])
        assert torch.equal(own, mixed[i])


def test_it_travels_as_it_is() -> None:
    from gossipfl.core.messages import Data

    value = torch.randn(1000).bfloat16()
    decoder = Decoder(Layout(((1000, torch.bfloat16),)))

    frames = list(encode(Data(3, 2, (value,)), Who(0, "a")))
    [done] = [decoder.feed([bytearray(frame) for frame in message]) for message in frames]

    assert done is not None and isinstance(done[0], Data)
    assert torch.equal(done[0].payload[0], value)
    assert len(frames[0][1]) == 2000


def test_only_what_travels_is_rounded_and_the_mean_is_kept() -> None:
    config = {
        "swarm": {"nodes": 6, "rounds": 12},
        "train": {"task": "consensus"},
        "task": {"dimension": 40},
        "wire": {"dtype": "bfloat16"},
    }
    alone = gossipfl.simulate({**config, "topology": {"graph": "none"}}).models

    runs = [
        gossipfl.simulate(config, engine="vector"),
        gossipfl.simulate(config, engine="events"),
        gossipfl.swarm(config),
    ]

    vector, events, swarm = (run.models for run in runs)
    assert vector.tobytes() == events.tobytes() == swarm.tobytes()
    assert runs[1].summary["sent_bytes_per_node"] == 12 * 2 * 40 * 2
    assert np.abs(swarm.mean(0) - alone.mean(0)).max() < 1e-6
    assert np.abs(swarm - swarm.mean(0)).max() < 0.02 < np.abs(alone - alone.mean(0)).max()


def test_indices_of_the_largest_travel_as_they_are() -> None:
    coding, z = narrowed(codec("topk:3"), "bfloat16"), torch.randn(4, 50, dtype=torch.float64)

    index, values = coding.encode(z)
    decoded = coding.decode((index, values), z)

    assert (index.dtype, values.dtype) == (torch.int32, torch.bfloat16)
    assert [shape.bytes(8) for shape in coding.layout(50)] == [12, 6]
    assert torch.equal(decoded, codec("topk:3").decode(codec("topk:3").encode(z), z).bfloat16().double())


def test_sums_that_must_lose_nothing_do_not_travel_rounded() -> None:
    with pytest.raises(gossipfl.ConfigError, match=r"bfloat16 drops parts of a sum"):
        gossipfl.simulate({"algorithm": {"rule": "push-sum"}, "wire": {"dtype": "bfloat16"}})
