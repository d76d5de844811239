"""The config: what is accepted, what is refused and in which words, what peers compare."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest

from gossipfl.config import Config, json_schema, load_config
from gossipfl.config.model import LOCAL_KEYS, SECTIONS
from gossipfl.errors import ConfigError

CLI_DEFAULTS = """
[swarm]
name = "demo"
nodes = 8
rounds = 100
seed = 0
same_start = true
eval_every = 10
start_timeout = 0
[topology]
graph = "ring"
weights = "metropolis"
allow_disconnected = false
[algorithm]
rule = "dpsgd"
exchange = "rounds"
local_steps = 1
every = 1
buffers = "average"
share = ["*"]
[train]
task = "digits"
optimizer = "sgd"
lr = 0.1
lr_schedule = "constant"
batch = 32
momentum = 0.0
weight_decay = 0.0
clip = 0.0
device = "auto"
threads = 1
dtype = "float32"
[task]
[data]
partition = "dirichlet"
alpha = 0.5
path = ""
[wire]
transport = "auto"
heartbeat = 0.25
"""


def mistakes(source: object = None, overrides: object = None) -> dict[str, str]:
    """key -> the rest of the line, of what load_config refuses."""
    with pytest.raises(ConfigError) as caught:
        load_config(source, overrides)  # type: ignore[arg-type]
    return {p.key: f"{p.wrong}; {p.right}" for p in caught.value.problems}


def test_no_source_gives_the_documented_defaults(tmp_path: Path) -> None:
    file = tmp_path / "swarm.toml"
    file.write_text(CLI_DEFAULTS)

    assert load_config(file) == load_config()


@pytest.mark.parametrize("period", [0.5, 2, "0.25s", "3s"])
def test_a_period_is_a_number_of_local_phases_or_seconds(period: object, tmp_path: Path) -> None:
    config = load_config(None, {"algorithm.period": period})

    assert config.algorithm.period == period
    assert load_config(None, [f"algorithm.period={period}"]) == config
    file = tmp_path / "swarm.toml"
    file.write_text(config.to_toml())
    assert load_config(file) == config


@pytest.mark.parametrize("period", [0, -1.0, "0s", "s", "fast", "1m", "1e3s", True])
def test_any_other_period_is_refused(period: object) -> None:
    assert "local phases" in mistakes(None, {"algorithm.period": period})["algorithm.period"]


def test_slow_nodes_are_named_by_index_and_exist(tmp_path: Path) -> None:
    config = load_config(None, ["network.slow.3=10", "network.slow.0=1.5"])

    assert config.network.slow == {"3": 10, "0": 1.5}
    file = tmp_path / "swarm.toml"
    file.write_text(config.to_toml())
    assert load_config(file) == config
    assert "there is no node 8" in mistakes(None, {"network.slow": {"8": 2.0}})["network.slow"]
    assert "there is no node bob" in mistakes(None, {"network.slow": {"bob": 2.0}})["network.slow"]
    assert "node = FACTOR" in mistakes(None, {"network.slow": {"3": 0.0}})["network.slow"]


def test_push_keeps_time_by_its_period_alone() -> None:
    found = mistakes(None, {"algorithm.exchange": "push", "algorithm.every": 3})

    assert "algorithm.period" in found["algorithm.every"]


def test_a_config_is_frozen() -> None:
    config = load_config()

    with pytest.raises(FrozenInstanceError):
        config.swarm.nodes = 3  # type: ignore[misc]


def test_a_config_travels_between_processes_unchanged() -> None:
    config = load_config(None, {"algorithm.gamma": 0.3, "task.dimension": 5})

    assert pickle.loads(pickle.dumps(config)) == config


def test_what_is_no_number_is_told_with_what_would_be_one() -> None:
    found = mistakes(None, ["wire.gone=nan", "topology.pi=[nan]", "task.x=nan"])

    assert found["wire.gone"] == "cannot be nan; a number, above 0"
    assert found["topology.pi"] == "cannot be nan; a list of positive numbers, one a node"
    assert found["task.x"] == "cannot be nan; another number"


def test_machines_and_faults_travel_as_json() -> None:
    config = load_config(
        {
            "stop": {"target": {"metric": "accuracy", "value": 1}},
            "topology": {"graph": ["ring", "path"]},
            "algorithm": {"gamma": 0.3, "weights": [[1, 2.0], ["a"]]},
            "task": {"shape": [3, 4]},
            "node": [{"name": "a", "address": "127.0.0.1:1"}, {"name": "b"}, {"name": "c"}],
            "fault": [
                {"kind": "slow", "at": 1, "node": "b", "factor": 2, "until": 3.5},
                {"kind": "partition", "round": 7, "groups": [["a", 1], ["c"]], "for": 2},
                {"kind": "drop", "at": 0, "edge": [0, "c"]},
            ],
        }
    )

    again = Config.of(json.loads(json.dumps(config.to_dict())))

    assert again == config and again.to_toml() == config.to_toml()
    assert again.fault[1].groups == (("a", 1), ("c",)) and again.stop.wanted
    assert Config.of({}) == load_config()


def test_a_config_without_overrides_is_passed_through() -> None:
    config = load_config()

    assert load_config(config) is config


def test_every_mistake_is_reported_at_once_under_its_key() -> None:
    found = mistakes(
        {"swarm": {"nodes": 0, "rounds": "100"}, "train": {"momentum": 1.5}, "wire": {"heartbeats": 2.0}},
        ["nonsense", "train.lr=fast", "data.partition=file", "algorithm.share=[a"],
    )

    assert set(found) == {
        "swarm.nodes",
        "swarm.rounds",
        "train.momentum",
        "wire.heartbeats",
        "--set",
        "train.lr",
        "data.file",
        "algorithm.share",
    }
    assert found["swarm.nodes"] == "cannot be 0; a whole number, at least 1, at most 1000000"
    assert found["swarm.rounds"] == 'cannot be "100"; a whole number, at least 1'
    assert found["train.momentum"] == "cannot be 1.5; a number, at least 0, below 1"
    assert found["wire.heartbeats"] == "unknown key; did you mean wire.heartbeat?"
    assert found["--set"] == "'nonsense' is not KEY=VALUE; write it like train.lr=0.05"


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("swarm.roudns", "swarm.rounds"),
        ("swarm.lr", "train.lr"),
        ("rounds", "swarm.rounds"),
        ("trian.lr", "train"),
        ("train.bacth", "train.batch"),
        ("train.local_steps", "algorithm.local_steps"),
        ("algorithm.local_step", "algorithm.local_steps"),
        ("network.latencies", "network.latency"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_one(key: str, meant: str) -> None:
    found = mistakes(None, {key: 1})

    assert [text.endswith(f"did you mean {meant}?") for text in found.values()] == [True]


def test_a_key_like_no_other_is_refused_with_the_list_of_keys() -> None:
    assert "nodes, rounds" in mistakes(None, {"swarm.qqqqqq": 1})["swarm.qqqqqq"]
    assert "swarm, stop, topology" in mistakes(None, {"qqqqqq": 1})["qqqqqq"]


@pytest.mark.parametrize(
    "key",
    [
        "swarm.start_quorum",
    ],
)
def test_a_key_of_a_later_version_says_so(key: str) -> None:
    assert [text.partition(";")[0] for text in mistakes(None, {key: 1}).values()] == [
        "is not available in this version"
    ]


def test_shared_memory_is_for_rounds() -> None:
    found = mistakes(None, {"wire.transport": "shm", "algorithm.exchange": "push"})

    assert "does not tell when what was sent has been read" in found["wire.transport"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("swarm.nodes", 2.5),
        ("swarm.nodes", True),
        ("swarm.nodes", 10**9),
        ("swarm.seed", -1),
        ("swarm.seed", 2**63),
        ("swarm.name", "a/b"),
        ("swarm.name", ""),
        ("swarm.name", "..hidden"),
        ("swarm.eval_every", 0),
        ("swarm.same_start", 1),
        ("topology.graph", ""),
        ("topology.graph", []),
        ("topology.graph", [1]),
        ("algorithm.exchange", "pushh"),
        ("algorithm.share", []),
        ("algorithm.share", [1]),
        ("train.lr", 0),
        ("train.lr", "0.1"),
        ("train.lr", float("inf")),
        ("train.lr", float("nan")),
        ("train.device", "gpu"),
        ("train.dtype", "float16"),
        ("train.optimizer", "torch.optim.SGD"),
        ("data.partition", "dirchlet"),
        ("data.partition", "dirichlet:0.1"),
        ("data.alpha", 0.0),
        ("train.lr", None),
        ("swarm.nodes", object()),
        ("swarm", 3),
        ("task", "digits"),
    ],
)
def test_a_value_that_is_impossible_is_refused_under_its_key_alone(key: str, value: object) -> None:
    found = mistakes(None, {key: value})

    assert list(found) == [key]
    assert all(found[key].partition("; ")), "says what would be right"


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ({"algorithm.local_steps": 2, "algorithm.local_epochs": 1}, "algorithm.local_epochs"),
        ({"algorithm.local_steps": 0}, "algorithm.local_steps"),
        ({"train.lr_schedule": "cosine", "train.cosine_min": 0.5}, "train.cosine_min"),
        ({"data.partition": "file"}, "data.file"),
        ({"train.optimizer": "Adam", "train.momentum": 0.9}, "train.momentum"),
        ({"train.nesterov": True}, "train.nesterov"),
        ({"train.epochs": 5}, "train.epochs"),
    ],
)
def test_impossible_combinations_are_refused(overrides: dict[str, object], key: str) -> None:
    assert list(mistakes(None, overrides)) == [key]


def test_a_combination_is_not_judged_by_a_value_that_is_itself_wrong() -> None:
    found = mistakes(None, {"train.lr_schedule": "cosine", "train.cosine_min": 0.5, "train.lr": "much"})

    assert list(found) == ["train.lr"]


def test_local_epochs_alone_replace_local_steps() -> None:
    config = load_config(None, {"algorithm.local_epochs": 2})

    assert (config.algorithm.local_steps, config.algorithm.local_epochs) == (0, 2)
    assert load_config(config, {"swarm.seed": 1}).algorithm == config.algorithm


def test_keys_of_a_rule_and_of_an_optimizer_stand_beside_the_sections_own() -> None:
    config = load_config(
        None,
        ["algorithm.gamma=0.5", "algorithm.lazy=false", "train.optimizer=adam", "train.betas=[0.9, 0.99]"],
    )

    assert config.algorithm.extra == {"gamma": 0.5, "lazy": False}
    assert config.train.extra == {"betas": [0.9, 0.99]}


def test_a_function_of_ones_own_stands_in_for_a_name() -> None:
    own = "mine.things:make"
    keys = ["topology.graph", "topology.weights", "algorithm.rule", "train.task", "data.partition"]

    config = load_config(None, dict.fromkeys(keys, own))

    assert (config.topology.graph, config.data.partition) == (own, own)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("swarm.rounds=7", 7),
        ("swarm.name=42", "42"),
        ("swarm.name=2024-01-01", "2024-01-01"),
        ('swarm.name="quoted"', "quoted"),
        ("topology.graph=torus:4x8", "torus:4x8"),
        ("topology.graph = star ", "star"),
        ("data.path=/a=b", "/a=b"),
        ("data.file=", ""),
        ("train.lr=1e-3", 0.001),
        ("train.lr=1", 1.0),
        ("swarm.same_start=false", False),
        ("algorithm.share=*", ("*",)),
        ('algorithm.share=["a.*", "b"]', ("a.*", "b")),
        ("task.dimension=3", 3),
        ("task.matrix=true", True),
        ("task.when=2024-01-01", "2024-01-01"),
        ("task.word=hello", "hello"),
        ("task.two=1\nb=2", "1\nb=2"),
    ],
)
def test_a_setting_is_a_toml_value_or_else_a_text(text: str, value: object) -> None:
    config = load_config(None, [text])

    section, key = text.partition("=")[0].strip().split(".")
    table = config.to_dict()[section]
    assert (table[key], type(table[key])) == (value, type(value))


def test_the_last_of_two_settings_wins() -> None:
    assert load_config(None, ["swarm.rounds=7", "swarm.rounds=9"]).swarm.rounds == 9


def test_settings_override_a_file_and_reach_into_tables(tmp_path: Path) -> None:
    file = tmp_path / "swarm.toml"
    file.write_text("[swarm]\nrounds = 5\n[task]\na.b = 1\n")

    config = load_config(file, ["swarm.rounds=6", "task.a.c=2"])

    assert (config.swarm.rounds, config.task) == (6, {"a": {"b": 1, "c": 2}})


def test_a_setting_inside_a_value_is_refused() -> None:
    assert list(mistakes(None, ["task.a=1", "task.a.b=2"])) == ["task.a.b"]


@pytest.mark.parametrize("content", ["[task]\nx=" + "[" * 3000 + "]" * 3000, "[task]\nx=" + "1" * 6000])
def test_a_file_beyond_the_limits_of_python_is_refused_in_a_line(tmp_path: Path, content: str) -> None:
    file = tmp_path / "swarm.toml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"lists within lists") as caught:
        load_config(file)
    assert [problem.key for problem in caught.value.problems] == [str(file)]


@pytest.mark.parametrize("value", ["[" * 3000 + "]" * 3000, "[" + "1" * 6000 + "]"])
def test_so_is_such_a_setting(value: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a TOML value"):
        load_config(None, [f"task.x={value}"])


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "swarm.toml"
    file.write_bytes("\ufeff[swarm]\nnodes = 5\n".encode())
    assert load_config(file).swarm.nodes == 5


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"[swarm]\nrounds = 3\nnodes 8\n", 3),
        (b"[swarm]\nname = 'a\n", 2),
        (b"[swarm]\nnodes = 1\nnodes = 2\n", 3),
        (b"[swarm]\nname = '\xff'\n", 2),
        (b"[swarm]\n\n[topology", 3),
    ],
)
def test_what_is_not_toml_is_refused_with_file_and_line(tmp_path: Path, content: bytes, line: int) -> None:
    file = tmp_path / "swarm.toml"
    file.write_bytes(content)

    found = mistakes(file, ["swarm.nodes=0", "bad"])

    assert set(found) == {f"{file}:{line}", "swarm.nodes", "--set"}


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert mistakes(tmp_path / "no.toml")[str(tmp_path / "no.toml")].startswith("no such file")
    assert str(tmp_path / "config.toml") in mistakes(tmp_path)[str(tmp_path)]


def test_numpy_numbers_and_paths_of_a_notebook_are_plain_values(tmp_path: Path) -> None:
    config = load_config(
        {"swarm": {"nodes": np.int64(4)}}, {"train.lr": np.float64(0.5), "data.path": tmp_path}
    )

    assert (config.swarm.nodes, config.train.lr, config.data.path) == (4, 0.5, str(tmp_path))
    assert type(config.train.lr) is float


def test_the_callers_mapping_is_left_alone() -> None:
    source = {"task": {"a": {"b": 1}}}

    load_config(source, {"task.a.b": 2})

    assert source == {"task": {"a": {"b": 1}}}


@pytest.mark.parametrize("key", sorted(LOCAL_KEYS - {"train.device"}))
def test_a_machines_own_keys_do_not_change_the_digest(key: str) -> None:
    values = {"data.path": "x", "security.keys": "x", "algorithm.replay": "x", "network.slow": {"3": 7.0}}
    values |= {"swarm.tensorboard": True, "swarm.writer": "mine:writer", "network.preset": "mobile"}
    values |= {"network.loss": 0.1, "network.stragglers": 0.5, "network.trace": "a.csv"}
    # a config in which all of them have a meaning
    source: dict[str, dict[str, object]] = {"algorithm": {"exchange": "pairwise"}}
    if key in ("network.uptime", "network.downtime"):
        source["network"] = {"uptime": 5, "downtime": 5}

    assert load_config(source, {key: values.get(key, 7)}).digest() == load_config(source).digest()


def test_the_documented_local_keys_are_local() -> None:
    assert {key for key in LOCAL_KEYS if not key.startswith("network.")} == {
        "swarm.start_timeout",
        "swarm.tensorboard",
        "swarm.writer",
        "algorithm.replay",
        "train.batch",
        "train.device",
        "data.path",
        "wire.hang",
        "wire.gone",
        "security.keys",
    }


@pytest.mark.parametrize(
    "overrides",
    [{"swarm.name": "other"}, {"train.lr": 0.2}, {"algorithm.gamma": 1}, {"task.a": 1}, {"swarm.seed": 1}],
)
def test_what_peers_must_agree_on_changes_the_digest(overrides: dict[str, object]) -> None:
    config = load_config(None, overrides)

    assert config.digest() != load_config().digest()
    assert overrides.items() <= config.comparable().items()


def test_the_digest_is_the_same_in_every_process() -> None:
    code = "from gossipfl.config import load_config; print(load_config().digest())"

    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert other.stdout.strip() == load_config().digest()
    assert len(load_config().digest()) == 16


def test_nodes_are_named_by_their_index() -> None:
    assert load_config(None, {"swarm.nodes": 3}).names == ("node-0", "node-1", "node-2")


def test_every_key_is_described_in_the_schema() -> None:
    schema = json_schema()
    definitions = schema["$defs"]
    assert isinstance(definitions, dict)

    for kind in SECTIONS.values():
        for key, described in definitions[kind.__name__]["properties"].items():
            assert described.get("description"), f"{kind.__name__}.{key}"
    assert definitions["Swarm"]["properties"]["nodes"]["minimum"] == 1
    assert definitions["Train"]["properties"]["batch"]["x-local"] is True
    assert definitions["Swarm"]["additionalProperties"] is False
    assert definitions["Algorithm"]["additionalProperties"] is True


def test_the_config_loads_without_torch() -> None:
    code = "import sys, gossipfl.config; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_sections_are_exactly_the_documented_tables() -> None:
    tables = ["swarm", "stop", "topology", "algorithm", "train", "task", "data", "wire", "network"]
    tables += ["security", "node", "fault"]

    assert list(Config.fields()) == tables
