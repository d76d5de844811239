"""gossipfl.join: how loops end, what goes wrong, and the examples, in threads and in processes."""

from __future__ import annotations

import difflib
import json
import logging
import re
import shutil
import signal
import socket
import sys
import threading
import time as clock
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

import gossipfl
from gossipfl.errors import ConfigError, GossipError, LocalProtocolError, Refused, TrainingDiverged
from tests.joined import Swarm, config, linear, records, step, together, trained, vector

if TYPE_CHECKING:
    from tests.system.conftest import Start, Until

pytestmark = pytest.mark.system


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ---------------------------------------------------------------------- leaving


def test_a_loop_that_ends_says_goodbye_and_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    swarm = config(3, swarm={"rounds": 6})
    with caplog.at_level(logging.INFO, "gossipfl"):
        together(
            lambda: trained(swarm, "a", tmp_path, linear(), steps=2),
            lambda: trained(swarm, "b", tmp_path, linear()),
            lambda: trained(swarm, "c", tmp_path, linear()),
        )
    counts = [len(records(tmp_path, name, "round")) for name in "abc"]
    assert counts == [2, 6, 6]
    assert [r["neighbors"] for r in records(tmp_path, "b", "round")] == [2, 2, 1, 1, 1, 1]
    assert "b: a has left; goes on without it" in caplog.text


def test_an_exception_passes_through_and_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fails() -> None:
        model = linear()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        with gossipfl.join(swarm, model, optimizer, name="a", out=tmp_path / "a") as node:
            for _ in node.batches([0]):
                step(model, optimizer)
                if node.round == 3:
                    raise ZeroDivisionError("the loop's own")

    swarm = config(2, swarm={"rounds": 6})
    with caplog.at_level(logging.INFO, "gossipfl"):
        error, _ = together(fails, lambda: trained(swarm, "b", tmp_path, linear()))
    assert isinstance(error, ZeroDivisionError)
    assert "b: a has left" in caplog.text
    assert len(records(tmp_path, "b", "round")) == 6
    assert (tmp_path / "a" / "summary.json").exists()


def test_numbers_that_are_no_numbers_never_reach_a_neighbor(tmp_path: Path) -> None:
    def diverges() -> Tensor:
        model = linear(1.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        with (
            gossipfl.join(swarm, model, optimizer, name="a", out=tmp_path / "a"),
            pytest.raises(TrainingDiverged, match=r"a: .*a parameter became NaN"),
        ):
            step(model, optimizer)
            optimizer.param_groups[0]["lr"] = float("nan")
            step(model, optimizer)
        return vector(model)

    swarm = config(2, swarm={"rounds": 4})
    own, other = together(diverges, lambda: trained(swarm, "b", tmp_path, linear(1.0), lr=0.0))
    assert own.tolist() == vector(other).tolist() == [1.0] * 4


def test_joining_twice_in_one_process_leaves_nothing_behind(tmp_path: Path) -> None:
    swarm = config(2, swarm={"rounds": 2})
    models = [linear(0.0), linear(4.0)]
    before: tuple[int, ...] | None = None
    for order in ("first", "second"):
        (tmp_path / order).mkdir()
        together(
            lambda t=order: trained(swarm, "a", tmp_path / t, models[0], lr=0.0),
            lambda t=order: trained(swarm, "b", tmp_path / t, models[1], lr=0.0),
        )
        if before is None:
            before = remains()
        limit = clock.monotonic() + 10
        while more(remains(), before) and clock.monotonic() < limit:
            clock.sleep(0.05)  # the system takes a thread that has ended off its list a little later
        assert not more(remains(), before)
    assert vector(models[0]).tolist() == [2.0] * 4


def more(now: tuple[int, ...], then: tuple[int, ...]) -> bool:
    return any(a > b for a, b in zip(now, then, strict=True))


def remains() -> tuple[int, ...]:
    """Threads of Python, of the process, and open descriptors."""
    return (
        threading.active_count(),
        *(len(list(Path("/proc/self", kind).iterdir())) for kind in ("task", "fd")),
    )


# ---------------------------------------------------------------------- what goes wrong


def test_a_model_whose_layers_differ_is_refused_by_parameter_and_shapes(tmp_path: Path) -> None:
    swarm = config(3, swarm={"rounds": 2})
    met = threading.Event()

    def other() -> object:
        met.wait(60)
        return trained(swarm, "c", tmp_path, linear(inputs=5))

    def right(name: str) -> object:
        model = linear()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        try:
            with gossipfl.join(swarm, model, optimizer, name=name, out=tmp_path / name):
                return None
        except gossipfl.PeerLost as error:
            return error

    class Met(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "met b" in record.getMessage():
                met.set()

    swarm["swarm"]["start_timeout"] = 6.0
    logger, handler = logging.getLogger("gossipfl"), Met()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        *_, refused = together(lambda: right("a"), lambda: right("b"), other)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    assert isinstance(refused, Refused)
    assert "has parameter weight 1x3 float32, you have weight 1x5 float32" in str(refused)
    assert not (tmp_path / "c").exists()


def test_a_library_that_reallocates_parameters_is_named(tmp_path: Path) -> None:
    def loop() -> None:
        model = linear()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        with gossipfl.join(swarm, model, optimizer, name="a", out=tmp_path / "a"):
            model.weight.data = model.weight.data.clone()
            step(model, optimizer)

    swarm = config(2, swarm={"rounds": 3})
    error, _ = together(loop, lambda: trained(swarm, "b", tmp_path, linear()))
    assert isinstance(error, GossipError)
    assert "weight was moved out of the shared buffer" in str(error)


@pytest.mark.parametrize(
    ("sections", "make", "told"),
    [
        ({}, lambda m: torch.optim.SGD(linear().parameters(), lr=0.1), "optimizer: steps no parameter"),
        ({}, lambda m: object(), "optimizer: is a object"),
        (
            {"algorithm": {"local_epochs": 2}},
            lambda m: torch.optim.SGD(m.parameters(), lr=0.1),
            "algorithm.local_epochs: is 2, and nobody says",
        ),
        (
            {"algorithm": {"aggregate": "by-loss"}},
            lambda m: torch.optim.SGD(m.parameters(), lr=0.1),
            "algorithm.aggregate: is by-loss",
        ),
        (
            {"algorithm": {"share": ["features.*"]}},
            lambda m: torch.optim.SGD(m.parameters(), lr=0.1),
            "algorithm.share: .* matches no trainable parameter",
        ),
        (
            {"topology": {"graph": "ring", "weights": "data"}},
            lambda m: torch.optim.SGD(m.parameters(), lr=0.1),
            "topology.weights: needs every node's number of samples",
        ),
    ],
)
def test_mistakes_are_told_before_anything_starts(
    sections: Swarm, make: Callable[[nn.Module], Any], told: str, tmp_path: Path
) -> None:
    model = linear()
    with (
        pytest.raises(ConfigError, match=told),
        gossipfl.join(config(2, **sections), model, make(model), name="a", out=tmp_path / "a"),
    ):
        pytest.fail("it began")
    assert not (tmp_path / "a").exists()


def test_a_node_is_named_by_its_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    swarm = config(2)
    monkeypatch.delenv("GOSSIPFL_NODE", raising=False)
    with pytest.raises(ConfigError, match="name: nobody says which node this is; name or GOSSIPFL_NODE"):
        gossipfl.join(swarm, model, optimizer)
    monkeypatch.setenv("RANK", "1")
    assert gossipfl.join(swarm, model, optimizer).name == "b"
    monkeypatch.setenv("GOSSIPFL_NODE", "a")
    assert gossipfl.join(swarm, model, optimizer).name == "a"
    assert gossipfl.join(swarm, model, optimizer, name="b").name == "b"
    with pytest.raises(LocalProtocolError, match=r"with gossipfl\.join"):
        gossipfl.join(swarm, model, optimizer).log(loss=1.0)


def test_a_step_in_another_thread_is_an_error(tmp_path: Path) -> None:
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    alone = config(1, swarm={"rounds": 9}, topology={"graph": "none"})
    with gossipfl.join(alone, model, optimizer, name="a", out=tmp_path / "a"):
        [error] = together(lambda: step(model, optimizer))
    assert isinstance(error, LocalProtocolError)
    assert "another thread" in str(error)


WORKERS = """
import sys, torch, gossipfl
from torch.utils.data import DataLoader
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
loader = DataLoader(torch.ones(64, 3), batch_size=4, num_workers=2, persistent_workers=True)
with gossipfl.join(sys.argv[1], model, optimizer, name=sys.argv[2], out=sys.argv[3]) as node:
    for batch in node.batches(loader):
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()
"""


def test_a_node_that_is_killed_is_missed_at_once_though_its_workers_live_on(
    start: Start, until: Until, tmp_path: Path
) -> None:
    # given a loop whose batches come from forked processes, and a neighbor
    swarm = config(2, swarm={"rounds": 10**6})
    file = tmp_path / "swarm.toml"
    file.write_text(gossipfl.load_config(swarm).to_toml())
    one, other = (
        start(
            command=[sys.executable, "-c", script, str(file), name, str(tmp_path / name)],
            out=tmp_path / name,
            environment={"OMP_NUM_THREADS": "1"},
        )
        for name, script in (("a", WORKERS), ("b", SCRIPT))
    )
    until(lambda: one.reached(20) or one.over(), "they train")
    # when it is killed, and has no time to tell them
    one.signal(signal.SIGKILL)
    until(lambda: bool(records(tmp_path, "b", "peer_down")) or other.over(), "it is missed")
    # then its line was seen to close, and its port can be had again
    assert [r["found"] for r in records(tmp_path, "b", "peer_down")] == ["closed"]
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", int(swarm["node"][0]["address"].partition(":")[2])))
    other.signal(signal.SIGINT)
    assert other.end().code == -signal.SIGINT


FORKS = """
import os, sys, torch, gossipfl
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
with gossipfl.join(sys.argv[1], model, optimizer, name=sys.argv[2], out=sys.argv[3]) as node:
    for count, batch in enumerate(node.batches([torch.ones(4, 3)])):
        if count == 3 and sys.argv[2] == "a":
            child = os.fork()
            if child == 0:
                try:
                    optimizer.step()
                except gossipfl.errors.GossipError as error:
                    print("child:", error, flush=True)
                sys.exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()
"""


def test_a_fork_that_leaves_the_loop_is_no_node_and_ends(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "swarm.toml"
    file.write_text(gossipfl.load_config(config(2, swarm={"rounds": 20})).to_toml())
    running = [
        start(
            command=[sys.executable, "-c", FORKS, str(file), name, str(tmp_path / name)],
            environment={"OMP_NUM_THREADS": "1"},
        )
        for name in "ab"
    ]
    ended = [one.end() for one in running]
    assert [e.code for e in ended] == [0, 0], ended
    assert ended[0].stdout.count("called in another process than the one that joined") == 1
    counts = [len(records(tmp_path, name, "round")) for name in "ab"]
    assert counts == [20, 20]
    assert not records(tmp_path, "b", "peer_down")


EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str, folder: Path) -> Path:
    """A copy of an example whose nodes have ports of their own."""
    copy = folder / name
    shutil.copytree(EXAMPLES / name, copy, ignore=shutil.ignore_patterns("runs"))
    text = (copy / "swarm.toml").read_text()
    addresses = re.findall(r"127\.0\.0\.1:\d+", text)
    for old, new in zip(addresses, config(len(addresses))["node"], strict=True):
        text = text.replace(old, new["address"])
    (copy / "swarm.toml").write_text(text)
    return copy


def test_two_clients_end_with_one_model(start: Start, tmp_path: Path) -> None:
    # given the example, which is short
    folder = example("two_clients", tmp_path)
    assert len((folder / "client.py").read_text().splitlines()) < 40
    # when its script is run twice
    ended = [
        running.end()
        for running in [
            start(command=[sys.executable, "client.py", name], cwd=folder) for name in ("alice", "bob")
        ]
    ]
    # then both have learnt, and hold the same weights
    assert [e.code for e in ended] == [0, 0], ended
    last = [e.stdout.splitlines()[-1].partition("weights ")[2] for e in ended]
    assert last[0] == last[1]
    assert all(abs(w - k) < 2.5 for k, w in enumerate(json.loads(last[0]), start=1)), last
    assert "epoch 10" in ended[1].stdout


def test_three_lines_make_a_stock_loop_a_node(start: Start, tmp_path: Path) -> None:
    # given the example: what differs is what its page shows, and no more than three lines
    folder = example("own_loop", tmp_path)
    plain, joined = ((folder / f"{name}.py").read_text().splitlines() for name in ("plain", "joined"))
    changed = [line for line in difflib.unified_diff(plain, joined, n=0) if line[1:].strip()][2:]
    changed = [line for line in changed if not line.startswith("@@")]
    page = (folder / "README.md").read_text().splitlines()
    assert [line for line in page if line[:1] in ("+", "-")] == changed
    assert sum(line[0] == "+" for line in changed) <= 3
    # when it is run as four nodes, of which each has seen two of the four classes
    ended = [
        running.end()
        for running in [
            start(
                command=[sys.executable, "joined.py"],
                cwd=folder,
                environment={"RANK": str(rank), "OMP_NUM_THREADS": "1"},
            )
            for rank in range(4)
        ]
    ]
    # then each knows them all
    assert [e.code for e in ended] == [0] * 4, ended
    accuracies = [float(e.stdout.split("accuracy ")[1].split()[0]) for e in ended]
    assert min(accuracies) > 0.9
    assert len(list((folder / "runs").glob("*/models/*.safetensors"))) == 4


SCRIPT = """
import sys, torch, gossipfl
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
with gossipfl.join(sys.argv[1], model, optimizer, name=sys.argv[2], out=sys.argv[3]) as node:
    for _ in node.batches([torch.ones(4, 3)]):
        optimizer.zero_grad()
        model(_).square().mean().backward()
        optimizer.step()
"""


def test_interrupting_one_loop_lets_the_others_go_on(start: Start, until: Until, tmp_path: Path) -> None:
    # given two loops in processes of their own
    file = tmp_path / "swarm.toml"
    file.write_text(gossipfl.load_config(config(2, swarm={"rounds": 400})).to_toml())
    one, other = (
        start(
            command=[sys.executable, "-c", SCRIPT, str(file), name, str(tmp_path / name)],
            out=tmp_path / name,
            environment={"OMP_NUM_THREADS": "1"},
        )
        for name in "ab"
    )
    until(lambda: one.reached(20) or one.over(), "they train")
    # when one is interrupted
    one.signal(signal.SIGINT)
    ended = one.end()
    # then it ends with the interrupt, having kept what it did, and the other goes on without it
    assert ended.code == -signal.SIGINT, ended
    assert (tmp_path / "a" / "models" / "a.safetensors").exists()
    assert other.end().code == 0
    rounds = records(tmp_path, "b", "round")
    assert (len(rounds), rounds[-1]["neighbors"]) == (400, 0)
    assert "b: a has left; goes on without it" in other.text()[1]
