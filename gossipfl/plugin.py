"""`module:function`: what people write themselves stands wherever a built-in name does."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

from gossipfl.errors import ConfigError, Problem


def is_plugin(spec: str) -> bool:
    """Is this `module:function` rather than a name with arguments (`torus:4x8`)?"""
    module, colon, function = spec.partition(":")
    return bool(colon) and function.isidentifier() and all(part.isidentifier() for part in module.split("."))


def load(spec: str, key: str) -> Callable[..., object]:
    """The function that `spec` (`package.module:function`) names; modules in the working directory are found
    too.

    Raises ConfigError naming `key` when the module does not import or has no such function.
    """
    module_name, _, name = spec.partition(":")
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # for good: the function may import its neighbours when it is called
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module raises is the user's to read
        wrong = f"{spec}: the module does not import ({type(error).__name__}: {error})"
        raise ConfigError(Problem(key, wrong, "it must import from the working directory")) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(
            Problem(key, f"{spec}: {module_name} has no function {name}", "name one that it has")
        )
    found: Callable[..., object] = function
    return found
