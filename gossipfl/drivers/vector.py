"""The vector engine: all nodes as one matrix [n, d], a round as one batched step and one sparse product.

The rules are the ones that nodes run, and what is mixed is bitwise what they mix (`drivers.matrix`).
"""

from __future__ import annotations

import time

import numpy as np
import torch

from gossipfl.core import sketch
from gossipfl.core.rules.base import Turn
from gossipfl.core.stopping import Vigil
from gossipfl.drivers.figures import Gathering
from gossipfl.drivers.matrix import Exchange
from gossipfl.drivers.mixer import departure
from gossipfl.drivers.outcome import Outcome
from gossipfl.drivers.plan import Plan
from gossipfl.drivers.telling import criteria, due, finite, plain, wrong
from gossipfl.drivers.world import Watch
from gossipfl.learning.crew import Crew
from gossipfl.learning.learner import Phase
from gossipfl.learning.workload import Workload


@torch.enable_grad()  # whoever calls may be inside no_grad
def run(plan: Plan, workload: Workload, watch: Watch, *, each: bool = True) -> Outcome:
    """Run the vector engine; `watch` is given every record as it is made.

    each: a record a node and round, and a node and evaluation. Of many nodes they cost more than the
    training; without them there is one record an evaluation, of kind `evals`, about all nodes: `values` (name
    -> [n]), `sent_bytes` up to then (mean over nodes), `consensus_distance`, `mean_model` (name -> value).

    As many threads take part as PyTorch was given before (`torch.set_num_threads`, `OMP_NUM_THREADS`); bits
    do not depend on it.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(plan.config.train.threads)
    try:
        with Crew(threads // plan.config.train.threads, plan.config.train.threads) as crew:
            return _run(plan, workload, watch, each, crew)
    finally:
        torch.set_num_threads(threads)


def _run(plan: Plan, workload: Workload, watch: Watch, each: bool, crew: Crew) -> Outcome:
    config, rule, schedule = plan.config, plan.recipe.rule, plan.recipe.schedule
    names, seed, n = config.names, config.swarm.seed, plan.n
    cohort = workload.cohort(crew)
    x = cohort.start()
    exchange = Exchange(plan.recipe, x, cohort.validate, crew)
    links, width = exchange.links, exchange.bytes
    state = rule.init(x, Turn(0, 1.0, links))
    enough = criteria(config, workload)
    vigils = [Vigil(enough) for _ in range(n)] if enough else []
    gathering = Gathering(workload, n)
    end = plan.rounds
    begun = time.perf_counter()
    messages = np.zeros(n, dtype=np.int64)
    rounds, diverged = 0, None
    while rounds < end:
        round = rounds
        t0 = time.perf_counter()
        after, losses, ratio = cohort.phase(x, round)
        t1 = time.perf_counter()
        bad = ~(torch.isfinite(losses) & finite(after))
        if bad.any():
            node = int(bad.nonzero()[0, 0])
            what = wrong(Phase(float(losses[node]), ratio, 0), after[node])
            diverged = (node, round + 1, str(what))
            break
        turn = Turn(round, ratio, links)
        mixing = schedule.mixing(round)
        payload = rule.emit(state, x, x if rule.early else after, turn)
        inbox = exchange.inbox(round, payload)
        x, state = rule.absorb(state, x, after, inbox, turn)
        rounds += 1
        t2 = time.perf_counter()
        degrees = np.diff(mixing.indptr) - 1 if payload else np.zeros(n, dtype=np.int64)
        sent = np.bincount(mixing.indices, minlength=n) - 1 if payload else degrees
        messages += sent
        now = t2 - begun
        values = cohort.evaluate(x) if due(rounds, config.swarm.eval_every, end) else {}
        together = gathering.together(x[:, : workload.d].detach()) if values else {}
        for i, vigil in enumerate(vigils):
            if vigil.enough(now, {name: float(v[i]) for name, v in values.items()}):
                end = min(end, plan.end_of(i, rounds))
        if not each:
            if values:
                watch(
                    {
                        "round": rounds,
                        "time": now,
                        "kind": "evals",
                        "sent_bytes": float(messages.mean() * width),
                        **together,
                        "values": {name: v.tolist() for name, v in values.items()},
                    }
                )
            continue
        gap = torch.zeros(n)
        if payload:
            plainly = inbox.mixed and rule.sends[0].kind == "vector"
            given, got = (payload[0], inbox.mixed[0]) if plainly else (after, x)
            gap = departure(given, got, crew)
        rows = zip(names, losses.tolist(), degrees.tolist(), sent.tolist(), gap.tolist(), strict=True)
        for i, (name, loss, degree, out, disagreement) in enumerate(rows):
            watch(
                {
                    "node": i,
                    "name": name,
                    "round": rounds,
                    "time": now,
                    "kind": "round",
                    "loss": loss,
                    "neighbors": degree,
                    "disagreement": disagreement,
                    "train_s": (t1 - t0) / n,
                    "wait_s": 0.0,
                    "mix_s": (t2 - t1) / n,
                    "sent_bytes": out * width,
                    "received_bytes": degree * width,
                }
            )
        lists = {name: v.tolist() for name, v in values.items()}
        for i, name in enumerate(names if values else ()):
            buckets = sketch.encode(sketch.sketch(plain(x[i, : workload.d]), seed))
            head = {"node": i, "name": name, "round": rounds, "time": now, "kind": "eval"}
            watch(
                {
                    **head,
                    **{k: v[i] for k, v in lists.items()},
                    "sketch": buckets,
                    **(together if i == n - 1 else {}),
                }
            )
    return Outcome(
        engine="vector",
        x=x[:, : workload.d].detach().cpu(),
        present=(True,) * n,
        rounds=(rounds,) * n,
        sent_bytes=tuple((messages * width).tolist()),
        sent_messages=tuple(messages.tolist()),
        lost=(),
        seconds=time.perf_counter() - begun,
        diverged=diverged,
        end=end,
    )
