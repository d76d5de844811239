"""A config made ready to run: its recipe, every node's row of W, what peers must agree on. No torch in
here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from gossipfl.config import Config
from gossipfl.core.aggregate import Row
from gossipfl.core.exchange.agree import BETWEEN
from gossipfl.core.exchange.waiting import Limits
from gossipfl.core.messages import PROTOCOL_VERSION
from gossipfl.core.recipe import Choices, Recipe, make_rule, recipe, settled
from gossipfl.core.stopping import end_of
from gossipfl.errors import ConfigError, Problem
from gossipfl.topology.given import Given, Turn, told
from gossipfl.topology.rewire import Rewiring

if TYPE_CHECKING:
    from gossipfl.topology import Schedule

#: Bytes of a greeting in which parameters are told.
PARAMETERS: Final = 16_384


@dataclass(frozen=True)
class Plan:
    """What a config comes to."""

    config: Config
    recipe: Recipe

    @property
    def n(self) -> int:
        """Number of nodes."""
        return self.config.swarm.nodes

    @property
    def rounds(self) -> int:
        """Rounds to run."""
        return self.config.swarm.rounds

    @property
    def limits(self) -> Limits:
        """How long a round waits for neighbors that live."""
        wire = self.config.wire
        return Limits(wire.deadline, wire.patience, wire.quorum)

    def rows(self, node: int) -> Callable[[int], Row]:
        """round -> the node's row of W, each made once while it is in use."""
        length = self.recipe.schedule.length
        made: dict[int, Row] = {}

        def row(round: int) -> Row:
            key = round % length if length else round
            if key not in made:
                if not length:
                    made.clear()
                made[key] = self.recipe.row(node, round)
            return made[key]

        return row

    def distinct_rounds(self) -> range:
        """Rounds that between them show every mixing matrix of this run."""
        return range(min(self.recipe.schedule.length or self.rounds, self.rounds))

    def edges(self) -> list[tuple[int, int]]:
        """Every edge (i < j) that some round of this run uses, sorted."""
        return self._edges

    def near(self, node: int) -> tuple[int, ...]:
        """All the nodes that `node` shares an edge with, ascending."""
        return self._near[node]

    @cached_property
    def rewiring(self) -> Rewiring | None:
        """How nodes that are gone for good are got around, if they are."""
        if self.config.algorithm.on_death == "self":
            return None
        return Rewiring(self.recipe.schedule.mixing(0))

    @cached_property
    def _near(self) -> list[tuple[int, ...]]:
        return neighbors_of_all(self._edges, self.n)

    @cached_property
    def _edges(self) -> list[tuple[int, int]]:
        found: set[tuple[int, int]] = set()
        for t in self.distinct_rounds():
            w = self.recipe.schedule.mixing(t)
            found |= {
                (min(i, j), max(i, j))
                for i, j in zip(w.owners.tolist(), w.indices.tolist(), strict=True)
                if i != j
            }
        return sorted(found)

    def end_of(self, node: int, rounds: int, dead: frozenset[int] = frozenset()) -> int:
        """After how many rounds all nodes end, if `node` has seen enough after `rounds`. dead: who is got
        around, where that is done: word takes another way then."""
        made = self.recipe.schedule
        if dead and self.rewiring is not None:
            made = Given([Turn(self.rewiring.mixing(dead), directed=False)])
        return end_of(made, node, rounds, self.recipe.rule.early, self.rounds)

    def about(self, model: tuple[tuple[str, tuple[int, ...], str], ...], data_hash: str) -> dict[str, object]:
        """What a node tells when it meets another: both must say the same."""
        return {
            "protocol": PROTOCOL_VERSION,
            "graph": self._graph,
            "model": hashlib.sha256(repr(model).encode()).hexdigest()[:16],
            "parameters": _parameters(model),
            "data": data_hash,
            **self._comparable,
        }

    @cached_property
    def _comparable(self) -> dict[str, object]:
        return self.config.comparable()

    @cached_property
    def _graph(self) -> str:
        graph = hashlib.sha256()
        for t in self.distinct_rounds()[:64]:
            w = self.recipe.schedule.mixing(t)
            for array in (w.indptr, w.indices):
                graph.update(array.astype("<i8").tobytes())
            graph.update(w.data.astype("<f8").tobytes())
        return graph.hexdigest()[:16]


def _parameters(model: tuple[tuple[str, tuple[int, ...], str], ...]) -> str:
    """Names, shapes and types, as far as they fit into a greeting: enough to name the first that differs."""
    texts = [f"{name} {'x'.join(map(str, shape)) or 'scalar'} {dtype}" for name, shape, dtype in model]
    while sum(len(text.encode()) + len(BETWEEN) for text in texts) > PARAMETERS:
        texts = texts[: len(texts) * 3 // 4]
    return BETWEEN.join(texts)


def needs_sizes(config: Config) -> bool:
    """Must the data be split before the mixing matrix can be made?"""
    return config.topology.weights == "data" and not config.topology.pi


def require_reachable(config: Config, edges: list[tuple[int, int]]) -> None:
    """Raises ConfigError: an edge that neither end can dial."""
    problems = [
        Problem(
            f"node.{config.names[i]}.address",
            f"is empty, and so is that of its neighbor {config.names[j]}: neither can dial the other",
            f"an address for one of them, or a graph without the edge {config.names[i]}–{config.names[j]}",
        )
        for i, j in edges
        if not config.node[i].address and not config.node[j].address
    ]
    if problems:
        raise ConfigError(problems)


def neighbors(edges: list[tuple[int, int]], node: int) -> tuple[int, ...]:
    """All the nodes that `node` shares an edge with, ascending."""
    return tuple(sorted({i + j - node for i, j in edges if node in (i, j)}))


def neighbors_of_all(edges: list[tuple[int, int]], n: int) -> list[tuple[int, ...]]:
    """What `neighbors` gives for every node."""
    near: list[list[int]] = [[] for _ in range(n)]
    for i, j in edges:
        near[i].append(j)
        near[j].append(i)
    return [tuple(sorted(found)) for found in near]


def plan(config: Config, sizes: tuple[int, ...] | None = None, plain: int = 0) -> Plan:
    """Build graph and rule and check that they fit.

    sizes: samples of each node, for weights by data. plain: the last so many elements of x are no parameters
    (buffers, optimizer state). Raises ConfigError with every reason they do not."""
    from gossipfl.core import asynchronous

    algorithm = config.algorithm
    if algorithm.exchange != "rounds":
        mixing, _ = _schedule(config, sizes, columns=False)
        made = asynchronous.recipe(algorithm.exchange, algorithm.rule, algorithm.extra, mixing)
        return Plan(config, made)
    if asynchronous.exchange_of(algorithm.rule) != "rounds":
        why = f"is rounds, and {algorithm.rule} waits for nobody"
        raise ConfigError(Problem("algorithm.exchange", why, '"push"'))
    problems: list[Problem] = []
    columns = False
    try:
        own = {key: value for key, value in algorithm.extra.items() if key != "lazy"}
        columns = "column-stochastic" in make_rule(algorithm.rule, own)[0].needs
    except ConfigError as error:
        problems += error.problems
    try:
        mixing, notes = _schedule(config, sizes, columns)
    except ConfigError as error:
        raise ConfigError([*error.problems, *problems]) from error
    made = recipe(algorithm.rule, algorithm.extra, mixing, _choices(config, plain))
    return Plan(config, replace(made, notes=(*notes, *made.notes)))


def _choices(config: Config, plain: int) -> Choices:
    algorithm = config.algorithm
    return Choices(
        algorithm.every,
        config.wire.codec,
        "" if config.wire.dtype in ("auto", config.train.dtype) else config.wire.dtype,
        algorithm.aggregate,
        algorithm.on_death == "rewire",
        config.train.lr_schedule == "agreement",
        algorithm.average_optimizer,
        plain,
    )


def handed(made: Plan) -> dict[str, object] | None:
    """A plan as plain data, for a process that makes no graphs and checks no laws, which takes a megabyte;
    None where it has to make its own."""
    if made.config.algorithm.exchange != "rounds" or (turns := told(made.recipe.schedule)) is None:
        return None
    return {"turns": turns, "params": dict(made.recipe.params), "notes": list(made.recipe.notes)}


def taken(config: Config, found: Mapping[str, Any], plain: int = 0) -> Plan:
    """The plan that has been handed on; `plain` as in `plan`."""
    schedule, choices = Given.of(found["turns"]), _choices(config, plain)
    made = settled(config.algorithm.rule, found["params"], schedule, choices)
    return Plan(config, replace(made, notes=tuple(found["notes"])))


def with_plain(made: Plan, plain: int) -> Plan:
    """The same plan for models whose last so many elements are no parameters, as in `plan`."""
    if not plain:
        return made
    found = handed(made)
    return plan(made.config, plain=plain) if found is None else taken(made.config, found, plain)


def _schedule(
    config: Config, sizes: tuple[int, ...] | None, columns: bool
) -> tuple[Schedule, tuple[str, ...]]:
    """The schedule of a config, and what was chosen for the user: with `columns`, columns that sum to one are
    needed, and where the weights are the default and do not have them, column-stochastic ones are taken."""
    from gossipfl.topology.schedules import schedule
    from gossipfl.topology.weights import DEFAULT

    topology = config.topology

    def make(weights: str) -> Schedule:
        return schedule(
            topology.graph,
            config.swarm.nodes,
            weights=weights,
            seed=config.swarm.seed,
            allow_disconnected=topology.allow_disconnected,
            pi=topology.pi or sizes,
        )

    try:
        made = make(topology.weights)
        if not columns or topology.weights != DEFAULT or _fits(made):
            return made, ()
    except ConfigError as error:
        keys = {problem.key for problem in error.problems}
        if not columns or topology.weights != DEFAULT or keys != {"topology.weights"}:
            raise
    note = (
        f"{config.algorithm.rule}: weights column-stochastic are taken, {DEFAULT} has no fitting columns here"
    )
    try:
        return make("column-stochastic"), (note,)
    except ConfigError:
        return make(
            DEFAULT
        ), ()  # a schedule with matrices of its own: whether they fit is for the recipe to say


def _fits(made: Schedule) -> bool:
    """Do the columns sum to one, or did the matrix come with the graph, so that it is the user's own?"""
    return made.graph(0).matrix is not None or made.mixing(0).column_stochastic
