"""Where a sweep's results are: one SQLite file that one process writes and any may read."""

from __future__ import annotations

import csv
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from gossipfl.drivers.sweep.grid import Cell, Sweep
from gossipfl.errors import ConfigError, Problem
from gossipfl.records import number, to_json

FILE: Final = "results.sqlite"
SCHEMA: Final = 1
"""The version of the tables; files of another version are refused."""
NUMBERS: Final = (
    "nodes", "rounds", "mean", "min", "max", "std", "mean_model", "consensus_distance", "spectral_gap",
    "sent_bytes_per_node", "seconds", "parameters",
)  # fmt: skip
"""Figures of the summary that are columns of `runs`, as numbers."""
FIELD: Final = (
    "fairness", "gradient_norm", "effective_neighbors", "sent_messages_per_node", "virtual_seconds",
)  # fmt: skip
"""Figures that stand in the summary alone, and are columns of what is read and of `results.csv`."""
WHOLE: Final = frozenset({"nodes", "rounds", "parameters"})
TEXTS: Final = ("metric", "graph", "rule", "data_hash", "config_hash", "version")
"""The same, as texts."""

_TABLES = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE runs (
  id INTEGER PRIMARY KEY,
  hash TEXT NOT NULL UNIQUE,       -- of the resolved config and the engine
  position INTEGER,                -- place in the sweep as it was last run; NULL: no longer a part of it
  axes TEXT NOT NULL,              -- JSON: axis -> value
  columns TEXT NOT NULL,           -- JSON: varied key -> value
  seed INTEGER NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('ok', 'failed')),
  error TEXT NOT NULL,
  wall REAL NOT NULL,              -- seconds it took to run
  machine TEXT NOT NULL,
  model_hash TEXT NOT NULL,        -- of the final parameters' bytes
  higher_is_better INTEGER,
  {", ".join(f"{name} {'INTEGER' if name in WHOLE else 'REAL'}" for name in NUMBERS)},
  {", ".join(f"{name} TEXT" for name in TEXTS)},
  summary TEXT NOT NULL            -- JSON
);
CREATE TABLE evals (
  run INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
  round INTEGER NOT NULL,
  metric TEXT NOT NULL,            -- consensus_distance is among them, with a mean alone
  seconds REAL, sent_bytes REAL,   -- up to then; virtual seconds in the event engine; bytes of the mean node
  mean REAL, min REAL, max REAL, std REAL,
  PRIMARY KEY (run, round, metric)
) WITHOUT ROWID;
"""


class Store:
    """The results of one sweep, open for writing."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def begin(self, sweep: Sweep, cells: Sequence[Cell]) -> dict[str, str]:
        """Say which sweep this is; hash -> status of its cells that are here already.

        Raises ConfigError where the file holds another sweep's results.
        """
        run = self._connection
        held = dict(run.execute("SELECT hash, status FROM runs"))
        known = {cell.hash: held[cell.hash] for cell in cells if cell.hash in held}
        if held and not known:
            (name,) = run.execute("SELECT value FROM meta WHERE key = 'name'").fetchone()
            wrong = f"the folder holds the results of another sweep ({name})"
            raise ConfigError(Problem("--out", wrong, "choose another --out"))
        about = {
            "name": sweep.name,
            "engine": sweep.engine,
            "text": sweep.text,
            "base": to_json(sweep.base),
            "axes": json.dumps(sweep.axes),
            "cells": str(len(cells)),
        }
        with run:
            run.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", about.items())
            run.execute("UPDATE runs SET position = NULL")
            places = [
                (k, to_json(cell.axes), to_json(cell.columns), cell.hash) for k, cell in enumerate(cells)
            ]
            run.executemany("UPDATE runs SET position = ?, axes = ?, columns = ? WHERE hash = ?", places)
        return known

    def add(self, position: int, cell: Cell, done: Mapping[str, object]) -> None:
        """A cell is finished: its run and its evaluations, both or neither."""
        stated = done.get("summary")
        summary: Mapping[str, object] = stated if isinstance(stated, Mapping) else {}
        better = summary.get("higher_is_better")
        row = {
            "hash": cell.hash,
            "position": position,
            "axes": to_json(cell.axes),
            "columns": to_json(cell.columns),
            "seed": cell.seed,
            "status": "failed" if done.get("error") else "ok",
            "error": str(done.get("error") or ""),
            "wall": number(done.get("wall"), 0.0),
            "machine": str(done.get("machine") or ""),
            "model_hash": str(done.get("model_hash") or ""),
            "higher_is_better": int(better) if isinstance(better, bool) else None,
            **{name: number(summary.get(name)) for name in NUMBERS},
            **{name: str(summary.get(name) or "") for name in TEXTS},
            "summary": to_json(summary),
        }
        evals = done.get("evals")
        points = [tuple(point) for point in evals] if isinstance(evals, list) else []
        with self._connection as run:
            run.execute("DELETE FROM runs WHERE hash = ?", (cell.hash,))
            places = ", ".join("?" * len(row))
            made = run.execute(f"INSERT INTO runs ({', '.join(row)}) VALUES ({places})", tuple(row.values()))
            run.executemany(
                "INSERT INTO evals (run, round, metric, seconds, sent_bytes, mean, min, max, std)"
                f" VALUES ({made.lastrowid}, ?, ?, ?, ?, ?, ?, ?, ?)",
                points,
            )

    def close(self) -> None:
        """Leave one file alone, where no reader holds on to it."""
        with suppress(sqlite3.OperationalError):
            self._connection.execute("PRAGMA journal_mode = DELETE")
        self._connection.close()


@contextmanager
def opened(folder: Path) -> Iterator[Store]:
    """The store of a folder, made if there is none, with the folder locked: nobody else's sweep runs in it.

    Raises ConfigError: the folder is in use, or not a sweep's, or its results are of another version.
    """
    path = folder / FILE
    if folder.exists() and not folder.is_dir():
        raise ConfigError(Problem("--out", f"{folder} is a file", "choose another --out, or remove it"))
    if folder.exists() and not path.exists() and any(p.name != ".lock" for p in folder.iterdir()):
        wrong = f"{folder} is not empty, and no sweep's folder: it has no {FILE}"
        raise ConfigError(Problem("--out", wrong, "choose another --out"))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as lock:
        if not _locked(lock):
            lock.seek(0)
            who = lock.read().strip()
            wrong = f"another sweep runs in {folder}{f' (process {who})' if who else ''}"
            raise ConfigError(Problem("--out", wrong, "wait for it, or choose another --out"))
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        connection = _connect(path)
        store = Store(connection)
        try:
            yield store
        finally:
            store.close()


def _locked(file: IO[str]) -> bool:
    """Take the lock, which the system takes back whatever becomes of this process. False: another has it."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        file.seek(1 << 20)  # beyond what is written, so that it stays readable
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except OSError:
            return False
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _connect(path: Path) -> sqlite3.Connection:
    fresh = not path.exists() or not path.stat().st_size
    connection = sqlite3.connect(path, isolation_level="DEFERRED")
    try:
        connection.execute("PRAGMA foreign_keys = ON")
        if fresh:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(_TABLES)
            with connection:
                connection.execute("INSERT INTO meta VALUES ('schema', ?)", (str(SCHEMA),))
        else:
            check(connection, path)
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
    except BaseException:
        connection.close()
        raise
    return connection


def check(connection: sqlite3.Connection, path: Path) -> None:
    """Raise ConfigError where the file is no sweep's, or of another version."""
    try:
        found = connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
    except sqlite3.DatabaseError as error:
        wrong = f"does not hold a sweep's results ({error})"
        raise ConfigError(Problem(str(path), wrong, "choose another folder")) from error
    if found is None or found[0] != str(SCHEMA):
        wrong = f"is of version {found[0] if found else 'none'}, and this gossipfl has version {SCHEMA}"
        right = "read it with the gossipfl that wrote it, or choose another folder"
        raise ConfigError(Problem(str(path), wrong, right))


@contextmanager
def reading(folder: Path) -> Iterator[sqlite3.Connection]:
    """The results of a folder, for reading only; a sweep may be running in it.

    Raises ConfigError where there are none, or of another version.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise ConfigError(
            Problem(str(folder), f"no sweep's folder: it has no {FILE}", "one that a sweep left")
        )
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        check(connection, path)
        yield connection


def write_csv(folder: Path) -> Path:
    """Write `results.csv` of the store: a row a run of the sweep, finished or failed. Returns its path."""
    path = Path(folder) / "results.csv"
    part = path.with_suffix(".csv.part")
    with reading(folder) as connection:
        rows = connection.execute(
            "SELECT * FROM runs WHERE position IS NOT NULL ORDER BY position"
        ).fetchall()
    varied = list(dict.fromkeys(key for row in rows for key in json.loads(row["columns"])))
    cased = any("case" in json.loads(row["axes"]) for row in rows)
    figures = ("metric", *NUMBERS, "wall", *TEXTS[1:], "model_hash")
    try:
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            head = ("seed", "status", "error", *figures, *FIELD)
            writer.writerow([*(("case",) if cased else ()), *varied, *head])
            for row in rows:
                columns, axes, summary = (json.loads(row[name]) for name in ("columns", "axes", "summary"))
                case = [axes.get("case", "")] if cased else []
                values = [columns.get(key, "") for key in varied]
                kept = [row[name] for name in ("seed", "status", "error", *figures)]
                kept += [summary.get(name) for name in FIELD]
                writer.writerow([*case, *values, *("" if value is None else value for value in kept)])
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path
