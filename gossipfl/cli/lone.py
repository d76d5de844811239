"""One node, from its checked config to its end. On Linux it is a program of its own, which takes the place of
the one that has read the command line and checked the file: what that takes, 15 MB, is gone with it, and the
process, its terminal and its files stay the same.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from subprocess import _args_from_interpreter_flags  # type: ignore[attr-defined]
from typing import TYPE_CHECKING, Final, NamedTuple

from gossipfl.cli.lines import UNKEPT, ended, note_line, report
from gossipfl.cli.outlets import outlets
from gossipfl.cli.terminating import as_interrupt
from gossipfl.drivers import memory
from gossipfl.errors import GossipError

if TYPE_CHECKING:
    from gossipfl.drivers.plan import Plan
    from gossipfl.drivers.resuming import Found

_ENDS: Final = frozenset({signal.SIGINT, signal.SIGTERM})


class Job(NamedTuple):
    """Which node, and where it leaves what it leaves."""

    made: Plan
    name: str
    folder: Path
    found: Found | None  # what it goes on from


def be(job: Job) -> int:
    """Be the node, in this process; the exit code. Raises GossipError, OSError; SystemExit where it was
    interrupted."""
    from gossipfl.drivers import lan
    from gossipfl.drivers.folder import kept_if_used
    from gossipfl.drivers.held import held
    from gossipfl.drivers.whereabouts import lan as whereabouts

    name, folder = job.name, job.folder
    place = whereabouts(job.made.config, job.made, name)
    with held(folder, "--out", new=job.found is None), kept_if_used(folder):
        try:
            summary, unsaved = lan.run(
                job.made, place, folder, lambda text: _say(f"{name}: {text}"), job.found
            )
        except KeyboardInterrupt:
            kept = f"records up to now are in {folder}" if folder.exists() else "it had not begun"
            note_line(f"{name}: stopped; {kept}")
            raise SystemExit(130) from None
    value = summary["value"]
    shown = f"{value:.4g}" if isinstance(value, float) else "-"
    for text in unsaved:
        note_line(f"{name}: {text}")
    kept = f"not all is kept in {folder}" if unsaved else f"kept in {folder}"
    _say(f"{name}: {summary['metric']} {shown} after {summary['rounds']} rounds; {kept}")
    return UNKEPT if unsaved else 0


def _say(line: str) -> None:
    print(line, flush=True)


def become(job: Job) -> None:
    """Let this process be the node and nothing else; comes back only where that cannot be."""
    if not sys.platform.startswith("linux") or threading.active_count() > 1:
        return
    from gossipfl.drivers.plan import handed

    text = json.dumps(
        {
            "config": job.made.config.to_dict(),
            "plan": handed(job.made),
            "name": job.name,
            "folder": os.fspath(job.folder),
            "found": None if job.found is None else job.found._asdict(),
            "path": sys.path,
            "arguments": sys.argv,
        }
    )
    line = os.memfd_create("gossipfl", 0)
    os.write(line, text.encode())
    os.lseek(line, 0, os.SEEK_SET)
    here = [] if sys.path[:1] in ([""], [str(Path.cwd())]) else ["-P"]
    program = [sys.executable, *_args_from_interpreter_flags(), *here, "-m", "gossipfl.cli.lone"]
    sys.stdout.flush()
    sys.stderr.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)  # until there is somebody to handle them
    os.execv(sys.executable, [*program, str(line), *sys.argv[1:]])


def main() -> None:
    """Be the node of a job, which the file with the number in the first argument holds."""
    memory.spare()  # before anything is loaded
    with outlets():
        try:
            as_interrupt()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDS)
            code = be(_read(int(sys.argv[1])))
        except (GossipError, KeyboardInterrupt, OSError) as error:
            code = report(error)
        code = ended(code)
    sys.exit(code)


def _read(line: int) -> Job:
    with os.fdopen(line, "rb") as file:
        said = json.load(file)
    sys.path[:], sys.argv[:] = said["path"], said["arguments"]
    from gossipfl.config import Config
    from gossipfl.drivers.plan import plan, taken
    from gossipfl.drivers.resuming import Found

    config = Config.of(said["config"])
    made = plan(config) if said["plan"] is None else taken(config, said["plan"])
    found = None if said["found"] is None else Found(**said["found"])
    return Job(made, said["name"], Path(said["folder"]), found)


if __name__ == "__main__":
    main()
