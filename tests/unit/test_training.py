"""One node's local training."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import Dataset, TensorDataset

from gossipfl.config import load_config
from gossipfl.draw import Purpose, permutation
from gossipfl.errors import ConfigError
from gossipfl.learning import optimizers
from gossipfl.learning.batches import Samples, Stream
from gossipfl.learning.models import device, probe
from gossipfl.learning.task import Task, accuracy
from gossipfl.learning.training import regimen
from gossipfl.learning.workload import Workload, workload

torch.set_num_threads(1)


def line(rows: int = 24) -> TensorDataset:
    x = torch.randn(rows, 3, generator=torch.Generator().manual_seed(5))
    return TensorDataset(x, (x @ torch.tensor([[1.0], [-2.0], [0.5]])))


def task(model: object = None, data: Dataset[object] | None = None) -> Task:
    data = data or line()
    make = model or (lambda: nn.Linear(3, 1))
    return Task("line", make, data, line(10), mse_loss, {})  # type: ignore[arg-type]


def ready(own: Task | None = None, nodes: int = 2, **overrides: object) -> Workload:
    base: dict[str, object] = {"swarm.nodes": nodes, "data.partition": "iid", "train.batch": 4}
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    return workload(load_config(None, base | dotted), own or task())


class TestStream:
    PART = np.array([10, 20, 30, 40, 50])

    def test_position_p_is_the_keyed_permutation_of_its_epoch(self) -> None:
        stream = Stream(7, 3, self.PART)

        taken = stream.take(0, 12)

        epochs = [permutation(7, Purpose.BATCH, 3, epoch, size=5) for epoch in range(3)]
        assert taken.tolist() == [int(self.PART[epochs[p // 5][p % 5]]) for p in range(12)]

    def test_any_stretch_is_the_same_whatever_was_taken_before(self) -> None:
        whole = Stream(0, 1, self.PART).take(0, 60)
        stream = Stream(0, 1, self.PART)

        for start, count in [(40, 7), (3, 4), (0, 1), (4, 2), (25, 35), (5, 5)]:
            assert np.array_equal(stream.take(start, count), whole[start : start + count])

    def test_every_epoch_holds_each_sample_once_in_an_order_of_its_own(self) -> None:
        epochs = Stream(0, 0, np.arange(50)).take(0, 150).reshape(3, 50)

        assert (np.sort(epochs) == np.arange(50)).all()
        assert len({tuple(epoch) for epoch in epochs.tolist()}) == 3

    def test_nodes_have_streams_of_their_own(self) -> None:
        one, other = (Stream(0, node, np.arange(50)).take(0, 50) for node in (0, 1))

        assert not np.array_equal(one, other)


class TestRate:
    def rates(self, rounds: int, **train: object) -> list[float]:
        config = load_config({"swarm": {"rounds": rounds}, "train": {"lr": 0.5, **train}})
        rate = optimizers.rate(config.train, rounds)
        return [rate(t) for t in range(rounds)]

    def test_constant(self) -> None:
        assert self.rates(3) == [0.5, 0.5, 0.5]

    def test_warmup_rises_linearly_and_stays(self) -> None:
        rates = self.rates(6, lr_schedule="warmup", warmup_rounds=4)

        assert rates == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5, 0.5])

    def test_step_falls_every_so_many_rounds(self) -> None:
        rates = self.rates(5, lr_schedule="step", step_every=2, step_factor=0.1)

        assert rates == pytest.approx([0.5, 0.5, 0.05, 0.05, 0.005])

    def test_cosine_falls_from_lr_to_its_least_in_the_last_round(self) -> None:
        rates = self.rates(5, lr_schedule="cosine", cosine_min=0.1)

        fallen = [0.1 + 0.4 * 0.5 * (1 + math.cos(math.pi * t / 4)) for t in range(5)]
        assert rates == pytest.approx(fallen)
        assert self.rates(1, lr_schedule="cosine") == [0.5]

    def test_the_ratio_is_of_neighboring_rounds_and_one_at_first(self) -> None:
        config = load_config({"train": {"lr_schedule": "step", "step_every": 2}})
        rate = optimizers.rate(config.train, 100)

        assert [optimizers.ratio(rate, t) for t in range(5)] == pytest.approx([1, 1, 0.1, 1, 0.1])

    def test_the_ratio_after_a_rate_of_zero_is_one(self) -> None:
        config = load_config({"train": {"lr_schedule": "cosine"}})
        rate = optimizers.rate(config.train, 3)

        assert [optimizers.ratio(rate, t) for t in (2, 3)] == pytest.approx([0.0, 1.0], abs=1e-12)

    def test_the_optimizer_takes_the_rate_of_the_round(self) -> None:
        steps = []
        for every in (1, 100):
            load = ready(train__lr_schedule="step", train__step_every=every, train__step_factor=0.5)
            learner = load.learner(0)
            start = learner.vector.clone()
            assert learner.phase(3).ratio == (0.5 if every == 1 else 1.0)
            steps.append(learner.vector - start)

        assert torch.allclose(steps[0], steps[1] / 8, rtol=1e-4)


class TestPhase:
    def test_it_is_plain_sgd_on_the_batches_of_the_stream(self) -> None:
        load = ready(algorithm__local_steps=3, train__lr=0.05)
        learner = load.learner(1)
        plain = nn.Linear(3, 1)
        plain.load_state_dict(learner.state_dict())
        optimizer = torch.optim.SGD(plain.parameters(), lr=0.05)
        stream = Stream(0, 1, load.parts[1])
        losses = []
        for step in range(3, 6):
            rows = torch.from_numpy(stream.take(4 * step, 4))
            optimizer.zero_grad()
            loss = mse_loss(plain(line().tensors[0][rows]), line().tensors[1][rows])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())

        phase = learner.phase(1)

        assert torch.equal(learner.vector, torch.cat([p.detach().flatten() for p in plain.parameters()]))
        assert phase.loss == pytest.approx(np.mean(losses), rel=1e-6)
        assert (phase.ratio, phase.steps) == (1.0, 3)

    def test_all_learners_of_a_node_give_the_same_bits(self) -> None:
        load = ready(train__momentum=0.9)
        one, other = load.learner(0), load.learner(0)

        for round in range(5):
            torch.rand(round)  # ambient randomness does not matter
            assert one.phase(round) == other.phase(round)

        assert torch.equal(one.vector, other.vector)

    def test_epochs_count_the_steps_by_the_nodes_own_data(self) -> None:
        load = ready(data__partition="quantity", algorithm__local_epochs=2, nodes=3)

        steps = [load.learner(node).phase(0).steps for node in range(3)]

        assert steps == [math.ceil(2 * size / 4) for size in load.sizes]
        assert len(set(steps)) > 1

    def test_a_batch_larger_than_the_part_is_full(self) -> None:
        load = ready(train__batch=100)
        seen: list[int] = []
        learner = load.learner(0)
        learner.flat.module.register_forward_hook(lambda m, i, o: seen.append(len(o)))  # type: ignore[attr-defined]

        learner.phase(0)

        assert seen == [100]

    def test_clip_bounds_the_gradient_of_the_whole_model(self) -> None:
        free, clipped = ready(train__lr=1.0).learner(0), ready(train__lr=1.0, train__clip=0.5).learner(0)
        start = free.vector.clone()

        free.phase(0)
        clipped.phase(0)

        gradient = start - free.vector
        assert gradient.norm() > 0.5
        assert (start - clipped.vector).norm().item() == pytest.approx(0.5, rel=1e-4)
        cosine = torch.cosine_similarity(gradient, start - clipped.vector, dim=0)
        assert cosine.item() == pytest.approx(1.0, rel=1e-5)

    def test_loading_replaces_x_and_keeps_the_optimizers_state(self) -> None:
        learner = ready(train__momentum=0.9).learner(0)
        fresh = ready(train__momentum=0.9).learner(0)
        start = learner.vector.clone()
        learner.phase(0)

        learner.load(start)
        learner.phase(1)
        fresh.phase(1)

        assert not torch.equal(learner.vector, fresh.vector)

    def test_a_loss_that_is_no_number_is_returned_not_raised(self) -> None:
        learner = ready(train__lr=1e30).learner(0)

        losses = [learner.phase(round).loss for round in range(8)]

        assert not math.isfinite(losses[-1])
        assert not math.isfinite(learner.evaluate()["loss"])

    def test_float64_is_float64_throughout(self) -> None:
        learner = ready(train__dtype="float64").learner(0)

        learner.phase(0)

        assert learner.vector.dtype == torch.float64
        assert {value.dtype for value in learner.state_dict().values()} == {torch.float64}

    def test_float64_starts_from_the_float32_weights(self) -> None:
        single, double = (ready(train__dtype=dtype).learner(0).vector for dtype in ("float32", "float64"))

        assert torch.equal(single.double(), double)

    def test_unshared_parameters_train_and_stay(self) -> None:
        load = ready(task(lambda: nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))), algorithm__share=["0.*"])
        learner = load.learner(0)
        head = learner.state_dict()["1.weight"]

        learner.phase(0)
        trained = learner.state_dict()["1.weight"]
        learner.load(torch.zeros(load.d))

        assert load.d == 8
        assert not torch.equal(head, trained)
        assert torch.equal(learner.state_dict()["1.weight"], trained)


class TestStart:
    def test_all_start_alike_by_default(self) -> None:
        load = ready()

        assert torch.equal(load.learner(0).vector, load.learner(1).vector)

    def test_or_each_from_its_own(self) -> None:
        load = ready(swarm__same_start=False)

        assert not torch.equal(load.learner(0).vector, load.learner(1).vector)
        assert torch.equal(load.learner(1).vector, load.learner(1).vector)

    def test_the_seed_draws_the_start_and_leaves_the_callers_generator(self) -> None:
        torch.manual_seed(3)
        before = torch.get_rng_state()

        starts = [ready(swarm__seed=seed).learner(0).vector for seed in (0, 0, 1)]

        assert torch.equal(starts[0], starts[1]) and not torch.equal(starts[0], starts[2])
        assert torch.equal(torch.get_rng_state(), before)


class TestStochasticModels:
    @staticmethod
    def dropping() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))

    def test_dropout_is_keyed_by_node_and_round(self) -> None:
        load = ready(task(self.dropping), algorithm__local_steps=2)
        one, other = load.learner(0), load.learner(0)
        torch.manual_seed(1)
        first = one.phase(4)
        torch.manual_seed(2)

        assert other.phase(4) == first
        assert torch.equal(one.vector, other.vector)

    def test_rounds_drop_differently(self) -> None:
        one_batch = torch.ones(4, 3), torch.ones(4, 1)
        load = ready(task(self.dropping, TensorDataset(one_batch[0].repeat(6, 1), one_batch[1].repeat(6, 1))))
        learner = load.learner(0)
        start = learner.vector.clone()
        losses = set()
        for round in range(4):
            learner.load(start)
            losses.add(learner.phase(round).loss)

        assert len(losses) > 1

    def test_the_callers_generator_is_left_as_it_was(self) -> None:
        learner = ready(task(self.dropping)).learner(0)
        torch.manual_seed(3)
        before = torch.get_rng_state()

        learner.phase(0)

        assert torch.equal(torch.get_rng_state(), before)

    def test_evaluation_drops_nothing(self) -> None:
        learner = ready(task(self.dropping)).learner(0)
        learner.phase(0)

        assert learner.evaluate() == learner.evaluate()


class TestProbe:
    def traits(self, model: nn.Module) -> tuple[bool, bool]:
        own = task()
        samples = [Samples(d, torch.float32, torch.device("cpu"), "data") for d in (own.train, own.test)]
        return probe(own, model, *samples, batch=4)

    def test_a_plain_model_does_nothing_beside(self) -> None:
        assert self.traits(nn.Linear(3, 1)) == (False, False)

    def test_dropout_draws(self) -> None:
        assert self.traits(nn.Sequential(nn.Dropout(0.1), nn.Linear(3, 1))) == (True, False)
        assert self.traits(nn.Sequential(nn.RReLU(), nn.Linear(3, 1))) == (True, False)

    def test_batch_norm_moves_its_buffers(self) -> None:
        assert self.traits(nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))) == (False, True)


class TestOptimizers:
    def made(self, **train: object) -> torch.optim.Optimizer:
        plan = regimen(load_config({"train": train}))
        return plan.make([torch.zeros(2, 2, requires_grad=True)])

    @pytest.mark.parametrize("name", ["adam", "Adam", "RMSprop", "rmsprop", "NAdam", "lbfgs", "SGD"])
    def test_any_class_of_torch_optim_by_its_name(self, name: str) -> None:
        assert type(self.made(optimizer=name)).__name__.lower() == name.lower()

    def test_keywords_beside_reach_it(self) -> None:
        adam = self.made(optimizer="adam", betas=[0.8, 0.99], lr=0.01, weight_decay=0.1)

        assert adam.defaults["betas"] == (0.8, 0.99)
        assert (adam.defaults["lr"], adam.defaults["weight_decay"]) == (0.01, 0.1)

    def test_momentum_reaches_those_that_have_it(self) -> None:
        assert self.made(momentum=0.9).defaults["momentum"] == 0.9
        assert self.made(optimizer="rmsprop", momentum=0.9).defaults["momentum"] == 0.9

    @pytest.mark.parametrize(
        ("train", "message"),
        [
            ({"optimizer": "sdg"}, "train.optimizer: torch.optim has no sdg; one of adadelta, "),
            (
                {"optimizer": "adagrad", "lr_decai": 0.1},
                "train.lr_decai: the optimizer Adagrad has no such keyword; did you mean lr_decay?",
            ),
            ({"optimizer": "adagrad", "momentum": 0.9}, "train.momentum: the optimizer Adagrad has none"),
            ({"optimizer": "lbfgs", "weight_decay": 0.1}, "train.weight_decay: the optimizer LBFGS has none"),
            ({"optimizer": "rmsprop", "alpha": -1.0}, "train.optimizer: RMSprop: Invalid alpha value: -1.0"),
            ({"optimizer": "rmsprop", "alpha": "much"}, "train.optimizer: RMSprop: "),
            ({"optimizer": "sparseadam"}, "train.optimizer: SparseAdam: SparseAdam does not support dense"),
            ({"optimizer": "adam", "differentiable": True}, "train.optimizer: Adam: "),
            ({"optimizer": "adam", "capturable": True}, "train.capturable: is for CUDA graphs"),
        ],
    )
    def test_what_it_does_not_take_is_an_error(self, train: dict[str, object], message: str) -> None:
        with pytest.raises(ConfigError) as caught:
            regimen(load_config({"train": train}))

        assert message in str(caught.value)

    def test_one_that_refuses_the_models_parameters_is_an_error(self) -> None:
        refusing = regimen(load_config({"train.optimizer": "lbfgs"})).make

        with pytest.raises(ConfigError, match=r"LBFGS: optimizer got an empty"):
            refusing([])

    def test_one_that_wants_a_closure_trains(self) -> None:
        learner = ready(train__optimizer="lbfgs", train__lr=1.0, train__batch=12).learner(0)

        losses = [learner.phase(round).loss for round in range(3)]

        assert losses[-1] < 1e-3 < losses[0]


class Augmented(Dataset[object]):
    """A map-style dataset that is not made of tensors, draws as it is read, and labels with bare numbers."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, i: int) -> object:
        return torch.full((3,), float(i)) + torch.rand(3), np.array([i / 2], dtype=np.float32)


class TestOtherDatasets:
    def test_they_are_read_sample_by_sample_with_keyed_draws(self) -> None:
        load = ready(task(data=Augmented()), train__lr=1e-4)
        one, other = load.learner(0), load.learner(0)
        random.seed(1)

        assert one.phase(0) == other.phase(0)
        assert torch.equal(one.vector, other.vector)
        assert one.phase(1).loss != other.phase(2).loss

    def test_all_of_them_is_in_order(self) -> None:
        samples = Samples(Augmented(), torch.float64, torch.device("cpu"), "train")

        inputs, targets = samples.all()

        assert inputs.dtype == targets.dtype == torch.float64
        assert torch.equal(inputs.floor()[:, 0], torch.arange(24.0).double())
        assert targets[:, 0].tolist() == [i / 2 for i in range(24)]


class TestEvaluation:
    def test_chunks_give_the_scores_of_the_whole(self) -> None:
        x = torch.randn(9000, 3, generator=torch.Generator().manual_seed(0))
        labels = (x[:, 0] > 0).long()
        train, test = TensorDataset(x[:24], labels[:24]), TensorDataset(x, labels)
        own = Task("large", lambda: nn.Linear(3, 2), train, test, cross_entropy, {"hits": accuracy})
        learner = ready(own).learner(0)
        module = nn.Linear(3, 2)
        module.load_state_dict(learner.state_dict())

        scores = learner.evaluate()

        outputs = module(x).detach()
        assert scores["loss"] == pytest.approx(cross_entropy(outputs, labels).item(), rel=1e-6)
        assert scores["hits"] == pytest.approx(accuracy(outputs, labels).item(), abs=1e-9)


class TestWorkload:
    def test_the_data_hash_sees_the_data_and_who_holds_what(self) -> None:
        hashes = [
            ready().data_hash,
            ready(swarm__seed=1).data_hash,
            ready(nodes=3).data_hash,
            ready(task(data=line(25))).data_hash,
        ]

        assert len(set(hashes)) == 4
        assert ready().data_hash == hashes[0]
        assert len(hashes[0]) == 16 and int(hashes[0], 16) >= 0

    def test_the_hash_is_the_same_whatever_the_dtype_and_optimizer(self) -> None:
        assert ready(train__dtype="float64", train__optimizer="adam").data_hash == ready().data_hash

    def test_a_module_holds_what_it_is_given(self) -> None:
        load = ready()

        module = load.module(torch.arange(4.0))

        assert module(torch.ones(1, 3)).item() == 0 + 1 + 2 + 3

    def test_digits_names_accuracy(self) -> None:
        load = workload(load_config({"swarm": {"nodes": 4}}))

        assert (load.headline, load.higher_is_better, load.d) == ("accuracy", True, 64 * 64 + 64 + 640 + 10)
        assert sum(load.sizes) == 1438

    def test_a_device_that_is_not_there_is_an_error(self) -> None:
        with pytest.raises(ConfigError, match=r"train\.device: cuda:99 is not there \(.*\); cpu, or auto"):
            device("cuda:99", lambda: 0.0)


def test_digits_alone_reach_their_baseline() -> None:
    load = workload(load_config({"swarm": {"nodes": 1}, "data": {"partition": "iid"}}))
    learner = load.learner(0)

    for round in range(45 * 12):
        learner.phase(round)

    assert learner.evaluate()["accuracy"] > 0.945
