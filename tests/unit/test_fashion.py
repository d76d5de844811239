"""fashion: Fashion-MNIST as Debian packages it; skipped in part where the data are not installed."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

from gossipfl.config import load_config
from gossipfl.errors import ConfigError
from gossipfl.learning.crew import Crew
from gossipfl.learning.datasets import locate
from gossipfl.learning.task import Task
from gossipfl.learning.tasks import load_task
from gossipfl.learning.tasks.fashion import FILES, MODELS, SHA256, fashion
from gossipfl.learning.workload import workload

torch.set_num_threads(1)


@pytest.fixture
def installed() -> None:
    try:
        locate(FILES)
    except ConfigError as error:
        pytest.skip(f"Fashion-MNIST is not installed: {error}")


def wrong(source: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as caught:
        source()
    return str(caught.value)


def slice_of(task: Task, count: int) -> Task:
    assert isinstance(task.train, TensorDataset) and isinstance(task.test, TensorDataset)
    assert task.labels is not None
    train, test = (TensorDataset(*(t[:count] for t in data.tensors)) for data in (task.train, task.test))
    return Task("slice", task.model, train, test, task.loss, task.metrics, task.labels[:count])


def test_data_that_are_not_there_are_an_error_with_the_command_that_brings_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path))
    monkeypatch.delenv("GOSSIPFL_DATA", raising=False)

    said = wrong(lambda: load_task(load_config({"train": {"task": "fashion"}})))

    assert "data.path: fashion-mnist: no folder holds train-images-idx3-ubyte.gz" in said
    assert "run: apt-get install dataset-fashion-mnist" in said


def test_other_data_of_the_same_names_are_refused(tmp_path: Path) -> None:
    for name in SHA256:
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(bytes(16)))

    said = wrong(lambda: fashion({}, str(tmp_path)))

    assert "train-images-idx3-ubyte.gz is not the file of that name of Fashion-MNIST" in said


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(bytes(100))[:-9]], ids=["other", "torn"])
def test_files_that_cannot_be_unpacked_are_refused(content: bytes, tmp_path: Path) -> None:
    for name in SHA256:
        (tmp_path / f"{name}.gz").write_bytes(content)

    assert "train-images-idx3-ubyte.gz cannot be read" in wrong(lambda: fashion({}, str(tmp_path)))


def test_unknown_keys_and_models_are_refused_together() -> None:
    said = wrong(
        lambda: load_task(load_config({"train": {"task": "fashion"}, "task": {"model": "cn", "k": 1}}))
    )

    assert "task.k: unknown key; fashion has one: model" in said
    assert "task.model: fashion has no model 'cn'; did you mean cnn?" in said


@pytest.mark.parametrize(("name", "size"), [("cnn", 421_642), ("mlp", 101_770)])
def test_the_models_take_an_image_and_score_ten_classes(name: str, size: int) -> None:
    model = MODELS[name]()

    assert sum(p.numel() for p in model.parameters()) == size
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.usefixtures("installed")
class TestData:
    def test_they_are_sixty_and_ten_thousand_images_six_and_one_thousand_a_class(self) -> None:
        task = fashion({})
        assert isinstance(task.train, TensorDataset) and isinstance(task.test, TensorDataset)
        images, labels = task.train.tensors

        assert images.shape == (60_000, 1, 28, 28) and task.test.tensors[0].shape == (10_000, 1, 28, 28)
        assert torch.bincount(labels).tolist() == [6000] * 10
        assert torch.bincount(task.test.tensors[1]).tolist() == [1000] * 10
        assert labels[:5].tolist() == [9, 0, 0, 3, 0]  # an ankle boot is first, everywhere
        assert images.mean().item() == pytest.approx(0, abs=1e-3)
        assert images.std().item() == pytest.approx(1, abs=1e-3)

    @pytest.mark.parametrize("name", ["cnn", "mlp"])
    def test_all_nodes_at_once_train_as_node_by_node_with_any_threads(self, name: str) -> None:
        config = load_config(
            {
                "swarm": {"nodes": 3, "rounds": 60},
                "train": {"batch": 4, "dtype": "float64"},
                "data": {"partition": "shards"},
            }
        )
        load = workload(config, slice_of(fashion({"model": name}), 60))
        learners = [load.learner(node) for node in range(3)]
        with Crew(2) as crew:
            cohort = load.cohort(crew)
            x = cohort.start()
            for round in range(55):  # it is traced on the way
                x, _, _ = cohort.phase(x, round)
                for learner in learners:
                    learner.phase(round)

        assert cohort.batched
        assert (x - torch.stack([learner.vector for learner in learners])).abs().max() < 1e-10

    def test_a_slice_of_an_epoch_is_learnt(self) -> None:
        task = slice_of(fashion({"model": "mlp"}), 6000)
        torch.manual_seed(0)
        model = task.model()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        assert isinstance(task.train, TensorDataset) and isinstance(task.test, TensorDataset)

        for images, labels in zip(*(t.split(32) for t in task.train.tensors), strict=True):
            optimizer.zero_grad()
            task.loss(model(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        images, labels = task.test.tensors
        assert task.metrics["accuracy"](model(images), labels) > 0.77
