"""Gossip learning: what a merge is, what each variant trains, and what token accounts pay for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gossipfl.core.events import Begin, Effect, PeerUp, Received, Send, Take, Trained
from gossipfl.core.exchange.line import Post
from gossipfl.core.exchange.push import Model, Push, Terms, merge
from gossipfl.core.exchange.tokens import Account
from gossipfl.core.messages import Push as Pushed
from gossipfl.core.messages import Welcome


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def node(variant: str, account: Account | None = None, phases: int = 9) -> tuple[Push, Tensor]:
    """A node in its first local phase, with one neighbor, and its live parameters."""
    terms = Terms(variant=variant, account=account or Account(), to=(1,), comes=(1,))
    made, x = Push(Post(0, 0, (1,), phases, {}), terms), vector(1.0, 2.0)
    made.handle(PeerUp(1, 1), 0.0)
    made.handle(Received(1, 1, Welcome(1, 0, None, -1, -1, -1, {})), 0.0)
    made.handle(Begin(x), 0.0)
    return made, x


def comes(made: Push, x: Tensor, age: int, *values: float) -> list[Effect]:
    """The neighbor's model arrives; what is taken is put into x."""
    return put(made.handle(Received(1, 1, Pushed(1, age, (vector(*values),))), 1.0), x)


def put(effects: list[Effect], x: Tensor) -> list[Effect]:
    for effect in effects:
        if isinstance(effect, Take):
            x.copy_(effect.x)
    return effects


def sends(effects: list[Effect]) -> int:
    return sum(isinstance(e, Send) and isinstance(e.message, Pushed) for e in effects)


def test_a_merge_weighs_by_age_and_takes_the_larger() -> None:
    merged = merge(Model(vector(0.0, 8.0), 1), Model(vector(4.0, 0.0), 3))
    assert (merged.x.tolist(), merged.age) == ([3.0, 2.0], 3)
    new = merge(Model(vector(0.0), 0), Model(vector(4.0), 0))
    assert (new.x.tolist(), new.age) == ([2.0], 0)


def test_merge_update_merges_when_it_comes_and_then_trains() -> None:
    made, x = node("merge-update")
    made.handle(Trained(1.0), 0.5)

    comes(made, x, 3, 5.0, 6.0)

    assert (x.tolist(), made.age) == ([4.0, 5.0], 3)
    made.handle(Trained(1.0), 2.0)
    assert made.age == 4


def test_random_walk_trains_what_comes_instead_of_its_own() -> None:
    made, x = node("random-walk")
    made.handle(Trained(1.0), 0.5)

    comes(made, x, 3, 5.0, 6.0)

    assert (x.tolist(), made.age) == ([5.0, 6.0], 3)


def test_update_merge_trains_what_comes_and_merges_it_with_its_own() -> None:
    made, x = node("update-merge")
    made.handle(Trained(1.0), 0.5)
    comes(made, x, 3, 5.0, 6.0)
    assert x.tolist() == [5.0, 6.0]

    x += 1.0
    put(made.handle(Trained(1.0), 2.0), x)

    assert x.tolist() == pytest.approx([(1 * 1 + 4 * 6) / 5, (1 * 2 + 4 * 7) / 5])
    assert made.age == 4


@pytest.mark.parametrize(("age", "end"), [(5, [5.0, 6.0]), (1, [1.0, 2.0])])
def test_after_its_last_phase_a_node_keeps_the_walker_that_has_seen_more(age: int, end: list[float]) -> None:
    made, x = node("random-walk", phases=1)
    comes(made, x, age, 5.0, 6.0)

    put(made.handle(Trained(1.0), 2.0), x)

    assert x.tolist() == end


@pytest.mark.parametrize(("age", "count"), [(1, 1), (0, 0)])
def test_a_model_is_useful_that_has_seen_as_much_as_the_own(age: int, count: int) -> None:
    made, x = node("merge-update", Account("randomized", capacity=10, spend=5))
    made.handle(Trained(1.0), 0.5)
    made.tokens = 5

    assert sends(comes(made, x, age, 5.0, 6.0)) == count
    assert made.tokens == 5 - count


@pytest.mark.parametrize(
    ("account", "tokens", "proactive", "useful", "useless"),
    [
        (Account("none"), 3, 1.0, 0.0, 0.0),
        (Account("simple", 10), 3, 0.0, 1.0, 1.0),
        (Account("simple", 10), 0, 0.0, 0.0, 0.0),
        (Account("simple", 10), 10, 1.0, 1.0, 1.0),
        (Account("generalized", 10, 2), 7, 0.0, 4.0, 2.0),
        (Account("generalized", 10, 2), 10, 1.0, 5.0, 2.0),
        (Account("randomized", 10, 5), 3, 0.0, 0.6, 0.0),
        (Account("randomized", 10, 5), 6, 2 / 6, 1.2, 0.0),
        (Account("randomized", 10, 5), 10, 1.0, 2.0, 0.0),
    ],
)
def test_token_accounts_are_those_of_danner_and_jelasity(
    account: Account, tokens: int, proactive: float, useful: float, useless: float
) -> None:
    assert account.proactive(tokens) == pytest.approx(proactive)
    assert account.reactive(tokens, True) == pytest.approx(useful)
    assert account.reactive(tokens, False) == pytest.approx(useless)
