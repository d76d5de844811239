"""A process that runs cells: a JSON line a cell on standard input, one a result on what was standard output.

It ends when its standard input does, in the middle of a cell too: no worker outlives whoever started it.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
from typing import Final

#: Seconds a cell may take to tidy up when it is stopped.
GRACE: Final = 3.0


def main() -> None:
    """Serve until there is nothing to read any more."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a task of somebody's own prints goes to the log
    signal.signal(signal.SIGINT, signal.default_int_handler)
    jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
    busy = threading.Lock()
    threading.Thread(target=_listen, args=(jobs, busy), daemon=True).start()
    try:
        _serve(jobs, busy, answers.write, answers.flush)
    except (KeyboardInterrupt, BrokenPipeError):
        os._exit(0)  # stopped: nobody reads what is left to say


def _listen(jobs: queue.SimpleQueue[str], busy: threading.Lock) -> None:
    for line in sys.stdin:
        jobs.put(line)
    if busy.acquire(blocking=False):
        os._exit(0)  # between two cells, or before the first: none begins any more
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    time.sleep(GRACE)
    os._exit(1)


def _serve(jobs: queue.SimpleQueue[str], busy: threading.Lock, write: object, flush: object) -> None:
    """busy: held while there is a cell."""
    import torch

    from gossipfl.drivers.sweep.cell import run_cell

    assert callable(write) and callable(flush)
    torch.set_num_threads(1)
    while True:
        job = json.loads(jobs.get())
        with busy:
            answer = {"cell": job["cell"], **run_cell(job)}
            write(json.dumps(answer, default=_plain) + "\n")
            flush()


def _plain(value: object) -> object:
    tolist = getattr(value, "tolist", None)
    return tolist() if callable(tolist) else str(value)


if __name__ == "__main__":
    main()
