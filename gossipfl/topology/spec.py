"""From what a person writes (`torus:4x8`, a file, `module:function`, a networkx graph) to a graph."""

from __future__ import annotations

import difflib
from dataclasses import replace
from os import PathLike, fspath
from typing import TYPE_CHECKING, Final, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from gossipfl import plugin
from gossipfl.errors import ConfigError, Problem
from gossipfl.topology import files
from gossipfl.topology.families import FAMILIES, Arguments, Family
from gossipfl.topology.families.base import KEY, wrong
from gossipfl.topology.graph import Graph, from_pairs

if TYPE_CHECKING:
    import networkx

LARGEST: Final = 1_000_000
"""Nodes up to which a graph is made."""

GraphSpec: TypeAlias = Union[str, PathLike[str], Graph, NDArray[np.float64], "networkx.Graph"]


def family_of(spec: GraphSpec) -> tuple[Family, Arguments] | None:
    """The family and arguments of `name` or `name:arguments`; None for whatever is no family."""
    if not isinstance(spec, str):
        return None
    name, _, text = spec.partition(":")
    return (FAMILIES[name], Arguments(spec, text)) if name in FAMILIES else None


def size_of(spec: GraphSpec, n: int | None) -> int:
    """How many nodes: as asked, or as the spec itself says. Raises ConfigError where they disagree or neither
    says.
    """
    found = family_of(spec)
    if n is not None and n < 1:
        raise ConfigError(Problem("swarm.nodes", f"{n} nodes are no swarm", "1 or more"))
    if found is None:
        return n if n is not None else build(spec, None, allow_disconnected=True).n
    if found[0].name == "matching" and found[1].text:
        return size_of(found[1].text, n)
    implied = found[0].size(found[1])
    if n is None and implied is None:
        raise ConfigError(
            Problem("--nodes", f"{spec} can have any number of nodes", f"say how many: {spec} --nodes 16")
        )
    nodes = n if n is not None else int(implied or 0)
    if nodes > LARGEST:
        raise ConfigError(Problem("swarm.nodes", f"{nodes} nodes are too many", f"up to {LARGEST}"))
    return nodes


def build(spec: GraphSpec, n: int | None, *, seed: int = 0, allow_disconnected: bool = False) -> Graph:
    """One graph of n nodes (None: as many as the spec itself says).

    spec: a family with its arguments, a file, `module:function` (called with n and seed), an adjacency [n,
    n], a networkx graph, or a Graph. Raises ConfigError: key `topology.graph`, `swarm.nodes`, or the file and
    line.
    """
    try:
        graph = _made(spec, n, seed)
    except MemoryError as error:
        problem = Problem(KEY, f"{spec} of {n} nodes does not fit into memory", "fewer nodes or edges")
        raise ConfigError(problem) from error
    if graph.n < 1:
        raise wrong(f"{graph.name} has no nodes", "1 or more")
    if n is not None and graph.n != n:
        raise wrong(f"{graph.name} has {graph.n} nodes, not {n}", f"{graph.n} nodes")
    check_connected(graph, allow_disconnected)
    return graph


def check_connected(graph: Graph, allow_disconnected: bool) -> None:
    """Raise ConfigError for a graph in pieces, unless that is wanted; `none` is always allowed."""
    if allow_disconnected or graph.name == "none" or graph.connected():
        return
    parts = graph.components()
    kind = "strongly connected" if graph.directed else "connected"
    alone = min(parts, key=len)
    names = [graph.labels[i] if graph.labels else str(i) for i in alone[:5].tolist()]
    more = ", ..." if len(alone) > 5 else ""
    raise wrong(
        f"{graph.name} is not {kind}: {len(parts)} parts, one of them {{{', '.join(names)}{more}}}",
        "join them, or topology.allow_disconnected = true",
    )


def _made(spec: GraphSpec, n: int | None, seed: int) -> Graph:
    if isinstance(spec, Graph):
        return spec
    if isinstance(spec, np.ndarray):
        if spec.ndim != 2 or spec.shape[0] != spec.shape[1]:
            raise wrong(f"a matrix of shape {spec.shape}", "a square adjacency or mixing matrix")
        if spec.dtype.kind not in "biuf":
            raise wrong(f"a matrix of {spec.dtype}", "a matrix of real numbers")
        return files.from_matrix(np.asarray(spec, dtype=np.float64), "matrix", KEY)
    if not isinstance(spec, str | PathLike):
        return _from_networkx(spec)
    text = fspath(spec)
    found = family_of(text)
    if found is not None:
        family, arguments = found
        if family.make is None:
            raise wrong(f"{text} changes from round to round", "a static graph here")
        if arguments.text and not family.arguments:
            raise wrong(f"{text}: {family.name} takes no arguments", family.name)
        return family.make(size_of(text, n), arguments, seed)
    if files.is_file(text):
        return files.read(text, n)
    if plugin.is_plugin(text):
        return _from_function(text, n, seed)
    raise unknown(text)


def unknown(text: str) -> ConfigError:
    """No graph has this name: what was meant?"""
    near = difflib.get_close_matches(text.partition(":")[0], FAMILIES, n=1)
    meant = (
        f"did you mean {near[0]}? (gossipfl topology list)" if near else "gossipfl topology list shows them"
    )
    return wrong(f"no graph {text!r}", f"{meant}; a file ends in {' '.join(files.READERS)}")


def _from_function(spec: str, n: int | None, seed: int) -> Graph:
    if n is None:
        raise ConfigError(Problem("--nodes", f"{spec} is called with the number of nodes", "say how many"))
    function = plugin.load(spec, KEY)
    try:
        made = function(n, seed)
    except Exception as error:  # whatever a person's own function raises is theirs to read
        raise wrong(f"{spec}: {type(error).__name__}: {error}", "it is called with (n, seed)") from error
    if isinstance(made, Graph):
        arcs = np.asarray(made.arcs)
        if arcs.ndim != 2 or arcs.shape[1] != 2 or arcs.dtype.kind not in "iu":
            raise wrong(f"{spec}: arcs of shape {arcs.shape}, {arcs.dtype}", "int64 [m, 2]")
        return replace(made, arcs=from_pairs(made.name, made.n, arcs, directed=made.directed).arcs)
    if isinstance(made, np.ndarray):
        return _made(made, n, seed)
    if hasattr(made, "is_directed") and hasattr(made, "nodes"):
        return _from_networkx(made)
    raise wrong(f"{spec} returned {type(made).__name__}", "a Graph, a networkx graph, or an adjacency [n, n]")


def _from_networkx(found: "networkx.Graph") -> Graph:  # noqa: UP037 (the name exists for type checkers only)
    """A networkx graph, its nodes in their own order; self-loops are refused."""
    if not (hasattr(found, "is_directed") and hasattr(found, "nodes")):
        raise wrong(f"{type(found).__name__} is no graph", "a name, a file, a networkx graph, or a matrix")
    names = list(found.nodes)
    index = {name: i for i, name in enumerate(names)}
    pairs = [(index[a], index[b]) for a, b in found.edges()]
    loops = [names[a] for a, b in pairs if a == b]
    if loops:
        raise wrong(f"self-loop at node {loops[0]}", "edges between different nodes")
    labels = () if names == list(range(len(names))) else tuple(str(name) for name in names)
    name = str(found.graph.get("name") or "networkx")
    return from_pairs(name, len(names), pairs, directed=bool(found.is_directed()), labels=labels)
