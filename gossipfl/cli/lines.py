"""What is said on standard error, one line a mistake, and with which exit code a command ends."""

from __future__ import annotations

import errno
import sys

from gossipfl.cli.outlets import unwritten
from gossipfl.errors import ConfigError, GossipError, PeerLost, Refused, TrainingDiverged

UNKEPT, WRONG, LOST, REFUSED, INTERRUPTED = 1, 2, 3, 4, 130
"""Exit codes: what came out is not kept, or not told; command or config wrong; diverged or every node lost;
refused by peers; Ctrl-C."""

_USERS = frozenset(
    {
        errno.EACCES,
        errno.EDQUOT,
        errno.EEXIST,
        errno.EFBIG,
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
        case OSError() if error.errno in _USERS:
            where = f"{error.filename}: " if error.filename else ""
            error_line(f"{where}{(error.strerror or str(error)).lower()}")
            return WRONG
        case _:
            raise error
    error_line(str(error))
    return code


def ended(code: int) -> int:
    """The exit code of a command that is over; what has befallen standard output is told."""
    failed = unwritten()
    if failed is not None:
        error_line(f"standard output: {(failed.strerror or str(failed)).lower()}")
    return code if failed is None else code or UNKEPT
