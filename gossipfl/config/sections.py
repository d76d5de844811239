"""The sections of swarm.toml as frozen dataclasses: one class a table, one described field a key. Those of
learning are in `training.py`, of machines in `lan.py`, of what the event engine pretends in `network.py`.

Everything that is told about a key lives here once: its type, range, default, description, and whether it is
this machine's own (`x-local`, not part of what peers compare). What checks (`checking.py`), the JSON schema
and the documentation are made from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from gossipfl.config.kinds import CodecSpec, GraphSpec, Name, PartitionSpec, WeightsSpec, WriterSpec, sequence
from gossipfl.config.section import Above, Before, Expected, Section, key


@dataclass(frozen=True, kw_only=True)
class Swarm(Section):
    """The swarm as a whole: how many nodes, for how long, from which seed."""

    name: Name = key("demo", "Name of the swarm; the run's default folder is runs/NAME-TIME.")
    nodes: int = key(8, "Number of nodes.", ge=1, le=1_000_000)
    rounds: int = key(
        100,
        "Rounds to run; a round is one local phase and, every `every`-th, one exchange. "
        "Asynchronous exchanges count each node's local phases.",
        ge=1,
    )
    seed: int = key(
        0,
        "The seed of everything drawn: graph, partition, start, batches, virtual delays.",
        ge=0,
        le=2**63 - 1,
    )
    same_start: bool = key(True, "All nodes start from the same parameters; false: each from its own.")
    eval_every: int = key(
        10, "Evaluate on the test set every so many rounds; the last round is always evaluated.", ge=1
    )
    checkpoint_every: int = key(
        0,
        "Every so many rounds each real node writes a checkpoint, from which `--resume` goes on; 0: never.",
        ge=0,
    )
    tensorboard: bool = key(False, "Write curves for TensorBoard too, into the run's folder.", local=True)
    writer: WriterSpec = key(
        "", '"module:function" that is given every record as it is made; empty: none.', local=True
    )
    start_timeout: float = key(
        0.0, "Seconds to wait for the neighbors at the start; 0: wait on, and say for whom.", local=True, ge=0
    )


@dataclass(frozen=True, kw_only=True)
class Target(Section):
    """A value of a metric that is good enough."""

    metric: str = key("", "A metric of the task, such as accuracy; empty: no target.")
    value: float = key(0.0, "As good as this is good enough.")


@dataclass(frozen=True, kw_only=True)
class Stop(Section):
    """When to end before `swarm.rounds`. The first node for which one of these holds says so, and word of it
    travels with the rounds: all nodes end in the same one."""

    target: Annotated[Target, Expected('a table such as {metric = "accuracy", value = 0.95}')] = key(
        Target(), "Metric and value that a node must reach at an evaluation."
    )
    patience: int = key(0, "Evaluations without a better target metric (or headline metric); 0: off.", ge=0)
    seconds: float = key(0.0, "Seconds from the first round on; 0: off.", ge=0)

    @property
    def wanted(self) -> bool:
        """May the run end early?"""
        return bool(self.target.metric or self.patience or self.seconds)


@dataclass(frozen=True, kw_only=True)
class Topology(Section):
    """Who may talk to whom, and how much of each neighbor a node takes."""

    graph: GraphSpec = key(
        "ring",
        'The graph: a name with its arguments ("torus:4x8"), a file, "module:function",'
        " or a list of them, one a round in turn.",
    )
    weights: WeightsSpec = key(
        "metropolis", 'How the mixing matrix is made of the graph: a name or "module:function".'
    )
    pi: Annotated[
        tuple[Annotated[float, Above(0)], ...],
        Before(sequence),
        Expected("a list of positive numbers, one a node"),
    ] = key((), "weights data: each node's size; empty: its number of samples.")
    allow_disconnected: bool = key(
        False, "Run on a graph that is not connected, where consensus cannot be reached."
    )

    @property
    def title(self) -> str:
        """The graph as one word; a cycle of graphs with arrows."""
        return self.graph if isinstance(self.graph, str) else " > ".join(self.graph)


@dataclass(frozen=True, kw_only=True)
class Data(Section):
    """How the training data are split over the nodes."""

    partition: PartitionSpec = key(
        "dirichlet", 'Which node holds which samples: a name or "module:function".'
    )
    alpha: float = key(0.5, "dirichlet: concentration; the smaller, the less alike the nodes' labels.", gt=0)
    min_size: int = key(1, "dirichlet, quantity: fewest samples a node may get.", ge=1)
    shards_per_node: int = key(2, "shards: label-sorted shards a node.", ge=1)
    classes_per_node: int = key(2, "classes: classes a node.", ge=1)
    sigma: float = key(1.0, "quantity: spread of the log-normal sizes.", ge=0)
    column: str = key("", "natural: the task's id column to split by; empty: the task's own choice.")
    file: str = key("", "file: a JSON file, a list of lists of sample indices, one a node.")
    path: str = key(
        "", "Folder that holds the task's data; empty: looked for. local: the node's own.", local=True
    )


@dataclass(frozen=True, kw_only=True)
class Wire(Section):
    """How bytes move between real nodes."""

    transport: Literal["auto", "shm", "ipc", "tcp"] = key(
        "auto",
        "How the nodes of a swarm on one machine exchange parameters: in shared memory, or over "
        "ZeroMQ (ipc, tcp); auto: shared memory where they can, else ipc. Between machines it is tcp.",
    )
    codec: CodecSpec = key(
        "none", 'What travels instead of the numbers: "none", "topk:K" or "module:function".'
    )
    dtype: Literal["auto", "float32", "bfloat16"] = key(
        "auto",
        "Number type in which parameters travel; auto: that of train.dtype. A narrower one sends "
        "less; what rounding drops stays with the node.",
    )
    deadline: float = key(
        0.0,
        "Seconds that a round waits, after a node's own local phase, for neighbors that live; "
        "what they send later is taken up as a correction. 0: as long as it takes.",
        ge=0,
    )
    patience: float = key(
        0.0, "As deadline, in median rounds of the node; the shorter of the two holds. 0: off.", ge=0
    )
    quorum: int = key(
        0, "Neighbors (of those whose line is up) that are waited for beyond the deadline.", ge=0
    )
    heartbeat: float = key(
        0.25,
        "Seconds between two signs of life that a node sends its neighbors. One on another "
        "machine is suspected after three without a byte, and dead after five, until it is heard of again.",
        gt=0,
    )
    hang: float = key(
        300.0,
        "Seconds without a step after which a neighbor that lives and hangs is dead; 0: never.",
        local=True,
        ge=0,
    )
    gone: float = key(
        10.0,
        'algorithm.on_death = "rewire", between machines: seconds without a line after which a '
        "node is taken to be gone for good, until it is back.",
        local=True,
        gt=0,
    )
