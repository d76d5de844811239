"""Which node holds which samples: every index of the training set in exactly one part, no part empty."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gossipfl import plugin
from gossipfl.config import Data
from gossipfl.draw import Purpose, generator
from gossipfl.errors import ConfigError, Problem

Index = NDArray[np.int64]
Parts = tuple[Index, ...]

TRIES = 1000  # draws before a Dirichlet split with a smallest size is given up


class Source(NamedTuple):
    """What is split: the number of samples, and what is known of each."""

    samples: int
    labels: NDArray[np.int64] | None = None  # [samples]
    groups: NDArray[Any] | Mapping[str, NDArray[Any]] | None = None  # [samples], or such columns by name


def partition(source: Source, n: int, data: Data, seed: int) -> Parts:
    """n arrays of sample indices, each ascending, int64; keyed by the seed alone.

    `data.partition` is a name or `module:function`, called with (labels, n, seed); with `local` the samples
    are one node's own, and all of them are its part, whichever node it is. Raises ConfigError: more
    nodes than samples, no labels or ids where they are needed, a split that cannot be made or is none.
    """
    if data.partition == "local":
        return (np.arange(source.samples, dtype=np.int64),) * n
    if source.samples < n:
        wrong = f"{n} nodes cannot split {source.samples} samples"
        raise ConfigError(Problem("swarm.nodes", wrong, f"at most {source.samples}"))
    if split := SPLITS.get(data.partition):
        found: object = split(source, n, data, generator(seed, Purpose.PARTITION))
    else:
        function = plugin.load(data.partition, "data.partition")
        try:
            found = function(source.labels, n, seed)
        except Exception as error:  # the user's function: whatever it raises is theirs to read
            wrong = f"{data.partition} raised {type(error).__name__}: {error}"
            raise ConfigError(
                Problem("data.partition", wrong, "it is called with (labels, n, seed)")
            ) from error
    return _checked(found, source.samples, n, "data.partition", data.partition)


def label_table(labels: NDArray[np.int64], parts: Sequence[Index]) -> tuple[Index, Index]:
    """The classes `[c]` and how many samples of each a node holds, `[n, c]`."""
    classes, which = np.unique(labels, return_inverse=True)
    table = [np.bincount(which[part], minlength=len(classes)) for part in parts]
    return classes, np.array(table, dtype=np.int64)


def label_distance(labels: NDArray[np.int64], parts: Sequence[Index]) -> NDArray[np.float64]:
    """Total-variation distance of each node's label distribution to that of all parts, `[n]`, in [0, 1]."""
    _, table = label_table(labels, parts)
    share = table / table.sum(axis=1, keepdims=True)
    overall = table.sum(axis=0) / table.sum()
    return np.asarray(0.5 * np.abs(share - overall).sum(axis=1))


def digest(parts: Sequence[Index]) -> bytes:
    """SHA-256 of a partition: peers that split differently differ in it."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(len(part).to_bytes(8, "little"))
        sha.update(np.ascontiguousarray(part, dtype="<i8").tobytes())
    return sha.digest()


def _iid(source: Source, n: int, data: Data, rng: np.random.Generator) -> list[Index]:
    """Equal shares (to one sample) of a shuffle."""
    return np.array_split(rng.permutation(source.samples), n)


def _dirichlet(source: Source, n: int, data: Data, rng: np.random.Generator) -> list[Index]:
    """Each class is dealt out in proportions from Dir(alpha); drawn anew until all have `min_size` samples.

    Yurochkin et al. 2019, "Bayesian nonparametric federated learning of neural networks" (arXiv:1905.12022);
    Hsu, Qi & Brown 2019 (arXiv:1909.06335).
    """
    members = _classes(source, "dirichlet", rng)
    for _ in range(TRIES):
        shares = rng.dirichlet(np.full(n, data.alpha), size=len(members))
        cuts = [
            np.floor(np.cumsum(share)[:-1] * len(m) + 0.5).astype(np.int64)
            for share, m in zip(shares, members, strict=True)
        ]
        counts = [np.diff(cut, prepend=0, append=len(m)) for cut, m in zip(cuts, members, strict=True)]
        if np.sum(counts, axis=0).min() >= data.min_size:
            dealt = [np.split(m, cut) for m, cut in zip(members, cuts, strict=True)]
            return [np.concatenate(pieces) for pieces in zip(*dealt, strict=True)]
    wrong = (
        f"no split over {n} nodes in {TRIES} draws gave each at least {data.min_size} "
        f"of {source.samples} samples"
    )
    right = f'data.partition = "iid", a larger data.alpha than {data.alpha}, or fewer nodes'
    raise ConfigError(Problem("data.alpha", wrong, right))


def _shards(source: Source, n: int, data: Data, rng: np.random.Generator) -> list[Index]:
    """The samples sorted by label are cut into n·k shards, k to a node (McMahan et al. 2017)."""
    count = n * data.shards_per_node
    if count > source.samples:
        wrong = f"{n} nodes of {data.shards_per_node} shards cannot split {source.samples} samples"
        raise ConfigError(
            Problem("data.shards_per_node", wrong, f"at most {source.samples // n}"),
        )
    shards = np.array_split(np.concatenate(_classes(source, "shards", rng)), count)
    dealt = np.split(rng.permutation(count), n)
    return [np.concatenate([shards[s] for s in own]) for own in dealt]


def _of_classes(source: Source, n: int, data: Data, rng: np.random.Generator) -> list[Index]:
    """Each node holds k classes; each class is shared out evenly among its holders.

    Nodes choose in random order, each the classes that the fewest hold by then: evenly, to one holder.
    """
    members, k = _classes(source, "classes", rng), data.classes_per_node
    if k > len(members) or n * k < len(members):
        wrong = f"{n} nodes of {k} classes do not fit {len(members)} classes"
        right = f"from {-(-len(members) // n)} to {len(members)}"
        raise ConfigError(Problem("data.classes_per_node", wrong, right))
    holders: list[list[int]] = [[] for _ in members]
    for node in rng.permutation(n):
        held = np.array([len(h) for h in holders])
        for c in np.lexsort((rng.permutation(len(members)), held))[:k]:
            holders[c].append(int(node))
    parts: list[list[Index]] = [[] for _ in range(n)]
    for indices, nodes in zip(members, holders, strict=True):
        for node, piece in zip(nodes, np.array_split(indices, len(nodes)), strict=True):
            parts[node].append(piece)
    return [np.concatenate(pieces) for pieces in parts]


def _quantity(source: Source, n: int, data: Data, rng: np.random.Generator) -> list[Index]:
    """Log-normal sizes, labels alike: `min_size` samples each, the rest goes by exp(sigma·N(0, 1))."""
    spare = source.samples - n * data.min_size
    if spare < 0:
        wrong = f"{n} nodes of at least {data.min_size} cannot split {source.samples} samples"
        raise ConfigError(Problem("data.min_size", wrong, f"at most {source.samples // n}"))
    weight = np.exp(data.sigma * rng.standard_normal(n))
    ends = np.floor(np.cumsum(weight) / weight.sum() * spare + 0.5).astype(np.int64)
    ends[-1] = spare
    cuts = (ends + data.min_size * np.arange(1, n + 1))[:-1]
    return np.split(rng.permutation(source.samples), cuts)


def _natural(source: Source, n: int, data: Data, rng: np.random.Generator) -> list[Index]:
    """By an id column: group i to node i; with more groups, the largest in turn to the emptiest node."""
    column = _column(source, data.column)
    groups, which = np.unique(column, return_inverse=True)
    if len(groups) < n:
        wrong = f"{n} nodes cannot split {len(groups)} groups"
        raise ConfigError(Problem("swarm.nodes", wrong, f"at most {len(groups)} with the natural partition"))
    if len(groups) == n:
        node_of = np.arange(n)
    else:
        sizes = np.bincount(which)
        node_of, load = np.empty(len(groups), dtype=np.int64), np.zeros(n, dtype=np.int64)
        for group in np.argsort(-sizes, kind="stable"):
            node_of[group] = np.argmin(load)
            load[node_of[group]] += sizes[group]
    return [np.flatnonzero(node_of[which] == node) for node in range(n)]


def _file(source: Source, n: int, data: Data, rng: np.random.Generator) -> list[Index]:
    """A JSON file: a list of lists of sample indices, one a node."""
    try:
        lists = json.loads(Path(data.file).read_text(encoding="utf-8"))
    except OSError as error:
        wrong = f"{data.file} cannot be read ({error.strerror})"
        raise ConfigError(Problem("data.file", wrong, "a JSON file of index lists, one a node")) from error
    except ValueError as error:
        wrong = f"is no JSON ({error})"
        raise ConfigError(Problem(data.file, wrong, "a list of lists of indices, one a node")) from error
    return list(_checked(lists, source.samples, n, "data.file", data.file))


Split = Callable[[Source, int, Data, np.random.Generator], list[Index]]

SPLITS: Mapping[str, Split] = {
    "iid": _iid,
    "dirichlet": _dirichlet,
    "shards": _shards,
    "classes": _of_classes,
    "quantity": _quantity,
    "natural": _natural,
    "file": _file,
}


def _classes(source: Source, name: str, rng: np.random.Generator) -> list[Index]:
    """The indices of each class, shuffled within it."""
    if source.labels is None:
        wrong = f"{name} splits by labels and the task has none"
        raise ConfigError(Problem("data.partition", wrong, "iid, quantity, natural or file"))
    order = rng.permutation(source.samples)
    labels = np.asarray(source.labels)[order]
    return [order[labels == label] for label in np.unique(labels)]


def _column(source: Source, name: str) -> NDArray[Any]:
    """The id column to split by."""
    groups = source.groups
    if groups is None:
        wrong = "natural splits by an id column and the task has none"
        raise ConfigError(Problem("data.partition", wrong, "iid, dirichlet, shards, classes or quantity"))
    if isinstance(groups, Mapping):
        if name and name not in groups:
            raise ConfigError(
                Problem("data.column", f"the task has no {name}", f"one of {', '.join(groups)}")
            )
        return np.asarray(groups[name or next(iter(groups))])
    if name:
        raise ConfigError(Problem("data.column", "the task's id column has no name", "leave it empty"))
    return np.asarray(groups)


def _checked(found: object, samples: int, n: int, key: str, origin: str) -> Parts:
    """The parts, each ascending; or ConfigError that says why they are no partition over n nodes."""
    right = f"{n} lists that hold each index from 0 to {samples - 1} once, none of them empty"

    def bad(wrong: str) -> ConfigError:
        return ConfigError(Problem(key, f"{origin}: {wrong}", right))

    if not isinstance(found, Sequence | np.ndarray) or isinstance(found, str):
        raise bad(f"is a {type(found).__name__}")
    if len(found) != n:
        raise bad(f"has {len(found)} parts and swarm.nodes is {n}")
    parts = []
    for node, part in enumerate(found):
        try:
            indices = np.asarray(part)
        except ValueError:
            raise bad(f"part {node} is no list of indices") from None
        if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
            raise bad(f"part {node} is no list of indices")
        if not indices.size:
            raise bad(f"part {node} is empty")
        parts.append(np.sort(indices.astype(np.int64)))
    everything = np.concatenate(parts)
    if everything.min() < 0 or everything.max() >= samples:
        outside = everything[(everything < 0) | (everything >= samples)][0]
        raise bad(f"index {outside} is not among the {samples} samples")
    count = np.bincount(everything, minlength=samples)
    if (count > 1).any():
        raise bad(f"index {np.flatnonzero(count > 1)[0]} is there {count.max()} times")
    if (count == 0).any():
        raise bad(f"index {np.flatnonzero(count == 0)[0]} is missing")
    return tuple(parts)
