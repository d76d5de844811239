"""The network of the event engine: what a config of it may be, and how long things take in it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

import gossipfl
from gossipfl import draw
from gossipfl.config import load_config
from gossipfl.config.presets import PRESETS, ROUND_TRIPS
from gossipfl.config.spreads import Spread
from gossipfl.draw import Purpose
from gossipfl.drivers.absences import Absences
from gossipfl.drivers.amounts import quantile
from gossipfl.drivers.network import AROUND, HEADER, TIMEOUT, Network, on_wire, packets, resending
from gossipfl.drivers.uplink import Uplink
from gossipfl.errors import ConfigError

torch.set_num_threads(1)

MB = 10**6


def network(n: int = 4, **keys: object) -> Network:
    return Network(load_config({"swarm": {"nodes": n}, "network": keys}))


def refused(*settings: str, n: int = 4) -> str:
    with pytest.raises(ConfigError) as caught:
        config = load_config(None, [f"swarm.nodes={n}", *settings])
        Network(config)
        Absences(config)
    return str(caught.value)


# ---------------------------------------------------------------------- amounts


def test_single_draws_have_the_bits_of_those_by_arrays() -> None:
    for seed, a, b, last in itertools.product((0, 7, 2**63 - 1), (0, 5), (0, -3), (0, 1, 10**9)):
        before = draw.prefix(seed, Purpose.NETWORK, a, b)
        assert draw.one(before, last) == float(draw.uniform(seed, Purpose.NETWORK, a, b, last))


@pytest.mark.parametrize(
    ("spread", "low", "middle", "high"),
    [
        (Spread("constant", 3.0), 3.0, 3.0, 3.0),
        (Spread("uniform", 2.0, 4.0), 2.0, 3.0, 4.0),
        (Spread("exponential", 2.0), 0.0, 2.0 * math.log(2), math.inf),
        (Spread("lognormal", 2.0, 0.5), 0.0, 2.0, math.inf),
    ],
)
def test_a_distribution_has_its_middle_and_its_ends(
    spread: Spread, low: float, middle: float, high: float
) -> None:
    ends = [quantile(spread, u) for u in (0.0, 0.5, 1 - 2.0**-53)]

    assert low <= ends[0] <= ends[1] <= ends[2] <= high
    assert ends[1] == pytest.approx(middle)
    assert ends[0] == pytest.approx(low, abs=0.05)


def test_what_is_drawn_for_an_edge_is_drawn_once_and_both_ways_alike() -> None:
    one, again = (network(latency="uniform:1,2") for _ in range(2))

    found = {pair: one.arrival(*pair, 0.0, 0)[0] for pair in itertools.permutations(range(4), 2)}

    assert {pair: again.arrival(*pair, 0.0, 0)[0] for pair in reversed(found)} == found
    assert all(found[i, j] == found[j, i] for i, j in found)
    assert len(set(found.values())) == 6


# ---------------------------------------------------------------------- time on lines


def test_a_message_takes_latency_and_its_bytes_at_the_rate_of_the_line() -> None:
    line = network(latency=0.5, bandwidth=8.0)  # 1 MB/s

    at, took = line.arrival(0, 1, 10.0, MB)

    packed = MB + HEADER + AROUND * packets(MB)
    assert on_wire(MB) == packed > MB
    assert (at, took) == pytest.approx((10.0 + packed / MB + 0.5, packed / MB))


def test_messages_wait_for_those_before_them_on_their_own_line_alone() -> None:
    line, size = network(latency=0.5, bandwidth=8.0), on_wire(MB) / MB

    first, second, back, other = (line.arrival(*arc, 0.0, MB)[0] for arc in ((0, 1), (0, 1), (1, 0), (0, 2)))

    assert (first, second) == pytest.approx((size + 0.5, 2 * size + 0.5))
    assert back == other == first


def left(uplink: Uplink[str]) -> dict[str, tuple[float, float]]:
    """Of each message when it began to leave, and when it was out."""
    found = {}
    while (due := uplink.due()) is not None:
        found |= {what: (since, due) for since, what in uplink.take(due)}
    return found


def test_lines_share_an_upload_evenly_and_each_keeps_its_order() -> None:
    # given an upload of 1 byte a second, and a line with two messages beside one with one
    uplink = Uplink[str](1.0)
    for line, size, what in ((1, 1.0, "a"), (1, 2.0, "b"), (2, 2.0, "c")):
        uplink.put(0.0, line, size, what)

    # then the second waits for the first alone, and what is left alone has it all
    assert left(uplink) == {"a": (0.0, 2.0), "c": (0.0, 4.0), "b": (2.0, 5.0)}


def test_what_is_put_later_slows_down_what_is_leaving() -> None:
    uplink = Uplink[str](2.0)
    uplink.put(0.0, 1, 4.0, "early")
    assert (uplink.due(), uplink.turn) == (2.0, 1)

    uplink.put(1.0, 2, 4.0, "late")

    assert uplink.turn == 2
    assert left(uplink) == {"early": (0.0, 3.0), "late": (1.0, 4.0)}


def test_an_upload_is_shared_by_all_that_a_node_sends() -> None:
    # given complete graphs in which a node sends to one, and to three others
    keys = {"upload": 1.0, "latency": 0.0, "compute": 0.5}
    found = [run(keys, n, **{"topology.graph": "complete"}).summary["round_seconds"] for n in (2, 4)]

    assert found == pytest.approx([0.5 + k * on_wire(320) * 8 / 1e6 for k in (1, 3)], rel=1e-9)


def test_a_download_takes_one_message_after_the_other_and_no_longer_than_it_must() -> None:
    # given two messages of two senders that arrive together over lines as fast as the download
    line, size = network(latency=0.0, bandwidth=8.0, download=8.0), on_wire(MB) / MB
    first, second = (line.arrival(i, 0, 0.0, MB) for i in (1, 2))

    # then the first is through when its last bit comes, the second a message later
    assert line.landed(0, *first, MB) == pytest.approx(size)
    assert line.landed(0, *second, MB) == pytest.approx(2 * size)


def test_a_window_bounds_what_is_under_way_in_a_round_trip() -> None:
    at, _ = network(latency=0.5, window=0.25).arrival(0, 1, 0.0, MB)  # .25 MB a second

    assert at == pytest.approx(on_wire(MB) / (0.25 * MB) + 0.5)


def test_lines_keep_order_whatever_the_jitter() -> None:
    line = network(latency=0.001, jitter=1.0)

    ends = [line.arrival(0, 1, now / 100, 0)[0] for now in range(200)]

    assert ends == sorted(ends)
    assert len(set(ends)) > 5


def test_a_lost_packet_costs_a_round_trip_or_the_timer_which_doubles() -> None:
    loss, trip = 0.1, 0.05

    assert resending(loss, 1, trip, 0.1) == 0.0  # not lost: that has a chance of .9
    assert resending(loss, 1, trip, 0.0999) == pytest.approx(trip + TIMEOUT)
    assert resending(loss, 1, trip, 0.00999) == pytest.approx(3 * (trip + TIMEOUT))  # and again
    assert resending(loss, 10, trip, 1 - 0.9**10 - 1e-9) == trip  # those behind it tell of it
    assert resending(loss, 10, trip, 0.06) == pytest.approx(trip + trip + TIMEOUT)
    assert resending(0.5, 1, trip, 0.0) == pytest.approx((trip + TIMEOUT) * (2**15 - 1))


def test_how_often_messages_are_late_is_how_often_packets_are_lost() -> None:
    line = network(latency=0.01, loss=0.2)

    late = sum(line.arrival(0, 1, float(now * 100), 0)[0] - now * 100 > 0.02 for now in range(2000))

    assert late == pytest.approx(400, abs=70)  # 4 standard deviations


# ---------------------------------------------------------------------- computers


def test_steps_take_as_long_as_the_node_and_its_phase_say() -> None:
    constant, drawn = network(compute=0.5, slow={"2": 3.0}), network(compute="lognormal:0.5,1")

    assert [constant.compute(node, 7, 2) for node in range(4)] == [1.0, 1.0, 3.0, 1.0]
    assert drawn.compute(1, 0, 2) == 2 * drawn.compute(1, 0, 1) != 2 * drawn.compute(1, 1, 1)


def test_a_share_of_the_nodes_is_slow() -> None:
    found = network(n=40, compute=1.0, stragglers=0.25, straggler_factor=5.0)

    assert sorted(found.compute(node, 0, 1) for node in range(40)) == [1.0] * 30 + [5.0] * 10


# ---------------------------------------------------------------------- files


def test_files_hold_numbers_for_edges_nodes_and_phases(tmp_path: Path) -> None:
    (tmp_path / "latency.csv").write_text("# seconds\n0, 1, 2\n3, 0, 4\n\n5, 6, 0  # the last\n")
    (tmp_path / "upload.txt").write_text("8\n16\n0\n")
    np.save(tmp_path / "compute.npy", np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    names = {"latency": "latency.csv", "upload": "upload.txt", "compute": "compute.npy"}

    found = network(n=3, **{key: str(tmp_path / name) for key, name in names.items()})

    assert [found.arrival(*arc, 0.0, 0)[0] for arc in ((0, 1), (1, 0), (2, 1))] == pytest.approx(
        [1.0, 3.0, 6.0], abs=1e-3
    )
    assert found.upload == [MB, 2 * MB, math.inf]  # 0: no limit
    assert [found.compute(1, phase, 1) for phase in range(3)] == [3.0, 4.0, 3.0]


@pytest.mark.parametrize(
    ("text", "where", "wrong"),
    [
        ("0 1\n1 0\n", "", "has 2 rows of 2 numbers; 3 rows of 3 numbers: senders by receivers"),
        ("0 1 2\n1 0\n", ":2", "has 2 numbers, and the first line has 3"),
        ("0 1 2\n1 0 nan\n1 1 1\n", ":2", "cannot be 'nan'; finite numbers, at least 0"),
        ("0 1 -2\n", ":1", "cannot be '-2'"),
        ("0 1 inf\n", ":1", "cannot be 'inf'"),
        ("0 1 fast\n", ":1", "cannot be 'fast'"),
        ("# nothing\n", "", "holds no numbers"),
    ],
)
def test_a_file_that_is_wrong_is_named_with_its_line(
    text: str, where: str, wrong: str, tmp_path: Path
) -> None:
    path = tmp_path / "edges.csv"
    path.write_text(text)

    assert refused(f"network.latency={path}", n=3).startswith(f"{path}{where}: {wrong}")


def test_arrays_that_are_wrong_and_files_that_are_none_are_named(tmp_path: Path) -> None:
    path = tmp_path / "edges.npy"
    np.save(path, np.full((4, 4), np.nan))
    assert refused(f"network.latency={path}").startswith(f"{path}: holds other numbers")
    np.save(path, np.array(["a"]))
    assert refused(f"network.latency={path}").startswith(f"{path}: is no array of numbers")
    path.write_bytes(b"nonsense")
    assert refused(f"network.latency={path}").startswith(f"{path}: cannot be read")
    assert "nowhere.csv: cannot be read: No such file" in refused("network.bandwidth=nowhere.csv")
    (tmp_path / "nodes.txt").write_text("1 2 3\n")
    assert "4 numbers, one a node" in refused(f"network.upload={tmp_path / 'nodes.txt'}")
    assert "4 rows, one a node" in refused(f"network.compute={tmp_path / 'nodes.txt'}")
    (tmp_path / "latin.csv").write_bytes(b"\xff\xfe\n")
    assert "is not UTF-8 text" in refused(f"network.latency={tmp_path / 'latin.csv'}")


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("network.latency=-1", "network.latency"),
        ("network.latency=uniform:2,1", "network.latency"),
        ("network.latency=uniform:1", "network.latency"),
        ("network.latency=lognormal:0,1", "network.latency"),
        ("network.latency=lognormal:nan,1", "network.latency"),
        ("network.latency=lognormal:1,11", "network.latency"),
        ("network.bandwidth=exponential:-3", "network.bandwidth"),
        ("network.upload=5-regions", "network.upload"),
        ("network.compute=quick", "network.compute"),
        ("network.loss=0.6", "network.loss"),
        ("network.loss=-0.1", "network.loss"),
        ("network.window=-1", "network.window"),
        ("network.stragglers=2.0", "network.stragglers"),
        ("network.straggler_factor=0.0", "network.straggler_factor"),
        ("network.preset=moon", "network.preset"),
        ("network.uptime=-5", "network.uptime"),
        ("network.uptime=5", "network.downtime"),
        ("network.downtime=5", "network.uptime"),
        ("network.latnecy=1", "network.latnecy"),
    ],
)
def test_what_means_nothing_is_refused_by_its_key(setting: str, key: str) -> None:
    assert refused(setting).startswith(f"{key}: ")


def test_a_trace_and_drawn_sessions_exclude_each_other() -> None:
    text = refused("network.trace=a.csv", "network.uptime=5", "network.downtime=5")
    assert text.startswith("network.trace: is set beside network.uptime and downtime")


# ---------------------------------------------------------------------- presets


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_fills_in_what_is_left_out(name: str) -> None:
    config = load_config({"network": {"preset": name, "compute": 0.5}})

    stated = {**PRESETS[name], "compute": 0.5}
    assert {key: getattr(config.network, key) for key in stated} == stated
    Network(config)


def test_another_preset_replaces_the_numbers_of_the_first_but_none_of_the_users() -> None:
    first = load_config({"network": {"preset": "mobile", "download": 7.0}})

    second = load_config(first, {"network.preset": "lan"}).network

    assert (second.latency, second.upload, second.download) == (0.0001, 1000.0, 7.0)
    assert second.compute == 0.01
    assert load_config(first, {"network.loss": 0.1}).network.upload == first.network.upload


def test_a_config_with_a_preset_reads_back_as_it_was(tmp_path: Path) -> None:
    config = load_config(None, {"network.preset": "wan-5-regions", "network.window": 1.0})
    (tmp_path / "config.toml").write_text(config.to_toml())

    assert load_config(tmp_path / "config.toml") == config


def test_nodes_are_spread_over_five_regions_in_blocks() -> None:
    found = network(n=10, preset="wan-5-regions")

    def trip(i: int, j: int) -> float:
        return found.arrival(i, j, 0.0, 0)[0] + found.arrival(j, i, 0.0, 0)[0]

    assert trip(0, 1) == pytest.approx(ROUND_TRIPS[0][0] / 1000, abs=1e-4)
    assert trip(0, 9) == pytest.approx((ROUND_TRIPS[0][4] + ROUND_TRIPS[4][0]) / 2000, abs=1e-3)
    assert trip(4, 7) == pytest.approx((ROUND_TRIPS[2][3] + ROUND_TRIPS[3][2]) / 2000, abs=1e-3)


# ---------------------------------------------------------------------- runs

NETWORKS: Mapping[str, Mapping[str, object]] = {
    "drawn latency": {"latency": "lognormal:0.02,1", "jitter": 0.01},
    "queues": {"bandwidth": 0.1, "upload": 0.15, "download": "uniform:0.05,0.2"},
    "loss": {"loss": 0.2, "latency": 0.02},
    "stragglers": {"compute": "exponential:0.01", "stragglers": 0.5},
    "wan": {"preset": "wan-5-regions"},
    "mobile": {"preset": "mobile"},
}


def run(keys: Mapping[str, object], n: int = 6, **more: object) -> gossipfl.Result:
    config = {"train.task": "consensus", "task.dimension": 40, "train.dtype": "float64"}
    swarm = {"swarm.nodes": n, "swarm.rounds": 12, "swarm.eval_every": 4, "topology.graph": "ring"}
    network = {f"network.{key}": value for key, value in keys.items()}
    return gossipfl.simulate({**config, **swarm, **network, **more}, engine="events")


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_changes_when_and_never_what(name: str) -> None:
    # given
    plain = run({})

    # when the same swarm runs in that network, twice, and with what is drawn of another seed
    first, again = (run(NETWORKS[name]) for _ in range(2))

    # then the bits are the plain run's, the times are not, and are always the same
    assert first.models is not None and plain.models is not None and again.models is not None
    assert first.models.tobytes() == plain.models.tobytes() == again.models.tobytes()
    assert first.summary["seconds"] == again.summary["seconds"] != plain.summary["seconds"]
    assert [r["time"] for r in first.records] == [r["time"] for r in again.records]


def test_rounds_take_what_the_slowest_line_takes() -> None:
    # given a ring of lines of 1 Mbit/s and steps of 10 ms
    found = run({"bandwidth": 1.0, "latency": 0.05}).summary["round_seconds"]

    # then a round is a step, a payload of 40 numbers and the way
    assert found == pytest.approx(0.01 + on_wire(320) * 8 / 1e6 + 0.05, rel=1e-9)


@pytest.mark.parametrize("exchange", ["pairwise", "push"])
def test_asynchronous_exchanges_run_in_every_network(exchange: str) -> None:
    rule = "gossip-learning" if exchange == "push" else "dpsgd"
    keys = {"algorithm.exchange": exchange, "algorithm.rule": rule}

    for name in ("queues", "loss"):
        first, again = (run(NETWORKS[name], **keys) for _ in range(2))
        assert first.summary["finished"]
        assert first.models is not None and again.models is not None
        assert first.models.tobytes() == again.models.tobytes()


def test_every_record_has_virtual_seconds_that_only_grow() -> None:
    records = run(NETWORKS["mobile"]).records

    for node in range(6):
        times = [float(str(r["time"])) for r in records if r["node"] == node]
        assert times == sorted(times) and times[-1] > 0
