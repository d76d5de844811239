"""A config made ready to run: its recipe, every node's row of W, what peers must agree on. No torch in
here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from gossipfl.config import Config
from gossipfl.core.aggregate import Row
from gossipfl.core.messages import PROTOCOL_VERSION
from gossipfl.core.recipe import Recipe, make_rule, recipe
from gossipfl.errors import ConfigError
from gossipfl.topology import schedule


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
        found: set[tuple[int, int]] = set()
        for t in self.distinct_rounds():
            coo = self.recipe.schedule.mixing(t).matrix.tocoo()
            found |= {
                (min(i, j), max(i, j))
                for i, j in zip(coo.row.tolist(), coo.col.tolist(), strict=True)
                if i != j
            }
        return sorted(found)

    def about(self, model: tuple[tuple[str, tuple[int, ...], str], ...], data_hash: str) -> dict[str, object]:
        """What a node tells when it meets another: both must say the same."""
        graph = hashlib.sha256()
        for t in self.distinct_rounds()[:64]:
            matrix = self.recipe.schedule.mixing(t).matrix
            for array in (matrix.indptr, matrix.indices):
                graph.update(array.astype("<i8").tobytes())
            graph.update(matrix.data.astype("<f8").tobytes())
        return {
            "protocol": PROTOCOL_VERSION,
            "graph": graph.hexdigest()[:16],
            "model": hashlib.sha256(repr(model).encode()).hexdigest()[:16],
            "data": data_hash,
            **self.config.comparable(),
        }


def needs_sizes(config: Config) -> bool:
    """Must the data be split before the mixing matrix can be made?"""
    return config.topology.weights == "data" and not config.topology.pi


def neighbors(edges: list[tuple[int, int]], node: int) -> tuple[int, ...]:
    """All the nodes that `node` shares an edge with, ascending."""
    return tuple(sorted({i + j - node for i, j in edges if node in (i, j)}))


def plan(config: Config, sizes: tuple[int, ...] | None = None) -> Plan:
    """Build graph and rule and check that they fit; `sizes`: samples of each node, for weights by data.

    Raises ConfigError with every reason they do not."""
    algorithm, topology = config.algorithm, config.topology
    try:
        mixing = schedule(
            topology.graph,
            config.swarm.nodes,
            weights=topology.weights,
            seed=config.swarm.seed,
            allow_disconnected=topology.allow_disconnected,
            pi=topology.pi or sizes,
        )
    except ConfigError as error:
        problems = list(error.problems)
        try:
            make_rule(algorithm.rule, {k: v for k, v in algorithm.extra.items() if k != "lazy"})
        except ConfigError as also:
            problems += also.problems
        raise ConfigError(problems) from error
    return Plan(config, recipe(algorithm.rule, algorithm.extra, mixing, algorithm.every))
