"""Cells on a Ray cluster, local or remote (https://docs.ray.io); `ray` is an extra."""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from gossipfl.drivers.sweep.pool import SILENCE, Answer, Job
from gossipfl.errors import ConfigError, Problem

#: Seconds within which a cluster's head must take a connection. Ray itself tries for minutes.
REACH: Final = 5.0


def _ray() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what Ray itself imports
            import ray
    except ImportError as error:
        right = 'pip install "gossipfl[ray]"'
        raise ConfigError(Problem("--on ray", "the package ray is not installed", right)) from error
    return ray


class Cluster:
    """The Ray cluster that is there already (RAY_ADDRESS, `ray start`, or `ray.init` before), else one on
    this machine with `size` processors, which ends with the `with`.

    gossipfl must be installed on every machine of the cluster, in the same version. Raises ConfigError where
    ray is not installed, RAY_ADDRESS is no address, or nobody answers there.
    """

    def __init__(self, size: int | None) -> None:
        self._size, self._ray = size, _ray()

    def __enter__(self) -> Self:
        self._own = False
        if not self._ray.is_initialized():
            quiet = {"log_to_driver": False, "logging_level": "ERROR"}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                address = os.environ.get("RAY_ADDRESS", "")
                _knock(address)
                self._own = not address and _ended()
                try:
                    if not self._own:
                        self._ray.init(address=address or "auto", **quiet)
                except ConnectionError as error:
                    if address:
                        raise _closed(address) from error
                    self._own = True
                if self._own:
                    self._start(quiet)
        return self

    def _start(self, quiet: Mapping[str, object]) -> None:
        """Raises ConfigError: Ray cannot start here, as where its sockets' paths get too long."""
        try:
            self._ray.init(address="local", num_cpus=self._size, include_dashboard=False, **quiet)
        except OSError as error:
            right = "a short RAY_TMPDIR, if it is the path of a socket"
            raise ConfigError(Problem("--on ray", f"Ray does not start ({error})", right)) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._own:
            self._ray.shutdown()

    def run(self, jobs: Iterable[Job]) -> Iterator[Answer | None]:
        ray = self._ray
        remote = ray.remote(num_cpus=1, max_retries=0)(_run)
        at_once = self._size or max(1, int(ray.cluster_resources().get("CPU", 1)))
        waiting, running = iter(jobs), dict[Any, Job]()
        try:
            while True:
                while len(running) < at_once and (job := next(waiting, None)) is not None:
                    running[remote.remote(job._asdict(), str(Path.cwd()))] = job
                if not running:
                    return
                ready, _ = ray.wait(list(running), timeout=SILENCE)
                if not ready:
                    yield None
                for reference in ready:
                    job = running.pop(reference)
                    try:
                        yield {**ray.get(reference), "cell": job.cell}
                    except ray.exceptions.RayError as error:
                        words = str(error).strip().splitlines() or [type(error).__name__]
                        yield {"cell": job.cell, "error": f"Ray: {words[0]}"}
        finally:
            for reference in running:
                ray.cancel(reference, force=True)


def _knock(address: str) -> None:
    """Raise ConfigError unless somebody listens at HOST:PORT or ray://HOST:PORT, or it is a word of Ray's."""
    if address in ("", "auto", "local"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        right = "HOST:PORT, as `ray start` told it, or ray://HOST:PORT"
        raise ConfigError(Problem("RAY_ADDRESS", f"cannot be {address}", right))
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH).close()
    except OSError as error:
        raise _nobody(address) from error


def _ended() -> bool:
    """Has this machine's last cluster ended? Ray notes its address in a file, and tries for minutes to reach
    one that could not take its note back."""
    for folder in (os.environ.get("RAY_TMPDIR"), os.environ.get("TMPDIR"), "/tmp"):
        note = Path(folder or "/tmp") / "ray" / "ray_current_cluster"
        if note.is_file():
            try:
                _knock(note.read_text().strip())
            except ConfigError:
                return True
            return False
    return False


def _closed(address: str) -> ConfigError:
    right = "start one there, or unset it for one on this machine; RAY_AUTH_TOKEN is for one that asks for it"
    return ConfigError(Problem("RAY_ADDRESS", f"no Ray cluster takes us in at {address}", right))


def _nobody(address: str) -> ConfigError:
    right = "start one there, or unset it for one on this machine"
    return ConfigError(Problem("RAY_ADDRESS", f"no Ray cluster answers at {address}", right))


def _run(job: Mapping[str, object], folder: str) -> dict[str, object]:
    """A cell in a process of the cluster, in the folder the sweep was started in where there is one."""
    import torch

    from gossipfl.drivers.sweep.cell import run_cell

    if os.path.isdir(folder):  # noqa: PTH112
        os.chdir(folder)
    torch.set_num_threads(1)
    return run_cell(job)
