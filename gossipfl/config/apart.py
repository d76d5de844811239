"""A config that another process has checked: what checking takes, 6 MB, is gone with it."""

from __future__ import annotations

import os
import pickle
import sys

from gossipfl.config.load import Overrides, Source, load_config
from gossipfl.config.model import Config
from gossipfl.errors import ConfigError, Problem


def load_apart(source: Source, overrides: Overrides) -> Config:
    """What `load_config` gives, from a child of this process, which must have no other thread. Where there is
    no fork, this process checks by itself. Raises ConfigError.

    (The line is between the two alone; what comes from elsewhere is never unpickled.)
    """
    if not sys.platform.startswith("linux"):
        return load_config(source, overrides)
    hear, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with os.fdopen(tell, "wb") as line:
                pickle.dump(_checked(source, overrides), line)
        finally:
            os._exit(0)
    os.close(tell)
    with os.fdopen(hear, "rb") as line:
        said = line.read()
    os.waitpid(child, 0)
    if not said:  # whatever stopped it stops this one too, and is told as it is
        return load_config(source, overrides)
    found: Config | list[Problem] = pickle.loads(said)
    if isinstance(found, list):
        raise ConfigError(found)
    return found


def _checked(source: Source, overrides: Overrides) -> Config | list[Problem]:
    try:
        return load_config(source, overrides)
    except ConfigError as error:
        return list(error.problems)
