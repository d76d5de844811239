"""The vector engine: all nodes as one matrix [n, d], a round as one batched step and one sparse product.

The rules are the ones that nodes run; the product is bitwise their ordered sum (scipy's CSR product adds
sorted columns from +0.0, one multiply and one add each; tests/laws guards it).
"""

from __future__ import annotations

import time

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from gossipfl.core import sketch
from gossipfl.core.rules.base import Inbox, Turn
from gossipfl.drivers.outcome import Outcome
from gossipfl.drivers.plan import Plan
from gossipfl.drivers.telling import due, finite, wrong
from gossipfl.drivers.virtual import Watch
from gossipfl.learning.training import Phase
from gossipfl.learning.workload import Workload
from gossipfl.topology import Mixing


class Mixer:
    """z -> W z for z [n, d], in z's number type."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, torch.dtype], tuple[Mixing, sp.csr_array]] = {}

    def __call__(self, mixing: Mixing, z: Tensor) -> Tensor:
        values = z.detach().cpu().numpy()
        key = (id(mixing), z.dtype)
        if key not in self._made or self._made[key][0] is not mixing:
            if len(self._made) > 64:
                self._made.clear()
            self._made[key] = (mixing, mixing.matrix.astype(values.dtype))
        return torch.from_numpy(self._made[key][1] @ values).to(z.device)


def run(plan: Plan, workload: Workload, watch: Watch) -> Outcome:
    """Run the vector engine; `watch` is given every record as it is made."""
    threads = torch.get_num_threads()
    torch.set_num_threads(plan.config.train.threads)
    try:
        return _run(plan, workload, watch)
    finally:
        torch.set_num_threads(threads)


def _run(plan: Plan, workload: Workload, watch: Watch) -> Outcome:
    config, rule, schedule = plan.config, plan.recipe.rule, plan.recipe.schedule
    names, seed, n = config.names, config.swarm.seed, plan.n
    cohort, mix = workload.cohort(), Mixer()
    x = cohort.start()
    state = rule.init(x, Turn(0, 1.0))
    width = len(rule.sends) * workload.d * x.element_size()
    begun = time.perf_counter()
    sent_total = np.zeros(n, dtype=np.int64)
    rounds, diverged = 0, None
    for round in range(plan.rounds):
        t0 = time.perf_counter()
        after, losses, ratio = cohort.phase(x, round)
        t1 = time.perf_counter()
        bad = ~(torch.isfinite(losses) & finite(after))
        if bad.any():
            node = int(bad.nonzero()[0, 0])
            what = wrong(Phase(float(losses[node]), ratio, 0), after[node])
            diverged = (node, round + 1, str(what))
            break
        turn = Turn(round, ratio)
        mixing = schedule.mixing(round)
        payload = rule.emit(state, x, x if rule.early else after, turn)
        mixed = tuple(mix(mixing, z) for z in payload)
        x, state = rule.absorb(state, x, after, Inbox(mixed, payload), turn)
        rounds += 1
        t2 = time.perf_counter()
        degrees = np.diff(mixing.matrix.indptr) - 1 if payload else np.zeros(n, dtype=np.int64)
        sent = np.diff(mixing.matrix.tocsc().indptr) - 1 if payload else degrees
        sent_total += sent * width
        gap = torch.zeros(n)
        if payload:
            tiny = torch.finfo(x.dtype).tiny
            gap = (payload[0] - mixed[0]).norm(dim=1) / payload[0].norm(dim=1).clamp_min(tiny)
        now = t2 - begun
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
        if due(rounds, config.swarm.eval_every, plan.rounds):
            values = {name: v.tolist() for name, v in cohort.evaluate(x).items()}
            for i, name in enumerate(names):
                buckets = sketch.encode(sketch.sketch(x[i].detach().cpu().numpy(), seed))
                head = {"node": i, "name": name, "round": rounds, "time": now, "kind": "eval"}
                watch({**head, **{k: v[i] for k, v in values.items()}, "sketch": buckets})
    return Outcome(
        engine="vector",
        x=x.detach().cpu(),
        present=(True,) * n,
        rounds=(rounds,) * n,
        sent_bytes=tuple(sent_total.tolist()),
        lost=(),
        seconds=time.perf_counter() - begun,
        diverged=diverged,
    )
