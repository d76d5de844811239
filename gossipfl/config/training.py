"""The sections of swarm.toml about learning: which rule, and how a node trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gossipfl.config.kinds import AggregateSpec, Device, OptimizerName, Patterns, Period, RuleSpec, TaskSpec
from gossipfl.config.section import OpenSection, key


@dataclass(frozen=True, kw_only=True)
class Algorithm(OpenSection):
    """The rule and when it exchanges; the rule's own keys (gamma, lazy, beta, ...) stand beside these."""

    rule: RuleSpec = key("dpsgd", 'What is sent and how it is taken in: a rule\'s name or "module:function".')
    exchange: Literal["rounds", "pairwise", "push"] = key(
        "rounds",
        "When to send and what to wait for; rounds: each round, all neighbors; pairwise: one "
        "neighbor now and then, both take the mean; push: on a timer to one neighbor, nobody waits.",
    )
    period: Period = key(
        1.0, 'push: time between two ticks, in the node\'s own local phases or seconds ("0.2s").'
    )
    replay: str = key(
        "",
        "The folder of a run of real processes that the event engine repeats, to the same bits: "
        "whose payloads counted when, or the order of meetings.",
        local=True,
    )
    local_steps: int = key(
        1, "Optimizer steps in a local phase; 0 if they are counted by local_epochs.", ge=0
    )
    local_epochs: int = key(
        0, "Passes over the node's own data in a local phase; 0: counted by local_steps.", ge=0
    )
    every: int = key(1, "Exchange after every so many local phases.", ge=1)
    on_death: Literal["self", "rewire"] = key(
        "self",
        "Where a node is gone for good: its neighbors keep the weight that they gave it (self), "
        "or become neighbors of each other, so that the living stay connected (rewire).",
    )
    aggregate: AggregateSpec = key(
        "mean",
        "How what arrives is weighed; mean: as topology.weights say; by-loss: also by how well "
        "each model does on the node's own validation data.",
    )
    validation: float = key(
        0.1,
        "by-loss: the share of a node's own samples that it keeps from training, to weigh by.",
        gt=0,
        lt=1,
    )
    average_optimizer: bool = key(
        False, "Average the optimizer's state (momentum and the like) as well, plainly."
    )
    buffers: Literal["average", "local"] = key(
        "average", "Buffers such as BatchNorm's statistics: averaged like parameters, or kept local."
    )
    share: Patterns = key(
        ("*",), "Names of the parameters that are shared (* for any text); the others stay local."
    )

    @classmethod
    def prepared(cls, table: dict[str, object]) -> dict[str, object]:
        """`local_epochs` alone means no `local_steps`."""
        if table.get("local_epochs") and "local_steps" not in table:
            return {**table, "local_steps": 0}
        return table


@dataclass(frozen=True, kw_only=True)
class Train(OpenSection):
    """Local training; the optimizer's own keywords (nesterov, betas, ...) stand beside these."""

    task: TaskSpec = key("digits", 'Model and data: a task\'s name or "module:function".')
    optimizer: OptimizerName = key("sgd", "Any torch.optim class, by its name in any case.")
    lr: float = key(0.1, "Learning rate.", gt=0)
    lr_schedule: Literal["constant", "warmup", "step", "cosine", "agreement"] = key(
        "constant",
        "How the learning rate changes from round to round; agreement: each node's own, by how "
        "far its update points where the average goes.",
    )
    warmup_rounds: int = key(
        5, "warmup: rounds in which the rate rises linearly to lr, where it stays.", ge=1
    )
    step_every: int = key(30, "step: the rate is multiplied by step_factor every so many rounds.", ge=1)
    step_factor: float = key(0.1, "step: what the rate is multiplied by.", gt=0, le=1)
    cosine_min: float = key(
        0.0, "cosine: the learning rate that half a cosine falls to, from lr, in the last round.", ge=0
    )
    batch: int = key(32, "Samples in a batch.", local=True, ge=1)
    momentum: float = key(0.0, "Momentum of the optimizer, where it has one.", ge=0, lt=1)
    weight_decay: float = key(0.0, "Weight decay of the optimizer.", ge=0)
    clip: float = key(0.0, "Largest 2-norm of a gradient, longer ones are scaled; 0: off.", ge=0)
    device: Device = key(
        "auto",
        'Where to train: "cpu", "cuda", "cuda:1", "mps"; auto: CUDA where there is one '
        "and a step is long enough for it (10^8 operations), else the CPU.",
        local=True,
    )
    threads: int = key(1, "PyTorch threads a node; more than one can change the last bits.", ge=1)
    dtype: Literal["float32", "float64", "bfloat16"] = key(
        "float32",
        "Number type of the parameters. bfloat16: half the memory and bytes, two to three "
        "digits, averages summed in float32 and rounded once.",
    )
