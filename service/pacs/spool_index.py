"""What the spool has seen, in a small SQLite file beside the instances.

The files are the truth about bytes; the index is the truth about order and state, and remembers
UIDs after their files are gone. It can be made again from the files, so a receipt is written
without waiting for the disk, while the end of an instance is.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

VERSION = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS instances (
    key TEXT PRIMARY KEY,
    uid TEXT NOT NULL,
    syntax TEXT NOT NULL,
    pixels TEXT NOT NULL,
    state TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    size INTEGER NOT NULL,
    received TEXT NOT NULL,
    reuse TEXT,
    reason TEXT,
    changed_at REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS instances_uid ON instances (uid);
CREATE INDEX IF NOT EXISTS instances_order ON instances (state, sequence);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
_COLUMNS = "key, uid, syntax, pixels, state, sequence, size, received, reuse, reason"


class State(StrEnum):
    """Of an instance in the spool."""

    WAITING = "waiting"
    ASIDE = "aside"
    """It cannot be judged; its file is kept until a person decides."""
    DONE = "done"
    """Its file is gone; its row remembers the UID and the pixels."""


@dataclass(frozen=True, slots=True)
class Row:
    """One instance."""

    key: str
    uid: str
    """Hex SHA-256 of the SOP Instance UID."""
    syntax: str
    pixels: str
    """Hex SHA-256 of the encoded Pixel Data; empty until it was asked for."""
    state: State
    sequence: int
    size: int
    received: str
    """``Received`` as JSON; empty once done."""
    reuse: str | None
    reason: str | None


class Index:
    """The table. Safe to use from many threads, and from several processes at once.

    Raises:
        sqlite3.Error: from every method.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._quick = self._connect(path, "NORMAL")
        self._firm = self._connect(path, "FULL")
        with self._quick:
            self._quick.executescript(_TABLES)

    @staticmethod
    def _connect(path: Path, synchronous: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            path, timeout=30, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA journal_mode = WAL")
        # In WAL mode NORMAL does not wait for the disk at a commit and FULL does.
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        return connection

    def close(self) -> None:
        """Close both connections."""
        with self._lock:
            self._quick.close()
            self._firm.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A transaction in which what is read stays true until it ends."""
        with self._lock:
            self._quick.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:  # whatever it is, roll back and raise it
                self._quick.execute("ROLLBACK")
                raise
            self._quick.execute("COMMIT")

    def insert(self, row: Row) -> None:
        """Add a row, inside ``writing``. Not durable by itself: the file is."""
        self._quick.execute(
            f"INSERT INTO instances ({_COLUMNS}, changed_at) VALUES (?,?,?,?,?,?,?,?,?,?,?)",  # noqa: S608  # our own column names
            (
                row.key, row.uid, row.syntax, row.pixels, row.state, row.sequence, row.size,
                row.received, row.reuse, row.reason, time.time(),
            ),
        )  # fmt: skip

    def set_pixels(self, key: str, pixels: str) -> None:
        """Remember a digest, inside ``writing``."""
        self._quick.execute("UPDATE instances SET pixels = ? WHERE key = ?", (pixels, key))

    def seen_inside(self, uid: str) -> list[Row]:
        """Every row of a UID, newest first, inside ``writing``."""
        return _rows(self._quick, "WHERE uid = ? ORDER BY sequence DESC", (uid,))

    def seen(self, uid: str) -> bool:
        """Whether a UID has a row."""
        with self._lock:
            return bool(_rows(self._quick, "WHERE uid = ? LIMIT 1", (uid,)))

    def find(self, key: str) -> Row | None:
        """One row."""
        with self._lock:
            rows = _rows(self._quick, "WHERE key = ?", (key,))
        return rows[0] if rows else None

    def page(self, state: State, after: int, limit: int) -> list[Row]:
        """Rows of one state in order of arrival, those after a sequence number."""
        with self._lock:
            return _rows(
                self._quick,
                "WHERE state = ? AND sequence > ? ORDER BY sequence LIMIT ?",
                (state, after, limit),
            )

    def end(self, keys: Sequence[tuple[str, str]]) -> None:
        """Mark (key, pixel digest) pairs done and forget where they came from. Durable."""
        with self._lock, self._transaction():
            self._firm.executemany(
                "UPDATE instances SET state = 'done', received = '', reason = NULL, pixels = ?, "
                "changed_at = ? WHERE key = ?",
                [(pixels, time.time(), key) for key, pixels in keys],
            )

    def move(self, key: str, state: State, reason: str | None) -> None:
        """Change a state. Durable."""
        with self._lock, self._transaction():
            self._firm.execute(
                "UPDATE instances SET state = ?, reason = ?, changed_at = ? WHERE key = ?",
                (state, reason, time.time(), key),
            )

    def drop(self, key: str) -> None:
        """Forget a row whose file never became whole. Durable."""
        with self._lock, self._transaction():
            self._firm.execute("DELETE FROM instances WHERE key = ?", (key,))

    def forget(self, before: float) -> int:
        """Delete rows done before a time (Unix seconds); how many."""
        with self._lock:
            return self._firm.execute(
                "DELETE FROM instances WHERE state = 'done' AND changed_at < ?", (before,)
            ).rowcount

    def counts(self) -> dict[State, tuple[int, int]]:
        """Instances and bytes by state, of those that have files."""
        with self._lock:
            found = self._quick.execute(
                "SELECT state, COUNT(*), SUM(size) FROM instances "
                "WHERE state IN ('waiting', 'aside') GROUP BY state"
            ).fetchall()
        return {State(state): (count, size) for state, count, size in found}

    def latest(self) -> int:
        """The highest sequence number; 0 in an empty spool."""
        with self._lock:
            return int(
                self._quick.execute("SELECT COALESCE(MAX(sequence), 0) FROM instances").fetchone()[
                    0
                ]
            )

    def fact(self, name: str) -> str | None:
        """A remembered fact."""
        with self._lock:
            row = self._quick.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def remember(self, name: str, value: str) -> None:
        """Remember a fact."""
        with self._lock:
            self._firm.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._firm.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:  # whatever it is, roll back and raise it
            self._firm.execute("ROLLBACK")
            raise
        self._firm.execute("COMMIT")


def _rows(connection: sqlite3.Connection, where: str, values: tuple[Any, ...]) -> list[Row]:
    found = connection.execute(f"SELECT {_COLUMNS} FROM instances {where}", values)  # noqa: S608  # our own column names
    names = [name.strip() for name in _COLUMNS.split(",")]
    return [Row(**{**dict(zip(names, row, strict=True)), "state": State(row[4])}) for row in found]
