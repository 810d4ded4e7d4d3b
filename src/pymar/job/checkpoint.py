"""The journal of a run: its finished partials in an SQLite file (the checkpoint), from which a later run goes on.

    job       a row for each description of the job, that is, for each version of its code, settings and data
    partial   a row for each finished part: its number, offset, limit, a digest of its records if they came with it, the
              encoded partial, a checksum over all of these, and which row of `job` has computed it
    failed    a row for each part that has failed for good, and is not finished since: when, and of what

A damaged row is logged, and its part computed again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import sqlite3
import stat
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from pymar.exceptions import CheckpointMismatch, NotPlain, PartFailed, PartLost, line_of
from pymar.parts import Part
from pymar.serialization import loads
from pymar.serialization.plain import PLAIN_MARK
from pymar.serialization.settings import is_plain
from pymar.serialization.usercode import IF_LOADED, ORDER, STATES, Indescribable, UserCode, digest
from pymar.serialization.values import dumps

log: logging.Logger = logging.getLogger(__name__)

#: What may differ in the same job, and the warning that is logged then.
_WARNED = {
    ORDER: "a dict that the job reads has its keys in another order than before",
    STATES: "a generator of random numbers that the job reads is in another state than before",
}

#: The version of the file's tables.
_FORMAT = 3
_TABLES = (
    "CREATE TABLE IF NOT EXISTS job "
    "(number INTEGER PRIMARY KEY, began TEXT, format INTEGER, description TEXT, checksum BLOB)",
    # The code stands before the value: to count rows by it, no value is read.
    "CREATE TABLE IF NOT EXISTS partial "
    '(part INTEGER PRIMARY KEY, "offset" TEXT, "limit" TEXT, data TEXT, code INTEGER, value BLOB, checksum BLOB)',
    "CREATE TABLE IF NOT EXISTS failed (part INTEGER PRIMARY KEY, at TEXT, error TEXT, code INTEGER)",
)
#: What a damaged file raises: the second, if what SQLite says of it has bytes of it that are no text.
_DAMAGED = (sqlite3.DatabaseError, UnicodeDecodeError)
#: The columns of each.
_NAMES = {
    "job": {"number", "began", "format", "description", "checksum"},
    "partial": {"part", "offset", "limit", "data", "code", "value", "checksum"},
    "failed": {"part", "at", "error", "code"},
}
_COLUMNS = 'part, "offset", "limit", data, value, checksum, code'
_ADD_PARTIAL = f"INSERT OR REPLACE INTO partial ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"
#: The columns of `job` in format 2, whose `partial` has no code; and how it is read as format 3.
_COLUMNS_2 = ["format", "description", "checksum"]
_JOB_OF_2 = f"SELECT 1, NULL, CASE format WHEN 2 THEN {_FORMAT} ELSE format END, description, checksum FROM"

#: In the description of a job that reads the result of an earlier stage: its records, which nobody can call right.
_EARLIER_RESULT = "ResultSource.segments"
#: What identifies the data of a row: offset and limit, as text since they may have more than 64 bits, and the digest.
_What = tuple[str, str, str | None]


def check_unpublished(path: str | PathLike[str]) -> None:
    """Refuse a checkpoint whose job has published to a sink: to publish again would write the records twice.

    Raises:
        CheckpointMismatch: it has.
    """
    if _row_of(path, "SELECT name FROM sqlite_master WHERE name = 'published'"):
        raise CheckpointMismatch(f"{path}: this job has been published: delete the file to write its records once more")


def note_published(path: str | PathLike[str], written: Sequence[Any] = ()) -> None:
    """Note in a checkpoint that its job has been published, and how much it has written."""
    file = sqlite3.connect(path, isolation_level=None)
    try:
        file.execute("BEGIN")
        file.execute("CREATE TABLE IF NOT EXISTS published (at TEXT)")
        file.execute("INSERT INTO published VALUES (?)", (json.dumps([_now(), *written]),))
        file.execute("COMMIT")
    finally:
        file.close()


def published(path: str | PathLike[str]) -> tuple[Any, ...] | None:
    """Return what `note_published` has noted; None if it has not."""
    row = _row_of(path, "SELECT at FROM published")
    return None if row is None else tuple(json.loads(row[0])[1:])


def _row_of(path: str | PathLike[str], statement: str) -> tuple[Any, ...] | None:
    """Return the first row of a checkpoint that is not open; None if there is none, or no such file or table."""
    if not os.path.isfile(path):
        return None
    try:
        file = sqlite3.connect(f"{Path(path).resolve().as_uri()}?mode=ro", uri=True)
        try:
            row: tuple[Any, ...] | None = file.execute(statement).fetchone()
            return row
        finally:
            file.close()
    except _DAMAGED:
        return None  # the journal says what is wrong


class Journal:
    """The checkpoint file at `path`, which it owns (and locks), and the parts of it that were not yielded yet.

    Each partial is in the file before `write` returns: it survives `kill -9` of this process (not a loss of power).
    Thread of the job only.

    Args:
        description: names and texts that describe the job; compared when the file is opened again.
        keeps: True if the file's partials are right although they come from a job that differs.
        renews: True if a job that differs begins again in the file.

    Raises:
        CheckpointMismatch: the file belongs to another job, is in use, is no checkpoint, or other users can write it.
    """

    def __init__(
        self, path: str | PathLike[str], description: Mapping[str, str], keeps: bool = False, renews: bool = False
    ) -> None:
        self.path: Path = Path(path)
        self._keeps = keeps
        self._renews = renews
        #: The row of `job` that this run belongs to.
        self._code = 1
        if not self.path.parent.is_dir():
            raise CheckpointMismatch(f"{self.path} cannot be written: there is no folder {self.path.parent}")
        _make_or_check(self.path)
        try:
            self._file = _connected(self.path)
        except _DAMAGED as error:
            raise self._unusable(error) from error
        try:
            self._open()
            self._compare(dict(description))
            #: Parts that an earlier run noted as failed.
            self._failed = {part for (part,) in self._file.execute("SELECT part FROM failed")}
        except _DAMAGED as error:
            self._file.close()
            raise self._unusable(error) from error
        except BaseException:  # there is no journal that would close it
            self._file.close()
            raise
        self._recalled: list[int] = []
        #: The identity of the parts that are being computed.
        self._computing: dict[int, _What] = {}

    def _unusable(self, error: Exception) -> CheckpointMismatch:
        if getattr(error, "sqlite_errorname", "") == "SQLITE_NOTADB" or self.path.is_dir():
            return CheckpointMismatch(f"{self.path} is no checkpoint, and is left as it is: give another path")
        return CheckpointMismatch(
            f"{self.path} cannot be used as a checkpoint: {error}. It is no checkpoint, or another run uses it, or it "
            "is damaged: delete it to begin again"
        )

    def _open(self) -> None:
        found = [row[0] for row in self._file.execute("PRAGMA quick_check(1)")]
        if found != ["ok"]:
            self._repair(str(found[0] if found else "unreadable"))
        if _columns_of(self._file) == _COLUMNS_2:
            self._convert()
        for table in _TABLES:
            self._file.execute(table)
        for name, columns in _NAMES.items():
            # A file that is sound for SQLite may have a damaged name: then rows would be neither found nor written.
            if set(_columns_of(self._file, name)) != columns:
                raise sqlite3.DatabaseError(f"the columns of its table {name} have other names")

    def _convert(self) -> None:
        """Make a file of format 2 one of format 3: its partials are those of its only description."""
        for statement in (
            "BEGIN",
            "ALTER TABLE job RENAME TO job_2",
            _TABLES[0],
            f"INSERT INTO job {_JOB_OF_2} job_2",
            "DROP TABLE job_2",
            "ALTER TABLE partial ADD COLUMN code INTEGER DEFAULT 1",
            "COMMIT",
        ):
            self._file.execute(statement)

    def _repair(self, problem: str) -> None:
        """Write a new file with the rows that can be read; the other parts are computed again."""
        is_of_2 = _columns_of(self._file) == _COLUMNS_2
        job = self._file.execute(f"{_JOB_OF_2} job" if is_of_2 else "SELECT * FROM job").fetchall()
        rows = _readable(self._file, _COLUMNS.replace("code", "1") if is_of_2 else _COLUMNS)
        self._file.close()
        log.warning(
            "%s is damaged (%s): %d partials can be read, the others are computed again",
            *(self.path, problem, len(rows)),
        )
        new = self.path.with_name(f"{self.path.name}.repaired")
        new.unlink(missing_ok=True)
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        repaired = _connected(new)
        for table in _TABLES:
            repaired.execute(table)
        repaired.executemany("INSERT INTO job VALUES (?, ?, ?, ?, ?)", job)
        repaired.executemany(_ADD_PARTIAL, rows)
        repaired.close()
        for name in ("-wal", "-shm", "-journal"):
            self.path.with_name(self.path.name + name).unlink(missing_ok=True)
        os.replace(new, self.path)
        self._file = _connected(self.path)

    def _compare(self, description: dict[str, str]) -> None:
        """Compare the job with the last one of the file, and note it there if it is the first, or may differ.

        Raises:
            CheckpointMismatch: it differs, and may not.
        """
        row = self._file.execute(
            "SELECT number, format, description, checksum FROM job ORDER BY number DESC LIMIT 1"
        ).fetchone()
        if row is None:
            self._add(description)
            return
        self._code, version, text, checksum = row
        if version != _FORMAT:
            raise CheckpointMismatch(f"{self.path} was written by another version of Pymar: delete it to begin again")
        if type(text) is not str or checksum != _checksum(text):
            raise CheckpointMismatch(
                f"{self.path} is damaged: the description of its job cannot be read. Delete it to begin again"
            )
        before: dict[str, str] = json.loads(text)
        changes = [text for _, text in _changes(*map(_compared, (before, description)))]
        if self._renews:
            if changes or any(before.get(name, "") != description.get(name, "") for name in _WARNED):
                log.info(
                    "%s: it is computed again, as the job differs in: %s", self.path, "; ".join(changes) or "order"
                )
                self._change(("DELETE FROM partial", [()]), ("DELETE FROM failed", [()]))
                self._code += 1
                self._add(description)
            return
        if any(before.get(name) != description.get(name) for name in ("the sink", "the stage")):
            raise CheckpointMismatch(
                f"{self.path} belongs to a job that differs in: {'; '.join(changes)}. Its finished parts cannot be "
                "kept then: undo the change to go on, or delete the file to begin again"
            )
        if changes and not self._keeps:
            raise CheckpointMismatch(
                f"{self.path} belongs to a job that differs in: {'; '.join(changes)}. Undo the change to go on; or "
                'give on_mismatch="keep", if the finished parts are right all the same; or delete the file to begin '
                "again"
            )
        if changes:
            if before.get(_EARLIER_RESULT) == description.get(_EARLIER_RESULT):
                kept = "what is finished is kept, though the job differs in"
            else:
                kept = "it is computed again, as the records that come from an earlier stage differ. What differs is"
                # Removed at once: the next run is compared with this job, and would take them for its own.
                self._change(("DELETE FROM partial", [()]), ("DELETE FROM failed", [()]))
            log.warning("%s: %s: %s", self.path, kept, "; ".join(changes))
            self._code += 1
            self._add(description)
        for name, what in _WARNED.items():
            if before.get(name, "") != description.get(name, ""):
                log.warning("%s: %s. If the answer depends on that, delete the file", self.path, what)

    def _add(self, description: dict[str, str]) -> None:
        text = json.dumps(description)
        row = (self._code, _now(), _FORMAT, text, _checksum(text))
        self._file.execute("INSERT INTO job VALUES (?, ?, ?, ?, ?)", row)

    def fresh(self, parts: Iterator[Part]) -> Iterator[Part]:
        """Yield the parts that have to be computed; those that are in the file are left to `recalled`.

        Raises:
            CheckpointMismatch: a part in the file has another slice, or was computed from other records, and what the
                file has is not kept all the same.
        """
        for part in parts:
            what = _what(part)
            if self._has(part.index, what):
                self._recalled.append(part.index)
            else:
                self._computing[part.index] = what
                yield part

    def _has(self, index: int, what: _What) -> bool:
        """True if the file has the partial of this part, undamaged.

        Raises:
            CheckpointMismatch: it has one of another slice or of other records.
        """
        try:
            row = self._file.execute(f"SELECT {_COLUMNS} FROM partial WHERE part = ?", (index,)).fetchone()
        except _DAMAGED as error:
            log.warning("%s: part %d cannot be read (%s): it is computed again", self.path, index, error)
            return False
        if row is None:
            return False
        if row[5] != _checksum(*row[:5]):
            log.warning("%s: the partial of part %d is damaged: it is computed again", self.path, index)
            return False
        was: _What = row[1:4]
        if was == what:
            return True
        if self._keeps or self._renews:
            log.debug("%s: part %d has another slice or other records: it is computed again", self.path, index)
            return False
        or_begin_again = (
            'to go on; or give on_mismatch="keep", with which such parts are computed again and the others kept; or '
            "delete the file to begin again"
        )
        if was[:2] != what[:2]:
            raise CheckpointMismatch(
                f"{self.path}: part {index} was of offset {was[0]}, limit {was[1]}, and is of offset {what[0]}, limit "
                f"{what[1]} now. Cut the data as before {or_begin_again}"
            )
        raise CheckpointMismatch(
            f"{self.path}: the data of part {index} is not what it was. Give the same data {or_begin_again}"
        )

    def recalled(self) -> Iterator[tuple[int, bytes]]:
        """Yield the finished parts that `fresh` has left out since the last call, with their encoded partials."""
        indices, self._recalled = self._recalled, []
        for index in indices:
            yield index, self._file.execute("SELECT value FROM partial WHERE part = ?", (index,)).fetchone()[0]

    def write(self, finished: list[tuple[int, bytes]]) -> None:
        """Add encoded partials, in one transaction.

        Raises:
            OSError: the file cannot be written.
        """
        rows = [(index, *self._computing.pop(index), _plain(value)) for index, value in finished]
        mended = [(index,) for index, _ in finished if index in self._failed] if self._failed else []
        self._failed.difference_update(index for (index,) in mended)
        self._change(
            (_ADD_PARTIAL, [(*row, _checksum(*row), self._code) for row in rows]),
            ("DELETE FROM failed WHERE part = ?", mended),
        )

    def note_failed(self, errors: list[PartFailed | PartLost]) -> None:
        """Note parts that have failed for good: `pymar checkpoint` shows them, and the next run computes them again.

        Raises:
            OSError: the file cannot be written.
        """
        rows = [(error.index, _now(), line_of(error), self._code) for error in errors]
        self._failed.update(error.index for error in errors)
        self._change(
            ("INSERT OR REPLACE INTO failed VALUES (?, ?, ?, ?)", rows),
            ("DELETE FROM partial WHERE part = ?", [row[:1] for row in rows]),  # of what the part was before
        )

    def _change(self, *statements: tuple[str, list[tuple[Any, ...]]]) -> None:
        """Run statements, each with many rows, in one transaction.

        Raises:
            OSError: the file cannot be written.
        """
        try:
            self._file.execute("BEGIN")
            for statement, rows in statements:
                if rows:
                    self._file.executemany(statement, rows)
            self._file.execute("COMMIT")
        except sqlite3.Error as error:
            code = errno.ENOSPC if error.sqlite_errorcode == sqlite3.SQLITE_FULL else errno.EIO
            text = (
                f"{os.strerror(code)}: the checkpoint cannot be written ({error}). Make room, and repeat the call: it "
                "computes only what is missing"
            )
            raise OSError(code, text, str(self.path)) from error

    def close(self) -> None:
        """Close the file, which unlocks it."""
        self._file.close()


def _connected(path: Path) -> sqlite3.Connection:
    file = sqlite3.connect(path, isolation_level=None, timeout=1, check_same_thread=False)
    try:
        # Locked until it is closed: two producers must not write one journal.
        for setting in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = NORMAL"):
            file.execute(f"PRAGMA {setting}")
        file.execute("BEGIN EXCLUSIVE")
        file.execute("COMMIT")
    except BaseException:  # nothing else closes it yet
        file.close()
        raise
    return file


class Version(NamedTuple):
    """A description of the job of a checkpoint, and what was computed by it."""

    number: int
    began: str
    """In UTC; "" in a file of Pymar's before 0.6."""
    computed: int
    """How many of the finished parts are its own."""
    changes: list[str]
    """What differs from the version before, by names."""


class Contents(NamedTuple):
    """What a checkpoint has, to be shown."""

    name: str
    """The producer's class."""
    done: int
    total: int | None
    """How many parts the job has; None if that is not known."""
    sink: str
    """The class of the sink, or of the stage of a keyed job; "" without one."""
    is_published: bool
    failed: list[tuple[int, str, str, int]]
    """The parts that failed and are not finished: number, when, the error in one line, the number of the version."""
    versions: list[Version]


def contents(path: str | PathLike[str]) -> Contents:
    """Return what a checkpoint has. It is not changed.

    Raises:
        CheckpointMismatch: it is none, or is in use, or cannot be read.
    """
    place = Path(path)
    if not place.is_file():
        raise CheckpointMismatch(f"{place} is no checkpoint: there is no such file")
    try:
        with place.open("rb") as file:
            head = file.read(16)
        if head not in (b"SQLite format 3\0", b""):
            raise CheckpointMismatch(f"{place} is no checkpoint")
        # A run that has it open has a log beside it; without one, SQLite needs to make no files to read it.
        real = place.resolve()
        options = "mode=ro" if real.with_name(f"{real.name}-wal").exists() else "mode=ro&immutable=1"
        connection = sqlite3.connect(f"{real.as_uri()}?{options}", uri=True, timeout=1)
        try:
            return _contents(connection, place)
        finally:
            connection.close()
    except _DAMAGED as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise CheckpointMismatch(f"{place} is in use: a run has it open. Ask again once that is over") from error
        if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            raise CheckpointMismatch(f"{place} cannot be read: {error}. Copy it, with {place.name}-wal") from error
        raise CheckpointMismatch(f"{place} is no checkpoint, or is damaged: {error}") from error
    except OSError as error:
        raise CheckpointMismatch(f"{place} cannot be read: {error.strerror}") from error


def _contents(file: sqlite3.Connection, path: Path) -> Contents:
    columns = _columns_of(file)
    if columns not in (_COLUMNS_2, ["number", "began", *_COLUMNS_2]):
        raise CheckpointMismatch(f"{path} is no checkpoint, or was written by another version of Pymar")
    is_of_2 = columns == _COLUMNS_2
    rows = file.execute(f"{_JOB_OF_2} job" if is_of_2 else "SELECT * FROM job ORDER BY number").fetchall()
    if not rows or any(row[2] != _FORMAT for row in rows):
        raise CheckpointMismatch(f"{path} has no job, or was written by another version of Pymar")
    tables = {name for (name,) in file.execute("SELECT name FROM sqlite_master")}
    computed = dict(
        file.execute("SELECT 1, count(*) FROM partial" if is_of_2 else "SELECT code, count(*) FROM partial GROUP BY 1")
    )
    versions: list[Version] = []
    before: dict[str, str] = {}
    for number, began, _, text, checksum in rows:
        if type(text) is not str or checksum != _checksum(text):
            raise CheckpointMismatch(f"{path} is damaged: the description of its job cannot be read")
        description: dict[str, str] = json.loads(text)
        changes = [name for name, _ in _changes(_compared(before), _compared(description))] if before else []
        versions.append(Version(number, began or "", computed.get(number, 0), changes))
        before = description
    found = re.search(r"in (\d+) parts", before.get("the parts", ""))
    total = int(found[1]) if found else None
    # A job that was cut into more parts before has left rows that nothing reads.
    below = "" if total is None else f" WHERE part < {total}"
    (done,) = file.execute(f"SELECT count(*) FROM partial{below}").fetchone()
    failed = file.execute(f"SELECT * FROM failed{below} ORDER BY part").fetchall() if "failed" in tables else []
    return Contents(
        before.get("the producer", ""),
        done,
        total,
        before.get("the sink", before.get("the stage", "")).partition(" ")[0],
        "published" in tables,
        failed,
        versions,
    )


def _columns_of(file: sqlite3.Connection, table: str = "job") -> list[str]:
    """Return the columns of a table; none if there is none."""
    return [row[1] for row in file.execute(f"PRAGMA table_info({table})")]


def _now() -> str:
    return datetime.now(UTC).isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")


def _readable(file: sqlite3.Connection, columns: str) -> list[tuple[Any, ...]]:
    """Return the undamaged rows of a damaged file: read from both ends, since a damaged page ends a scan."""
    rows: dict[int, tuple[Any, ...]] = {}
    for order in ("ASC", "DESC"):
        try:
            for row in file.execute(f"SELECT {columns} FROM partial ORDER BY part {order}"):
                if type(row[0]) is int and row[5] == _checksum(*row[:5]):
                    rows[row[0]] = row
        except _DAMAGED:
            continue  # rows behind the damage are found in the other direction
    return list(rows.values())


def _make_or_check(path: Path) -> None:
    """Make the file, readable by its owner only; or check that nobody else could write it: partials may be unpickled.

    Raises:
        CheckpointMismatch: the file cannot be used, or another user could write it.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        pass
    except OSError as error:
        raise CheckpointMismatch(f"{path} cannot be written: {error.strerror}") from error
    if not hasattr(os, "geteuid"):
        return
    target = path.resolve()
    me = os.geteuid()
    for place, owners, what in (
        (target, {me}, "the checkpoint"),
        (target.parent, {me, 0}, "the folder of a checkpoint"),
    ):
        try:
            found = place.stat()
        except OSError as error:
            raise CheckpointMismatch(f"{path} cannot be used as a checkpoint: {error.strerror}: {place}") from error
        why = ""
        if found.st_uid not in owners:
            why = f"belongs to another user ({_user(found.st_uid)})"
        elif _others_write(found, me):
            why = f"may be written by other users (mode {stat.S_IMODE(found.st_mode):o})"
        if why:
            raise CheckpointMismatch(
                f"{place}, {what}, {why}, who could put code into it that runs here. Delete the file, or give the "
                f"checkpoint a folder of your own (chmod go-w)"
            )


def _others_write(found: os.stat_result, me: int) -> bool:
    if stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX:
        return False  # as /tmp: only the owner of a file may replace it
    if found.st_mode & stat.S_IWOTH:
        return True
    return bool(found.st_mode & stat.S_IWGRP) and not _is_own_group(found.st_gid, me)


def _is_own_group(group: int, me: int) -> bool:
    """True if a group is private to a user, as many systems make one for each: nobody else is in it."""
    import grp
    import pwd

    try:
        user, found = pwd.getpwuid(me), grp.getgrgid(group)
    except KeyError:
        return False
    return user.pw_gid == group and found.gr_name == user.pw_name and set(found.gr_mem) <= {user.pw_name}


def _user(number: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"uid {number}"


def _plain(value: bytes) -> bytes:
    """Return an encoded partial, encoded as plain data if it is that: reading it then executes nothing."""
    if value[:3] == PLAIN_MARK:
        return value
    found = loads(value)
    if is_plain(found):
        from pymar.serialization import plain

        try:
            return plain.dumps(found)
        except NotPlain:  # an array of a type that plain data does not have
            return value
    return value


def _what(part: Part) -> _What:
    return str(part.offset), str(part.limit), _digest(part)


def _digest(part: Part) -> str | None:
    if part.data is None:
        return None
    try:
        code = UserCode()
        text = code.text(part.data)  # the same for equal records, even if some of them are the same object
        code.follow()
        if code.unknown:
            raise Indescribable(next(iter(code.unknown)))
        return digest(f"{text} {sorted(code.texts.items())}" if code.texts else text)
    except Indescribable:
        return hashlib.blake2b(dumps(part.data), digest_size=16).hexdigest()


def _checksum(*columns: Any) -> bytes:
    """Return a checksum over columns, each with its type and length."""
    found = hashlib.blake2b(digest_size=16)
    for column in columns:
        data = column if type(column) is bytes else repr(column).encode(errors="backslashreplace")
        found.update(f"{type(column).__name__} {len(data)} ".encode())
        found.update(data)
    return found.digest()


def _compared(description: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in description.items() if name not in _WARNED}


def _changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return what differs: its name, and a text with both values."""
    found: list[tuple[str, str]] = []
    for name in sorted({*before, *now}):
        if name.startswith(IF_LOADED) and not (name in before and name in now):
            continue
        was, is_now = _short(before.get(name, "absent")), _short(now.get(name, "absent"))
        if before.get(name) != now.get(name):
            found.append((name, f"{name} ({was} before, {is_now} now)"))
    return found


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
