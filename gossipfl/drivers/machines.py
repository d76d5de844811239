"""A node's machine for the asynchronous exchanges, of a plan."""

from __future__ import annotations

from collections.abc import Mapping

from gossipfl.core.asynchronous import account
from gossipfl.core.exchange.agree import INSTANCE
from gossipfl.core.exchange.line import Post
from gossipfl.core.exchange.pairwise import Pairwise
from gossipfl.core.exchange.push import Push, Terms
from gossipfl.drivers.plan import Plan, neighbors

Asynchronous = Pairwise | Push


def machine(plan: Plan, node: int, about: Mapping[str, object]) -> Asynchronous:
    """The machine of one node; `about`: what it tells when it meets another."""
    config, params = plan.config, plan.recipe.params
    near = neighbors(plan.edges(), node)
    instance = str(about.get(INSTANCE, "0"))  # hexadecimal: of one process among those of a node
    post = Post(node, config.swarm.seed, near, plan.rounds, about, int(instance[:15], 16), plan.rewiring)
    if config.algorithm.exchange == "pairwise":
        return Pairwise(post, config.algorithm.every)
    w = plan.recipe.schedule.mixing(0)  # w_ij > 0: i takes what j sends
    takes, gives = (dict(zip(*entries, strict=True)) for entries in (w.row(node), w.column(node)))
    period = config.algorithm.period
    terms = Terms(
        period=float(period.removesuffix("s")) if isinstance(period, str) else period,
        in_seconds=isinstance(period, str),
        variant=str(params["variant"]),
        account=account(params),
        to=tuple(j for j in near if gives.get(j, 0.0)),
        comes=tuple(j for j in near if takes.get(j, 0.0)),
    )
    return Push(post, terms)
