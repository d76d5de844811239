"""What holds for rules on any graph: conserved sums, and where the exact ones end."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gossipfl import topology
from gossipfl.core.codecs import CODECS, Packing, codec
from gossipfl.core.messages import Vectors
from gossipfl.core.recipe import Choices, recipe
from gossipfl.core.rules import combine, tracking
from gossipfl.core.rules.base import Inbox, Part, Turn
from gossipfl.drivers.matrix import Exchange
from gossipfl.topology import Graph, Schedule, spectrum
from gossipfl.topology.schedules import Cyclic
from gossipfl.topology.weights import weigh

torch.set_num_threads(1)

#: Connected graphs of at most 32 nodes, of every family.
EVERY = [
    ("path", 32),
    ("ring", 32),
    ("star", 32),
    ("complete", 32),
    ("tree", 31),
    ("tree:3", 22),
    ("barbell", 16),
    ("grid", 32),
    ("torus:4x8", 32),
    ("hypercube", 32),
    ("petersen", 10),
    ("davis", 32),
    ("exponential", 32),
    ("regular:4", 32),
    ("erdos-renyi", 32),
    ("small-world:4,0.2", 32),
    ("geometric", 32),
]
UNDIRECTED = [drawn for drawn in EVERY if drawn[0] != "exponential"]
GRAPHS = st.one_of(
    st.tuples(st.sampled_from(["path", "ring", "star", "complete", "tree", "tree:3"]), st.integers(3, 32)),
    st.sampled_from(EVERY),
)
SEEDS = st.integers(0, 2**20)
Phase = Callable[[Tensor], Tensor]


def normal(seed: int, n: int, d: int = 3) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d)))


def walk(
    rule: str, schedule: Schedule, x: Tensor, phase: Phase, coding: str = "none", **params: object
) -> Iterator[tuple[Tensor, Vectors, Vectors]]:
    """x, state and payload after each round, for ever."""
    made = recipe(rule, params, schedule, Choices(codec=coding))
    exchange = Exchange(made, x, lambda models, nodes, whose: np.zeros(len(nodes)))
    state = made.rule.init(x, Turn(0, 1.0, exchange.links))
    round = 0
    while True:
        turn = Turn(round, 1.0, exchange.links)
        after = phase(x)
        payload = made.rule.emit(state, x, x if made.rule.early else after, turn)
        x, state = made.rule.absorb(state, x, after, exchange.inbox(round, payload), turn)
        yield x, state, payload
        round += 1


def still(x: Tensor) -> Tensor:
    return x


def undirected(drawn: tuple[str, int]) -> bool:
    return drawn in UNDIRECTED or drawn[0] in ("path", "ring", "star", "complete", "tree", "tree:3")


# ---------------------------------------------------------------------- what is kept


@pytest.mark.parametrize(
    ("rule", "coding"),
    [
        ("dpsgd", "none"),
        ("dpsgd-cta", "none"),
        ("qg", "none"),
        ("gradient", "none"),
        ("gradient-tracking", "none"),
        ("diging", "none"),
        ("dpsgd", "topk:0.4"),
        ("gradient-tracking", "topk:2"),
    ],
)
@given(drawn=GRAPHS, seed=SEEDS)
@settings(max_examples=12, deadline=None)
def test_mixing_keeps_the_mean(rule: str, coding: str, drawn: tuple[str, int], seed: int) -> None:
    graph, n = drawn
    x0 = normal(seed, n)
    walked = walk(rule, topology.schedule(graph, n, seed=seed), x0, still, coding)

    for _ in range(20):
        x, _, _ = next(walked)

    torch.testing.assert_close(x.mean(0), x0.mean(0), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("rule", "coding", "keys"),
    [
        ("d2", "none", {}),
        ("choco", "none", {}),
        ("choco", "topk:1", {}),
        ("choco", "topk:1", {"per_link": False}),
    ],
)
@given(drawn=GRAPHS.filter(undirected), seed=SEEDS)
@settings(max_examples=12, deadline=None)
def test_rules_with_memory_keep_the_mean(
    rule: str, coding: str, keys: dict[str, object], drawn: tuple[str, int], seed: int
) -> None:
    graph, n = drawn
    x0 = normal(seed, n)
    walked = walk(rule, topology.schedule(graph, n, seed=seed), x0, still, coding, **keys)

    for _ in range(20):
        x, _, _ = next(walked)

    torch.testing.assert_close(x.mean(0), x0.mean(0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("rule", ["gradient-tracking", "diging"])
@given(drawn=GRAPHS, seed=SEEDS)
@settings(max_examples=15, deadline=None)
def test_the_trackers_mean_is_the_mean_displacement(rule: str, drawn: tuple[str, int], seed: int) -> None:
    graph, n = drawn
    x, b = normal(seed, n), normal(seed + 1, n)
    moved: list[Tensor] = []

    def phase(x: Tensor) -> Tensor:
        moved.append(0.05 * (x - b))
        return x - moved[-1]

    walked = walk(rule, topology.schedule(graph, n, seed=seed), x, phase)
    for _ in range(20):
        _, _, (_, tracker) = next(walked)
        torch.testing.assert_close(tracker.mean(0), moved[-1].mean(0), rtol=0, atol=1e-12)


@st.composite
def directed(draw: st.DrawFn) -> Graph:
    """A strongly connected directed graph: a cycle and some arcs more."""
    n = draw(st.integers(2, 16))
    more = draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=2 * n))
    cycle = [(i, (i + 1) % n) for i in range(n)]
    return topology.graph.from_pairs("drawn", n, [*cycle, *more], directed=True)


@given(graph=directed(), seed=SEEDS)
@settings(max_examples=30, deadline=None)
def test_push_sum_keeps_sum_and_mass_on_any_directed_graph(graph: Graph, seed: int) -> None:
    schedule = Cyclic(((graph, weigh(graph, "column-stochastic")),))
    x0 = normal(seed, graph.n)
    walked = walk("push-sum", schedule, x0, still)

    for _ in range(30):
        _, (sums, mass), _ = next(walked)
        assert float(mass.min()) > 0
        assert float(mass.sum()) == pytest.approx(graph.n, abs=1e-12)
        torch.testing.assert_close(sums.sum(0), x0.sum(0), rtol=0, atol=1e-11)


@st.composite
def trees(draw: st.DrawFn) -> Graph:
    """A random tree."""
    n = draw(st.integers(1, 24))
    parents = [draw(st.integers(0, i - 1)) for i in range(1, n)]
    return topology.graph.from_pairs("tree", n, [(i + 1, p) for i, p in enumerate(parents)])


@pytest.mark.parametrize("count", [False, True])
@given(graph=trees(), seed=SEEDS)
@settings(max_examples=25, deadline=None)
def test_relay_sum_is_the_exact_mean_after_diameter_rounds(count: bool, graph: Graph, seed: int) -> None:
    schedule, held = Cyclic(((graph, weigh(graph)),)), normal(seed, graph.n)
    walked = walk("relay-sum", schedule, torch.zeros_like(held), lambda x: held, count=count)

    for _ in range(max(1, graph.diameter() or 0)):
        x, _, _ = next(walked)

    torch.testing.assert_close(x, held.mean(0).expand_as(x), rtol=0, atol=1e-12)


# ---------------------------------------------------------------------- where they end


def quadratics(seed: int, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """f_i(x) = 1/2 sum a_i (x - b_i)^2 with curvatures in [.5, 1.5]: a, b, and the optimum of their mean."""
    draw = np.random.default_rng(seed)
    a, b = torch.from_numpy(draw.uniform(0.5, 1.5, (n, 2))), torch.from_numpy(draw.normal(size=(n, 2)))
    return a, b, (a * b).sum(0) / a.sum(0)


def rounds_to(rule: str, schedule: Schedule, eta: float, seed: int, limit: int) -> int | None:
    """Rounds until every node is within 1e-9 of the optimum; None: not within `limit`."""
    a, b, optimum = quadratics(seed, schedule.n)
    walked = walk(rule, schedule, torch.zeros_like(b), lambda x: x - eta * (a * (x - b)))
    for round in range(limit):
        x, _, _ = next(walked)
        if round % 50 == 0 and float((x - optimum).abs().max()) < 1e-9:
            return round
    return None


@pytest.mark.parametrize(("graph", "n"), UNDIRECTED)
def test_d2_reaches_the_optimum_on_every_graph_at_one_learning_rate(graph: str, n: int) -> None:
    """eta = 0.3, whatever the graph: curvatures are at most 1.5."""
    assert rounds_to("d2", topology.schedule(graph, n), 0.3, 1, 3000) is not None


def rate(rule: str, schedule: Schedule) -> float:
    """A learning rate at which tracking is stable on a static graph, for curvatures of 1.5 at most."""
    w = schedule.mixing(0)
    eta = min(0.3, (1.0 - spectrum.rho(w)) / 2)
    if rule == "diging":
        eta = min(eta, (1.0 + float(np.linalg.eigvals(w.dense()).real.min())) ** 2 / 4)
    return eta


@given(drawn=GRAPHS.filter(undirected), seed=SEEDS)
@settings(max_examples=15, deadline=None)
def test_d2_reaches_it_whatever_the_quadratics(drawn: tuple[str, int], seed: int) -> None:
    graph, n = drawn
    assert rounds_to("d2", topology.schedule(graph, n, seed=seed), 0.3, seed, 3000) is not None


@pytest.mark.parametrize("rule", ["gradient-tracking", "diging"])
@pytest.mark.parametrize(("graph", "n"), EVERY)
def test_tracking_reaches_the_optimum_on_every_graph_at_half_the_spectral_gap(
    rule: str, graph: str, n: int
) -> None:
    """eta = min(0.3, (1 - rho) / 2); diging, which corrects after it has mixed, needs besides eta below
    (1 + lambda_min)^2 / (2 L) (the Jury criterion of its 2 x 2 system of that eigenvector), L = 1.5 here."""
    schedule = topology.schedule(graph, n)
    assert rounds_to(rule, schedule, rate(rule, schedule), 1, 30_000) is not None


@given(drawn=GRAPHS, seed=SEEDS, rule=st.sampled_from(["gradient-tracking", "diging"]))
@settings(max_examples=15, deadline=None)
def test_tracking_reaches_it_whatever_the_quadratics(drawn: tuple[str, int], seed: int, rule: str) -> None:
    graph, n = drawn
    schedule = topology.schedule(graph, n, seed=seed)
    assert rounds_to(rule, schedule, rate(rule, schedule), seed, 30_000) is not None


@pytest.mark.parametrize(("graph", "n"), [drawn for drawn in EVERY if drawn[0] != "complete"])
def test_plain_averaging_does_not_reach_it(graph: str, n: int) -> None:
    assert rounds_to("dpsgd", topology.schedule(graph, n), 0.3, 1, 600) is None


@given(n=st.integers(1, 16), seed=SEEDS, eta=st.floats(0.01, 0.5))
@settings(max_examples=20, deadline=None)
def test_gradient_on_complete_is_central_descent(n: int, seed: int, eta: float) -> None:
    a, b, _ = quadratics(seed, n)
    central = torch.zeros(2, dtype=torch.float64)
    walked = walk(
        "gradient", topology.schedule("complete", n), torch.zeros_like(b), lambda x: x - eta * (a * (x - b))
    )

    for _ in range(30):
        central = central - eta * (a * (central - b)).mean(0)
        x, _, _ = next(walked)

    torch.testing.assert_close(x, central.expand_as(x), rtol=0, atol=1e-12)


# ---------------------------------------------------------------------- codecs and combinations


@given(
    spec=st.one_of(
        st.integers(1, 40).map(lambda k: f"topk:{k}"), st.floats(0.01, 1).map(lambda s: f"topk:{s}")
    ),
    n=st.integers(1, 4),
    d=st.integers(1, 30),
    seed=SEEDS,
)
def test_top_k_keeps_the_largest_and_codes_one_row_as_it_codes_many(
    spec: str, n: int, d: int, seed: int
) -> None:
    coding, z = codec(spec), normal(seed, n, d)
    kept = coding.decode(coding.encode(z), z)
    index, values = coding.encode(z)

    assert (values.shape[-1], index.shape[-1]) == tuple(shape.size for shape in coding.layout(d))
    assert (index[:, 1:] > index[:, :-1]).all() and (index < d).all()
    assert torch.equal(kept[kept != 0], z[kept != 0])
    for row, out in zip(z, kept, strict=True):
        assert torch.equal(coding.decode(coding.encode(row), row), out)
        left = row[out == 0].abs()
        assert not len(left) or float(left.max()) <= float(out[out != 0].abs().min())


@given(seed=SEEDS, spec=st.sampled_from(["none", "topk:2", "topk:0.5"]))
def test_a_packed_payload_has_the_shapes_that_are_foretold(seed: int, spec: str) -> None:
    parts = (Part("a"), Part("mass", "exact"), Part("b", "difference"), Part("rest", "exact", width=3))
    packing, d = Packing(parts, codec(spec)), 8
    payload = tuple(normal(seed + k, 1, part.size(d))[0] for k, part in enumerate(parts))

    coded = packing.pack(payload)
    back = packing.unpack(coded, payload)

    assert [len(z) for z in coded] == [shape.size for shape in packing.shapes(d)]
    assert packing.bytes(d, 8) == sum(z.numel() * z.element_size() for z in coded)
    assert [torch.equal(x, y) for x, y in zip(payload, back, strict=True)][1::2] == [True, True]


@given(drawn=GRAPHS, seed=SEEDS, plain=st.integers(1, 3))
@settings(max_examples=15, deadline=None)
def test_beside_a_rule_the_rest_of_x_is_averaged_and_the_rule_does_not_notice(
    drawn: tuple[str, int], seed: int, plain: int
) -> None:
    graph, n = drawn
    w = torch.from_numpy(topology.schedule(graph, n, seed=seed).mixing(0).dense())
    inner, turn = tracking.gradient_tracking(), Turn(0, 1.0)
    outer = combine.beside(inner, plain)
    x, after = normal(seed, n, 6), normal(seed + 1, n, 6)
    head, head_after = x[:, :-plain], after[:, :-plain]

    payload = outer.emit(outer.init(x, turn), x, after, turn)
    new, state = outer.absorb(
        outer.init(x, turn), x, after, Inbox(tuple(w @ z for z in payload), payload), turn
    )
    alone = inner.emit(inner.init(head, turn), head, head_after, turn)
    expected, kept = inner.absorb(
        inner.init(head, turn), head, head_after, Inbox(tuple(w @ z for z in alone), alone), turn
    )

    torch.testing.assert_close(new[:, :-plain], expected)
    torch.testing.assert_close(new[:, -plain:], w @ after[:, -plain:])
    torch.testing.assert_close(state[0], kept[0])


def test_every_codec_of_the_list_is_made_by_its_example() -> None:
    assert [codec(name.replace("K", "3")).name for name in CODECS] == ["none", "topk:3"]
