"""gossipfl.join: any loop, in threads of this process; the same bits; what the loop tells and is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import gossipfl
from gossipfl.errors import ConfigError, GossipError
from gossipfl.learning.workload import workload
from tests.joined import Swarm, config, linear, records, step, together, trained, vector

if TYPE_CHECKING:
    from tests.system.conftest import Start

pytestmark = pytest.mark.system


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ---------------------------------------------------------------------- the same bits


class Digits:
    """The plain loop of a simulated node, written by hand."""

    def __init__(self, base: Swarm, node: int) -> None:
        self.load = workload(gossipfl.load_config(base))
        learner: Any = self.load.learner(node)
        self.model, self.stream = learner.flat.module, learner.stream

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        lesson: Any = self.load.lesson  # type: ignore[attr-defined]
        for k in range(10**6):
            yield lesson.train.batch(self.stream.take(k * 32, 32))

    def run(self, swarm: Swarm, name: str, out: Path) -> Tensor:
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05)
        with gossipfl.join(swarm, self.model, optimizer, name=name, out=out / name) as node:
            for x, y in self.batches():
                if node.stopped:
                    break
                optimizer.zero_grad()
                nn.functional.cross_entropy(self.model(x), y).backward()
                optimizer.step()
        return vector(self.model)


def digits(rule: str, graph: str) -> Swarm:
    return {
        "swarm": {"nodes": 4, "rounds": 8, "eval_every": 8},
        "topology": {"graph": graph},
        "algorithm": {"rule": rule, "local_steps": 3},
        "train": {"lr": 0.05},
    }


@pytest.mark.parametrize("rule", ["dpsgd", "d2", "dpsgd-cta", "gradient-tracking"])
def test_own_loops_give_the_bits_of_the_event_engine(rule: str, tmp_path: Path) -> None:
    # given four nodes on a ring, simulated
    base = digits(rule, "ring")
    expected = gossipfl.simulate(base, engine="events").models
    # when four loops of one's own train on the same batches
    swarm = config(4, **base)
    own = [Digits(base, node) for node in range(4)]
    got = together(*[lambda d=d, n=n: d.run(swarm, n, tmp_path) for d, n in zip(own, "abcd", strict=True)])
    # then every bit is the same
    assert torch.equal(torch.stack(got), torch.from_numpy(expected))
    assert [r["round"] for r in records(tmp_path, "c", "round")] == list(range(1, 9))


def test_nodes_and_own_loops_make_one_swarm(start: Start, tmp_path: Path) -> None:
    # given a swarm of which two nodes are `gossipfl node`, and two are loops of one's own
    base = digits("dpsgd", "ring")
    expected = gossipfl.simulate(base, engine="events").models
    swarm = config(4, **base)
    file = tmp_path / "swarm.toml"
    file.write_text(gossipfl.load_config(swarm).to_toml())
    nodes = [start("node", str(file), "--name", name, out=tmp_path / name) for name in "bd"]
    # when they train
    own = [Digits(base, node) for node in (0, 2)]
    got = together(*[lambda d=d, n=n: d.run(swarm, n, tmp_path) for d, n in zip(own, "ac", strict=True)])
    ended = [node.end() for node in nodes]
    # then they do so as one
    assert [e.code for e in ended] == [0, 0], ended
    assert torch.equal(torch.stack(got), torch.from_numpy(expected[[0, 2]]))
    own[0].model.load_state_dict(load_file(tmp_path / "b" / "models" / "b.safetensors"))
    assert torch.equal(vector(own[0].model), torch.from_numpy(expected[1]))


# ---------------------------------------------------------------------- any loop


class Odd(nn.Module):
    """Tied, frozen, normalised, and in two parameter groups."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.frozen, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 1)
        for parameter in self.frozen.parameters():
            parameter.requires_grad = False

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.frozen(self.second(self.first(x)))))
        return out


def odd(swarm: Swarm, name: str, out: Path, seed: int) -> tuple[Odd, Tensor, list[int]]:
    generator = torch.Generator().manual_seed(seed)
    model = Odd()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    frozen = model.frozen.weight.clone()
    groups = [{"params": [*model.first.parameters(), model.second.bias, *model.norm.parameters()]}]
    optimizer = torch.optim.AdamW([*groups, {"params": model.head.parameters(), "lr": 0.1}], lr=0.01)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    rounds = []
    with gossipfl.join(swarm, model, optimizer, name=name, out=out / name) as node:
        for _ in node.batches([0]):
            for _ in range(3):  # gradients are accumulated
                x = torch.randn(8, 3, generator=generator)
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    loss = model(x).float().square().mean()
                loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            rounds.append(node.round)
    return model, frozen, rounds


def test_schedules_accumulation_autocast_groups_frozen_and_tied_weights(tmp_path: Path) -> None:
    # given two nodes whose models have all that, and start apart
    swarm = config(2, swarm={"rounds": 3}, algorithm={"local_steps": 2})
    # when they train
    (one, frozen, rounds), (other, *_) = together(
        lambda: odd(swarm, "a", tmp_path, 1), lambda: odd(swarm, "b", tmp_path, 2)
    )
    # then an exchange came after every second step of the optimizer, and no backward pass more
    assert rounds == [0, 1, 1, 2, 2, 3]
    # and what is shared is the same at both ends: parameters, tied ones, running statistics
    shared = [key for key in one.state_dict() if "frozen" not in key and "num_batches" not in key]
    assert len(shared) == 10
    for key in shared:
        assert torch.equal(one.state_dict()[key], other.state_dict()[key]), key
    assert one.first.weight is one.second.weight
    # and what is frozen has stayed
    assert torch.equal(one.frozen.weight, frozen)


def test_what_is_kept_at_home_stays_there(tmp_path: Path) -> None:
    # given two nodes that share the first layer alone, and no running statistics
    def loop(name: str, value: float) -> nn.Sequential:
        model = nn.Sequential(linear(value), nn.BatchNorm1d(1), linear(value, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        with gossipfl.join(swarm, model, optimizer, name=name, out=tmp_path / name) as node:
            for _ in node.batches([0]):
                step(model, optimizer, torch.full((4, 3), value))
        return model

    swarm = config(2, swarm={"rounds": 1}, algorithm={"share": ["0.*"], "buffers": "local"})
    # when they have exchanged
    one, other = together(lambda: loop("a", 1.0), lambda: loop("b", 3.0))
    # then that alone is the mean
    assert one[0].weight.tolist() == other[0].weight.tolist() == [[2.0] * 3]
    assert (one[2].weight.item(), other[2].weight.item()) == (1.0, 3.0)
    assert not torch.equal(one[1].running_mean, other[1].running_mean)


def test_steps_that_a_scaler_skips_do_not_count(tmp_path: Path) -> None:
    # given loops in which every second gradient overflows
    def loop(name: str) -> list[int]:
        model = linear()
        optimizer, scaler = torch.optim.SGD(model.parameters(), lr=0.01), torch.amp.GradScaler("cpu")
        rounds = []
        with gossipfl.join(swarm, model, optimizer, name=name, out=tmp_path / name) as node:
            for k, _ in enumerate(node.batches([0])):
                optimizer.zero_grad()
                x = torch.full((4, 3), float("inf") if k % 2 else 1.0)
                scaler.scale((model(x) - 1).square().mean()).backward()
                scaler.step(optimizer)
                scaler.update()
                rounds.append(node.round)
        return rounds

    swarm = config(2, swarm={"rounds": 3})
    # when they train, then rounds are made of the other steps
    assert together(lambda: loop("a"), lambda: loop("b")) == [[1, 1, 2, 2, 3]] * 2


def test_a_compiled_model_meets_a_plain_one(tmp_path: Path) -> None:
    def loop(name: str, wrap: Callable[[nn.Module], Any], value: float) -> Tensor:
        model = linear(value)
        used, optimizer = wrap(model), torch.optim.SGD(model.parameters(), lr=0.1)
        with gossipfl.join(swarm, used, optimizer, name=name, out=tmp_path / name) as node:
            for _ in node.batches([0]):
                step(used, optimizer)
        return vector(model)

    swarm = config(2, swarm={"rounds": 3})
    one, other = together(
        lambda: loop("a", lambda m: torch.compile(m, backend="eager"), 0.0),
        lambda: loop("b", lambda m: m, 1.0),
    )
    assert torch.equal(one, other)
    assert list(load_file(tmp_path / "a" / "models" / "a.safetensors")) == ["bias", "weight"]


def test_half_precision_is_averaged_in_float32(tmp_path: Path) -> None:
    # given models in bfloat16, whose mean 1 + 2^-7 is one of its numbers
    def loop(name: str, value: float) -> nn.Module:
        model = linear(value).bfloat16()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        with gossipfl.join(swarm, model, optimizer, name=name, out=tmp_path / name) as node:
            for _ in node.batches([0]):
                step(model, optimizer, torch.ones(4, 3, dtype=torch.bfloat16))
        return model

    swarm = config(2, swarm={"rounds": 2})
    models = together(lambda: loop("a", 1.0), lambda: loop("b", 1 + 2**-6))
    assert [m.weight[0, 0].item() for m in models] == [1 + 2**-7] * 2
    assert models[0].weight.dtype is torch.bfloat16


@pytest.mark.parametrize("exchange", ["pairwise", "push"])
def test_asynchronous_exchanges_are_adopted_between_steps(exchange: str, tmp_path: Path) -> None:
    rule = {"pairwise": "dpsgd", "push": "gossip-learning"}[exchange]
    swarm = config(3, swarm={"rounds": 30}, algorithm={"exchange": exchange, "rule": rule, "local_steps": 2})
    models = together(
        *[
            lambda n=n, v=v: trained(swarm, n, tmp_path, linear(v), lr=1e-6)
            for n, v in zip("abc", (0.0, 3.0, 6.0), strict=True)
        ]
    )
    assert all(0 < model.weight[0, 0].item() < 6 for model in models), models
    assert sum(int(r["neighbors"]) for n in "abc" for r in records(tmp_path, n, "round")) > 0


# ---------------------------------------------------------------------- batches, metrics, models


class Sampler:
    def __init__(self) -> None:
        self.epochs: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)


class Loader(list[int]):
    def __init__(self, items: Sequence[int]) -> None:
        super().__init__(items)
        self.sampler = Sampler()


def test_batches_come_over_and_over_until_the_swarm_stops(tmp_path: Path) -> None:
    loader = Loader([1, 2, 3])

    def loop() -> list[int]:
        model = linear()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        seen = []
        with gossipfl.join(swarm, model, optimizer, name="a", out=tmp_path / "a") as node:
            assert (node.name, node.neighbors, node.stopped) == ("a", ("b",), False)
            for batch in node.batches(loader):
                step(model, optimizer)
                seen.append(batch)
            assert node.stopped
            step(model, optimizer)  # the loop may go on by itself
            with pytest.raises(GossipError, match="is empty"):
                node._left = False
                node._inside.machine._rounds = 9  # type: ignore[union-attr]
                list(node.batches([]))
        return seen

    swarm = config(2, swarm={"rounds": 5})
    seen, _ = together(loop, lambda: trained(swarm, "b", tmp_path, linear()))
    assert seen == [1, 2, 3, 1, 2]
    assert loader.sampler.epochs == [0, 1]


def test_a_loader_that_can_be_read_only_once_is_named(tmp_path: Path) -> None:
    def loop() -> None:
        model = linear()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with gossipfl.join(swarm, model, optimizer, name="a", out=tmp_path / "a") as node:
            for _ in node.batches(iter([1, 2])):
                step(model, optimizer)

    swarm = config(2, swarm={"rounds": 9})
    error, other = together(loop, lambda: trained(swarm, "b", tmp_path, linear()))
    assert isinstance(error, GossipError)
    assert "read only once" in str(error)
    assert isinstance(other, nn.Module)


def test_a_metric_that_the_loop_logs_ends_the_swarm_in_one_round(tmp_path: Path) -> None:
    def loop(name: str, good: bool) -> int:
        model = linear()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        with gossipfl.join(swarm, model, optimizer, name=name, out=tmp_path / name) as node:
            for _ in node.batches([0]):
                step(model, optimizer)
                node.log(recall=0.9 if good and node.round == 4 else 0.1, loss=torch.tensor(2.0))
            return node.round

    swarm = config(
        4,
        swarm={"rounds": 1000},
        stop={"target": {"metric": "recall", "value": 0.9}},
        topology={"graph": "ring"},
    )
    rounds = together(*[lambda n=n: loop(n, n == "b") for n in "abcd"])
    assert rounds == [6] * 4  # the ring's diameter after the one in which b had enough
    summary = gossipfl.load_config(tmp_path / "b" / "config.toml")
    assert summary.stop.target.metric == "recall"
    assert [r["recall"] for r in records(tmp_path, "b", "eval")][3] == 0.9


def test_what_is_logged_must_be_numbers_with_names_of_their_own(tmp_path: Path) -> None:
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    alone = config(1, swarm={"rounds": 1}, topology={"graph": "none"})
    with gossipfl.join(alone, model, optimizer, out=tmp_path / "a", name="a") as node:
        with pytest.raises(ConfigError, match=r"log\(accuracy=...\): is no number but a str"):
            node.log(accuracy="high")  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="is a field of every record"):
            node.log(round=3)


def test_the_mean_model_is_that_of_the_last_exchange(tmp_path: Path) -> None:
    # given a node that trains on after an exchange
    def loop(name: str, value: float) -> tuple[dict[str, Tensor], Tensor]:
        model = linear(value)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        with gossipfl.join(swarm, model, optimizer, name=name, out=tmp_path / name) as node:
            step(model, optimizer)
            step(model, optimizer)
            optimizer.param_groups[0]["lr"] = 0.1
            step(model, optimizer)
            mean = node.mean_model()
            return mean, model.weight.detach().clone()

    swarm = config(2, swarm={"rounds": 2}, algorithm={"local_steps": 2})
    (mean, own), _ = together(lambda: loop("a", 1.0), lambda: loop("b", 3.0))
    # then the mean is that of both models as they were given
    assert mean["weight"].tolist() == [[2.0] * 3]
    assert mean["weight"].tolist() != own.tolist()
