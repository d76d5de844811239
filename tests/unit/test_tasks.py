"""Tasks: digits, vectors, and a user's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from gossipfl.config import Config, load_config
from gossipfl.draw import Purpose, generator
from gossipfl.errors import ConfigError
from gossipfl.learning.datasets import Files, locate
from gossipfl.learning.task import Task, VectorTask, accuracy
from gossipfl.learning.tasks import TASKS, load_task
from gossipfl.learning.tasks.digits import digits, model
from gossipfl.learning.workload import workload

torch.set_num_threads(1)

STORED = json.loads((Path(__file__).parents[1] / "data" / "digits.json").read_text())


def configured(task: str, *, nodes: int = 4, **keys: object) -> Config:
    return load_config({"swarm": {"nodes": nodes}, "train": {"task": task}, "task": keys})


def wrong(source: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as caught:
        source()
    return str(caught.value)


class TestDigits:
    def test_the_split_is_the_canonical_one(self) -> None:
        task = digits()
        train, test = task.train, task.test
        assert isinstance(train, TensorDataset) and isinstance(test, TensorDataset)

        assert train.tensors[0].shape == (1438, 64) and test.tensors[0].shape == (359, 64)
        assert train.tensors[0].max() == 1.0 and train.tensors[0].min() == 0.0
        with np.load(
            locate(Files("digits", ("digits.npz",), "gossipfl.learning.tasks", "")) / "digits.npz"
        ) as d:
            assert d["permutation"].tolist() == STORED["split_permutation"]
            pixels, labels = d["pixels"], d["labels"]
        row = STORED["split_permutation"][1438]
        assert test.tensors[1][0] == labels[row]
        assert torch.equal(test.tensors[0][0] * 16, torch.from_numpy(pixels[row]).float())

    def test_the_data_are_those_of_the_test_part_of_optdigits(self) -> None:
        task = digits()
        assert isinstance(task.train, TensorDataset) and isinstance(task.test, TensorDataset)
        labels = torch.cat([task.train.tensors[1], task.test.tensors[1]])

        assert torch.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]

    def test_the_model_starts_uniformly_within_one_over_root_fan_in(self) -> None:
        layers = [m for m in model().modules() if isinstance(m, nn.Linear)]

        assert [(m.in_features, m.out_features) for m in layers] == [(64, 64), (64, 10)]
        for values in [p.detach() for m in layers for p in (m.weight, m.bias)]:
            assert values.abs().max() <= 1 / 8
        weights = torch.cat([m.weight.detach().flatten() for m in layers])
        assert weights.abs().max() > 0.99 / 8
        assert weights.var().item() == pytest.approx((1 / 8) ** 2 / 3, rel=0.05)

    def test_it_takes_no_keys(self) -> None:
        assert "task.file: digits has no keys" in wrong(lambda: load_task(configured("digits", file="x.npz")))

    def test_the_licence_lies_beside_the_data(self) -> None:
        folder = locate(Files("digits", ("digits.npz",), "gossipfl.learning.tasks", ""))

        assert "CC BY 4.0" in (folder / "LICENSE-digits.md").read_text(encoding="utf-8")


class TestDatasets:
    WANTED = Files("leaves", ("a.gz", "b.gz"), "leaves_package", "apt-get install dataset-leaves")

    @pytest.fixture
    def places(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
        """The four places a data set may lie in, all of them filled."""
        places = {
            "path": tmp_path / "given",
            "environment": tmp_path / "root" / "leaves",
            "system": tmp_path / "share" / "datasets" / "leaves",
            "package": tmp_path / "site" / "leaves_package",
        }
        for folder in places.values():
            folder.mkdir(parents=True)
            for file in self.WANTED.files:
                (folder / file).touch()
        (places["package"] / "__init__.py").touch()
        monkeypatch.setenv("GOSSIPFL_DATA", str(tmp_path / "root"))
        monkeypatch.setenv("XDG_DATA_DIRS", f"{tmp_path / 'empty'}:{tmp_path / 'share'}")
        monkeypatch.syspath_prepend(tmp_path / "site")
        return places

    def test_places_are_looked_in_in_order(self, places: dict[str, Path]) -> None:
        assert locate(self.WANTED, str(places["path"])) == places["path"]
        for place in ("environment", "system", "package"):
            assert locate(self.WANTED) == places[place]
            (places[place] / "b.gz").unlink()

    def test_the_error_names_the_command_that_installs(self, places: dict[str, Path]) -> None:
        for folder in places.values():
            (folder / "a.gz").unlink()

        said = wrong(lambda: locate(self.WANTED))

        assert said.startswith("data.path: leaves: no folder holds a.gz, b.gz")
        assert said.endswith("run: apt-get install dataset-leaves")

    def test_a_path_that_is_given_is_the_only_place(self, places: dict[str, Path], tmp_path: Path) -> None:
        assert f"(looked in {tmp_path})" in wrong(lambda: locate(self.WANTED, str(tmp_path)))


class TestConsensus:
    def test_vectors_come_from_a_file(self, tmp_path: Path) -> None:
        x0 = np.arange(8.0).reshape(4, 2)
        np.savez(tmp_path / "start.npz", x0=x0)

        task = load_task(configured("consensus", file=str(tmp_path / "start.npz")))

        assert isinstance(task, VectorTask)
        assert np.array_equal(task.start, x0)
        assert np.array_equal(task.target, [3.0, 4.0])

    def test_else_from_the_seed(self) -> None:
        task = load_task(configured("consensus", dimension=5))

        assert isinstance(task, VectorTask)
        assert np.array_equal(task.start, generator(0, Purpose.START).standard_normal((4, 5)))

    def test_it_only_averages_and_measures_the_distance_to_the_mean(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "start.npz", x0=np.array([[0.0, 0.0], [2.0, 4.0]]))
        load = workload(configured("consensus", nodes=2, file=str(tmp_path / "start.npz")))
        learner = load.learner(1)

        phase = learner.phase(0)

        assert phase == (0.0, 1.0, 0)
        assert learner.vector.tolist() == [2.0, 4.0]
        assert learner.evaluate() == {"loss": 0.0, "error": 5.0}
        assert load.cohort().evaluate(load.cohort().start())["error"].tolist() == [5.0, 5.0]
        assert load.cohort().evaluate(torch.tensor([[1.0, 2.0]]))["error"].tolist() == [0.0]
        assert (load.headline, load.higher_is_better, load.d, load.sizes) == ("error", False, 2, (1, 1))

    def test_a_file_for_another_number_of_nodes_names_both(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "start.npz", x0=np.zeros((3, 2)))

        said = wrong(lambda: load_task(configured("consensus", file=str(tmp_path / "start.npz"))))

        assert said.startswith("swarm.nodes: is 4 and x0 of ") and said.endswith("swarm.nodes = 3")

    @pytest.mark.parametrize(
        ("keys", "message"),
        [
            ({"file": "nowhere.npz"}, "task.file: nowhere.npz cannot be read (No such file or directory)"),
            ({"file": 3}, "task.file: is 3"),
            ({"dimension": 0}, "task.dimension: is 0; a whole number of at least 1"),
            ({"dimension": True}, "task.dimension: is True"),
            ({"dimensions": 3}, "task.dimensions: unknown key; did you mean task.dimension?"),
        ],
    )
    def test_keys_that_do_not_fit_are_errors(self, keys: dict[str, object], message: str) -> None:
        assert message in wrong(lambda: load_task(configured("consensus", **keys)))

    def test_a_file_that_is_no_npz_is_an_error(self, tmp_path: Path) -> None:
        np.save(tmp_path / "array.npy", np.zeros((4, 2)))
        array = (tmp_path / "array.npy").read_bytes()
        for content in (b"not an archive", b"", b"PK\x03\x04 torn", array):
            (tmp_path / "start.npz").write_bytes(content)
            said = wrong(lambda: load_task(configured("consensus", file=str(tmp_path / "start.npz"))))
            assert "start.npz is no npz file" in said

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"x": np.zeros((4, 2))}, "has no array x0; it holds x"),
            ({"x0": np.zeros(4)}, "x0 is float64 of shape [4]"),
            ({"x0": np.zeros((4, 0))}, "x0 is float64 of shape [4, 0]"),
            ({"x0": np.full((4, 1), "a")}, "x0 is <U1 of shape [4, 1]"),
            ({"x0": np.full((4, 1), np.nan)}, "x0 holds nan or infinity"),
        ],
    )
    def test_arrays_that_do_not_fit_are_errors(
        self, arrays: dict[str, np.ndarray], message: str, tmp_path: Path
    ) -> None:
        np.savez(tmp_path / "start.npz", **arrays)  # type: ignore[arg-type]

        assert message in wrong(lambda: load_task(configured("consensus", file=str(tmp_path / "start.npz"))))


class TestQuadratic:
    def saved(self, tmp_path: Path, **arrays: np.ndarray) -> str:
        np.savez(tmp_path / "functions.npz", **arrays)  # type: ignore[arg-type]
        return str(tmp_path / "functions.npz")

    def test_the_local_step_is_exact_gradient_descent(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        a, b, x0 = rng.uniform(1, 2, (4, 3)), rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
        config = configured("quadratic", file=self.saved(tmp_path, a=a, b=b, x0=x0))
        config = load_config(config, {"train.dtype": "float64", "train.lr": 0.3, "algorithm.local_steps": 2})

        learner = workload(config).learner(2)
        phase = learner.phase(0)

        once = x0[2] - 0.3 * (a[2] * (x0[2] - b[2]))
        assert np.array_equal(learner.vector.numpy(), once - 0.3 * (a[2] * (once - b[2])))
        losses = [0.5 * (a[2] * (x - b[2]) ** 2).sum() for x in (x0[2], once)]
        assert phase.loss == pytest.approx(np.mean(losses), rel=1e-12)
        assert phase.steps == 2

    def test_the_matrix_form_is_exact_gradient_descent_too(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        half, b = rng.normal(size=(4, 3, 3)), rng.normal(size=(4, 3))
        a = half @ half.swapaxes(1, 2) + np.eye(3)
        config = configured("quadratic", file=self.saved(tmp_path, a=a, b=b), matrix=True)
        load = workload(load_config(config, {"train.dtype": "float64"}))

        learner = load.learner(1)
        learner.phase(0)
        x = learner.vector.numpy()

        assert x == pytest.approx(0.1 * b[1], rel=1e-14)
        scores = learner.evaluate()
        assert scores["loss"] == pytest.approx(0.5 * x @ a[1] @ x - b[1] @ x, rel=1e-12)
        best = np.linalg.solve(a.mean(axis=0), b.mean(axis=0))
        assert scores["error"] == pytest.approx(((x - best) ** 2).sum(), rel=1e-12)

    @pytest.mark.parametrize("matrix", [False, True])
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_all_nodes_at_once_give_the_same_bits(self, dtype: str, matrix: bool, tmp_path: Path) -> None:
        rng = np.random.default_rng(1)
        a = rng.normal(size=(5, 7, 7) if matrix else (5, 7)) ** 2
        a = a @ a.swapaxes(1, 2) if matrix else a
        file = self.saved(tmp_path, a=a, b=rng.normal(size=(5, 7)), x0=rng.normal(size=(5, 7)))
        config = configured("quadratic", nodes=5, file=file, matrix=matrix)
        load = workload(
            load_config(config, {"train.dtype": dtype, "algorithm.local_steps": 3, "train.lr": 0.01})
        )

        after, losses, _ = load.cohort().phase(load.cohort().start(), 0)

        for node in range(5):
            learner = load.learner(node)
            phase = learner.phase(0)
            assert torch.equal(after[node], learner.vector)
            assert losses[node].item() == pytest.approx(phase.loss, rel=1e-5)

    def test_the_error_is_to_the_minimiser_of_the_mean(self, tmp_path: Path) -> None:
        i = np.arange(16.0)[:, None]
        file = self.saved(tmp_path, a=1 + i / 15, b=i)
        load = workload(configured("quadratic", nodes=16, file=file))

        scores = load.cohort().evaluate(torch.tensor([[8.444444], [0.0]]))

        assert scores["error"].tolist() == pytest.approx([0.0, 8.444444**2], abs=1e-4)
        mean_f = (0.5 * (1 + i / 15) * i**2).mean()
        assert scores["loss"][1].item() == pytest.approx(mean_f, rel=1e-6)

    def test_it_starts_from_zeros(self, tmp_path: Path) -> None:
        load = workload(
            configured("quadratic", file=self.saved(tmp_path, a=np.ones((4, 2)), b=np.ones((4, 2))))
        )

        assert load.cohort().start().tolist() == [[0.0, 0.0]] * 4

    @pytest.mark.parametrize(
        ("key", "value"),
        [("optimizer", "adam"), ("momentum", 0.9), ("weight_decay", 0.1), ("clip", 1.0), ("nesterov", True)],
    )
    def test_only_plain_gradient_descent_is_taken(self, key: str, value: object, tmp_path: Path) -> None:
        file = self.saved(tmp_path, a=np.ones((4, 2)), b=np.ones((4, 2)))
        extra = {"train.momentum": 0.9} if key == "nesterov" else {}
        config = load_config(configured("quadratic", file=file), {f"train.{key}": value, **extra})

        assert f"train.{key}: is {value} and quadratic takes exact gradient steps" in wrong(
            lambda: workload(config)
        )

    def test_epochs_are_refused(self, tmp_path: Path) -> None:
        file = self.saved(tmp_path, a=np.ones((4, 2)), b=np.ones((4, 2)))
        config = load_config(
            {"swarm": {"nodes": 4}, "algorithm": {"local_epochs": 1}, "train": {"task": "quadratic"}},
            {"task.file": file},
        )

        assert "algorithm.local_epochs: quadratic has no data to pass over" in wrong(lambda: workload(config))

    @pytest.mark.parametrize(
        ("arrays", "matrix", "message"),
        [
            ({"a": np.ones((4, 2))}, False, "has no array b; it holds a"),
            ({"a": np.ones((4, 3)), "b": np.ones((4, 2))}, False, "a is [4, 3] where b is [4, 2]"),
            ({"a": np.ones((4, 2, 3)), "b": np.ones((4, 2))}, True, "a is [4, 2, 3] where b is [4, 2]"),
            (
                {"a": np.ones((4, 2)), "b": np.ones((4, 2))},
                True,
                "a is float64 of shape [4, 2]; numbers with 3 axes",
            ),
            ({"a": np.ones((5, 2)), "b": np.ones((5, 2))}, False, "swarm.nodes: is 4 and b of "),
            ({"a": np.zeros((4, 2)), "b": np.ones((4, 2))}, False, "no unique minimum"),
            ({"a": np.ones((4, 2, 2)), "b": np.ones((4, 2))}, True, "no unique minimum"),
            (
                {"a": np.ones((4, 2)), "b": np.ones((4, 2)), "x0": np.ones((4, 1))},
                False,
                "x0 is [4, 1] where b is [4, 2]",
            ),
        ],
    )
    def test_arrays_that_do_not_fit_are_errors(
        self, arrays: dict[str, np.ndarray], matrix: bool, message: str, tmp_path: Path
    ) -> None:
        file = self.saved(tmp_path, **arrays)

        assert message in wrong(lambda: load_task(configured("quadratic", file=file, matrix=matrix)))

    def test_without_a_file_it_asks_for_one(self) -> None:
        said = wrong(lambda: load_task(configured("quadratic")))

        assert said == "task.file: quadratic has none; an npz with a [n, d] and b [n, d]"


OWN = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
from gossipfl.learning.task import Task, accuracy

def make(width=3, rows=8):
    x = torch.arange(rows * 2.0).reshape(rows, 2)
    data = TensorDataset(x, (x[:, 0] % 4 > 1).long())
    return Task("own", lambda: nn.Linear(2, width), data, data, nn.functional.cross_entropy,
                {"accuracy": accuracy})

def of_config(config, width=2):
    return make(width, rows=2 * config.swarm.nodes)

def number(): return 7
def broken(): raise RuntimeError("no data today")
def no_module():
    return Task("odd", lambda: 3, make().train, make().test, nn.functional.cross_entropy, {})
def bad_model():
    return Task("odd", lambda: nn.Linear(5, 2), make().train, make().test, nn.functional.cross_entropy, {})
def bad_metric():
    data = make().train
    return Task("odd", lambda: nn.Linear(2, 2), data, data, nn.functional.cross_entropy,
                {"both": lambda outputs, targets: outputs})
def no_pairs():
    data = TensorDataset(torch.zeros(8, 2))
    return Task("odd", lambda: nn.Linear(2, 2), data, data, nn.functional.cross_entropy, {})
def empty():
    data = TensorDataset(torch.zeros(0, 2), torch.zeros(0).long())
    return Task("odd", lambda: nn.Linear(2, 2), data, make().test, nn.functional.cross_entropy, {})
"""


class TestOwn:
    @pytest.fixture(autouse=True)
    def module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "own_task.py").write_text(OWN)
        (tmp_path / "torn_task.py").write_text("import no_such_thing\n")
        monkeypatch.chdir(tmp_path)

    def ready(self, name: str, **keys: object) -> object:
        config = configured(name, nodes=2, **keys)
        return workload(load_config(config, {"data.partition": "iid", "train.batch": 4}))

    def test_a_function_gets_the_tasks_keys(self) -> None:
        task = load_task(configured("own_task:make", width=5))

        assert isinstance(task, Task)
        assert task.model().weight.shape == (5, 2)

    def test_a_function_that_asks_for_the_config_gets_it(self) -> None:
        task = load_task(configured("own_task:of_config", nodes=3, width=4))

        assert isinstance(task, Task)
        assert task.model().weight.shape == (4, 2)
        assert len(task.train) == 6  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("no_such_task:make", "train.task: no_such_task:make: the module does not import"),
            ("torn_task:make", "ModuleNotFoundError: No module named 'no_such_thing'"),
            ("own_task:absent", "own_task has no function absent"),
            ("own_task:number", "own_task:number returned a int; a gossipfl.learning.task.Task"),
            ("own_task:broken", "own_task:broken raised RuntimeError: no data today ("),
            ("own_task:no_module", "odd: its model() makes a int; a torch.nn.Module"),
            ("own_task:bad_model", "odd fails on its first batch (RuntimeError: mat1 and mat2"),
            ("own_task:bad_metric", "odd fails on its first batch (ValueError: only one element tensors"),
            ("builtins:dict", "builtins:dict does not fit the keys of [task]: no signature found"),
            ("own_task:no_pairs", "a sample of odd: train is no (input, target) pair"),
            ("own_task:empty", "odd: train is empty"),
        ],
    )
    def test_what_is_wrong_with_it_is_said(self, name: str, message: str) -> None:
        assert message in wrong(lambda: self.ready(name))

    def test_keys_that_do_not_fit_its_parameters_are_an_error(self) -> None:
        said = wrong(lambda: self.ready("own_task:make", depth=3))

        assert "does not fit the keys of [task]: got an unexpected keyword argument 'depth'" in said

    def test_an_unknown_name_is_an_error_that_guesses(self) -> None:
        assert "train.task: there is no task digit; did you mean digits?" in wrong(
            lambda: self.ready("digit")
        )


@pytest.mark.parametrize("name", TASKS)
def test_what_the_catalogue_names_loads(name: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "functions.npz", a=np.ones((4, 2)), b=np.ones((4, 2)))
    keys = {"file": str(tmp_path / "functions.npz")} if name == "quadratic" else {}

    assert load_task(configured(name, **keys)).name == name


def test_accuracy_is_the_share_of_hits() -> None:
    outputs = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 3.0], [1.0, 0.0]])

    assert accuracy(outputs, torch.tensor([1, 0, 0, 1])).item() == 0.5
