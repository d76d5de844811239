"""The tasks by name; a user's own is `module:function`. Importing this loads no torch."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING

from gossipfl import plugin
from gossipfl.errors import ConfigError, Problem

if TYPE_CHECKING:
    from gossipfl.config import Config
    from gossipfl.learning.task import Task, VectorTask

TASKS: Mapping[str, str] = {
    "digits": "handwritten digits, 8×8 pixels, 10 classes; in the package · perceptron 64-64-10",
    "fashion": "clothes, 28×28 pixels, 10 classes; Debian's dataset-fashion-mnist · task.model: cnn or mlp",
    "consensus": "no data: nodes hold vectors and only average · task.file or task.dimension",
    "quadratic": "no data: one quadratic function a node, exact gradient descent · task.file",
}
"""name -> one line on data and model."""


def load_task(config: Config) -> Task | VectorTask:
    """The task that `train.task` names: built in, or what `module:function` returns.

    The function is called with the config when it has a parameter named `config`, else with the task's own
    keys as keyword arguments. Raises ConfigError: no such task, a module that does not import, keys that do
    not fit, something else than a task returned.
    """
    name = config.train.task
    if name == "digits":
        from gossipfl.learning.tasks.digits import digits

        if config.task:
            raise ConfigError(
                [Problem(f"task.{key}", "digits has no keys", "leave it out") for key in config.task]
            )
        return digits(config.data.path, own=config.data.partition == "local")
    if name == "fashion":
        from gossipfl.learning.tasks.fashion import fashion

        return fashion(config.task, config.data.path)
    if name == "consensus":
        from gossipfl.learning.tasks.vectors import consensus

        return consensus(config.task, config.swarm.nodes, config.swarm.seed)
    if name == "quadratic":
        from gossipfl.learning.tasks.vectors import quadratic

        return quadratic(config.task, config.swarm.nodes)
    if plugin.is_plugin(name):
        return _own(name, config)
    raise no_such_task(name)


def no_such_task(name: str) -> ConfigError:
    """What is wrong with a name that is no task's, and which may have been meant."""
    near = get_close_matches(name, TASKS, 1)
    right = f"did you mean {near[0]}?" if near else f"one of {', '.join(TASKS)}, or module:function"
    return ConfigError(Problem("train.task", f"there is no task {name}", right))


def _own(name: str, config: Config) -> Task | VectorTask:
    from gossipfl.learning.task import Task, VectorTask

    function = plugin.load(name, "train.task")
    keys: dict[str, object] = dict(config.task)
    try:
        signature = inspect.signature(function)
        if "config" in signature.parameters:
            keys["config"] = config
        signature.bind(**keys)
    except (TypeError, ValueError) as error:
        wrong = f"{name} does not fit the keys of [task]: {error}"
        raise ConfigError(Problem("train.task", wrong, "a [task] key for each of its parameters")) from error
    try:
        task = function(**keys)
    except ConfigError:
        raise
    except Exception as error:  # the user's function: whatever it raises is theirs to read
        at = traceback.extract_tb(error.__traceback__)[-1]
        wrong = f"{name} raised {type(error).__name__}: {error} ({at.filename}:{at.lineno})"
        raise ConfigError(Problem("train.task", wrong)) from error
    if not isinstance(task, Task | VectorTask):
        wrong = f"{name} returned a {type(task).__name__}"
        raise ConfigError(Problem("train.task", wrong, "a gossipfl.learning.task.Task"))
    return task
