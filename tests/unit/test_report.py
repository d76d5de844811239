"""The report: one page that needs no network, says what the run says, and trusts no text in it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from gossipfl.config import load_config
from gossipfl.core.sketch import encode, sketch
from gossipfl.observe import bars, curves, plots, svg
from gossipfl.observe.network import network
from gossipfl.observe.reading import read_folder
from gossipfl.observe.report import write_report
from gossipfl.records import Recorder, merge, to_json

VOID = {"meta", "img", "br", "hr", "input", "link"}


class Parsed(HTMLParser):
    """A page taken apart; fails on tags that do not match."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("style", "script"):
            self.words.append(data)

    def _note(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, key, value or "") for key, value in attrs]

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def values(self, key: str) -> list[str]:
        return [value for _, k, value in self.attributes if k == key]


def leave_run(
    folder: Path,
    nodes: int = 4,
    rounds: int = 20,
    graph: str = "ring",
    accuracy: float = 0.9,
    **summary: object,
) -> Path:
    """A run's folder as the program leaves it; node i ends at `accuracy` + i / 500."""
    config = load_config(None, {"swarm.nodes": nodes, "swarm.rounds": rounds, "topology.graph": graph})
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(config.to_toml())
    start = np.random.default_rng(0).normal(size=(nodes, 1500))
    for i, name in enumerate(config.names):
        with Recorder(folder / "records" / f"{name}.jsonl", i, name) as recorder:
            recorder.write("peer_up", round=0, time=0.0, peer=(i + 1) % nodes)
            for t in range(1, rounds + 1):
                recorder.write(
                    "round", round=t, time=t / 10, loss=2.0 / t, train_s=0.05, wait_s=0.04, mix_s=0.01,
                    sent_bytes=1000 * (i + 1), received_bytes=2000, neighbors=2, disagreement=0.1,
                )  # fmt: skip
                if t % 5 == 0:
                    recorder.write(
                        "eval", round=t, time=t / 10, loss=1.0, accuracy=(accuracy + i / 500) * t / rounds,
                        sketch=encode(sketch(start[i] / t, 0)),
                    )  # fmt: skip
    values = [accuracy + i / 500 for i in range(nodes)]
    figures: dict[str, object] = {
        "version": "0.1.0", "nodes": nodes, "rounds": rounds, "engine": "swarm", "graph": graph, "seed": 0,
        "finished": True, "nodes_finished": nodes, "lost": [], "seconds": 2.0, "rounds_per_second": 10.0,
        "sent_bytes_per_node": 50_000, "metric": "accuracy", "higher_is_better": True, "mean": values[0],
        "min": values[0], "max": values[-1], "mean_model": 0.987, "per_node": values,
        "names": list(config.names), "consensus_distance": 0.4321, "spectral_gap": 0.333,
        "config_hash": "c0ffee", "data_hash": "beef", "notes": [],
        "edges": [[i, (i + 1) % nodes] for i in range(nodes)],
        "partition": {"sizes": [10] * nodes, "labels": [[4, 6]] * nodes, "tv": [0.1] * nodes},
    }  # fmt: skip
    (folder / "summary.json").write_text(to_json(figures | summary))
    return folder


def page(*folders: Path) -> str:
    return write_report(folders, folders[0].parent / "out" / "report.html").read_text(encoding="utf-8")


# ---------------------------------------------------------------- one run


def test_the_page_says_what_the_summary_says(tmp_path: Path) -> None:
    parsed = Parsed(page(leave_run(tmp_path / "run")))
    for said in ("0.987", "0.432", "0.333", "c0ffee", "beef", "50 kB", "every node finished", "worst 0.900"):
        assert said in parsed.text
    assert "4 nodes on the graph ring learned digits" in parsed.text
    assert "[topology]" in parsed.text  # the config


def test_the_page_asks_nothing_of_the_network(tmp_path: Path) -> None:
    text = page(leave_run(tmp_path / "run"))
    parsed = Parsed(text)
    assert not {"link", "img", "iframe", "object", "embed"} & parsed.tags.keys()
    assert parsed.values("src") == parsed.values("href") == []
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in "".join(parsed.values("content"))


def test_every_card_of_a_whole_run_is_there(tmp_path: Path) -> None:
    parsed = Parsed(page(leave_run(tmp_path / "run", notes=["the gap is small"])))
    heads = ["accuracy", "the graph", "training loss", "consensus distance", "loss, evaluated"]
    heads += ["where time went", "who holds which labels", "bytes sent", "notes", "to repeat it"]
    assert [head for head in heads if head not in parsed.words] == []
    assert "the gap is small" in parsed.text


def test_values_are_under_the_pointer(tmp_path: Path) -> None:
    tips = Parsed(page(leave_run(tmp_path / "run"))).values("data-tip")
    assert "round 20\naccuracy: 0.903 (0.900 to 0.906)" in tips
    assert "node-3\naccuracy: 0.906\n2 neighbors" in tips
    assert any(tip.startswith("node-0\ntraining: 1.0 s (50%)\nwaiting: 800 ms (40%)") for tip in tips)
    assert "node-3\n80 kB sent" in tips


def test_a_lost_node_is_marked_and_its_loss_is_on_the_timeline(tmp_path: Path) -> None:
    folder = leave_run(tmp_path / "run", lost=["node-2"], finished=False, nodes_finished=3)
    with Recorder(folder / "records" / "node-1.jsonl", 1, "node-1") as recorder:
        recorder.write("peer_down", round=7, time=0.7, peer=2)
        for t in range(7, 20):
            recorder.write("skip", round=t, time=t / 10, peer=2)
        recorder.write("peer_down", round=20, time=2.0, peer=0)  # left when all was done
    parsed = Parsed(page(folder))
    tips = parsed.values("data-tip")
    assert "lost: node-2" in parsed.text
    assert "3 of 4 nodes finished" in parsed.text
    assert any(tip.startswith("node-2\n") and tip.endswith("\nlost") for tip in tips)
    assert "round 7\nnode-1: peer down (node-2)" in tips
    assert "rounds 7 to 19, 13 times\nnode-1: skip (node-2)" in tips
    assert not any("node-0)" in tip for tip in tips)


def test_a_node_that_came_back_is_on_the_timeline_and_is_counted(tmp_path: Path) -> None:
    folder = leave_run(tmp_path / "run", events={"suspects": 1, "deaths": 1, "rejoined": 1, "rejected": 0})
    with Recorder(folder / "records" / "node-1.jsonl", 1, "node-1") as recorder:
        recorder.write("suspect", round=6, time=0.6, peer=2, why="silence", since=0.5)
        recorder.write("peer_down", round=7, time=0.7, peer=2, text="", found="silence", after=1.3)
        recorder.write("peer_up", round=12, time=1.2, peer=2)
    parsed = Parsed(page(folder))
    tips = parsed.values("data-tip")
    assert "round 6\nnode-1: suspect (node-2)" in tips
    assert "round 7\nnode-1: peer down (node-2)" in tips
    assert "round 12\nnode-1: rejoined (node-2)" in tips
    assert "As seen by the nodes, each of its own neighbors: 1 suspects, 1 deaths, 1 rejoined." in parsed.text


def test_faults_and_what_a_node_says_that_begins_anew_are_put_where_the_swarm_was(tmp_path: Path) -> None:
    # given: round t ends at t / 10 s
    folder = leave_run(tmp_path / "run")
    with Recorder(folder / "records" / "faults.jsonl", 2, "node-2") as recorder:
        recorder.write("fault", round=0, time=0.75, fault="kill", number=1, text="kill for 0.5 s")
    with Recorder(folder / "records" / "node-2.jsonl", 2, "node-2") as recorder:
        recorder.write("note", round=0, time=1.25, text="begins anew")
    tips = Parsed(page(folder)).values("data-tip")
    assert "round 7\nnode-2: kill for 0.5 s" in tips
    assert "round 12\nnode-2: begins anew" in tips


def test_what_happens_twice_is_two_marks_and_what_happens_often_is_counted(tmp_path: Path) -> None:
    folder = leave_run(tmp_path / "run", rounds=2000)
    with Recorder(folder / "records" / "node-1.jsonl", 1, "node-1") as recorder:
        for t in (300, 1700):
            recorder.write("rejected", round=t, time=t / 10, peer=2, text="odd")
        for t in range(0, 2000, 40):
            recorder.write("skip", round=t, time=t / 10, peer=2)
    parsed = Parsed(page(folder))
    tips = parsed.values("data-tip")
    assert "round 300\nnode-1: odd (node-2)" in tips and "round 1700\nnode-1: odd (node-2)" in tips
    columns = [tip for tip in tips if ", skip " in tip]
    assert len(columns) == 50
    assert "rounds 40 to 60, skip 1 times\nnode-1 (node-2)" in columns
    assert {"2", "50"} <= set(parsed.words)  # how many of each


def test_what_repeats_a_run_is_said_as_it_is(tmp_path: Path) -> None:
    calm = leave_run(tmp_path / "calm")
    events = leave_run(tmp_path / "events", engine="events")
    struck = leave_run(tmp_path / "struck")
    with Recorder(struck / "records" / "node-1.jsonl", 1, "node-1") as recorder:
        recorder.write("skip", round=7, time=0.7, peer=2)

    assert "gossipfl swarm config.toml repeats the run." in Parsed(page(calm)).text
    assert "gossipfl simulate config.toml --engine events repeats the run." in Parsed(page(events)).text
    said = Parsed(page(struck)).text
    assert "swarm config.toml repeats" not in said
    assert "is up to the machine" in said and "--set algorithm.replay=struck" in said


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    evil = "\"><script>alert(1)</script><img src=x onerror='alert(2)'>&amp;\x00\u2028"
    folder = leave_run(
        tmp_path / "run", names=[evil, "b", "c", "d"], notes=[evil], lost=[evil], version=evil, graph=evil
    )
    config = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(
        config.replace('name = "demo"', f"name = {json.dumps(evil)}") + f"\n# </pre></details>{evil[:-2]}\n"
    )
    with Recorder(folder / "records" / "node-0.jsonl", 0, evil) as recorder:
        recorder.write("note", round=1, time=0.0, text=evil)
        recorder.write("eval", round=20, time=2.0, accuracy=0.5, **{evil: 1.0})
    parsed = Parsed(page(folder))
    assert parsed.tags["script"] == 1
    assert parsed.tags["img"] == 0
    assert not [key for _, key, _ in parsed.attributes if key.startswith("on")]
    assert "<script>alert(1)</script>" in parsed.text


def test_a_run_that_is_still_going_has_a_page(tmp_path: Path) -> None:
    folder = leave_run(tmp_path / "run")
    (folder / "summary.json").unlink()
    parsed = Parsed(page(folder))
    assert "not finished" in parsed.text
    assert "round 20\naccuracy: 0.903 (0.900 to 0.906)" in parsed.values("data-tip")


@pytest.mark.parametrize(
    "summary", ["", "[1]", "{torn", '{"per_node": 3, "edges": [[0, 99], 7], "partition": []}']
)
def test_a_damaged_summary_is_read_as_far_as_it_goes(tmp_path: Path, summary: str) -> None:
    folder = leave_run(tmp_path / "run")
    (folder / "summary.json").write_text(summary)
    assert "accuracy" in Parsed(page(folder)).text


def test_an_empty_folder_has_a_page_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert "Nothing about its nodes was left" in Parsed(page(tmp_path / "run")).text


def test_a_run_whose_records_are_merged_reads_the_same(tmp_path: Path) -> None:
    folder = leave_run(tmp_path / "run")
    before = page(folder)
    merge(folder)
    for file in (folder / "records").iterdir():
        file.unlink()
    assert page(folder) == before


def test_nan_metrics_leave_gaps_and_no_error(tmp_path: Path) -> None:
    folder = leave_run(tmp_path / "run", nodes=2, mean=None, per_node=[None, 0.5])
    with Recorder(folder / "records" / "node-0.jsonl", 0, "node-0") as recorder:
        recorder.write("eval", round=20, time=2.0, loss=float("nan"), accuracy=float("nan"))
        recorder.write("round", round=20, time=2.0, loss=float("nan"))
    text = page(folder)
    Parsed(text)
    assert "nan" not in re.sub(r"<style>.*?</style>|<script>.*?</script>", "", text, flags=re.DOTALL).lower()


def test_a_thousand_nodes_make_a_small_page(tmp_path: Path) -> None:
    text = page(leave_run(tmp_path / "run", nodes=1000, rounds=5, graph="regular:4"))
    assert len(text) < 1_000_000
    assert "16 of 1,000 nodes" in Parsed(text).text


def test_the_page_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = leave_run(tmp_path / "run")
    target = tmp_path / "taken"
    target.mkdir()
    with pytest.raises(OSError, match="taken"):
        write_report([folder], target)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


# ---------------------------------------------------------------- several runs


def test_runs_are_named_for_what_differs_and_compared(tmp_path: Path) -> None:
    ring = leave_run(tmp_path / "a", accuracy=0.8)
    full = leave_run(tmp_path / "b", graph="complete", accuracy=0.9)
    parsed = Parsed(page(ring, full))
    assert "2 runs compared" in parsed.text
    assert "They differ in topology.graph." in parsed.text
    assert parsed.words.count("complete") >= 2
    assert {"0.800", "0.900"} <= set(parsed.words)
    tips = parsed.values("data-tip")
    assert any("ring: 0.803" in tip and "complete: 0.903" in tip for tip in tips)


def test_runs_that_do_not_differ_are_named_for_their_folders(tmp_path: Path) -> None:
    parsed = Parsed(page(leave_run(tmp_path / "first"), leave_run(tmp_path / "second")))
    assert "Their configs are the same." in parsed.text
    assert {"first", "second"} <= set(parsed.words)


def test_a_run_with_another_metric_is_told_apart(tmp_path: Path) -> None:
    folder = leave_run(tmp_path / "b", metric="error", higher_is_better=False)
    parsed = Parsed(page(leave_run(tmp_path / "a"), folder))
    assert "Not so for b: another metric." in parsed.text


# ---------------------------------------------------------------- pieces


def test_a_run_is_read_as_arrays(tmp_path: Path) -> None:
    run = read_folder(leave_run(tmp_path / "run"))
    assert run.rounds.tolist() == [5, 10, 15, 20]
    assert run.seconds.tolist() == [0.5, 1.0, 1.5, 2.0]
    assert run.headline.shape == (4, 4)
    np.testing.assert_allclose(run.headline[-1], [0.9, 0.902, 0.904, 0.906])
    np.testing.assert_allclose(run.train_loss[:, 0], 2.0 / np.arange(1, 21))
    np.testing.assert_allclose(run.train_rounds, np.arange(1, 21))
    np.testing.assert_allclose(run.spent, [[1.0, 0.8, 0.2]] * 4)
    assert run.sent.tolist() == [20_000, 40_000, 60_000, 80_000]


def test_the_consensus_distance_comes_from_the_sketches_or_exactly_where_it_is_recorded(
    tmp_path: Path,
) -> None:
    folder = leave_run(tmp_path / "run")
    x = np.random.default_rng(0).normal(size=(4, 1500))
    exact = np.sqrt(np.mean(np.sum((x - x.mean(axis=0)) ** 2, axis=1)))
    np.testing.assert_allclose(read_folder(folder).consensus, exact / [5, 10, 15, 20], rtol=0.08)
    with Recorder(folder / "records" / "node-0.jsonl", 0, "node-0") as recorder:
        recorder.write("eval", round=20, time=2.0, accuracy=0.9, consensus_distance=0.125)
    assert read_folder(folder).consensus[-1] == 0.125


def test_long_runs_are_averaged_into_bins(tmp_path: Path) -> None:
    folder = leave_run(tmp_path / "run", nodes=1, rounds=1000, graph="none")
    run = read_folder(folder)
    assert run.train_loss.shape == (200, 1)
    np.testing.assert_allclose(run.train_loss[0, 0], np.mean(2.0 / np.arange(1, 6)))
    np.testing.assert_allclose(run.train_rounds[[0, -1]], [3.0, 998.0])


def test_better_nodes_are_brighter_whichever_way_is_better(tmp_path: Path) -> None:
    def fills(folder: Path) -> list[str]:
        return re.findall(
            r'class="node" cx="[^"]*" cy="[^"]*" r="[^"]*" fill="(#\w+)"', network(read_folder(folder))
        )

    up = fills(leave_run(tmp_path / "up"))
    down = fills(leave_run(tmp_path / "down", higher_is_better=False))
    assert up == down[::-1]
    assert len(set(up)) == 4


@pytest.mark.parametrize(
    "graph", ["none", "ring", "torus:4x4", "star", "exponential", "one-peer-exponential", "x:y"]
)
def test_every_kind_of_graph_is_drawn_inside_its_picture(tmp_path: Path, graph: str) -> None:
    folder = leave_run(tmp_path / "run", nodes=16)
    config = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(config.replace('graph = "ring"', f'graph = "{graph}"'))
    drawn = network(read_folder(folder))
    centres = [(float(x), float(y)) for x, y in re.findall(r'<circle[^>]* cx="([^"]*)" cy="([^"]*)"', drawn)]
    assert len(set(centres)) == 16
    assert all(15 <= x <= svg.WIDTH - 15 and 10 <= y <= 310 for x, y in centres)


def test_only_some_of_many_edges_are_drawn(tmp_path: Path) -> None:
    edges = [[i, j] for i in range(100) for j in range(i)]
    folder = leave_run(tmp_path / "run", nodes=100, graph="complete", edges=edges)
    (path,) = re.findall(r'class="edges many" d="([^"]*)"', network(read_folder(folder)))
    assert path.count("M") == 4000
    assert "4,000 of 4,950 edges are drawn." in Parsed(page(folder)).text


@pytest.mark.parametrize(
    ("values", "low", "high", "log"),
    [
        ([0.13, 0.92], 0.0, 1.0, False),
        ([3.0, 3.0], 2.7, 3.3, False),
        ([0.0], -1.0, 1.0, False),
        ([], 0.0, 1.0, False),
    ],
)
def test_a_scale_has_round_ends(values: list[float], low: float, high: float, log: bool) -> None:
    made = svg.scale([np.array(values)], 0, 100, allow_log=True)
    assert (made.low, made.high, made.log) == (pytest.approx(low), pytest.approx(high), log)


def test_values_that_span_much_get_a_logarithmic_scale() -> None:
    made = svg.scale([np.array([1e-4, 1.0])], 0, 100, allow_log=True)
    assert made.log
    assert made.ticks() == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1.0])
    assert np.isnan(made.at(0.0))
    assert not svg.scale([np.array([0.0, 1.0])], 0, 100, allow_log=True).log


@pytest.mark.parametrize(
    ("ticks", "written"),
    [([0.0, 0.25, 0.5], ["0.00", "0.25", "0.50"]), ([0.0, 500.0, 1000.0], ["0", "500", "1,000"]),
     ([0.9, 0.95, 1.0], ["0.90", "0.95", "1.00"])],
)  # fmt: skip
def test_ticks_have_the_decimals_they_need(ticks: list[float], written: list[str]) -> None:
    assert [svg.tick_text(v, ticks) for v in ticks] == written


@pytest.mark.parametrize(("middle", "log"), [([0.4, 0.5], False), ([1e-4, 0.5], True)])
def test_lines_alone_and_not_their_bands_make_a_scale_logarithmic(middle: list[float], log: bool) -> None:
    x, y = np.array([1.0, 2.0]), np.array(middle)
    drawn = curves.chart([curves.Curve("a", x, y, low=y / 100, high=y * 1.1)], "round", "accuracy")
    assert ("accuracy (log)" in drawn) == log


def test_a_curve_breaks_where_nothing_is_known() -> None:
    assert svg.points([0, 1, 2, 3], [0.0, 1.0, float("nan"), 3.0]) == "M0.0 0.0L1.0 1.0M3.0 3.0"


def test_few_nodes_have_lines_of_their_own_and_many_only_a_band() -> None:
    x = np.arange(3.0)
    assert len(curves.over_nodes("a", x, np.zeros((3, 32))).thin) == 32
    assert len(curves.over_nodes("a", x, np.zeros((3, 33))).thin) == 0
    assert curves.over_nodes("a", x, np.zeros((3, 1))).low is None


def test_every_node_has_a_bar_and_long_names_are_cut() -> None:
    drawn = bars.bytes_sent(["a-very-long-name-of-a-node", "b"], np.array([1000.0, 2000.0]))
    assert drawn.count('class="t0"') == 2
    assert ">a-very-long…<" in drawn
    assert "a-very-long-name-of-a-node\n1 kB sent" in drawn


def test_a_figure_for_notebooks_shows_the_mean_and_its_spread() -> None:
    values = np.array([[0.2, 0.4], [0.6, 0.8], [np.nan, np.nan]])
    figure = plots.curve(np.array([0, 10, 20]), values, "accuracy")
    (axes,) = figure.axes
    mean = axes.lines[-1].get_ydata()
    assert axes.get_ylabel() == "accuracy"
    np.testing.assert_allclose(mean, [0.3, 0.7, np.nan])
    assert isinstance(figure, plots.Picture)
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_a_figure_of_values_that_span_much_is_logarithmic() -> None:
    figure = plots.curve(np.array([0, 1]), np.array([[1.0], [1e-4]]), "error")
    assert figure.axes[0].get_yscale() == "log"
