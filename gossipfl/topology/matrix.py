"""From a graph's name to its mixing matrix, in one call."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gossipfl.topology import weights as _weights
from gossipfl.topology.spec import GraphSpec, build


def mixing_matrix(
    graph: GraphSpec,
    n: int | None = None,
    weights: str = _weights.DEFAULT,
    *,
    seed: int = 0,
    pi: Sequence[float] | NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """The mixing matrix of a static graph, float64 [n, n]; w_ij is what node i gives node j's value.

    graph: a name with its arguments, a file, `module:function`, a networkx graph, or an adjacency. n: how
    many nodes, where the graph does not say. pi: the nodes' data sizes, for weights `data`. Raises
    ConfigError.
    """
    return _weights.weigh(build(graph, n, seed=seed), weights, pi).dense()
