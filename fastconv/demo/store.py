"""What visitors leave: rows in SQLite, pictures as files, both for a limited time and room.

Every question names the session that asks; another session's picture is one that is not there.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fastconv.demo.limits import Limits

_SCHEMA = """
CREATE TABLE IF NOT EXISTS images (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    session TEXT NOT NULL,
    name TEXT NOT NULL,
    predictions TEXT NOT NULL,
    label TEXT NOT NULL DEFAULT '',
    note TEXT NOT NULL DEFAULT '',
    created REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS images_session ON images (session, number);
CREATE TABLE IF NOT EXISTS files (
    image TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    kind TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (image, kind)
);
"""
_COLUMNS = "id, name, predictions, label, note, created"


class SessionFull(Exception):
    """The session keeps as many pictures as it may."""


class Stored(NamedTuple):
    """A kept picture, without its pixels. ``created`` is in seconds since 1970."""

    id: str
    name: str
    predictions: list[dict[str, Any]]
    label: str
    note: str
    created: float


class Store:
    """The folder of a demo: ``demo.sqlite`` and ``files/<id>.<kind>.png``.

    Its methods may be called from any thread. What is older than ``limits.keep_seconds`` is gone
    for all of them; `sweep` takes it off the disk.
    """

    def __init__(self, folder: str | Path, limits: Limits):
        self.limits = limits
        self.folder = Path(folder)
        self.files = self.folder / "files"
        self.files.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._db = sqlite3.connect(self.folder / "demo.sqlite", check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA foreign_keys = ON")
        self._db.executescript(_SCHEMA)
        self._remove_strays()
        self.sweep()

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def add(self, session: str, name: str, predictions: list[dict], picture: bytes) -> Stored:
        """Keep a picture (a PNG's bytes); the oldest of all go where the room is used up.

        Raises:
            SessionFull: the session has ``limits.per_session`` of them.
        """
        id = secrets.token_hex(16)
        with self._lock:
            now = time.time()  # under the lock, so that it grows with the row's number
            (count,) = self._db.execute(
                "SELECT count(*) FROM images WHERE session = ? AND created > ?",
                (session, self._oldest()),
            ).fetchone()
            if count >= self.limits.per_session:
                raise SessionFull
            self._path(id, "picture").write_bytes(picture)
            with self._db:
                self._db.execute(
                    "INSERT INTO images (id, session, name, predictions, created) "
                    "VALUES (?, ?, ?, ?, ?)",
                    (id, session, name, json.dumps(predictions), now),
                )
                self._insert_file(id, "picture", picture)
            self.sweep()
        return Stored(id, name, predictions, "", "", now)

    def list(self, session: str) -> list[Stored]:
        """The session's pictures, oldest first."""
        with self._lock:
            rows = self._db.execute(
                f"SELECT {_COLUMNS} FROM images WHERE session = ? AND created > ? ORDER BY number",
                (session, self._oldest()),
            ).fetchall()
        return [_stored(row) for row in rows]

    def get(self, session: str, id: str) -> Stored | None:
        """One picture of the session; None where it has no such."""
        with self._lock:
            row = self._db.execute(
                f"SELECT {_COLUMNS} FROM images WHERE session = ? AND id = ? AND created > ?",
                (session, id, self._oldest()),
            ).fetchone()
        return _stored(row) if row else None

    def annotate(self, session: str, id: str, label: str, note: str) -> bool:
        """Replace a picture's label and note; False where the session has no such picture."""
        with self._lock, self._db:
            changed = self._db.execute(
                "UPDATE images SET label = ?, note = ? WHERE session = ? AND id = ? "
                "AND created > ?",
                (label, note, session, id, self._oldest()),
            )
            return changed.rowcount == 1

    def remove(self, session: str, id: str | None = None) -> int:
        """Remove a picture of the session, or all of them; how many they were."""
        with self._lock:
            rows = self._db.execute(
                "SELECT id FROM images WHERE session = ? AND (? IS NULL OR id = ?)",
                (session, id, id),
            ).fetchall()
            self._remove([row[0] for row in rows])
        return len(rows)

    def read_file(self, session: str, id: str, kind: str) -> bytes | None:
        """A picture's file; None where the session has no such."""
        with self._lock:
            if self.get(session, id) is None:
                return None
            with contextlib.suppress(FileNotFoundError):
                return self._path(id, kind).read_bytes()
        return None

    def add_file(self, session: str, id: str, kind: str, contents: bytes) -> None:
        """Keep a further file of a picture; nothing happens where that has gone meanwhile."""
        with self._lock:
            if self.get(session, id) is None:
                return
            self._path(id, kind).write_bytes(contents)
            with self._db:
                self._insert_file(id, kind, contents)
            self.sweep()

    def sweep(self) -> None:
        """Remove what is too old, and the oldest of what is too much."""
        with self._lock:
            rows = self._db.execute(
                "SELECT id FROM images WHERE created <= ?", (self._oldest(),)
            ).fetchall()
            self._remove([row[0] for row in rows])
            excess = self.used_bytes() - self.limits.store_bytes
            if excess <= 0:
                return
            rows = self._db.execute(
                "SELECT id, sum(bytes) FROM images JOIN files ON image = id "
                "GROUP BY id ORDER BY number"
            ).fetchall()
            gone = []
            for id, size in rows:
                if excess <= 0:
                    break
                gone.append(id)
                excess -= size
            self._remove(gone)

    def used_bytes(self) -> int:
        """Of all kept files."""
        with self._lock:
            return self._db.execute("SELECT coalesce(sum(bytes), 0) FROM files").fetchone()[0]

    def _insert_file(self, id: str, kind: str, contents: bytes) -> None:
        self._db.execute("REPLACE INTO files VALUES (?, ?, ?)", (id, kind, len(contents)))

    def _remove(self, ids: Sequence[str]) -> None:
        with self._db:
            self._db.executemany("DELETE FROM images WHERE id = ?", [(id,) for id in ids])
        for id in ids:
            for path in self.files.glob(f"{id}.*.png"):
                path.unlink(missing_ok=True)

    def _remove_strays(self) -> None:
        """Files without a row, and rows without a file, as a crash may leave them."""
        known = {row[0] for row in self._db.execute("SELECT id FROM images")}
        for path in self.files.glob("*.png"):
            if path.name.split(".")[0] not in known:
                path.unlink(missing_ok=True)
        self._remove([id for id in known if not self._path(id, "picture").exists()])

    def _path(self, id: str, kind: str) -> Path:
        return self.files / f"{id}.{kind}.png"  # the id is ours; see `add` and `get`

    def _oldest(self) -> float:
        return time.time() - self.limits.keep_seconds


def _stored(row: tuple) -> Stored:
    id, name, predictions, label, note, created = row
    return Stored(id, name, json.loads(predictions), label, note, created)
