"""What is said on standard error, one line a mistake, and with which exit code a command ends."""

from __future__ import annotations

import errno
import os
import sys

from gossipfl.errors import ConfigError, GossipError, PeerLost, Refused, TrainingDiverged

WRONG, LOST, REFUSED, INTERRUPTED = 2, 3, 4, 130
"""Exit codes: command or config wrong; diverged or every node lost; refused by peers; Ctrl-C."""

_USERS = frozenset(
    {
        errno.EACCES,
        errno.EDQUOT,
        errno.EEXIST,
        errno.EISDIR,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOSPC,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
    }
)


def error_line(text: str) -> None:
    """One mistake, one line on standard error."""
    print(f"gossipfl: error: {' '.join(text.splitlines())}", file=sys.stderr, flush=True)


def note_line(text: str) -> None:
    """One line on standard error that is no mistake."""
    print(f"gossipfl: {' '.join(text.splitlines())}", file=sys.stderr, flush=True)


def report(error: BaseException) -> int:
    """Say what went wrong in one line (for each mistake); the exit code. Raises what is nobody's mistake."""
    match error:
        case ConfigError():
            for problem in error.problems:
                error_line(str(problem))
            return WRONG
        case Refused():
            code = REFUSED
        case TrainingDiverged() | PeerLost():
            code = LOST
        case GossipError():
            code = 1
        case KeyboardInterrupt():
            note_line("interrupted")
            return INTERRUPTED
        case BrokenPipeError():
            _silence_stdout()
            return 1
        case OSError() if error.errno in _USERS:
            where = f"{error.filename}: " if error.filename else ""
            error_line(f"{where}{(error.strerror or str(error)).lower()}")
            return WRONG
        case _:
            raise error
    error_line(str(error))
    return code


def _silence_stdout() -> None:
    """The reader of our output has gone: let the interpreter's last flush go nowhere."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return
