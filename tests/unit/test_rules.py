"""Rules as pure functions, against published iterates: the same numbers from one matrix and from nodes one by
one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gossipfl.core.aggregate import Row, ordered_sum
from gossipfl.core.rules import averaging, combine, sums, tracking
from gossipfl.core.rules.base import Inbox, Links, Rule, Turn

TABLES = json.loads((Path(__file__).parents[1] / "data" / "tables.json").read_text())
RING4 = TABLES["iterate_conventions_ring4"]
PATH3 = TABLES["relaysum_conventions_path3"]

Codec = Callable[[Tensor], Tensor]


def exact(z: Tensor) -> Tensor:
    return z


def top(k: int) -> Codec:
    def keep(z: Tensor) -> Tensor:
        index = z.abs().topk(k, dim=-1).indices
        return torch.zeros_like(z).scatter(-1, index, z.gather(-1, index))

    return keep


def quadratic(a: Tensor, b: Tensor, eta: float, steps: int = 1) -> Callable[[Tensor], Tensor]:
    def phase(x: Tensor) -> Tensor:
        for _ in range(steps):
            x = x - eta * (a * (x - b))
        return x

    return phase


def links(w: Tensor) -> tuple[Links, Tensor]:
    """All links of a matrix, and for each the place of the link in the other direction."""
    n = len(w)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j and w[i, j] != 0]
    owner = torch.tensor([i for i, _ in pairs])
    other = torch.tensor([pairs.index((j, i)) for i, j in pairs])

    def gather(z: Tensor) -> Tensor:
        total = z.new_zeros(n, z.shape[-1])
        for k, i in enumerate(owner.tolist()):
            total[i] += z[k]
        return total

    weight = torch.tensor([[float(w[i, j])] for i, j in pairs], dtype=torch.float64)
    return Links(lambda x: x[owner], gather, weight, n), other


def tree(edges: list[list[int]], n: int) -> Tensor:
    """A matrix with entries where these edges are."""
    w = torch.eye(n, dtype=torch.float64)
    for i, j in edges:
        w[i, j] = w[j, i] = 1.0
    return w


def as_matrix(
    rule: Rule,
    w: Tensor,
    x: Tensor,
    phase: Callable[[Tensor], Tensor],
    rounds: int,
    codec: Codec = exact,
    silent: Callable[[int], list[int]] = lambda round: [],
) -> list[Tensor]:
    """x after each round, all nodes as one [n, d]. silent: round -> nodes whose links bring nothing (per-link
    rules)."""
    whole, other = links(w) if rule.per_link else (None, torch.tensor([]))
    state = rule.init(x, Turn(0, 1.0, whole))
    out = []
    for t in range(rounds):
        turn = Turn(t, 1.0, whole)
        after = phase(x)
        payload = rule.emit(state, x, x if rule.early else after, turn)
        sent = tuple(codec(z) if p.kind != "exact" else z for p, z in zip(rule.sends, payload, strict=True))
        mixed: tuple[Tensor, ...] = ()
        each: tuple[Tensor, ...] = ()
        counted = None
        if whole is not None:
            each = tuple(z[other] for z in sent)
            down = torch.zeros(len(x), 1)
            down[silent(t)] = 1.0
            counted = whole.spread(down) + whole.spread(down)[other] == 0
        else:
            rows = [[(float(w[i, j]), j) for j in range(len(x)) if w[i, j] != 0] for i in range(len(x))]
            mixed = tuple(
                torch.stack([ordered_sum([(v, z[j]) for v, j in row]) for row in rows]) for z in sent
            )
            mixed = tuple(
                m if p.kind != "vector" or codec is exact else z + (m - s)
                for p, m, z, s in zip(rule.sends, mixed, payload, sent, strict=True)
            )
        x, state = rule.absorb(state, x, after, Inbox(mixed, sent, each, counted), turn)
        out.append(x)
    return out


def one_by_one(
    rule: Rule, w: Tensor, x: Tensor, phases: list[Callable[[Tensor], Tensor]], rounds: int
) -> Tensor:
    """The last x, each node on its own [d] with its own row."""
    n, turn = len(x), Turn(0, 1.0)
    xs = [x[i].clone() for i in range(n)]
    states = [rule.init(v, turn) for v in xs]
    rows = [Row(i, tuple((j, float(w[i, j])) for j in range(n) if w[i, j] != 0)) for i in range(n)]
    for t in range(rounds):
        turn = Turn(t, 1.0)
        afters = [phase(v) for phase, v in zip(phases, xs, strict=True)]
        payloads = [
            rule.emit(s, v, v if rule.early else a, turn) for s, v, a in zip(states, xs, afters, strict=True)
        ]
        for i in range(n):
            mixed = tuple(
                ordered_sum([(weight, payloads[j][k]) for j, weight in rows[i].weights])
                for k in range(len(rule.sends))
            )
            xs[i], states[i] = rule.absorb(states[i], xs[i], afters[i], Inbox(mixed, payloads[i]), turn)
    return torch.stack(xs)


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def ring(n: int) -> Tensor:
    w = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        for j in ((i - 1) % n, (i + 1) % n):
            w[i, j] = 1 / 3
        w[i, i] = 1 - 2 / 3
    return w


@pytest.mark.parametrize(
    ("name", "rule", "lazy"),
    [
        ("dsgd_atc", averaging.dpsgd(), False),
        ("dsgd_cta", averaging.dpsgd_cta(), False),
        ("d2", tracking.d2(), False),
        ("exact_diffusion", tracking.d2(), True),
        ("gt_semi", tracking.gradient_tracking(), False),
        ("diging", tracking.diging(), False),
        ("qg_dsgdm_0_9", averaging.qg(), False),
    ],
)
def test_first_five_iterates_are_the_published_ones(name: str, rule: Rule, lazy: bool) -> None:
    w, a, b = tensor(RING4["W"]), tensor(RING4["a"]), tensor(RING4["b"])
    w = (torch.eye(4, dtype=torch.float64) + w) / 2 if lazy else w
    got = as_matrix(rule, w, tensor(RING4["x0"]), quadratic(a, b, RING4["eta"]), 5)
    expected = tensor(RING4["algorithms"][name]["iterates_1_to_5"])
    torch.testing.assert_close(torch.stack(got), expected, rtol=0, atol=1e-14)


def test_three_local_steps_are_local_sgd() -> None:
    w, a, b = tensor(RING4["W"]), tensor(RING4["a"]), tensor(RING4["b"])
    got = as_matrix(averaging.dpsgd(), w, tensor(RING4["x0"]), quadratic(a, b, RING4["eta"], steps=3), 5)
    expected = tensor(RING4["algorithms"]["local_dsgd_H3"]["iterates_1_to_5"])
    torch.testing.assert_close(torch.stack(got), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("name", "count"), [("relaysum_model_fill", False), ("relaysum_model_count", True)])
def test_relay_sum_gives_the_published_iterates_in_both_normalisations(name: str, count: bool) -> None:
    a, b = tensor(PATH3["a"]), tensor(PATH3["b"])
    x0 = tensor([PATH3["x0_same_on_every_node"]] * 3)
    rule, phase = sums.relay_sum(count=count), quadratic(a, b, PATH3["eta"])
    got = as_matrix(rule, tree(PATH3["tree_edges"], 3), x0, phase, 1000)
    expected = tensor(PATH3["algorithms"][name]["iterates_1_to_5"])
    torch.testing.assert_close(torch.stack(got[:5]), expected, rtol=0, atol=1e-14)
    assert ((got[-1] - tensor(PATH3["xstar"])) ** 2).sum(1).mean() < 1e-25


@pytest.mark.parametrize("per_link", [False, True])
def test_choco_reaches_consensus_where_compression_without_memory_stalls(per_link: bool) -> None:
    table = TABLES["T10_choco"]
    x0, w = tensor(table["x0"]), ring(16)

    def spread(x: Tensor) -> float:
        return float(((x - x.mean(0)) ** 2).sum(1).mean())

    choco = as_matrix(sums.choco(gamma=0.2, per_link=per_link), w, x0, exact, 1000, codec=top(4))
    for t, value in table["choco_msd"].items():
        assert spread(choco[int(t) - 1]) == pytest.approx(value, rel=1e-3 if t == "1000" else 1e-9)
    torch.testing.assert_close(choco[-1].mean(0), x0.mean(0), rtol=0, atol=1e-12)
    naive = as_matrix(averaging.dpsgd(), w, x0, exact, 1000, codec=top(4))
    assert spread(naive[-1]) == pytest.approx(table["naive_stall"], abs=1e-9)
    assert spread(as_matrix(averaging.dpsgd(), w, x0, exact, 10)[-1]) == pytest.approx(table["exact_10"])


def test_when_a_node_dies_the_others_copies_go_on_to_agree_on_their_own_mean() -> None:
    """Of six nodes the last falls silent in round 10: from there on the others' sum is kept."""
    x0 = torch.from_numpy(np.random.RandomState(1).randn(6, 8))

    got = as_matrix(sums.choco(), ring(6), x0, exact, 1500, codec=top(2), silent=lambda t: [5] * (t >= 10))

    left, last = got[9][:5].mean(0), got[-1][:5]
    torch.testing.assert_close(last, left.expand_as(last), rtol=0, atol=1e-9)
    torch.testing.assert_close(got[-1][5], got[9][5], rtol=0, atol=0)


def test_push_sum_reaches_the_plain_mean_on_a_directed_graph() -> None:
    table = TABLES["T11_push_sum"]
    x0 = tensor(table["x0"]).unsqueeze(1)
    got = as_matrix(sums.push_sum(), tensor(table["push_matrix"]), x0, exact, 200)[-1]
    torch.testing.assert_close(got, torch.full_like(got, table["limit"]), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("rule", "key", "rounds"),
    [
        (averaging.dpsgd(), "dsgd_atc_stationary", 3000),
        (averaging.dpsgd_cta(), "dsgd_cta_stationary", 3000),
        (tracking.d2(), "d2_t100", 100),
        (tracking.gradient_tracking(), "gt_semi_t1000", 1000),
        (tracking.diging(), "diging_t1000", 1000),
    ],
)
def test_heterogeneous_quadratics_end_where_the_tables_say(rule: Rule, key: str, rounds: int) -> None:
    i = torch.arange(16, dtype=torch.float64).unsqueeze(1)
    table = TABLES["T5_quadratics"]
    x = as_matrix(rule, ring(16), torch.zeros_like(i), quadratic(1 + i / 15, i, 0.1), rounds)[-1]
    assert float(((x - table["xstar"]) ** 2).mean()) == pytest.approx(table[key], rel=1e-6)


@pytest.mark.parametrize(
    "rule",
    [
        averaging.dpsgd(),
        averaging.dpsgd_cta(),
        averaging.gradient(),
        averaging.qg(),
        tracking.d2(),
        tracking.gradient_tracking(),
        tracking.diging(),
    ],
    ids=lambda rule: rule.emit.__qualname__.split(".")[0],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_node_alone_computes_the_bits_of_the_matrix(rule: Rule, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(0)
    a, b, x = (torch.from_numpy(rng.normal(size=(6, 37))).to(dtype) for _ in range(3))
    w = ring(6)
    whole = as_matrix(rule, w, x, quadratic(a, b, 0.01), 20)[-1]
    alone = one_by_one(rule, w, x, [quadratic(a[i], b[i], 0.01) for i in range(6)], 20)
    assert torch.equal(whole, alone)


def test_displacements_that_are_carried_follow_the_learning_rate() -> None:
    x, after = torch.ones(3), torch.zeros(3)
    still, moved = Turn(1, 1.0), Turn(1, 0.1)
    carried = (torch.full((3,), 2.0),)
    assert torch.equal(tracking.d2().emit(carried, x, after, still)[0], torch.full((3,), 2.0))
    assert torch.allclose(tracking.d2().emit(carried, x, after, moved)[0], torch.full((3,), 0.2))
    assert torch.allclose(
        tracking.gradient_tracking().emit(carried, x, after, moved)[1], torch.full((3,), 1.2)
    )
    assert torch.allclose(averaging.qg().emit(carried, x, after, moved)[0], torch.full((3,), -0.18))
    _, (momentum,) = averaging.qg().absorb(carried, x, after, Inbox((after,), (after,)), moved)
    assert torch.allclose(momentum, torch.full((3,), 0.28))


def test_a_silent_link_keeps_its_old_message_and_a_late_one_counts() -> None:
    """The middle of a path of three, whose right neighbor is silent in a round, and late in another."""
    rule, (whole, _) = sums.relay_sum(), links(tree([[0, 1], [1, 2]], 3))
    pair = whole._replace(
        spread=lambda z: z.expand(2, *z.shape), gather=lambda z: z.sum(0), weight=torch.ones(2, 1)
    )
    x, turn = torch.zeros(1), Turn(0, 1.0, pair)
    one = torch.ones(2, 1)

    def came(left: float, right: float, counted: list[bool]) -> Inbox:
        return Inbox((), (), (torch.tensor([[left], [right]]), one), torch.tensor(counted).unsqueeze(1))

    state = rule.init(x, turn)
    first, state = rule.absorb(state, x, x, came(3.0, 6.0, [True, True]), turn)
    silent, state = rule.absorb(state, x, x, came(9.0, 0.0, [True, False]), turn)
    late = came(12.0, 0.0, [True, False])._replace(earlier=(came(0.0, 15.0, [False, True]),))
    caught_up, _ = rule.absorb(state, x, x, late, turn)

    assert [float(z) for z in (first, silent, caught_up)] == pytest.approx([3.0, 5.0, 9.0])


@pytest.mark.parametrize("count", [False, True])
def test_relay_sum_agrees_where_a_node_has_never_spoken(count: bool) -> None:
    """Two ends of a link, each with another neighbor, which is down since the rule began."""
    rule = sums.relay_sum(count=count)
    ends = Links(lambda z: z.expand(2, *z.shape), lambda z: z.sum(0), torch.ones(2, 1), 4)
    x, turn = [torch.tensor([0.0]).double(), torch.tensor([4.0]).double()], Turn(0, 1.0, ends)
    states, one = [rule.init(value, turn) for value in x], torch.tensor([[True], [False]])

    for _ in range(100):
        sent = [rule.emit(states[i], x[i], x[i], turn) for i in range(2)]
        boxes = [Inbox((), (), sent[1 - i], one) for i in range(2)]
        absorbed = [rule.absorb(states[i], x[i], x[i], boxes[i], turn) for i in range(2)]
        x, states = [new for new, _ in absorbed], [state for _, state in absorbed]

    assert float(x[0]) == pytest.approx(float(x[1]), abs=1e-9)
    assert 1.0 < float(x[0]) < 3.0


def test_an_agreeing_nodes_scale_is_a_running_mean_of_how_well_its_move_fits_the_rounds() -> None:
    """Opposed, across and along: (1 + cos) / 2 is 0, 1/2 and 1, from a scale of 1 on."""
    rule, turn, x = combine.agreeing(averaging.dpsgd()), Turn(0, 1.0), torch.zeros(2)
    after = torch.tensor([1.0, 0.0])
    state = rule.init(x, turn)
    expected = 1.0
    for joint, fits in ([-2.0, 0.0], 0.0), ([0.0, 5.0], 0.5), ([3.0, 0.0], 1.0):
        (sent,) = rule.emit(state, x, after, turn)
        assert torch.allclose(sent, expected * after)
        new, state = rule.absorb(state, x, after, Inbox((torch.tensor(joint),), (sent,)), turn)
        expected = 0.9 * expected + 0.1 * fits
        assert torch.equal(new, torch.tensor(joint))
        assert float(state[0]) == pytest.approx(expected)


def test_beside_push_sum_what_all_hold_alike_stays_so_whatever_the_masses() -> None:
    a = tensor(TABLES["T11_push_sum"]["push_matrix"])
    x = torch.cat([tensor([[1.0], [2.0], [3.0], [10.0]]), torch.full((4, 1), 7.0, dtype=torch.float64)], 1)

    got = as_matrix(combine.beside(sums.push_sum(), 1), a, x, exact, 5)

    assert float((got[1][:, 0] - got[0][:, 0]).abs().max()) > 0.1
    for z in got:
        torch.testing.assert_close(z[:, 1], x[:, 1], rtol=0, atol=1e-14)
