"""Laws of the config: what is written is read back bit for bit, and peers that share it share its digest."""

from __future__ import annotations

import json
import tempfile
import tomllib
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from gossipfl.config import Config, load_config
from gossipfl.config.toml import toml_document

texts = st.text(max_size=20)
numbers = st.floats(allow_nan=False) | st.integers(-(2**63), 2**63 - 1)
values = st.recursive(
    st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
extra_keys = st.from_regex(r"zz[a-z0-9_-]{0,8}", fullmatch=True)  # like no key of a section's own
positive = st.floats(1e-300, 1e300)

configs = st.builds(
    lambda swarm, algorithm, train, task, data, network: load_config(
        {
            "swarm": swarm,
            "algorithm": algorithm,
            "train": {**train, "optimizer": "adagrad"},
            "task": task,
            "data": data,
            "network": network,
        }
    ),
    st.fixed_dictionaries(
        {},
        optional={
            "nodes": st.integers(1, 10**6),
            "seed": st.integers(0, 2**63 - 1),
            "same_start": st.booleans(),
            "name": st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True),
        },
    ),
    st.dictionaries(extra_keys, values, max_size=3).flatmap(
        lambda extra: st.fixed_dictionaries(
            {}, optional={"local_epochs": st.integers(1, 9), "share": st.lists(texts, min_size=1, max_size=3)}
        ).map(lambda own: {**extra, **own})
    ),
    st.dictionaries(extra_keys, values, max_size=3).flatmap(
        lambda extra: st.fixed_dictionaries(
            {}, optional={"lr": positive, "weight_decay": positive, "batch": st.integers(1, 10**9)}
        ).map(lambda own: {**extra, **own})
    ),
    st.dictionaries(st.from_regex(r"[^.]{0,8}", fullmatch=True), values, max_size=4),
    st.fixed_dictionaries({}, optional={"alpha": positive, "path": texts, "column": texts}),
    st.fixed_dictionaries({}, optional={"latency": positive, "jitter": positive}),
)


@settings(deadline=None)
@given(configs)
def test_a_written_config_is_read_back_equal(config: Config) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "config.toml")
        file.write_bytes(config.to_toml().encode())
        again = load_config(file)

    assert again == config
    assert again.to_toml() == config.to_toml()
    assert (again.digest(), again.comparable()) == (config.digest(), config.comparable())


@given(configs)
def test_a_config_is_its_own_mapping(config: Config) -> None:
    assert load_config(config.to_dict()) == config


@given(configs)
def test_a_config_goes_through_json_and_needs_no_check_then(config: Config) -> None:
    again = Config.of(json.loads(json.dumps(config.to_dict())))

    assert again == config
    assert (again.to_toml(), again.digest()) == (config.to_toml(), config.digest())


@given(st.dictionaries(texts, st.dictionaries(texts, values, max_size=4), max_size=4))
def test_any_tables_are_written_as_toml_that_reads_back_bit_for_bit(
    tables: dict[str, dict[str, object]],
) -> None:
    again = tomllib.loads(toml_document(tables))

    assert repr(again) == repr(tables)  # repr tells 1 from 1.0 and from True, and -0.0 from 0.0


@given(st.text(max_size=40), st.text(max_size=40))
def test_a_setting_of_any_text_is_taken_or_refused_but_never_breaks(key: str, value: str) -> None:
    from gossipfl.errors import ConfigError

    try:
        load_config(None, [f"{key}={value}", f"task.x={value}", f"swarm.{key}={value}"])
    except ConfigError as error:
        assert error.problems
