"""Rows of CSV files, as dicts or tuples."""

from __future__ import annotations

import codecs
import csv
import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from pymar.exceptions import SourceError
from pymar.serialization.redaction import redacted
from pymar.sources import cuts
from pymar.sources.checks import check_settings
from pymar.sources.csvtypes import TYPES, converter, name_of
from pymar.sources.cuts import Cut
from pymar.sources.storage import Row
from pymar.sources.text import TextFiles, check_encoding, with_mark, without_mark

log: logging.Logger = logging.getLogger(__name__)

#: Characters of a bad row that its error shows.
_SHOWN = 200
#: Bad rows of a part that are logged.
_LOGGED = 10
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
        escapechar: the character before one that is meant as it is; None if there is none.
        lax_quotes: True to take what stands behind a closing quote as part of the field; it is an error otherwise.
        skip_space: True to leave out spaces behind a delimiter.
        skip_rows: lines at the start of each file that are not read.
        comment: what lines begin with that are not read, such as "#"; "" if there are none.
        max_record: bytes of the longest row, with single_line; otherwise characters of the longest field.
        single_line: True if no field contains a line end.
        header: True if the first row of each file has the names; otherwise rows are tuples, or set `columns`.
        columns: names of the columns to read, in this order, or their places, from 0 on; all by default. Without a
            header: names of all columns, or places.
        rename: True to make different names of equal ones (`a`, `a_2`), and of empty ones (`column_3`).
        as_tuples: True for rows as tuples.
        bad_rows: what becomes of a row with more or fewer fields than the header, or with wrong quotes: "error";
            "skip" leaves it out; "pad" takes missing fields for empty ones, and drops further ones if they are empty.
            Such rows are counted for each part, and the first ten logged.
        hive: True for what Hive's folders (`year=2013/`) say as further columns of text; False for rows without; None:
            True if `path` is a folder that has such folders.
        null: texts that are None, such as ["", "NA"].
        null_typed: texts that are None besides, in columns of a type other than text.
        no_leading_zeros: columns where digits with a leading zero, such as 007, are no int and no float.
        types: of columns, `{"n": "int"}`: "int", "float", "bool", "date", "datetime", "decimal", "text", or Python's
            own type for each. A value that is none of its type is an error.

    Raises:
        SourceError: a row has more or fewer fields than the header, a column is missing, or a value has another type;
            with file and byte.
    """

    delimiter: ClassVar[str] = ","
    quotechar: ClassVar[str | None] = '"'
    escapechar: ClassVar[str | None] = None
    lax_quotes: ClassVar[bool] = False
    skip_space: ClassVar[bool] = False
    skip_rows: ClassVar[int] = 0
    comment: ClassVar[str] = ""
    single_line: ClassVar[bool] = False
    header: ClassVar[bool] = True
    columns: ClassVar[Sequence[str | int]] = ()
    rename: ClassVar[bool] = False
    as_tuples: ClassVar[bool] = False
    bad_rows: ClassVar[str] = "error"
    hive: ClassVar[bool | None] = None
    null: ClassVar[Sequence[str]] = ()
    null_typed: ClassVar[Sequence[str]] = ()
    no_leading_zeros: ClassVar[Sequence[str]] = ()
    types: ClassVar[Mapping[str, Any]] = {}
    #: What `prepare` found: the names in the first row of the first file, with which those of the others are compared.
    header_names: ClassVar[Sequence[str]] = ()

    @classmethod
    def prepare(cls) -> Mapping[str, Any]:
        for name, value in (("delimiter", cls.delimiter), ("quotechar", cls.quotechar), ("escapechar", cls.escapechar)):
            if value is None and name != "delimiter":
                continue
            if not isinstance(value, str) or len(value) != 1:
                none = {"quotechar": ", or None if no field is quoted", "escapechar": ", or None"}.get(name, "")
                raise SourceError(f"{cls.__name__}.{name} is {value!r}: it has to be one character{none}")
        flags = ("header", "single_line", "as_tuples", "lax_quotes", "skip_space", "rename")
        lists = ("null", "null_typed", "no_leading_zeros")
        check_settings(cls, flags=flags, texts=("comment",), names=lists, numbers={"skip_rows": 0})
        if cls.bad_rows not in ("error", "skip", "pad"):
            raise SourceError(f"{cls.__name__}.bad_rows is {cls.bad_rows!r}: it has to be 'error', 'skip' or 'pad'")
        cls._check_columns()
        check_encoding(cls.encoding)
        if cls.single_line and "\n".encode(cls.encoding or "utf-8")[-1:] != b"\n":
            raise SourceError(f"encoding={cls.encoding!r} has other line ends: set single_line = False")
        prepared = super().prepare()
        cls._add_folders(prepared["files"], cls.hive)
        found: dict[str, Any] = {"types": {name: name_of(kind) for name, kind in cls.types.items()}}
        if cls.header and not (cls.columns and not cls._are_places()):
            found["header_names"] = cls()._first_names(prepared["files"])
        return {**prepared, **found}

    @classmethod
    def _check_columns(cls) -> None:
        columns = cls.columns
        is_list = isinstance(columns, Sequence) and not isinstance(columns, str | bytes)
        kinds = {type(one) for one in columns} if is_list else set()
        is_of_places = kinds == {int} and min(map(int, columns)) >= 0
        if not is_list or not (kinds <= {str} or is_of_places):
            raise SourceError(
                f"{cls.__name__}.columns is {columns!r}: it has to be a list of names, or of places (0 is the first)"
            )
        if not isinstance(cls.types, Mapping):
            raise SourceError(f"{cls.__name__}.types is {cls.types!r}: it has to be a dict of names and types")
        if cls.types and not cls.header and kinds != {str}:
            raise SourceError(
                f"{cls.__name__}.types needs the names of columns: without a header, set columns= to them"
            )
        for name, kind in cls.types.items():
            if name_of(kind) not in TYPES:
                raise SourceError(
                    f"{cls.__name__}.types has {kind!r} for {name!r}: it has to be one of {', '.join(map(repr, TYPES))}"
                )
            if columns and kinds == {str} and name not in columns:
                raise SourceError(f"{cls.__name__}.types has the column {name!r}, which is not in columns")

    @classmethod
    def _are_places(cls) -> bool:
        return bool(cls.columns) and isinstance(cls.columns[0], int)

    @classmethod
    def _line_end(cls) -> bytes:
        if not cls.single_line:
            raise SourceError(
                f"{cls.__name__}: until='listed' needs single_line = True: else no row is known to be whole"
            )
        return b"\n"

    def _first_names(self, files: Sequence[Row]) -> list[str]:
        """Return the names in the first row of the first file with one; [] if it cannot be read: its part says why."""
        for row in files:
            try:
                at = self._begin_of(row)
                with self._from(row, at) as file:
                    if names := next(filter(None, self._reader(file, at, _HEADER)), None):
                        return [*self._renamed(names), *row[4]]
            except (csv.Error, UnicodeDecodeError):
                return []
        return []

    def _renamed(self, names: Sequence[str]) -> list[str]:
        """Return names that are different, where `rename` says so."""
        if not self.rename:
            return list(names)
        taken, found = set(names), []
        seen: set[str] = set()
        for place, name in enumerate(names, 1):
            new, count = (name, 1) if name else (f"column_{place}", 1)
            while new in seen or (new != name and new in taken):
                count += 1
                new = f"{name or f'column_{place}'}_{count}"
            seen.add(new)
            found.append(new)
        return found

    def _records(self, row: Row, start: int, end: int) -> Iterator[Any]:
        path = row[0]
        if row[3] or not self.single_line:
            if start == 0:
                at = self._begin_of(row)
                with self._from(row, at) as file:
                    yield from self._read(file, row, at, None)
            return
        cut = Cut(b"\n", self.max_record, "its lines end in CR alone, write it with line feeds")
        with self._open(row) as file:
            first, last = cut.boundary(file, start, path), cut.boundary(file, end, path, int(row[1]))
            begin = self._begin_of(row) if first < last else 0
            first, last = max(first, begin), max(last, begin)
            if first < last:
                top = self._top(file, begin, first)
                file.seek(first)
                section = _Section(file, last - first)
                if self.header or top is None:
                    yield from self._read(section, row, first, top)
                else:
                    yield from self._read(section, row, first, None, len(top))

    def _begin_of(self, row: Row) -> int:
        """Return the byte behind the lines that are not wanted."""
        if not self.skip_rows:
            return 0
        with self._from(row, 0) as file:
            return _length_of(file, self.skip_rows)

    def _top(self, file: Any, begin: int, first: int) -> list[str] | None:
        """Return the first row of the file that is not empty, if it begins before byte `first`; else None."""
        file.seek(begin)
        lines = io.BufferedReader(_Raw(file), _HEADER)
        at = begin
        while at < first and (line := lines.readline(_HEADER)):
            text = line.decode(self._encoding_at(at), "replace").strip("\r\n")
            if text and not (self.comment and text.startswith(self.comment)):
                file.seek(at)
                return next(filter(None, self._reader(file, at, _HEADER)), None)
            at += len(line)
        return None

    def _encoding_at(self, at: int) -> str:
        """Return the encoding for text from byte `at` on: only the start of a file may have a byte order mark."""
        encoding = self.encoding or "utf-8"
        return with_mark(encoding) if at == 0 else without_mark(encoding) or "utf-8"

    def _reader(self, file: Any, at: int, buffer: int = 1 << 20) -> Any:
        """Return a reader of rows, as `csv.reader`; its `line_num` counts the lines that are read."""
        raw = io.BufferedReader(_Raw(file), buffer)
        lines = io.TextIOWrapper(raw, self._encoding_at(at), errors=self.errors, newline="")
        csv.field_size_limit(max(self.max_record, csv.field_size_limit()))
        settings: dict[str, Any] = {
            "delimiter": self.delimiter,
            "quotechar": self.quotechar,
            "escapechar": self.escapechar,
            "skipinitialspace": self.skip_space,
            "strict": not self.lax_quotes,
        }
        if self.quotechar is None:
            settings["quoting"] = csv.QUOTE_NONE
        return _Uncommented(lines, self.comment, settings) if self.comment else csv.reader(lines, **settings)

    def _read(
        self, file: Any, row: Row, at: int, names: list[str] | None, first_width: int | None = None
    ) -> Iterator[Any]:
        """Yield the rows from byte `at` on, where the file is.

        `names`, or `first_width`, describe the file's first row if that is before byte `at`.
        """
        reader = self._reader(file, at)
        line = 0
        bad = _BadRows(self, row, at)
        try:
            if self.header and names is None:
                try:
                    names = next(filter(None, reader), None)
                except csv.Error as error:
                    what = f"the header: {error}. Is delimiter= or quotechar= another?"
                    raise self._bad(row, at, line, what) from None
                if names is None:
                    return
            width, pick = self._picked(row, None if names is None else self._renamed(names))
            width = width or first_width
            folders = list(row[4].values())
            line = reader.line_num
            while True:
                try:
                    for fields in reader:
                        if len(fields) != width:
                            if not fields:
                                line = reader.line_num
                                continue
                            if width is None:
                                width = len(fields)
                            elif (mended := bad.mended(fields, width, line)) is None:
                                line = reader.line_num
                                continue
                            else:
                                fields = mended
                        try:
                            record = pick([*fields, *folders]) if folders else pick(fields)
                        except _Unconverted as error:
                            raise self._bad(row, at, line, str(error)) from None
                        line = reader.line_num
                        yield record
                    break
                except csv.Error as error:
                    bad.unread(str(error), line)
                    line = reader.line_num
        except UnicodeDecodeError as error:
            raise self._misread(row, at, error) from None
        bad.log()

    def _picked(self, row: Row, names: Sequence[str] | None) -> tuple[int | None, Any]:
        """Return the number of fields of a row (None: not known yet), and the function that makes a record of them."""
        if names is None and not self._are_places():
            columns = [str(name) for name in self.columns]
            width = len(columns) or None
            columns += row[4] if columns else ()
            if columns and not self.as_tuples:
                return width, self._dict_of(columns, None)
            return width, self._tuple_of(columns or None, None)
        if names is None:
            places = [int(place) for place in self.columns]
            return None, self._tuple_of(None, places)
        if both := [name for name in row[4] if name in names]:
            raise SourceError(
                f"{redacted(row[0])} has the column {both[0]!r} itself, and its folder gives one: hive=False reads the "
                "file's own"
            )
        chosen, places_of = self._chosen(row, [*names, *row[4]])
        if self.as_tuples:
            return len(names), self._tuple_of(chosen, places_of)
        return len(names), self._dict_of(chosen, places_of)

    def _chosen(self, row: Row, names: Sequence[str]) -> tuple[list[str], list[int] | None]:
        """Return the names of the columns of a record, and their places in a row; None if these are all in order.

        Raises:
            SourceError: a column is missing, or may be one of several; or the file has others than the first one.
        """
        path = redacted(row[0])
        if self._are_places():
            places = [int(place) for place in self.columns]
            if max(places) >= len(names):
                raise SourceError(
                    f"{path} has no column at place {max(places)}; it has {len(names)}: {', '.join(names)}"
                )
            chosen = [names[place] for place in places]
            there = [self.header_names[place] for place in places if place < len(self.header_names)]
            if not self.as_tuples and chosen != there:
                raise SourceError(
                    f"{path} has the names {', '.join(chosen)} at these places, and the first file of the job "
                    f"{', '.join(there)}: set as_tuples=True"
                )
            self._check_different(path, chosen)
            return chosen, places
        columns = [str(name) for name in self.columns]
        if not columns and self.header_names and list(names) != list(self.header_names):
            if sorted(names) != sorted(self.header_names) or len(set(names)) < len(names):
                there_names, first = set(names), set(self.header_names)
                differing = ", ".join(sorted(map(repr, (there_names ^ first) or there_names))[:3])
                raise SourceError(
                    f"{path} has other columns than the first file of the job ({differing}): set columns= "
                    "to those that are to be read, which all files must have"
                )
            columns = list(self.header_names)  # in another order: records are alike all the same
        missing = [name for name in (*columns, *self.types) if name not in names]
        if missing:
            raise SourceError(f"{path} has no column {missing[0]!r}; it has {', '.join(names)}")
        if not (self.as_tuples and not columns):
            self._check_different(path, names)
        if columns and columns != list(names):
            return columns, [list(names).index(name) for name in columns]
        return list(names), None

    def _check_different(self, path: str, names: Sequence[str]) -> None:
        if len(set(names)) < len(names) and not (self.as_tuples and self._are_places()):
            how = "leave out columns=, for tuples of all" if self.as_tuples else "set as_tuples=True"
            raise SourceError(
                f"{path} has two columns of one name ({', '.join(names)}): {how}, or rename=True for different names"
            )

    def _dict_of(self, names: list[str], places: list[int] | None) -> Callable[[list[str]], Any]:
        """Return a function that makes a dict of the fields of a row."""
        if not self.null and not self.types:
            if places is None:
                return lambda fields: dict(zip(names, fields, strict=True))
            pairs = list(zip(names, places, strict=True))
            return lambda fields: {name: fields[place] for name, place in pairs}
        converted = self._tuple_of(names, places)
        return lambda fields: dict(zip(names, converted(fields), strict=True))

    def _tuple_of(self, names: list[str] | None, places: list[int] | None) -> Callable[[list[str]], Any]:
        """Return a function that makes a tuple of the fields of a row."""
        if not self.null and not self.types:
            if places is None:
                return tuple
            return lambda fields: tuple([fields[place] for place in places])
        null = frozenset(self.null)
        null_typed = null | frozenset(self.null_typed)
        converters: list[tuple[int, Any, str, frozenset[str]]] = []
        if names is not None:
            where = places if places is not None else range(len(names))
            for place, name in zip(where, names, strict=True):
                kind = str(self.types.get(name, "text"))
                what = f"column {name!r} is {kind}"
                converters.append(
                    (
                        place,
                        converter(kind, name not in self.no_leading_zeros),
                        what,
                        null if kind == "text" else null_typed,
                    )
                )
        elif places is not None:
            converters = [(place, None, "", null) for place in places]

        def convert(fields: list[str]) -> tuple[Any, ...]:
            found: list[Any] = []
            for place, change, what, nothing in converters or [(n, None, "", null) for n in range(len(fields))]:
                text = fields[place]
                if text in nothing or text is None:  # None by the name of a folder
                    found.append(None)
                elif change is None:
                    found.append(text)
                else:
                    try:
                        found.append(change(text))
                    except ValueError:
                        hint = "" if text else ". If it means that there is none, set null=['']"
                        raise _Unconverted(f"{what}, and has {text!r:.{_SHOWN}}{hint}") from None
            return tuple(found)

        return convert

    def _at_line(self, row: Row, at: int, lines: int) -> int:
        """Return the byte `lines` lines after byte `at`. It reads them again: for messages only."""
        with self._from(row, at) as file:
            # Latin-1 has one character a byte. The csv module also ends a line at a lone carriage return: newline="".
            text = io.TextIOWrapper(io.BufferedReader(_Raw(file)), "latin-1", newline="")
            return at + sum(len(text.readline()) for _ in range(lines))

    def _bad(self, row: Row, at: int, lines: int, what: str) -> SourceError:
        """Return the error about the row that comes `lines` lines after byte `at`."""
        hint = ". If fields contain line ends, set single_line = False" if self.single_line else ""
        return SourceError(f"{redacted(row[0])}, the row at byte {self._at_line(row, at, lines)}: {what}{hint}")

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
        """Open a file, or its decompressed data, at byte `at`."""
        if row[3]:
            with self._decompressed(row) as inner:
                left = at
                while left and (piece := inner.read(left)):
                    left -= len(piece)
                yield inner
            return
        with self._open(row) as file:
            file.seek(at)
            yield file


class _Unconverted(ValueError):
    """A value is none of the type of its column."""


class _BadRows:
    """The rows of a piece of a file that are not as the header says."""

    def __init__(self, source: CSVRows, row: Row, at: int) -> None:
        self._source, self._row, self._at = source, row, at
        self._count = 0
        self._shown: list[tuple[int, str]] = []

    def mended(self, fields: list[str], width: int, line: int) -> list[str] | None:
        """Return a row of `width` fields; None if it is left out.

        Raises:
            SourceError: it is an error.
        """
        what = f"{len(fields)} fields instead of {width}: {fields!r:.{_SHOWN}}"
        if self._source.bad_rows == "pad" and not any(fields[width:]):
            self._note(what, line)
            return [*fields[:width], *([""] * (width - len(fields)))]
        self.unread(what, line, is_pad="pad")
        return None

    def unread(self, what: str, line: int, is_pad: str = "") -> None:
        """Note a row that is left out.

        Raises:
            SourceError: it is an error.
        """
        if self._source.bad_rows != "skip":
            hint = ". To leave such rows out, set bad_rows='skip'"
            if not is_pad or self._source.bad_rows == "error":
                hint = ". To leave such rows out, set bad_rows='skip'; to fill or cut them, 'pad'" if is_pad else hint
            raise self._source._bad(self._row, self._at, line, f"{what}{hint}")
        self._note(what, line)

    def _note(self, what: str, line: int) -> None:
        self._count += 1
        if len(self._shown) < _LOGGED:
            self._shown.append((line, what))

    def log(self) -> None:
        """Log how many there were, and the first ten."""
        if not self._count:
            return
        done = {"skip": "left out", "pad": "filled or cut"}[self._source.bad_rows]
        shown = "; ".join(
            f"byte {self._source._at_line(self._row, self._at, line)}: {what}" for line, what in self._shown
        )
        log.warning("%s: %d bad rows were %s: %s", redacted(self._row[0]), self._count, done, shown)


class _Uncommented:
    """Rows without the lines that begin with a comment mark, as csv.reader gives them; within quotes it is none."""

    def __init__(self, lines: Iterator[str], comment: str, settings: Mapping[str, Any]) -> None:
        self._lines, self._comment = lines, comment
        self._is_new = True
        #: Lines read, with those that are left out.
        self.line_num = 0
        self._rows = csv.reader(self._wanted(), **settings)

    def __iter__(self) -> _Uncommented:
        return self

    def __next__(self) -> list[str]:
        self._is_new = True
        return next(self._rows)

    def _wanted(self) -> Iterator[str]:
        for line in self._lines:
            self.line_num += 1
            if self._is_new and line.startswith(self._comment):
                continue
            self._is_new = False
            yield line


def _length_of(file: Any, lines: int) -> int:
    """Return the bytes of the first lines of a file, which end as those of the csv module: in LF, CR or both."""
    text = io.TextIOWrapper(io.BufferedReader(_Raw(file)), "latin-1", newline="")  # a character a byte
    return sum(len(text.readline()) for _ in range(lines))


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
