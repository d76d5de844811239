"""A swarm across machines, as far as it is decided without any: the file, keys, who dials, who must go."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from click.testing import CliRunner

from gossipfl.cli import main
from gossipfl.config import Config, load_config
from gossipfl.config.lan import key_bytes, key_text, place
from gossipfl.config.toml import toml_document
from gossipfl.core.events import Note
from gossipfl.core.exchange.agree import differs
from gossipfl.drivers import abroad
from gossipfl.drivers.abroad import Abroad
from gossipfl.drivers.naming import node_name
from gossipfl.drivers.plan import plan
from gossipfl.drivers.resuming import grown
from gossipfl.drivers.whereabouts import Lan, lan
from gossipfl.errors import ConfigError
from gossipfl.transport import keys

A, B, C = (key_text(bytes([i]) * 32) for i in (1, 2, 3))


def table(name: str, address: str = "", key: str = "", **more: str) -> dict[str, str]:
    return {"name": name, "address": address, "public_key": key, **more}


def machines(*tables: dict[str, str], **sections: dict[str, object]) -> Config:
    return load_config({"node": list(tables), **sections})


def mistakes(*tables: dict[str, str], **sections: dict[str, object]) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        machines(*tables, **sections)
    return {p.key: f"{p.wrong}; {p.right}" for p in caught.value.problems}


# ---------------------------------------------------------------------- the file


def test_the_tables_give_number_names_and_order(tmp_path: Path) -> None:
    config = machines(table("bob", "10.0.0.2:7700", B), table("alice", "", A))

    assert (config.swarm.nodes, config.names, config.encrypted) == (2, ("bob", "alice"), True)
    file = tmp_path / "swarm.toml"
    file.write_text(config.to_toml())
    assert load_config(file) == config
    assert load_config(config.to_dict()) == config


def test_where_a_machine_listens_is_its_own_business_and_its_key_is_not() -> None:
    config = machines(table("bob", "10.0.0.2:7700", B), table("alice", "", A))
    bound = load_config(config, {"node.bob.bind": "0.0.0.0:7700"})
    other = load_config(config, {"node.bob.public_key": C})

    assert bound.node[0].bind == "0.0.0.0:7700"
    assert bound.digest() == config.digest() != other.digest()


@pytest.mark.parametrize(
    ("tables", "sections", "key", "named"),
    [
        ((table("a"), table("a")), {}, "node.a.name", "two nodes are named a"),
        ((table("a", "10.0.0.1"),), {}, "node.a.address", "HOST:PORT"),
        ((table("a", "10.0.0.1:0", A),), {}, "node.a.address", "HOST:PORT"),
        ((table("a", "10.0.0.1:7700"),), {}, "node.a.public_key", "is missing"),
        ((table("a", "10.0.0.1:7700", "pub-short"),), {}, "node.a.public_key", "no public key"),
        ((table("a", "10.0.0.1:1", A), table("b", "10.0.0.1:1", B)), {}, "node.b.address", "that of a"),
        ((table("a", "10.0.0.1:1", A), table("b", "", A)), {}, "node.b.public_key", "that of a"),
        ((table("a", color="red"),), {}, "node.a.color", "unknown key"),
        ((table("a"), table("b")), {"swarm": {"nodes": 3}}, "swarm.nodes", "2 [[node]] tables"),
        ((table("a", "10.0.0.1:1"),), {"security": {"encrypt": "off"}}, "security.encrypt", "10.0.0.1:1"),
        ((table("a", "127.0.0.1:1", bind="0.0.0.0:1"),), {}, "node.a.bind", "nothing is encrypted"),
        ((), {"data": {"partition": "local"}}, "data.partition", "[[node]]"),
    ],
)
def test_mistakes_in_the_file_are_named(
    tables: tuple[dict[str, str], ...], sections: dict[str, dict[str, object]], key: str, named: str
) -> None:
    assert named in mistakes(*tables, **sections)[key]


def test_a_secret_key_in_the_file_is_refused_and_not_repeated() -> None:
    secret = key_text(b"s" * 32, "secret-")

    found = mistakes(table("a", "10.0.0.1:1", secret), security={"allow": [secret]})

    assert "secret key" in found["node.a.public_key"]
    assert "secret key" in found["security.allow"]
    assert secret[10:] not in str(found)


def test_a_secret_key_in_a_setting_is_not_repeated_either() -> None:
    secret = key_text(b"s" * 32, "secret-")
    tables = {"node": [table("a", "10.0.0.1:1", A), table("b", "", B)]}

    for setting in (
        f"security.allow=[{secret}]",
        secret,
        f"node.b.public_key={secret}",
        f"train.lr={secret}",
    ):
        with pytest.raises(ConfigError) as caught:
            load_config(tables, [setting])
        assert secret[10:] not in str(caught.value)


def test_a_setting_changes_a_node_of_the_file_and_adds_none() -> None:
    tables = {"node": [table("a", "127.0.0.1:1"), table("b", "127.0.0.1:2")]}

    with pytest.raises(ConfigError, match=r"node\.c\.bind: no \[\[node\]\] is named c; the nodes are a, b"):
        load_config(tables, ["node.c.bind=127.0.0.1:3"])


@pytest.mark.parametrize("command", [["check", "swarm.toml"], ["init"]])
def test_an_edge_that_neither_end_can_dial_is_told_before_anyone_starts(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("swarm.toml").write_text(
        toml_document({}, node=[table("a", "10.0.0.1:1", A), table("b", "", B), table("c", "", C)])
    )
    nodes = [f"--node=a=10.0.0.1:1,{A}", f"--node=b=,{B}", f"--node=c=,{C}", "-o", "new.toml"]

    done = CliRunner().invoke(main, command if command[0] == "check" else [*command, *nodes])

    assert done.exit_code == 2
    assert "node.b.address: is empty, and so is that of its neighbor c" in done.stderr
    assert not Path("new.toml").exists()


def test_the_loopback_needs_no_keys_and_plaintext_elsewhere_needs_saying_so() -> None:
    assert not machines(table("a", "127.0.0.1:1"), table("b", "[::1]:1")).encrypted
    open_ = machines(table("a", "10.0.0.1:1"), security={"encrypt": False, "allow_plaintext": True})
    assert not open_.encrypted


# ---------------------------------------------------------------------- keys


def test_a_pair_is_made_for_its_owner_alone_and_never_over_another(tmp_path: Path) -> None:
    made = keys.make(tmp_path / "keys", "alice")

    assert stat.S_IMODE(made.secret.stat().st_mode) == 0o600
    assert key_text(keys.load(made.secret).public) == made.key
    assert keys.public(made.secret) == keys.public(made.public) == made.key
    with pytest.raises(ConfigError, match="is there already"):
        keys.make(tmp_path / "keys", "alice")
    assert key_text(keys.load(made.secret).secret, "secret-") not in repr(keys.load(made.secret))


def test_a_secret_that_others_may_read_is_refused(tmp_path: Path) -> None:
    made = keys.make(tmp_path, "alice")
    made.secret.chmod(0o640)

    with pytest.raises(ConfigError, match="chmod 600"):
        keys.load(made.secret)


def test_a_public_key_where_a_secret_one_is_meant_is_refused(tmp_path: Path) -> None:
    made = keys.make(tmp_path, "alice")
    made.public.chmod(0o600)

    with pytest.raises(ConfigError, match="is a public key"):
        keys.load(made.public)


def test_the_owner_of_a_file_must_be_the_one_in_the_table(tmp_path: Path) -> None:
    keys.make(tmp_path, "a")
    config = machines(
        table("a", "10.0.0.1:1", A), table("b", "10.0.0.2:1", B), security={"keys": str(tmp_path)}
    )

    with pytest.raises(ConfigError, match=r"node\.a\.public_key: is not the one"):
        lan(config, plan(config), "a")


# ---------------------------------------------------------------------- who dials whom


def test_the_end_without_an_address_dials_and_otherwise_the_lower_index() -> None:
    config = machines(table("a", "127.0.0.1:1"), table("b", "127.0.0.1:2"), table("c"))
    found = {name: lan(config, plan(config), name) for name in config.names}

    assert dict(found["a"].dials) == {1: "tcp://127.0.0.1:2"}
    assert dict(found["b"].dials) == {}
    assert dict(found["c"].dials) == {0: "tcp://127.0.0.1:1", 1: "tcp://127.0.0.1:2"}
    assert (found["a"].listen, found["c"].listen) == ("tcp://127.0.0.1:1", "")


def test_an_edge_that_neither_end_can_dial_is_named() -> None:
    config = machines(table("a", "127.0.0.1:1"), table("b"), table("c"))

    with pytest.raises(ConfigError, match=r"node\.b\.address: is empty.*neighbor c"):
        lan(config, plan(config), "a")


def test_addresses_are_taken_apart() -> None:
    assert place("[fe80::1]:80") == ("[fe80::1]", 80)
    assert place("localhost:80").loopback and place("127.3.2.1:80").loopback and place("[::1]:80").loopback
    assert not place("example.org:80").loopback
    with pytest.raises(ValueError, match="no key"):
        key_bytes("secret-" + A[4:])


@pytest.mark.parametrize(
    ("given", "environment", "host", "name"),
    [
        ("b", {"GOSSIPFL_NODE": "a"}, "", "b"),
        (None, {"GOSSIPFL_NODE": "a", "RANK": "1"}, "", "a"),
        (None, {"RANK": "1"}, "", "b"),
        (None, {"SLURM_PROCID": "0"}, "", "a"),
        (None, {"KUBERNETES_SERVICE_HOST": "x"}, "swarm-1", "b"),
    ],
)
def test_a_node_finds_its_name(given: str | None, environment: dict[str, str], host: str, name: str) -> None:
    config = machines(table("a", "127.0.0.1:1"), table("b"))

    assert node_name(config, given, environment, host) == name


@pytest.mark.parametrize("environment", [{}, {"RANK": "2"}, {"GOSSIPFL_NODE": "mallory"}])
def test_a_node_that_is_not_in_the_file_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        node_name(machines(table("a", "127.0.0.1:1"), table("b")), None, environment)


# ---------------------------------------------------------------------- agreeing


@pytest.mark.parametrize(
    ("mine", "theirs", "said"),
    [
        ({"algorithm.rule": "d2"}, {"algorithm.rule": "dpsgd"}, "has algorithm.rule = d2, you have dpsgd"),
        (
            {"protocol": 1, "algorithm.rule": "d2"},
            {"protocol": 2, "algorithm.rule": "dpsgd"},
            "speaks version 1 of the protocol, you speak 2",
        ),
        (
            {"graph": "x", "train.lr": 0.1},
            {"graph": "y", "train.lr": 0.2},
            "has train.lr = 0.1, you have 0.2",
        ),
        (
            {"model": "x", "parameters": "w 3x4 float32; b 3 float32"},
            {"model": "y", "parameters": "w 3x4 float32; b 5 float32"},
            "has parameter b 3 float32, you have b 5 float32",
        ),
        ({"parameters": "w 3 float32"}, {"parameters": "w 3 float32; b 1 float32"}, "no more, you have b 1"),
        ({"instance": 1, "data": "x"}, {"instance": 2, "data": "x"}, None),
    ],
)
def test_the_first_difference_is_told_with_both_values(
    mine: dict[str, object], theirs: dict[str, object], said: str | None
) -> None:
    found = differs(mine, theirs)

    assert found == said if said is None else said in str(found)


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(abroad.time, "monotonic", lambda: self.now)


class Silent:
    """A transport that nobody answers on."""

    address = "tcp://127.0.0.1:1"

    def dial(self, peer: int, address: str) -> None: ...

    def reached(self, peer: int) -> float | None:
        return None

    def trouble(self, peer: int) -> str:
        return "nobody answers there" if peer == 1 else ""  # the other is not dialled


def bystander(said: list[str], met: frozenset[int] = frozenset()) -> Abroad:
    """Node a of a, b, c; it dials b, and c dials it."""
    found = Lan(
        0, ("a", "b", "c"), (1, 2), "127.0.0.1:1", "tcp://127.0.0.1:1", {1: "tcp://127.0.0.1:2"}, None
    )
    made = Abroad(found, Silent(), said.append, met)  # type: ignore[arg-type]
    made.begin()
    return made


def test_who_disagrees_with_everyone_must_go_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    node = bystander([])
    node.note(Note("refused", 1, "has train.lr = 0.1, you have 0.2"))
    assert node.verdict() is None
    node.note(Note("refused", 2, "has train.lr = 0.1, you have 0.2"))
    assert "b has train.lr = 0.1, you have 0.2" in str(node.verdict())


def test_who_finds_nobody_that_agrees_must_go_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    node = bystander([])
    node.note(Note("refused", 1, "differs"))
    clock.now += abroad.LOOK
    assert node.verdict() is not None


def test_who_agrees_with_a_neighbor_or_was_there_first_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    agreeing, first = bystander([]), bystander([])
    agreeing.note(Note("refused", 1, "differs"))
    agreeing.note(Note("peer_up", 2))
    clock.now += 60
    first.note(Note("refused", 1, "differs"))
    first.note(Note("refused", 2, "differs"))
    assert agreeing.verdict() is None
    assert first.verdict() is None


def test_a_line_that_cannot_be_made_is_named_within_seconds_with_address_and_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, said = Clock(monkeypatch), list[str]()
    node = bystander(said)
    node.look((1, 2))
    assert any("waits for b (dials 127.0.0.1:2), c (which dials 127.0.0.1:1)" in line for line in said)
    clock.now += abroad.SOON
    node.look((1, 2))
    node.look((1, 2))
    told = [line for line in said if line.startswith("no line")]
    assert len(told) == 2
    assert "127.0.0.1:2: nobody answers there" in told[0] and "TCP port 2" in told[0]
    assert "c has not come through to 127.0.0.1:1" in told[1] and "TCP port 1" in told[1]


def test_who_was_met_has_an_open_port(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, said = Clock(monkeypatch), list[str]()
    node = bystander(said, met=frozenset({1}))  # in an earlier life of the process
    node.note(Note("peer_up", 2))
    clock.now += abroad.SOON
    node.look((1, 2))
    assert said[-2:] == [
        "no line a–b: it stood before; 127.0.0.1:2: nobody answers there. Is b running?",
        "no line a–c: it stood before, and c has not come through again. Is it running?",
    ]
    assert node.met == {1, 2}


def test_data_are_compared_where_both_tell_of_them() -> None:
    assert differs({"data": "a"}, {"data": "b"}) == "has data = a, you have b"
    assert differs({"data": "a"}, {}) is None
    assert differs({}, {"data": "a"}) is None


# ---------------------------------------------------------------------- growing


@pytest.mark.parametrize(
    ("then", "exchange", "found"),
    [
        (["a"], "rounds", True),
        (["a", "b"], "rounds", False),  # as it was
        (["b"], "rounds", False),  # those that were there keep their place
        (["a", "b", "c"], "rounds", False),
        ([], "rounds", False),
        (["a"], "pairwise", False),
    ],
)
def test_a_swarm_has_grown_if_nodes_were_added_after_those_it_had(
    then: list[str], exchange: str, found: bool
) -> None:
    config = machines(table("a", "127.0.0.1:1"), table("b"), algorithm={"exchange": exchange})

    assert grown(config, {"essentials": {"names": then}}) is found
