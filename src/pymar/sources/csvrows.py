"""Rows of CSV files, as dicts or tuples."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from pymar.exceptions import SourceError
from pymar.serialization.redaction import redacted
from pymar.sources import cuts
from pymar.sources.checks import check_settings
from pymar.sources.cuts import Cut
from pymar.sources.storage import Row
from pymar.sources.text import TextFiles, check_encoding, with_mark, without_mark

#: Characters of a bad row that its error shows.
_SHOWN = 200
#: Bytes that are read at a time to find the header.
_HEADER = 1 << 13


class CSVRows(TextFiles):
    """The rows of CSV files (RFC 4180): dicts of text by the names in each file's first row, or tuples.

    A quoted field may contain line ends, so that the start of a row cannot be found in the middle of a file: each file
    is in one part. If no field contains a line end, set `single_line = True`: then files are cut as those of TextLines.

    Class attributes, besides those of FileSource:
        encoding: of the text. UTF-8, or any with one byte a character.
        delimiter: the character between fields.
        quotechar: the character around a quoted field; None if fields are never quoted.
        max_record: bytes of the longest row, with single_line; otherwise characters of the longest field.
        single_line: True if no field contains a line end.
        header: True if the first row of each file has the names; otherwise rows are tuples, or set `columns`.
        columns: names of the columns to read, in this order; all by default. Without a header: names of all columns.
        as_tuples: True for rows as tuples.

    Raises:
        SourceError: a row has more or fewer fields than the header, or a column is missing; with file and byte.
    """

    delimiter: ClassVar[str] = ","
    quotechar: ClassVar[str | None] = '"'
    single_line: ClassVar[bool] = False
    header: ClassVar[bool] = True
    columns: ClassVar[Sequence[str]] = ()
    as_tuples: ClassVar[bool] = False
    #: What `prepare` found: the names in the first row of the first file, with which those of the others are compared.
    header_names: ClassVar[Sequence[str]] = ()

    @classmethod
    def prepare(cls) -> Mapping[str, Any]:
        for name, value in (("delimiter", cls.delimiter), ("quotechar", cls.quotechar)):
            if value is None and name == "quotechar":
                continue
            if not isinstance(value, str) or len(value) != 1:
                none = ", or None if no field is quoted" if name == "quotechar" else ""
                raise SourceError(f"{cls.__name__}.{name} is {value!r}: it has to be one character{none}")
        check_settings(cls, flags=("header", "single_line", "as_tuples"), names=("columns",))
        check_encoding(cls.encoding)
        if cls.single_line and "\n".encode(cls.encoding or "utf-8")[-1:] != b"\n":
            raise SourceError(f"encoding={cls.encoding!r} has other line ends: set single_line = False")
        prepared = super().prepare()
        if cls.header and not cls.columns:
            prepared = {**prepared, "header_names": cls()._first_names(prepared["files"])}
        return prepared

    def _first_names(self, files: Sequence[Row]) -> list[str]:
        """Return the names in the first row of the first file with one; [] if it cannot be read: its part says why."""
        for row in files:
            try:
                with self._from(row, 0) as file:
                    if names := next(filter(None, self._reader(file, 0, _HEADER)), None):
                        return list(names)
            except (csv.Error, UnicodeDecodeError):
                return []
        return []

    def _records(self, row: Row, start: int, end: int) -> Iterator[Any]:
        path = row[0]
        if row[3] or not self.single_line:
            if start == 0:
                with self._from(row, 0) as file:
                    yield from self._read(file, row, 0, None)
            return
        cut = Cut(b"\n", self.max_record, "its lines end in CR alone, write it with line feeds")
        with self._open(row) as file:
            first, last = cut.boundary(file, start, path), cut.boundary(file, end, path, int(row[1]))
            if first < last:
                top = self._top(file, first)
                file.seek(first)
                section = _Section(file, last - first)
                if self.header or top is None:
                    yield from self._read(section, row, first, top)
                else:
                    yield from self._read(section, row, first, None, len(top))

    def _top(self, file: Any, first: int) -> list[str] | None:
        """Return the first row of the file that is not empty, if it begins before byte `first`; else None."""
        file.seek(0)
        lines = io.BufferedReader(_Raw(file), _HEADER)
        at = 0
        while at < first and (line := lines.readline(_HEADER)):
            if line.decode(self._encoding_at(at), "replace").strip("\r\n"):
                file.seek(at)
                return next(filter(None, self._reader(file, at, _HEADER)), None)
            at += len(line)
        return None

    def _encoding_at(self, at: int) -> str:
        """Return the encoding for text from byte `at` on: only the start of a file may have a byte order mark."""
        encoding = self.encoding or "utf-8"
        return with_mark(encoding) if at == 0 else without_mark(encoding) or "utf-8"

    def _reader(self, file: Any, at: int, buffer: int = 1 << 20) -> Any:
        lines = io.TextIOWrapper(io.BufferedReader(_Raw(file), buffer), self._encoding_at(at), newline="")
        csv.field_size_limit(max(self.max_record, csv.field_size_limit()))
        if self.quotechar is None:
            return csv.reader(lines, delimiter=self.delimiter, quotechar=None, quoting=csv.QUOTE_NONE, strict=True)
        return csv.reader(lines, delimiter=self.delimiter, quotechar=self.quotechar, strict=True)

    def _read(
        self, file: Any, row: Row, at: int, names: list[str] | None, first_width: int | None = None
    ) -> Iterator[Any]:
        """Yield the rows from byte `at` on, where the file is.

        `names`, or `first_width`, describe the file's first row if that is before byte `at`.
        """
        reader = self._reader(file, at)
        line = 0
        try:
            if self.header and names is None:
                names = next(filter(None, reader), None)
                if names is None:
                    return
            width, pick = self._picked(row, names)
            width = width or first_width
            line = reader.line_num
            for fields in reader:
                if not fields:
                    continue
                if width is None:
                    width = len(fields)
                if len(fields) != width:
                    raise self._bad(row, at, line, f"{len(fields)} fields instead of {width}: {fields!r:.{_SHOWN}}")
                line = reader.line_num
                yield pick(fields)
        except csv.Error as error:
            raise self._bad(row, at, line, str(error)) from None
        except UnicodeDecodeError as error:
            raise self._misread(row, at, error) from None

    def _picked(self, row: Row, names: Sequence[str] | None) -> tuple[int | None, Any]:
        """Return the number of fields of a row (None: not known yet), and the function that makes a record of them."""
        columns = list(self.columns)
        if names is None:
            if columns and not self.as_tuples:
                return len(columns), lambda fields: dict(zip(columns, fields, strict=True))
            return len(columns) or None, tuple
        if not columns and self.header_names and list(names) != list(self.header_names):
            if sorted(names) != sorted(self.header_names) or len(set(names)) < len(names):
                there, first = set(names), set(self.header_names)
                differing = ", ".join(sorted(map(repr, (there ^ first) or there))[:3])
                raise SourceError(
                    f"{redacted(row[0])} has other columns than the first file of the job ({differing}): set columns= "
                    "to those that are to be read, which all files must have"
                )
            columns = list(self.header_names)  # in another order: records are alike all the same
        missing = [name for name in columns if name not in names]
        if missing:
            raise SourceError(f"{redacted(row[0])} has no column {missing[0]!r}; it has {', '.join(names)}")
        if len(set(names)) < len(names) and not (self.as_tuples and not columns):
            how = "leave out columns=, for tuples of all" if self.as_tuples else "set as_tuples=True"
            raise SourceError(f"{redacted(row[0])} has two columns of one name ({', '.join(names)}): {how}")
        if columns and columns != list(names):
            places = [list(names).index(name) for name in columns]
            if self.as_tuples:
                return len(names), lambda fields: tuple([fields[place] for place in places])
            return len(names), lambda fields: {name: fields[place] for name, place in zip(columns, places, strict=True)}
        return len(names), tuple if self.as_tuples else lambda fields: dict(zip(names, fields, strict=True))

    def _bad(self, row: Row, at: int, lines: int, what: str) -> SourceError:
        """Return the error about the row that comes `lines` lines after byte `at`. It reads them again for its byte."""
        with self._from(row, at) as file:
            # Latin-1 has one character a byte. The csv module also ends a line at a lone carriage return: newline="".
            text = io.TextIOWrapper(io.BufferedReader(_Raw(file)), "latin-1", newline="")
            skipped = sum(len(text.readline()) for _ in range(lines))
        hint = ". If fields contain line ends, set single_line = False" if self.single_line else ""
        return SourceError(f"{redacted(row[0])}, the row at byte {at + skipped}: {what}{hint}")

    def _misread(self, row: Row, at: int, error: UnicodeDecodeError) -> SourceError:
        """Return the error about bytes that are not text. It reads the file again from byte `at` on to find them."""
        decoder = codecs.getincrementaldecoder(self._encoding_at(at))()
        position = at
        with self._from(row, at) as file:
            try:
                while piece := file.read(cuts.CHUNK):
                    position += len(piece)
                    decoder.decode(piece)
                decoder.decode(b"", final=True)
            except UnicodeDecodeError as found:
                error, at = found, position - len(found.object)
        return self._undecodable(error, row[0], at)

    @contextmanager
    def _from(self, row: Row, at: int) -> Iterator[Any]:
        """Open a file at byte `at`; a compressed one at the start of its decompressed data."""
        if row[3]:
            with self._decompressed(row) as inner:
                yield inner
            return
        with self._open(row) as file:
            file.seek(at)
            yield file


class _Section:
    """The next `size` bytes of a file."""

    def __init__(self, file: Any, size: int) -> None:
        self._file, self._left = file, size

    def read(self, size: int) -> bytes:
        data: bytes = self._file.read(min(size, self._left))
        self._left -= len(data)
        return data


class _Raw(io.RawIOBase):
    """Any object with `read` as a raw file, for io.BufferedReader."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
