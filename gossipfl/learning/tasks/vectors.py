"""consensus and quadratic: tasks without data, whose answers are known exactly."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import cast
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from gossipfl.draw import Purpose, generator
from gossipfl.errors import ConfigError, Problem
from gossipfl.learning.task import VectorTask

Array = NDArray[np.float64]

DIMENSION = 16  # of consensus, where nobody says


def consensus(keys: Mapping[str, object], n: int, seed: int) -> VectorTask:
    """Nodes hold vectors and only average: `file` (npz with `x0` `[n, d]`) or a seeded normal of `dimension`.

    Raises ConfigError: a file that cannot be read, arrays of the wrong shape, n other than `swarm.nodes`.
    """
    _known(keys, ("file", "dimension"))
    if "file" in keys:
        start = _array(_load(_file(keys)), "x0", n, 2, _file(keys))
    else:
        dimension = keys.get("dimension", DIMENSION)
        if not isinstance(dimension, int) or isinstance(dimension, bool) or dimension < 1:
            raise ConfigError(Problem("task.dimension", f"is {dimension!r}", "a whole number of at least 1"))
        start = generator(seed, Purpose.START).standard_normal((n, dimension))
    return VectorTask("consensus", start, start.mean(axis=0))


def quadratic(keys: Mapping[str, object], n: int) -> VectorTask:
    """f_i(x) = ½ Σ_k a_ik (x_k − b_ik)²; `file`: npz with `a`, `b` `[n, d]`, optionally `x0` (else zeros).

    With `matrix = true`, `a` is `[n, d, d]` and f_i = ½ xᵀa_i x − b_iᵀx. Raises ConfigError as `consensus`,
    and when the mean of the f_i has no unique minimiser.
    """
    _known(keys, ("file", "matrix"))
    matrix = keys.get("matrix", False)
    if not isinstance(matrix, bool):
        raise ConfigError(Problem("task.matrix", f"is {matrix!r}", "true or false"))
    if "file" not in keys:
        raise ConfigError(Problem("task.file", "quadratic has none", f"an npz with {_QUADRATIC[matrix]}"))
    file = _file(keys)
    arrays = _load(file)
    b = _array(arrays, "b", n, 2, file)
    a = _array(arrays, "a", n, 3 if matrix else 2, file)
    start = _array(arrays, "x0", n, 2, file) if "x0" in arrays else np.zeros_like(b)
    expected = (*b.shape, b.shape[1]) if matrix else b.shape
    for name, array, shape in (("a", a, expected), ("x0", start, b.shape)):
        if array.shape != shape:
            wrong = f"{name} is {list(array.shape)} where b is {list(b.shape)}"
            raise ConfigError(Problem(file, wrong, _QUADRATIC[matrix]))
    if matrix:
        a = (a + a.swapaxes(1, 2)) / 2
        hessian = a.mean(axis=0)
        unique = bool(np.linalg.eigvalsh(hessian)[0] > 0)
        target = np.linalg.solve(hessian, b.mean(axis=0)) if unique else b[0]
    else:
        unique = bool((a.sum(axis=0) > 0).all())
        target = (a * b).sum(axis=0) / a.sum(axis=0) if unique else b[0]
    if not unique:
        raise ConfigError(Problem(file, "the mean of the functions has no unique minimum", "a larger a"))
    return VectorTask("quadratic", start, target, a, b)


_QUADRATIC = {False: "a [n, d] and b [n, d]", True: "a [n, d, d] and b [n, d]"}


def _known(keys: Mapping[str, object], known: tuple[str, ...]) -> None:
    problems = []
    for key in keys:
        if key not in known:
            near = get_close_matches(key, known, 1)
            right = f"did you mean task.{near[0]}?" if near else f"there are {', '.join(known)}"
            problems.append(Problem(f"task.{key}", "unknown key", right))
    if problems:
        raise ConfigError(problems)


def _file(keys: Mapping[str, object]) -> str:
    file = keys["file"]
    if not isinstance(file, str):
        raise ConfigError(Problem("task.file", f"is {file!r}", "the path of an npz file"))
    return file


def _load(file: str) -> dict[str, NDArray[np.generic]]:
    """The arrays of an npz file."""
    try:
        with Path(file).open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except OSError as error:
        wrong = f"{file} cannot be read ({error.strerror or error})"
        raise ConfigError(Problem("task.file", wrong, "an npz file")) from error
    except (ValueError, AttributeError, TypeError, EOFError, BadZipFile) as error:
        wrong = f"{file} is no npz file"
        raise ConfigError(Problem("task.file", wrong, "one that numpy.savez wrote")) from error


def _array(arrays: Mapping[str, NDArray[np.generic]], name: str, n: int, axes: int, file: str) -> Array:
    """One array as float64, of n rows and so many axes."""
    if name not in arrays:
        there = ", ".join(arrays) or "nothing"
        raise ConfigError(Problem(file, f"has no array {name}", f"it holds {there}"))
    array = arrays[name]
    if array.dtype.kind not in "fiu" or array.ndim != axes or 0 in array.shape:
        wrong = f"{name} is {array.dtype} of shape {list(array.shape)}"
        raise ConfigError(Problem(file, wrong, f"numbers with {axes} axes, none of them empty"))
    if not np.isfinite(cast(Array, array)).all():
        raise ConfigError(Problem(file, f"{name} holds nan or infinity", "finite numbers"))
    if len(array) != n:
        wrong = f"is {n} and {name} of {file} has {len(array)} rows"
        raise ConfigError(Problem("swarm.nodes", wrong, f"swarm.nodes = {len(array)}"))
    return array.astype(np.float64)
