"""Graphs from files: edge lists (`.edges`), GraphML (`.graphml`), node-link JSON (`.json`), matrices
(`.npy`).

An edge list has a line `a b [weight]` for an edge, `a -> b [weight]` for an arc (all or none); `#` begins a
comment. Nodes are numbers from 0, or names (in order of their first line). A weight is w_ab, what the two
give each other's value (for an arc: what b gives a's); the diagonal is what each row lacks to one. Mistakes
name file and line.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from gossipfl.errors import ConfigError, Problem
from gossipfl.topology import mixing
from gossipfl.topology.graph import Graph, from_pairs

if TYPE_CHECKING:
    import scipy.sparse as sp

NUMBER: Final = re.compile("0|[1-9][0-9]{0,17}")
"""How a node's number is written: one way for each, so that 7 and 07 are not two nodes."""
HUGE: Final = 1e100
"""What is not below is no number to reckon with: infinity, or on the way there."""


class Edge(NamedTuple):
    """An edge as it stands in a file, with its line (0: unknown)."""

    a: str
    b: str
    weight: float | None
    line: int


def read(path: str | Path, n: int | None = None) -> Graph:
    """The graph of a file. Raises ConfigError with key FILE:LINE (or FILE) for whatever is wrong in it.

    n: how many nodes there should be, or None.
    """
    path = Path(path)
    try:
        graph = READERS[path.suffix](path, n)
    except FileNotFoundError as error:
        raise _bad(path, 0, "there is no such file", "a path from the working directory") from error
    except UnicodeDecodeError as error:
        wrong = f"cannot be read: not UTF-8 (byte {error.start + 1})"
        raise _bad(path, 0, wrong, "a text file in UTF-8") from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise _bad(path, 0, f"cannot be read: {reason}", "a readable file") from error
    if graph.n == 0:
        raise _bad(path, 0, "it has no nodes", "1 or more")
    if n is not None and graph.n != n:
        raise ConfigError(Problem(str(path), f"it has {graph.n} nodes, not {n}", f"{graph.n} nodes"))
    return graph


def is_file(spec: str) -> bool:
    """Does this name a graph file by its ending?"""
    return Path(spec).suffix in READERS


def _edge_list(path: Path, n: int | None) -> Graph:
    edges: list[Edge] = []
    arrows: bool | None = None
    for number, text in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        words = text.partition("#")[0].replace("->", " -> ").split()
        if not words:
            continue
        arrow = len(words) > 1 and words[1] == "->"
        if arrow:
            del words[1]
        if arrows not in (None, arrow):
            raise _bad(path, number, "edges and arcs (->) are mixed", "one kind in a file")
        arrows = arrow
        if len(words) not in (2, 3):
            raise _bad(
                path, number, f"{text.strip()!r} is no edge", "two nodes, and a weight if there are weights"
            )
        edges.append(
            Edge(words[0], words[1], _weight(path, number, words[2]) if len(words) == 3 else None, number)
        )
    if not edges:
        raise ConfigError(Problem(str(path), "it has no edges", "a line `a b` for each edge"))
    names = _names(path, edges, n)
    matrix = _matrix(path, edges, names, bool(arrows), strict=True)
    return _graph(path, names, edges, bool(arrows), matrix)


def _weight(path: Path, line: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise _bad(path, line, f"weight {text!r} is not a number", "a number from 0 to 1") from None
    if not 0 <= value < float("inf"):
        raise _bad(path, line, f"weight {text} is negative or not finite", "a number from 0 to 1")
    return value


def _names(path: Path, edges: list[Edge], n: int | None) -> tuple[str, ...]:
    """Node names in index order: numbers stand for themselves, other names come as they first appear."""
    if not all(name.removeprefix("-").isdecimal() for name in edges[0][:2]):
        return tuple(dict.fromkeys(name for edge in edges for name in (edge.a, edge.b)))
    for edge in edges:
        for name in (edge.a, edge.b):
            if not NUMBER.fullmatch(name):
                wrong, right = f"unknown node {name!r}: the others are numbers", "a number from 0"
                if name.isdecimal():
                    wrong, right = f"unknown node {name[:40]}", "a number from 0, such as 7 (not 07)"
                raise _bad(path, edge.line, wrong, right)
            if n is not None and int(name) >= n:
                raise _bad(
                    path, edge.line, f"unknown node {name}: there are {n} nodes", f"numbers from 0 to {n - 1}"
                )
    used = {int(name) for edge in edges for name in (edge.a, edge.b)}
    missing = next((i for i in range(max(used)) if i not in used), None)
    if missing is not None and max(used) > 10 * len(used):
        line = next(edge.line for edge in edges if max(used) in (int(edge.a), int(edge.b)))
        raise _bad(path, line, f"node {max(used)}, but no node {missing}", "numbers from 0, none left out")
    return tuple(str(i) for i in range(max(used) + 1))


def _graph(
    path: Path,
    names: tuple[str, ...],
    edges: list[Edge],
    directed: bool,
    matrix: sp.csr_array | None,
    positions: NDArray[np.float64] | None = None,
    addresses: tuple[str, ...] = (),
) -> Graph:
    """Check the edges, each against those before it, and make the graph."""
    index = {name: i for i, name in enumerate(names)}
    seen: dict[tuple[int, int], int] = {}
    for edge in edges:
        for name in (edge.a, edge.b):
            if name not in index:
                raise _bad(path, edge.line, f"unknown node {name!r}", "a node that the file lists")
        a, b = index[edge.a], index[edge.b]
        if a == b:
            raise _bad(path, edge.line, f"self-loop at node {edge.a}", "two different nodes")
        pair = (a, b) if directed else (min(a, b), max(a, b))
        if pair in seen:
            before = f" (line {seen[pair]})" if seen[pair] else ""
            raise _bad(path, edge.line, f"edge {edge.a} {edge.b} is there twice{before}", "each edge once")
        seen[pair] = edge.line
    labels = () if names == tuple(str(i) for i in range(len(names))) else names
    return from_pairs(
        path.stem,
        len(names),
        list(seen),
        directed=directed,
        labels=labels,
        positions=positions,
        addresses=addresses,
        matrix=matrix,
    )


def _matrix(
    path: Path, edges: list[Edge], names: tuple[str, ...], directed: bool, *, strict: bool
) -> sp.csr_array | None:
    """W of weighted edges, or None where there are no weights.

    strict: weights that are no mixing matrix are an error (in an edge list that is their meaning); otherwise
    they are something else (lengths, capacities), and None.
    """
    weighted = [edge for edge in edges if edge.weight is not None]
    if not weighted:
        return None
    if len(weighted) < len(edges):
        if not strict:
            return None
        first = next(edge for edge in edges if edge.weight is None)
        raise _bad(
            path, first.line, "this edge has no weight, others have", "a weight on every edge, or on none"
        )
    index = {name: i for i, name in enumerate(names)}
    n = len(names)
    a = np.array([index.get(edge.a, 0) for edge in edges])
    b = np.array([index.get(edge.b, 0) for edge in edges])
    values = np.array([edge.weight for edge in edges], dtype=np.float64)
    rows, columns = (b, a) if directed else (np.concatenate([a, b]), np.concatenate([b, a]))
    values = values if directed else np.tile(values, 2)
    sums = np.bincount(rows, weights=values, minlength=n)
    over = np.flatnonzero(sums > 1.0 + mixing.TOLERANCE)
    if len(over):
        if not strict:
            return None
        worst = int(over[0])
        line = next(edge.line for edge in reversed(edges) if worst in (index[edge.a], index[edge.b]))
        wrong = f"the weights at node {names[worst]} sum to {sums[worst]:.6g}"
        raise _bad(
            path, line, wrong, "at most 1 (the rest is the node's own), or no weights for the graph alone"
        )
    if (rows == columns).any():
        return None
    return mixing.from_entries(n, rows, columns, values).matrix


def _graphml(path: Path, n: int | None) -> Graph:
    """GraphML by networkx; node attributes x, y, address and the edge attribute weight are used."""
    import networkx as nx

    declared, edges = _graphml_lines(path)
    try:
        with warnings.catch_warnings():  # ports and untyped keys mean nothing here
            warnings.simplefilter("ignore")
            found = nx.read_graphml(path)
    except (nx.NetworkXError, LookupError, ValueError) as error:
        raise _bad(path, 0, f"not GraphML ({error})", "a GraphML file") from error
    names = tuple(str(name) for name in found.nodes if str(name) in declared)
    weights = {(str(a), str(b)): data.get("weight") for a, b, data in found.edges(data=True)}
    if not found.is_directed():
        weights |= {(b, a): weight for (a, b), weight in weights.items()}
    placed = [Edge(a, b, _number(weights.get((a, b))), line) for a, b, line in edges]
    attributes = [dict(found.nodes[name]) for name in found.nodes if str(name) in declared]
    return _from_node_link(path, names, attributes, placed, found.is_directed())


def _graphml_lines(path: Path) -> tuple[set[str], list[tuple[str, str, int]]]:
    """The ids of the nodes that a GraphML file declares, and its edges with their lines."""
    nodes: set[str] = set()
    edges: list[tuple[str, str, int]] = []
    parser = expat.ParserCreate()

    def start(tag: str, attributes: dict[str, str]) -> None:
        kind, line = tag.rpartition(":")[2], parser.CurrentLineNumber
        for key in {"node": ("id",), "edge": ("source", "target")}.get(kind, ()):
            if key not in attributes:
                raise _bad(path, line, f"<{kind}> without {key}", f'<{kind} {key}="alice">')
        if kind == "node":
            if attributes["id"] in nodes:
                raise _bad(path, line, f"node {attributes['id']!r} is there twice", "each node once")
            nodes.add(attributes["id"])
        elif kind == "edge":
            edges.append((attributes["source"], attributes["target"], line))

    parser.StartElementHandler = start
    try:
        parser.Parse(path.read_bytes(), True)
    except (expat.ExpatError, LookupError) as error:  # LookupError: an encoding that nobody knows
        raise _bad(path, getattr(error, "lineno", 1), f"not XML ({error})", "a GraphML file") from error
    return nodes, edges


def _json(path: Path, n: int | None) -> Graph:
    """Node-link JSON, as networkx writes it: nodes [{id, x?, y?, address?}], links or edges [{source,
    target}].
    """
    text = path.read_text(encoding="utf-8-sig")
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise _bad(path, error.lineno, f"not JSON ({error.msg})", "a node-link JSON file") from error
    except (ValueError, RecursionError) as error:  # a number, or a nesting, without end
        raise _bad(path, 0, f"not JSON ({error})", "a node-link JSON file") from error
    key = "links" if isinstance(content, dict) and "links" in content else "edges"
    nodes = content.get("nodes") if isinstance(content, dict) else None
    links = content.get(key) if isinstance(content, dict) else None
    if not isinstance(nodes, list) or not isinstance(links, list):
        raise ConfigError(
            Problem(str(path), "it has no nodes and links", 'node-link JSON: {"nodes": [], "links": []}')
        )
    node_lines, link_lines = _json_lines(text, "nodes"), _json_lines(text, key)
    for entry, line in zip(nodes, node_lines, strict=True):
        if not isinstance(entry, dict) or "id" not in entry:
            raise _bad(path, line, f"{json.dumps(entry)} is no node", '{"id": "alice"}')
    names = tuple(str(entry["id"]) for entry in nodes)
    seen: set[str] = set()
    for name, line in zip(names, node_lines, strict=True):
        if name in seen:
            raise _bad(path, line, f"node {name!r} is there twice", "each node once")
        seen.add(name)
    edges = []
    for entry, line in zip(links, link_lines, strict=True):
        if not isinstance(entry, dict) or not {"source", "target"} <= entry.keys():
            raise _bad(path, line, f"{json.dumps(entry)} is no link", '{"source": "alice", "target": "bob"}')
        edges.append(Edge(str(entry["source"]), str(entry["target"]), _number(entry.get("weight")), line))
    return _from_node_link(path, names, nodes, edges, bool(content.get("directed", False)))


def _json_lines(text: str, key: str) -> list[int]:
    """The lines on which the entries of a JSON object's array `key` begin; of the last such, as json reads
    it."""
    decoder, between = json.JSONDecoder(), re.compile(r"[\s,:]*")

    def next_from(at: int) -> int:
        found = between.match(text, at)
        return found.end() if found else at

    lines: list[int] = []
    at = next_from(next_from(0) + 1)
    while text[at] != "}":
        name, at = decoder.raw_decode(text, at)
        at = next_from(at)
        if name != key or text[at] != "[":
            _, at = decoder.raw_decode(text, at)
        else:
            lines, line, counted, at = [], 1, 0, next_from(at + 1)
            while text[at] != "]":
                line, counted = line + text.count("\n", counted, at), at
                lines.append(line)
                _, at = decoder.raw_decode(text, at)
                at = next_from(at)
            at += 1
        at = next_from(at)
    return lines


def _number(value: object) -> float | None:
    """A number of a file as a float, at most HUGE either way; None for what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(max(min(value, HUGE), -HUGE))


def _from_node_link(
    path: Path,
    names: tuple[str, ...],
    attributes: list[Mapping[str, object]] | list[dict[str, object]],
    edges: list[Edge],
    directed: bool,
) -> Graph:
    for edge in edges:
        if edge.weight is not None and not 0 <= edge.weight < HUGE:
            wrong = f"weight {edge.weight:g} is negative or not finite"
            raise _bad(path, edge.line, wrong, "a number from 0")
    places = [(_number(node.get("x")), _number(node.get("y"))) for node in attributes]
    known = [(x, y) for x, y in places if x is not None and y is not None and abs(x) + abs(y) < HUGE]
    positions = _centred(np.array(known, dtype=np.float64)) if known and len(known) == len(names) else None
    addresses = tuple(str(node.get("address", "")) for node in attributes)
    matrix = _matrix(path, edges, names, directed, strict=False)
    return _graph(path, names, edges, directed, matrix, positions, addresses if any(addresses) else ())


def _centred(at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shift and scale to the square from -1 to 1, the shape kept."""
    at = at / max(float(np.abs(at).max()), 1e-12)
    middle = (at.max(0) + at.min(0)) / 2
    return np.asarray((at - middle) / max(float(np.ptp(at, axis=0).max()) / 2, 1e-12))


def _npy(path: Path, n: int | None) -> Graph:
    """A matrix: 0 and 1 an adjacency (a_ij: i receives from j); rows (or columns) that sum to one a mixing
    matrix.
    """
    try:
        with path.open("rb") as file:
            given = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, MemoryError) as error:
        raise _bad(path, 0, f"not a numpy matrix ({error})", "a file of numpy.save") from error
    if given.ndim != 2 or given.shape[0] != given.shape[1] or given.dtype.kind not in "biuf":
        wrong = f"shape {given.shape}, {given.dtype}"
        raise ConfigError(Problem(str(path), wrong, "a square matrix of real numbers"))
    return from_matrix(np.asarray(given, dtype=np.float64), path.stem, str(path))


def from_matrix(a: NDArray[np.float64], name: str, key: str) -> Graph:
    """The graph of an adjacency (0 and 1), or of a mixing matrix, which it keeps. Raises ConfigError with
    this key.
    """
    if not (np.abs(a) < HUGE).all():
        raise ConfigError(Problem(key, "it holds NaN or infinity", "finite numbers"))
    receivers, senders = np.nonzero(a)
    directed = not np.array_equal(a != 0, (a != 0).T)
    pairs = np.stack([senders, receivers], axis=1).astype(np.int64)
    if np.isin(a, (0.0, 1.0)).all():
        if np.diag(a).any():
            at = int(np.flatnonzero(np.diag(a))[0])
            raise ConfigError(Problem(key, f"self-loop at node {at}", "0 on an adjacency's diagonal"))
        return from_pairs(name, len(a), pairs, directed=directed)
    w = mixing.from_matrix(a)
    if not (w.row_stochastic or w.column_stochastic):
        sums = a.sum(axis=1)
        row = int(np.abs(sums - 1.0).argmax())
        wrong = f"neither an adjacency nor a mixing matrix: row {row} sums to {sums[row]:.6g}"
        raise ConfigError(Problem(key, wrong, "0 and 1, or rows that sum to 1"))
    return from_pairs(name, len(a), pairs, directed=directed, matrix=w.matrix)


def _bad(path: Path, line: int, wrong: str, right: str) -> ConfigError:
    return ConfigError(Problem(f"{path}:{line}" if line else str(path), wrong, right))


READERS: Final[Mapping[str, Callable[[Path, int | None], Graph]]] = {
    ".edges": _edge_list,
    ".graphml": _graphml,
    ".json": _json,
    ".npy": _npy,
}
