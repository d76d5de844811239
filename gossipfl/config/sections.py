"""The sections of swarm.toml as frozen models: one class a table, one described field a key.

Everything that is told about a key lives here once: its type, range, default, description, and whether it is
this machine's own (`x-local`, not part of what peers compare). The JSON schema and the documentation are made
from it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from gossipfl.plugin import is_plugin

LOCAL: JsonDict = {"x-local": True}
PARTITIONS = ("iid", "dirichlet", "shards", "classes", "quantity", "natural", "file", "local")


class Expected(NamedTuple):
    """What a value of a field would look like, where its type and range do not say it."""

    text: str


def _tuple(value: object) -> object:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def _known(names: tuple[str, ...]) -> Callable[[str], str]:
    def check(value: str) -> str:
        if value not in names and not is_plugin(value):
            raise ValueError("unknown name")
        return value

    return check


def _spell(value: float | str) -> float | str:
    """A spell of time: a number above 0, or a text such as "0.2s"."""
    text = value.removesuffix("s") if isinstance(value, str) and value.endswith("s") else value
    if isinstance(text, str) and (text is value or not re.fullmatch(r"\d+(\.\d*)?|\.\d+", text)):
        raise ValueError("no seconds")
    if not float(text) > 0:
        raise ValueError("not above 0")
    return value


Name = Annotated[
    str,
    Field(pattern=r"^\w[\w.-]{0,63}$"),
    Expected("up to 64 letters, digits, '_', '-' and '.' (it names the run's folder)"),
]


def _sequence(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


GraphSpec = Annotated[
    str | tuple[str, ...],
    BeforeValidator(_sequence),
    Field(min_length=1),
    Expected(
        'a graph such as "ring", "torus:4x8" or "regular:4", a file, "module:function",'
        " or a list of them, one a round in turn"
    ),
]
WeightsSpec = Annotated[
    str, Field(min_length=1), Expected('weights such as "metropolis", or "module:function"')
]
CodecSpec = Annotated[
    str, Field(min_length=1), Expected('a codec such as "none" or "topk:0.01", or "module:function"')
]
AggregateSpec = Annotated[
    str, Field(min_length=1), Expected('an aggregate such as "mean" or "by-loss", or "module:function"')
]
RuleSpec = Annotated[str, Field(min_length=1), Expected('a rule such as "dpsgd", or "module:function"')]
TaskSpec = Annotated[str, Field(min_length=1), Expected('a task such as "digits", or "module:function"')]
WriterSpec = Annotated[str, AfterValidator(_known(("",))), Expected('a "module:function", or "" for none')]
PartitionSpec = Annotated[
    str,
    AfterValidator(_known(PARTITIONS)),
    Expected(f'one of {", ".join(PARTITIONS)}, or "module:function"'),
]
OptimizerName = Annotated[
    str, Field(pattern=r"^[A-Za-z]\w*$"), Expected('the name of a torch.optim class, such as "sgd" or "adam"')
]
Device = Annotated[
    str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$"), Expected('"auto", "cpu", "cuda", "cuda:1" or "mps"')
]
Period = Annotated[
    float | str,
    AfterValidator(_spell),
    Expected('a number above 0 (of the node\'s own local phases), or seconds such as "0.2s"'),
]
Patterns = Annotated[
    tuple[str, ...],
    BeforeValidator(_tuple),
    Field(min_length=1),
    Expected('a list of parameter names, * for any text, such as ["*"] or ["encoder.*"]'),
]


class Section(BaseModel):
    """A table of swarm.toml: frozen, no silent conversion (`"8"` is no number), no infinities.

    What checks values takes 6 MB, and is made when the first are checked: a process that is given a checked
    config (`gossipfl.config.apart`) never makes it.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    def table(self) -> dict[str, object]:
        """Key -> value, the extra keys after the section's own. A copy."""
        own = {key: getattr(self, key) for key in type(self).model_fields}
        return {key: _copy(value) for key, value in {**own, **(self.model_extra or {})}.items()}


def _copy(value: object) -> object:
    """As deep as values of a config go."""
    if isinstance(value, Section):
        return value.table()
    if isinstance(value, dict):
        return {key: _copy(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_copy, value))
    return value


class OpenSection(Section):
    """A table that also takes keys of what is chosen in it, as a rule's gamma or an optimizer's betas."""

    model_config = ConfigDict(extra="allow")

    @property
    def extra(self) -> dict[str, object]:
        """The keys beside the section's own, as given."""
        return dict(self.model_extra or {})


class Swarm(Section):
    """The swarm as a whole: how many nodes, for how long, from which seed."""

    name: Name = Field("demo", description="Name of the swarm; the run's default folder is runs/NAME-TIME.")
    nodes: int = Field(8, ge=1, le=1_000_000, description="Number of nodes.")
    rounds: int = Field(
        100,
        ge=1,
        description="Rounds to run; a round is one local phase and, every `every`-th, one exchange. "
        "Asynchronous exchanges count each node's local phases.",
    )
    seed: int = Field(
        0,
        ge=0,
        le=2**63 - 1,
        description="The seed of everything drawn: graph, partition, start, batches, virtual delays.",
    )
    same_start: bool = Field(
        True, description="All nodes start from the same parameters; false: each from its own."
    )
    eval_every: int = Field(
        10,
        ge=1,
        description="Evaluate on the test set every so many rounds; the last round is always evaluated.",
    )
    checkpoint_every: int = Field(
        0,
        ge=0,
        description="Every so many rounds each real node writes a checkpoint, from which `--resume` goes on; "
        "0: never.",
    )
    tensorboard: bool = Field(
        False,
        description="Write curves for TensorBoard too, into the run's folder.",
        json_schema_extra=LOCAL,
    )
    writer: WriterSpec = Field(
        "",
        description='"module:function" that is given every record as it is made; empty: none.',
        json_schema_extra=LOCAL,
    )
    start_timeout: float = Field(
        0.0,
        ge=0,
        description="Seconds to wait for the neighbors at the start; 0: wait on, and say for whom.",
        json_schema_extra=LOCAL,
    )


class Target(Section):
    """A value of a metric that is good enough."""

    metric: str = Field("", description="A metric of the task, such as accuracy; empty: no target.")
    value: float = Field(0.0, description="As good as this is good enough.")


class Stop(Section):
    """When to end before `swarm.rounds`. The first node for which one of these holds says so, and word of it
    travels with the rounds: all nodes end in the same one."""

    target: Annotated[Target, Expected('a table such as {metric = "accuracy", value = 0.95}')] = Field(
        default_factory=Target, description="Metric and value that a node must reach at an evaluation."
    )
    patience: int = Field(
        0, ge=0, description="Evaluations without a better target metric (or headline metric); 0: off."
    )
    seconds: float = Field(0.0, ge=0, description="Seconds from the first round on; 0: off.")

    @property
    def wanted(self) -> bool:
        """May the run end early?"""
        return bool(self.target.metric or self.patience or self.seconds)


class Topology(Section):
    """Who may talk to whom, and how much of each neighbor a node takes."""

    graph: GraphSpec = Field(
        "ring",
        description='The graph: a name with its arguments ("torus:4x8"), a file, "module:function",'
        " or a list of them, one a round in turn.",
    )
    weights: WeightsSpec = Field(
        "metropolis", description='How the mixing matrix is made of the graph: a name or "module:function".'
    )
    pi: Annotated[
        tuple[Annotated[float, Field(gt=0)], ...],
        BeforeValidator(_sequence),
        Expected("a list of positive numbers, one a node"),
    ] = Field((), description="weights data: each node's size; empty: its number of samples.")
    allow_disconnected: bool = Field(
        False, description="Run on a graph that is not connected, where consensus cannot be reached."
    )

    @property
    def title(self) -> str:
        """The graph as one word; a cycle of graphs with arrows."""
        return self.graph if isinstance(self.graph, str) else " > ".join(self.graph)


class Algorithm(OpenSection):
    """The rule and when it exchanges; the rule's own keys (gamma, lazy, beta, ...) stand beside these."""

    rule: RuleSpec = Field(
        "dpsgd", description='What is sent and how it is taken in: a rule\'s name or "module:function".'
    )
    exchange: Literal["rounds", "pairwise", "push"] = Field(
        "rounds",
        description="When to send and what to wait for; rounds: each round, all neighbors; pairwise: one "
        "neighbor now and then, both take the mean; push: on a timer to one neighbor, nobody waits.",
    )
    period: Period = Field(
        1.0, description='push: time between two ticks, in the node\'s own local phases or seconds ("0.2s").'
    )
    replay: str = Field(
        "",
        description="The folder of a run of real processes that the event engine repeats, to the same bits: "
        "whose payloads counted when, or the order of meetings.",
        json_schema_extra=LOCAL,
    )
    local_steps: int = Field(
        1, ge=0, description="Optimizer steps in a local phase; 0 if they are counted by local_epochs."
    )
    local_epochs: int = Field(
        0, ge=0, description="Passes over the node's own data in a local phase; 0: counted by local_steps."
    )
    every: int = Field(1, ge=1, description="Exchange after every so many local phases.")
    on_death: Literal["self", "rewire"] = Field(
        "self",
        description="Where a node is gone for good: its neighbors keep the weight that they gave it (self), "
        "or become neighbors of each other, so that the living stay connected (rewire).",
    )
    aggregate: AggregateSpec = Field(
        "mean",
        description="How what arrives is weighed; mean: as topology.weights say; by-loss: also by how well "
        "each model does on the node's own validation data.",
    )
    validation: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="by-loss: the share of a node's own samples that it keeps from training, to weigh by.",
    )
    average_optimizer: bool = Field(
        False, description="Average the optimizer's state (momentum and the like) as well, plainly."
    )
    buffers: Literal["average", "local"] = Field(
        "average",
        description="Buffers such as BatchNorm's statistics: averaged like parameters, or kept local.",
    )
    share: Patterns = Field(
        ("*",), description="Names of the parameters that are shared (* for any text); the others stay local."
    )

    @model_validator(mode="before")
    @classmethod
    def _count_by_epochs(cls, data: object) -> object:
        """`local_epochs` alone means no `local_steps`."""
        if isinstance(data, dict) and data.get("local_epochs") and "local_steps" not in data:
            return {**data, "local_steps": 0}
        return data


class Train(OpenSection):
    """Local training; the optimizer's own keywords (nesterov, betas, ...) stand beside these."""

    task: TaskSpec = Field("digits", description='Model and data: a task\'s name or "module:function".')
    optimizer: OptimizerName = Field("sgd", description="Any torch.optim class, by its name in any case.")
    lr: float = Field(0.1, gt=0, description="Learning rate.")
    lr_schedule: Literal["constant", "warmup", "step", "cosine", "agreement"] = Field(
        "constant",
        description="How the learning rate changes from round to round; agreement: each node's own, by how "
        "far its update points where the average goes.",
    )
    warmup_rounds: int = Field(
        5, ge=1, description="warmup: rounds in which the rate rises linearly to lr, where it stays."
    )
    step_every: int = Field(
        30, ge=1, description="step: the rate is multiplied by step_factor every so many rounds."
    )
    step_factor: float = Field(0.1, gt=0, le=1, description="step: what the rate is multiplied by.")
    cosine_min: float = Field(
        0.0,
        ge=0,
        description="cosine: the learning rate that half a cosine falls to, from lr, in the last round.",
    )
    batch: int = Field(32, ge=1, description="Samples in a batch.", json_schema_extra=LOCAL)
    momentum: float = Field(0.0, ge=0, lt=1, description="Momentum of the optimizer, where it has one.")
    weight_decay: float = Field(0.0, ge=0, description="Weight decay of the optimizer.")
    clip: float = Field(
        0.0, ge=0, description="Largest 2-norm of a gradient, longer ones are scaled; 0: off."
    )
    device: Device = Field(
        "auto",
        description='Where to train: "cpu", "cuda", "cuda:1", "mps"; auto: CUDA where there is one '
        "and a step is long enough for it (10^8 operations), else the CPU.",
        json_schema_extra=LOCAL,
    )
    threads: int = Field(
        1, ge=1, description="PyTorch threads a node; more than one can change the last bits."
    )
    dtype: Literal["float32", "float64", "bfloat16"] = Field(
        "float32",
        description="Number type of the parameters. bfloat16: half the memory and bytes, two to three "
        "digits, averages summed in float32 and rounded once.",
    )


class Data(Section):
    """How the training data are split over the nodes."""

    partition: PartitionSpec = Field(
        "dirichlet", description='Which node holds which samples: a name or "module:function".'
    )
    alpha: float = Field(
        0.5, gt=0, description="dirichlet: concentration; the smaller, the less alike the nodes' labels."
    )
    min_size: int = Field(1, ge=1, description="dirichlet, quantity: fewest samples a node may get.")
    shards_per_node: int = Field(2, ge=1, description="shards: label-sorted shards a node.")
    classes_per_node: int = Field(2, ge=1, description="classes: classes a node.")
    sigma: float = Field(1.0, ge=0, description="quantity: spread of the log-normal sizes.")
    column: str = Field(
        "", description="natural: the task's id column to split by; empty: the task's own choice."
    )
    file: str = Field("", description="file: a JSON file, a list of lists of sample indices, one a node.")
    path: str = Field(
        "",
        description="Folder that holds the task's data; empty: looked for. local: the node's own.",
        json_schema_extra=LOCAL,
    )


class Wire(Section):
    """How bytes move between real nodes."""

    transport: Literal["auto", "shm", "ipc", "tcp"] = Field(
        "auto",
        description="How the nodes of a swarm on one machine exchange parameters: in shared memory, or over "
        "ZeroMQ (ipc, tcp); auto: shared memory where they can, else ipc. Between machines it is tcp.",
    )
    codec: CodecSpec = Field(
        "none", description='What travels instead of the numbers: "none", "topk:K" or "module:function".'
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Number type in which parameters travel; auto: that of train.dtype. A narrower one sends "
        "less; what rounding drops stays with the node.",
    )
    deadline: float = Field(
        0.0,
        ge=0,
        description="Seconds that a round waits, after a node's own local phase, for neighbors that live; "
        "what they send later is taken up as a correction. 0: as long as it takes.",
    )
    patience: float = Field(
        0.0,
        ge=0,
        description="As deadline, in median rounds of the node; the shorter of the two holds. 0: off.",
    )
    quorum: int = Field(
        0, ge=0, description="Neighbors (of those whose line is up) that are waited for beyond the deadline."
    )
    heartbeat: float = Field(
        0.25,
        gt=0,
        description="Seconds between two signs of life that a node sends its neighbors. One on another "
        "machine is suspected after three without a byte, and dead after five, until it is heard of again.",
    )
    hang: float = Field(
        300.0,
        ge=0,
        description="Seconds without a step after which a neighbor that lives and hangs is dead; 0: never.",
        json_schema_extra=LOCAL,
    )
    gone: float = Field(
        10.0,
        gt=0,
        description='algorithm.on_death = "rewire", between machines: seconds without a line after which a '
        "node is taken to be gone for good, until it is back.",
        json_schema_extra=LOCAL,
    )
