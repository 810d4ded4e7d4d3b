"""FileSink, the base of sinks that write files, and Files.

    records -> batches -> units (lists of records, Arrow tables, arrays) -> by Hive folder -> a file of that part

A part writes at least one file for each Hive folder that it has records of, and a further one when a file is large or
its records do not fit it. The second stage merges small files, so that ten thousand small parts are a few files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from secrets import token_hex
from typing import Any, ClassVar, Protocol
from urllib.parse import quote, unquote

from pymar.exceptions import SinkError, UsageError
from pymar.parts import Part
from pymar.sinks.sink import Sink, Written
from pymar.sinks.targets import MODES, Move, Target, target_of, translated
from pymar.sources.extras import needed
from pymar.sources.manifest import Entry

#: What one `write` has written: [folder, name among the parts, records, bytes, what the format notes of the file].
Row = list[Any]
#: Records of the first batch of a part, and of the largest one; bytes of a batch above which the next is not larger.
_FIRST, _MOST, _LARGE = 64, 8_192, 1 << 20
#: Files smaller than this share of `bytes_a_file` are merged with their neighbours.
_SMALL = 128
#: Open files of one part: with more Hive folders, the one that has the most in memory is closed.
_OPEN = 100
#: Bytes that the open files of a part may have in memory, together.
_PENDING = 64 << 20
#: Bytes of a value in the name of a folder: names have 255 at most on most systems, with that of the column.
_LONGEST = 200
#: The value of a column that is null, in the name of a Hive folder.
NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"
#: Ends of the names of compressed files.
COMPRESSED = {"gzip": ".gz", "bz2": ".bz2", "xz": ".xz", "zstd": ".zst"}


#: Attributes of sinks that are of this process alone, and do not travel.
OF_PROCESS = frozenset({"_the_target", "_first", "_shown", "_unpacked", "_commit_id"})


class Writer(Protocol):
    """One open file of a format."""

    @property
    def pending(self) -> int:
        """Return the bytes of records that are in memory."""

    def fits(self, unit: Any) -> bool:
        """True if a unit can go to this file; it goes to a new one otherwise.

        Raises:
            SinkError: it fits no file of the job.
        """

    def write(self, unit: Any) -> int:
        """Write a unit; return its size in bytes, roughly."""

    def flush(self) -> None:
        """Write what is in memory."""

    def close(self) -> Any:
        """Finish the file; return what is to be noted of it."""


class FileSink(Sink):
    """The base of sinks that write files into a folder. A format of your own overrides `encode`, and `suffix`.

    Args:
        path: the folder, local (and shared by all workers) or in a store that fsspec knows (s3://bucket/folder).
        mode: "new" refuses a folder that has data; "overwrite" replaces it when all is written; "append" adds files.
        partition_by: names of columns; files go to Hive's folders `year=2013/month=1/`, without these columns.
        records_a_file: records of a file, at most.
        bytes_a_file: bytes of a file, about; the next record goes to another one. Files much smaller are merged.
        compression: None, "gzip", "bz2", "xz" or "zstd".
        storage: options of the store (fsspec's `storage_options`). They travel with the job: put secrets into the
            environment of the workers instead.
    """

    #: The id of what is published.
    _commit_id = ""
    #: The end of the names of files.
    suffix: ClassVar[str] = ""
    #: Values of `compression`.
    compressions: ClassVar[Sequence[str]] = tuple(COMPRESSED)

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        mode: str = "new",
        partition_by: Sequence[str] = (),
        records_a_file: int | None = None,
        bytes_a_file: int = 128 << 20,
        compression: str | None = None,
        storage: Mapping[str, Any] | None = None,
    ) -> None:
        self.path: str = _checked_path(path, type(self).__name__)
        self.mode: str = _one_of("mode", mode, MODES)
        self.partition_by: tuple[str, ...] = _names("partition_by", partition_by)
        self.records_a_file: int | None = (
            None if records_a_file is None else _positive("records_a_file", records_a_file)
        )
        self.bytes_a_file: int = _positive("bytes_a_file", bytes_a_file)
        self.compression: str | None = _one_of("compression", compression, (None, *self.compressions))
        self.storage: dict[str, Any] = dict(storage or {})
        #: Of the job: its id; and whether there is a checkpoint.
        self.job: str = ""
        self.keeps: bool = False

    # What a format says.

    def end(self) -> str:
        """Return the end of the names of files."""
        return f"{self.suffix}{COMPRESSED.get(self.compression or '', '')}"

    def encode(self, records: list[Any]) -> bytes:
        """Return the bytes of some records."""
        raise NotImplementedError

    def units(self, records: list[Any]) -> Iterable[Any]:
        """Return a batch of records as units that have a length and can be sliced: lists, or tables, or arrays."""
        return [records]

    def divided(self, unit: Any) -> Iterable[tuple[str, Any]]:
        """Yield the Hive folder and the records of each combination of values of `partition_by` in a unit."""
        found: dict[tuple[Any, ...], list[Any]] = {}
        for record in unit:
            if not isinstance(record, Mapping):
                raise Misfit(f"partition_by needs records that are dicts: {record!r:.200}", record)
            values = []
            for name in self.partition_by:
                if name not in record:
                    raise Misfit(f"it has no {name!r}, by which the records are partitioned", record)
                values.append(record[name])
            rest = {name: value for name, value in record.items() if name not in self.partition_by}
            if not rest:
                raise Misfit("all its columns are in partition_by, and none is left for the file", record)
            found.setdefault(tuple(map(folder_value, values)), []).append(rest)
        return [(self.folder(values), records) for values, records in found.items()]

    def writer(self, file: Any) -> Writer:
        """Return a writer to a new file."""
        return _Encoded(self, compressed(file, self.compression))

    def merge(self, rows: Sequence[Row], target: Target) -> Iterator[Any]:
        """Yield units with the records of some files, in order. By default their bytes, written as they are."""
        for row in rows:
            with target.open(row[1]) as file:
                while piece := file.read(1 << 20):
                    yield piece

    def merging_writer(self, file: Any) -> Writer:
        """Return a writer for the units that `merge` yields."""
        return _Bytes(file)

    def can_merge(self, one: Any, other: Any) -> bool:
        """True if two files can be merged, by what is noted of each."""
        return bool(one == other)

    def must_rewrite(self, noted: Any) -> bool:
        """True if a file has to be written anew, since later parts have shown that it needs another schema."""
        return False

    # What a job asks for.

    def begin(self, checkpoint: str | None) -> None:
        self.keeps = checkpoint is not None
        self.job = token_hex(4) if checkpoint is None else _digest(f"{os.path.abspath(checkpoint)} {self.path}")
        self._target().begin(self.mode, self.job, self.keeps)

    def _target(self) -> Target:
        if "_the_target" not in vars(self):
            vars(self)["_the_target"] = target_of(self.path, self.storage, self.job)
        found: Target = vars(self)["_the_target"]
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in OF_PROCESS}

    def write(self, part: Part, records: Iterable[Any]) -> list[Row]:
        if self.is_merging:
            return [row for rows in records for row in self._merged(part, rows)]
        number = 0
        try:
            with PartFiles(self, self._target(), part) as files:
                for batch in _batches(records, files):
                    try:
                        for unit in self.units(batch):
                            files.add(unit)
                    except Misfit as misfit:
                        raise misfit.error(type(self).__name__, part, number, batch) from misfit.__cause__
                    number += len(batch)
        except Misfit as misfit:  # when the last records are written
            raise misfit.error(type(self).__name__, part, number, []) from misfit.__cause__
        return files.rows

    def _merged(self, part: Part, rows: Sequence[Row]) -> list[Row]:
        with PartFiles(self, self._target(), part, self.merging_writer) as files:
            records = sum(row[2] for row in rows)
            try:
                for unit in self.merge(rows, self._target()):
                    files.put(rows[0][0], unit)
            except Misfit as misfit:
                parts = f"parts {int(rows[0][1][1:9])} to {int(rows[-1][1][1:9])}"
                raise SinkError(
                    f"{type(self).__name__}: the records of {parts} do not fit together: {misfit.text}. Convert them "
                    "in map_fn, or give schema="
                ) from misfit.__cause__
        for row in files.rows:
            row[2] = records  # units may be bytes, which say nothing of records
            row[4] = row[4] if row[4] is not None else rows[0][4]
        return files.rows

    def merges(self, wrote: Sequence[list[Row]]) -> list[list[Row]]:
        """Return groups of files that are to be one: small ones, in the order of their records."""
        groups: list[list[Row]] = []
        by_folder: dict[str, list[Row]] = {}
        for row in _in_order(wrote):
            by_folder.setdefault(row[0], []).append(row)
        for rows in by_folder.values():
            group: list[Row] = []
            records = size = 0
            for row in rows:
                records, size = records + row[2], size + row[3]
                if group and not self._joins(group[-1], row, records, size):
                    groups.append(group)
                    group, records, size = [], row[2], row[3]
                group.append(row)
            groups.append(group)
        return [group for group in groups if len(group) > 1 or any(self.must_rewrite(row[4]) for row in group)]

    def _joins(self, last: Row, row: Row, records: int, size: int) -> bool:
        """True if a file goes to the group whose last file is `last`, and which then has so many records and bytes."""
        return (
            self.can_merge(last[4], row[4])
            and max(last[3], row[3]) < self.bytes_a_file // _SMALL
            and size <= self.bytes_a_file
            and (self.records_a_file is None or records <= self.records_a_file)
        )

    def commit(self, wrote: Sequence[list[Row]], merged: Sequence[list[Row]]) -> Written:
        # Not the id of the job, which is the same for all runs with one checkpoint.
        self._commit_id = token_hex(4)
        try:
            final = self._final(wrote, merged)
            moves = [(row[1], Entry(self._name(row, number), row[3], row[2])) for number, row in enumerate(final)]
            self._check_names(moves)
            if self.mode == "append" and (present := self._target().present()):
                if not any(row[2] for row in final):  # a file without records would have no schema to compare
                    self._target().abort(keeps=False)
                    return Written(0, 0, 0)
                with translated(self.path):
                    self._check_present(present, final)
            self._target().commit(moves, self.mode, self._commit_id)
        except BaseException:  # an interrupt too: nobody else removes what was written
            self.abort()
            raise
        return Written(sum(row[2] for row in final), len(final), sum(row[3] for row in final))

    def _final(self, wrote: Sequence[list[Row]], merged: Sequence[list[Row]]) -> list[Row]:
        """Return the files that become the data, in the order of their records."""
        groups = self.merges(wrote)
        instead = {group[0][1]: new for group, new in zip(groups, _by_group(merged, len(groups)), strict=True)}
        gone = {row[1] for group in groups for row in group}
        final: list[Row] = []
        for row in _in_order(wrote):
            final += instead.get(row[1], []) if row[1] in gone else [row]
        records, there = (sum(row[2] for row in rows) for rows in (_in_order(wrote), final))
        if records != there:
            raise SinkError(f"{there:,} records are in the files to publish, and the parts have written {records:,}")
        return final or self._empty(self._target())

    def _check_present(self, present: Sequence[Entry], final: Sequence[Row]) -> None:
        """Refuse to add files that no source could read together with those that are there.

        Raises:
            SinkError: their Hive folders, or their columns, differ.
        """
        there = _folder_names(present[-1].path.rpartition("/")[0])
        if there != list(self.partition_by) and any(_folder_names(entry.path.rpartition("/")[0]) for entry in present):
            raise SinkError(
                f"{self.path} is partitioned by {', '.join(there) or 'nothing'}, and this job by "
                f"{', '.join(self.partition_by) or 'nothing'}: partition both alike"
            )
        if self.partition_by and not there:
            raise SinkError(
                f"{self.path} has files that are not partitioned: partition both alike, or leave it out here"
            )
        with self._target().open_present(present[-1]) as file:
            self.check_append(file, present[-1].path, final)

    def check_append(self, file: Any, path: str, final: Sequence[Row]) -> None:
        """Refuse files that differ in their columns from one that is there.

        Raises:
            SinkError: they do.
        """

    def _empty(self, target: Target) -> list[Row]:
        """Write a file without records: with the schema, where the format has one."""
        part = Part(0, 0, 0, 0)
        with PartFiles(self, target, part) as files:
            files.writer_for("")
        return files.rows

    def _name(self, row: Row, number: int) -> str:
        return f"{row[0]}part-{number:05d}-{self._commit_id}{self.end()}"

    def _check_names(self, moves: Sequence[Move]) -> None:
        """Refuse names that cannot be those of files; of most sinks they are made here."""

    def abort(self) -> None:
        self._target().abort(self.keeps)

    def folder(self, values: Sequence[str]) -> str:
        """Return the Hive folder of some values, with a slash behind it."""
        return "".join(
            f"{quote(name, safe=' ')}={value}/" for name, value in zip(self.partition_by, values, strict=True)
        )


class Misfit(Exception):
    """A record does not fit. Caught by `FileSink.write`, which knows the part and where the record is in it."""

    def __init__(self, text: str, record: Any = None) -> None:
        super().__init__(text, record)
        self.text: str = text
        self.record: Any = record

    def error(self, sink: str, part: Part, before: int, batch: Sequence[Any]) -> SinkError:
        """Return the error for the user. The record is the first in the batch that is or equals ours."""
        place = next((number for number, one in enumerate(batch) if one is self.record), None)
        where = (
            f"record {before + place} of part {part.index}" if place is not None else f"a record of part {part.index}"
        )
        return SinkError(f"{sink}: {where} does not fit: {self.text}")


class PartFiles:
    """The files that one attempt at a part writes: one open file for each Hive folder. A context that closes them."""

    def __init__(self, sink: FileSink, target: Target, part: Part, make: Callable[[Any], Writer] | None = None) -> None:
        self._sink, self._target = sink, target
        self._make = make or sink.writer
        stage = "m" if sink.is_merging else "p"
        # A part may be computed twice at once: each attempt has names of its own.
        self._prefix = f"{stage}{part.index:08d}-{part.attempt}-{token_hex(4)}"
        self._index = part.index
        self._open: dict[str, tuple[Any, Writer, str, list[int]]] = {}
        self._made = 0
        #: Bytes of the last batch.
        self.weight: int = 0
        self.rows: list[Row] = []

    def __enter__(self) -> PartFiles:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            with translated(self._sink.path):
                for folder in list(self._open):
                    self._close(folder)
            self.rows.sort(key=lambda row: row[1])
            return
        for file, *_ in self._open.values():
            with suppress(Exception):  # the first error is the one to report
                self._target.discard(file)

    def add(self, unit: Any) -> None:
        """Write a unit: a list of records, a table or an array."""
        if not self._sink.partition_by:
            self.put("", unit)
            return
        for folder, some in self._sink.divided(unit):
            self.put(folder, some)

    def put(self, folder: str, unit: Any) -> None:
        """Write a unit to the file of a Hive folder, and to further ones if that becomes too large."""
        sink = self._sink
        with translated(sink.path):
            while len(unit):
                writer = self.writer_for(folder)
                if not writer.fits(unit):
                    self._close(folder)
                    writer = self.writer_for(folder)
                    writer.fits(unit)
                file, _, _, count = self._open[folder]
                room = len(unit) if sink.records_a_file is None or sink.is_merging else sink.records_a_file - count[0]
                piece, unit = (unit, ()) if room >= len(unit) else (unit[:room], unit[room:])
                self.weight += writer.write(piece)
                count[0] += len(piece)
                if not sink.is_merging and (
                    count[0] == sink.records_a_file or file.tell() + writer.pending > sink.bytes_a_file
                ):
                    self._close(folder)
            self._make_room()

    def writer_for(self, folder: str) -> Writer:
        """Return the writer of the open file of a folder; open one if there is none."""
        found = self._open.get(folder)
        if found is None:
            name = f"{self._prefix}-{self._made:06d}"
            self._made += 1
            file = self._target.create(name)
            found = self._open[folder] = file, self._make(file), name, [0]
        return found[1]

    def _make_room(self) -> None:
        while len(self._open) > _OPEN:
            self._close(max(self._open, key=lambda folder: self._open[folder][1].pending))
        if len(self._open) > 1 and sum(writer.pending for _, writer, _, _ in self._open.values()) > _PENDING:
            max((writer for _, writer, _, _ in self._open.values()), key=lambda writer: writer.pending).flush()

    def _close(self, folder: str) -> None:
        file, writer, name, count = self._open[folder]
        noted = writer.close()
        size = file.tell()
        file.close()
        del self._open[folder]
        self.rows.append([folder, name, count[0], size, noted])


def _batches(records: Iterable[Any], files: PartFiles) -> Iterator[list[Any]]:
    """Yield records in lists: longer ones as long as a list is not large in bytes."""
    left, size = iter(records), _FIRST
    while batch := list(islice(left, size)):
        files.weight = 0
        yield batch
        size = min(size * 2, _MOST) if files.weight < _LARGE else max(1, size // 2)


class _Encoded:
    """A file that a sink's `encode` gives the bytes of."""

    pending = 0

    def __init__(self, sink: FileSink, file: Any) -> None:
        self._sink, self._file = sink, file

    def fits(self, unit: Any) -> bool:
        return True

    def write(self, unit: Any) -> int:
        data = self._sink.encode(unit)
        self._file.write(data)
        return len(data)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> Any:
        self._file.finish()


class _Bytes(_Encoded):
    """A file of bytes that are finished already."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, unit: Any) -> int:
        self._file.write(unit)
        return len(unit)

    def close(self) -> Any:
        return None


class compressed:  # noqa: N801 - used as a function
    """A file whose bytes are compressed on the way; `finish` ends the compressed data, and leaves the file open."""

    def __init__(self, file: Any, compression: str | None) -> None:
        self._file = file
        self._compressor = _compressor(compression)

    def write(self, data: bytes) -> None:
        self._file.write(data if self._compressor is None else self._compressor.compress(data))

    def flush(self) -> None:
        """Nothing is kept here."""

    def finish(self) -> None:
        """Write the end of the compressed data."""
        if self._compressor is not None:
            self._file.write(self._compressor.flush())


def _compressor(compression: str | None) -> Any:
    if compression is None:
        return None
    if compression == "gzip":
        import zlib

        return zlib.compressobj(6, zlib.DEFLATED, 31)  # 31: with gzip's header (zlib's manual, deflateInit2)
    if compression == "bz2":
        import bz2

        return bz2.BZ2Compressor()
    if compression == "xz":
        import lzma

        return lzma.LZMACompressor()
    return needed("zstandard", "zstd", "compression='zstd'").ZstdCompressor().compressobj()


class Files(FileSink):
    """Files by name: records are `(name, bytes)`, with a name relative to the folder, such as `images/7.png`.

    Raises:
        SinkError: a name is used twice, or does not lead to a place within the folder.
    """

    compressions: ClassVar[Sequence[str]] = ()

    def write(self, part: Part, records: Iterable[Any]) -> list[Row]:
        rows: list[Row] = []
        prefix = f"p{part.index:08d}-{part.attempt}-{token_hex(4)}"
        target = self._target()
        for number, record in enumerate(records):
            where = f"record {number} of part {part.index}"
            if not (
                isinstance(record, tuple) and len(record) == 2 and isinstance(record[1], bytes | bytearray | memoryview)
            ):
                raise SinkError(f"Files: {where} does not fit: it has to be (name, bytes), and is {record!r:.200}")
            name, data = record[0], bytes(record[1])
            _check_relative(name, where)
            with translated(self.path), target.create(stored := f"{prefix}-{number:06d}") as file:
                file.write(data)
            rows.append(["", stored, 1, len(data), name])
        return rows

    def merges(self, wrote: Sequence[list[Row]]) -> list[list[Row]]:
        return []

    def _empty(self, target: Target) -> list[Row]:
        return []

    def _name(self, row: Row, number: int) -> str:
        return str(row[4])

    def _check_names(self, moves: Sequence[Move]) -> None:
        names = [entry.path for _, entry in moves]
        if len(set(names)) < len(names):
            seen: set[str] = set()
            twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            raise SinkError(f"Files: two records have the name {twice!r}: give each file a name of its own")
        there = set(names)
        for name in names:
            if (folder := name.rpartition("/")[0]) in there:
                raise SinkError(f"Files: {folder!r} is the name of a file, and the folder of {name!r}")


def _check_relative(name: Any, where: str) -> None:
    names = name.split("/") if isinstance(name, str) else [""]
    if not all(names) or {".", ".."} & set(names) or "\0" in name or not _is_unicode(name):
        raise SinkError(
            f"Files: {where} has the name {name!r:.200}: it has to be a path within the folder, such as a/b.txt"
        )
    if any(one.startswith((".", "_")) for one in names):
        raise SinkError(
            f"Files: {where} has the name {name!r:.200}: names that begin with . or _ are no data for readers"
        )


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def folder_value(value: Any) -> str:
    """Return a value as it stands in the name of a Hive folder."""
    if value is None:
        return NULL_FOLDER
    if value == NULL_FOLDER:
        raise Misfit(f"{value!r} in the name of a folder means None")
    if isinstance(value, bytes | Mapping | list | tuple | set):
        raise Misfit(f"{value!r:.100} cannot be the name of a folder: partition by text, numbers or dates")
    try:
        name = quote(str(value), safe=" ")
    except UnicodeEncodeError as error:
        raise Misfit(f"{value!r:.100} cannot be the name of a folder: {error}") from error
    if len(name) > _LONGEST:
        raise Misfit(f"{value!r:.100} is too long for the name of a folder: partition by something shorter")
    return name


def _in_order(wrote: Sequence[list[Row]]) -> list[Row]:
    """Return all files in the order of their records: names begin with the part, and number its files."""
    return sorted((row for rows in wrote for row in rows), key=lambda row: (row[1][:9], row[1][-6:]))


def _by_group(merged: Sequence[list[Row]], count: int) -> list[list[Row]]:
    """Return what the second stage wrote, by the number of the group."""
    found: list[list[Row]] = [[] for _ in range(count)]
    for row in _in_order(merged):
        found[int(row[1][1:9])].append(row)
    return found


def _digest(text: str) -> str:
    from hashlib import blake2b

    return blake2b(text.encode(), digest_size=4).hexdigest()


def _checked_path(path: Any, name: str) -> str:
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise UsageError(f"{name}({path!r:.100}): give the folder that the files are to go to")
    text = str(os.fspath(path))
    for scheme in ("file://", "local://"):
        text = text.removeprefix(scheme)
    if "://" in text:
        return text.rstrip("/")
    return os.path.abspath(os.path.expanduser(text))


def _one_of(name: str, value: Any, allowed: Sequence[Any]) -> Any:
    if value not in allowed:
        raise UsageError(f"{name}={value!r:.100}: it has to be {', '.join(map(repr, allowed[:-1]))} or {allowed[-1]!r}")
    return value


def _names(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not all(isinstance(one, str) for one in value):
        raise UsageError(f"{name}={value!r:.100}: give a list of names")
    if len(set(value)) < len(value) or any(not one or one.startswith(".") for one in value):
        raise UsageError(f"{name}={value!r:.100}: give different names, none of which begins with a dot")
    return tuple(value)


def _folder_names(folder: str) -> list[str]:
    """Return the names of the columns that a Hive folder gives."""
    return [unquote(one.partition("=")[0]) for one in folder.split("/") if "=" in one]


def _positive(name: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise UsageError(f"{name}={value!r:.100}: it has to be a whole number, 1 or more")
    return value
