"""The journal of a run: the partials that are finished, in an SQLite file, so that a run can go on where it ended."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from pymar.exceptions import CheckpointMismatch
from pymar.parts import Part
from pymar.values import dumps

#: Raised when the file's tables change.
_FORMAT = 1


class Journal:
    """A journal at `path`, of the job that `description` describes (names and texts; compared when it is opened again).

    Each partial is in the file before `write` returns: it survives `kill -9` of this process (not a loss of power).

    Raises:
        CheckpointMismatch: the file belongs to another job, is in use, or is no checkpoint.
    """

    def __init__(self, path: str | PathLike[str], description: Mapping[str, str]) -> None:
        self.path = Path(path)
        if not self.path.parent.is_dir():
            raise CheckpointMismatch(f"{self.path} cannot be written: there is no folder {self.path.parent}")
        try:
            self._open(description)
        except sqlite3.DatabaseError as error:
            raise CheckpointMismatch(
                f"{self.path} cannot be used as a checkpoint: {error}. It is no checkpoint, or another run uses it"
            ) from error

    def _open(self, description: Mapping[str, str]) -> None:
        self._file = sqlite3.connect(self.path, isolation_level=None, timeout=1, check_same_thread=False)
        # Exclusive until closed: two producers must not write one journal.
        self._file.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._file.execute("PRAGMA journal_mode = WAL")
        self._file.execute("PRAGMA synchronous = NORMAL")
        self._file.execute("BEGIN EXCLUSIVE")
        self._file.execute("CREATE TABLE IF NOT EXISTS job (format INTEGER, description TEXT)")
        self._file.execute("CREATE TABLE IF NOT EXISTS partial (part INTEGER PRIMARY KEY, data TEXT, value BLOB)")
        row = self._file.execute("SELECT format, description FROM job").fetchone()
        if row is None:
            self._file.execute("INSERT INTO job VALUES (?, ?)", (_FORMAT, json.dumps(dict(description))))
        elif row[0] != _FORMAT:
            raise CheckpointMismatch(f"{self.path} was written by another version of Pymar: delete it to begin anew")
        self._file.execute("COMMIT")
        if row is not None and (changes := _changes(json.loads(row[1]), dict(description))):
            self._file.close()
            raise CheckpointMismatch(
                f"{self.path} belongs to a job that differs in: {'; '.join(changes)}. "
                "Undo the change to go on, or delete the file to begin anew"
            )
        self._recalled: list[int] = []
        #: Digests of the records of parts that are being computed.
        self._digests: dict[int, str | None] = {}
        self._done: dict[int, str | None] = dict(self._file.execute("SELECT part, data FROM partial"))

    def fresh(self, parts: Iterator[Part]) -> Iterator[Part]:
        """The parts that have to be computed; those that are here come out of `recalled` instead.

        Raises:
            CheckpointMismatch: a part that is here was computed from other records.
        """
        for part in parts:
            digest = _digest(part)
            if part.index not in self._done:
                self._digests[part.index] = digest
                yield part
            elif self._done[part.index] == digest:
                self._recalled.append(part.index)
            else:
                raise CheckpointMismatch(
                    f"{self.path}: the data of part {part.index} is not what it was. "
                    "Give the same data to go on, or delete the file to begin anew"
                )

    def recalled(self) -> Iterator[tuple[int, bytes]]:
        """Finished parts that `fresh` has come across since the last call, and their encoded partials."""
        indices, self._recalled = self._recalled, []
        for index in indices:
            yield index, self._file.execute("SELECT value FROM partial WHERE part = ?", (index,)).fetchone()[0]

    def write(self, finished: list[tuple[int, bytes]]) -> None:
        """Add encoded partials, in one transaction."""
        rows = ((index, self._digests.pop(index), value) for index, value in finished)
        try:
            self._file.execute("BEGIN")
            self._file.executemany("INSERT OR REPLACE INTO partial VALUES (?, ?, ?)", rows)
            self._file.execute("COMMIT")
        except sqlite3.Error as error:
            code = errno.ENOSPC if error.sqlite_errorcode == sqlite3.SQLITE_FULL else errno.EIO
            text = (
                f"{os.strerror(code)}: the checkpoint cannot be written ({error}). Make room, and the same call goes on"
            )
            raise OSError(code, text, str(self.path)) from error

    def close(self) -> None:
        self._file.close()


def _digest(part: Part) -> str | None:
    if part.data is None:
        return None
    return hashlib.blake2b(dumps(part.data), digest_size=16).hexdigest()


def _changes(before: dict[str, str], now: dict[str, str]) -> list[str]:
    texts: list[str] = []
    for name in sorted({*before, *now}):
        was, is_now = _short(before.get(name, "absent")), _short(now.get(name, "absent"))
        if before.get(name) != now.get(name):
            texts.append(f"{name} ({was} before, {is_now} now)")
    return texts


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
