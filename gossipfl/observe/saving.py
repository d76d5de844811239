"""The files of a run's folder, from where a run is started."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from gossipfl.errors import ConfigError, Problem
from gossipfl.records import Record, to_json


def new_folder(out: str | os.PathLike[str]) -> Path:
    """A new or empty folder. Raises ConfigError: nothing is ever overwritten."""
    path = Path(out)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(Problem("out", f"{path} exists and is not empty", "choose another, or remove it"))
    path.mkdir(parents=True, exist_ok=True)
    return path


class Saving:
    """Writes a run's files; what cannot be written (a full disk) is told at the end and costs nothing
    else."""

    def __init__(self, folder: Path | None) -> None:
        self.folder, self.failed = folder, dict[str, str]()
        self._written: set[str] = set()

    def attempt(self, name: str, write: Callable[[], object]) -> None:
        if self.folder is None:
            return
        try:
            write()
        except OSError as error:
            self.failed[name] = f"{self.folder / name}: {error.strerror or error}"
        else:
            self._written.add(name)

    def text(self, name: str, content: str) -> None:
        def write() -> None:
            assert self.folder is not None
            part = self.folder / f".{name}.part"
            try:
                part.write_text(content)
                part.replace(self.folder / name)
            finally:
                part.unlink(missing_ok=True)

        self.attempt(name, write)

    def take_back(self) -> None:
        """Of a run that was refused nothing is left."""
        if self.folder is not None:
            take_back(self.folder)

    @contextmanager
    def lines(self, name: str) -> Iterator[Callable[[Record], None]]:
        """A file of records, written as they come."""
        if self.folder is None:
            yield lambda record: None
            return
        path, opened = self.folder / name, list[TextIO]()
        self.attempt(name, lambda: opened.append(path.open("w")))
        if not opened:
            yield lambda record: None
            return
        with opened[0] as file:

            def line(record: Record) -> None:
                if name not in self.failed:
                    self.attempt(name, lambda: file.write(to_json(record) + "\n"))

            yield line
            self.attempt(name, file.flush)
            if name in self.failed:  # what is still held back cannot be written either
                with suppress(OSError):
                    file.close()

    def look(self) -> None:
        """Whatever was written must still be there: somebody may have removed the folder."""
        for name in sorted(self._written - self.failed.keys()):
            if self.folder is not None and not (self.folder / name).exists():
                self.failed[name] = f"{self.folder / name}: is not there at the end"


def take_back(folder: Path) -> None:
    """Of a run that was refused before any node began, nothing is left."""
    with suppress(OSError):
        if (folder / "records").exists():
            (folder / "records").rmdir()  # there are some: it had begun
        for name in ("config.toml", "metrics.jsonl"):
            (folder / name).unlink(missing_ok=True)
