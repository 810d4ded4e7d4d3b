"""CSVSink: rows of CSV, with the names of the columns in the first one."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from operator import itemgetter
from typing import Any, ClassVar

from pymar.exceptions import SinkError, UsageError
from pymar.sinks.files import FileSink, Misfit, Row, Writer, compressed
from pymar.sinks.targets import Target
from pymar.sources.compressed import decompressed


class CSVSink(FileSink):
    """CSV (RFC 4180), in UTF-8, a row a line: records are dicts, or, with `columns`, tuples too.

    The columns are those of the first record of each part, or `columns`; all parts have to have the same. Values are
    written as `str` gives them; None as `null`. A field is quoted if it has to be.

    Args:
        columns: names of the columns, in order.
        delimiter: the character between fields.
        header: False to leave out the first row.
        null: the text for None; a text value that is the same cannot be told from it by readers.

    Raises:
        SinkError: a record has other columns; a value is a container, whose text nobody reads back.
    """

    suffix: ClassVar[str] = ".csv"

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
        columns: Sequence[str] = (),
        delimiter: str = ",",
        header: bool = True,
        null: str = "",
    ) -> None:
        super().__init__(
            path,
            mode=mode,
            partition_by=partition_by,
            records_a_file=records_a_file,
            bytes_a_file=bytes_a_file,
            compression=compression,
            storage=storage,
        )
        if isinstance(columns, str):
            raise UsageError(f"columns={columns!r:.100}: give a list of names")
        if not isinstance(delimiter, str) or len(delimiter) != 1 or delimiter in '\r\n"':
            raise UsageError(
                f"delimiter={delimiter!r:.100}: it has to be one character, other than a quote or line end"
            )
        self.columns: tuple[str, ...] = tuple(columns)
        self.delimiter: str = delimiter
        self.header: bool = header
        self.null: str = null
        #: The columns of the part that arrived first; only at the producer.
        self._first: tuple[str, ...] = ()

    def writer(self, file: Any) -> Writer:
        return _Rows(self, file)

    def arrived(self, wrote: Any) -> None:
        for row in wrote:
            there = row[4]
            if there is None:
                continue
            self._first = getattr(self, "_first", ()) or tuple(there)
            # Without a header nothing says which field is which.
            if sorted(there) != sorted(self._first) or (not self.header and tuple(there) != self._first):
                differing = ", ".join(sorted(map(repr, set(there) ^ set(self._first)))[:3])
                raise SinkError(
                    f"CSVSink: part {int(row[1][1:9])} has other columns than one before it ({differing}): "
                    "give columns="
                )

    def merge(self, rows: Sequence[Row], target: Target) -> Iterator[Any]:
        head = self.head(rows[0][4]) if self.header else b""
        yield head
        for row in rows:
            with target.open(row[1]) as file:
                if self.compression is None:
                    yield from _behind(file, len(head))
                else:
                    with decompressed(file, row[1], self.compression) as inner:
                        yield from _behind(inner, len(head))

    def merging_writer(self, file: Any) -> Writer:
        return _Compressing(self, compressed(file, self.compression))

    def head(self, columns: Sequence[str]) -> bytes:
        """Return the first row of a file."""
        return self.text([columns])

    def text(self, rows: Any) -> bytes:
        """Return rows as bytes."""
        buffer = io.StringIO()
        csv.writer(buffer, delimiter=self.delimiter, lineterminator="\n").writerows(rows)
        if "\r" in buffer.getvalue():  # which earlier versions of Python do not quote, and which ends a row
            buffer = io.StringIO()
            csv.writer(buffer, delimiter=self.delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(rows)
        return buffer.getvalue().encode()

    def check_append(self, file: Any, path: str, final: Sequence[Row]) -> None:
        if not self.header:
            return
        with decompressed(file, path, self.compression) if self.compression else nullcontext(file) as inner:
            lines = io.TextIOWrapper(io.BytesIO(inner.read(1 << 16)), "utf-8-sig", errors="replace", newline="")
            there = next(csv.reader(lines, delimiter=self.delimiter), [])
        for row in final:
            if row[4] is not None and sorted(row[4]) != sorted(there):
                raise SinkError(
                    f"{self.path}: {path} has the columns {', '.join(there)}, and this job {', '.join(row[4])}: give "
                    "both the same"
                )


def _behind(file: Any, skipped: int) -> Iterator[bytes]:
    while skipped and (piece := file.read(skipped)):
        skipped -= len(piece)
    while piece := file.read(1 << 20):
        yield piece


class _Rows:
    """One file of CSV."""

    pending = 0

    def __init__(self, sink: CSVSink, file: Any) -> None:
        self._sink = sink
        self._file = compressed(file, sink.compression)
        self._columns: list[str] = [name for name in sink.columns if name not in sink.partition_by]
        if self._columns:
            self._begin()

    def _begin(self) -> None:
        self._keys = frozenset(self._columns)
        getter = itemgetter(*self._columns) if self._columns else None
        self._get: Any = getter if len(self._columns) > 1 else lambda record: (record[self._columns[0]],)
        if self._sink.header:
            self._file.write(self._sink.head(self._columns))

    def fits(self, unit: Any) -> bool:
        return True

    def write(self, unit: Any) -> int:
        if not self._columns:
            first = unit[0]
            if not isinstance(first, Mapping) or not first or not all(isinstance(name, str) for name in first):
                raise Misfit(f"it has to be a dict with names of columns, and is {first!r:.200}", first)
            self._columns = list(first)
            if self._columns[0].startswith("\ufeff"):
                raise Misfit("the name of its first column begins with a byte order mark, which readers drop", first)
            self._begin()
        rows = list(map(self._row, unit))
        try:
            data = self._sink.text(rows)
        except (UnicodeEncodeError, csv.Error) as error:
            record = next(one for one, row in zip(unit, rows, strict=True) if not self._is_text(row))
            raise Misfit(f"{record!r:.200} cannot be written: {error}", record) from error
        self._file.write(data)
        return len(data)

    def _is_text(self, row: Any) -> bool:
        try:
            self._sink.text([row])
        except (UnicodeEncodeError, csv.Error):
            return False
        return True

    def _row(self, record: Any) -> Any:
        if type(record) is dict or isinstance(record, Mapping):
            if record.keys() != self._keys:
                raise Misfit(self._difference(record), record)
            row = self._get(record)
        elif isinstance(record, tuple | list) and self._sink.columns:
            row = tuple(record)
            if len(row) != len(self._columns):
                raise Misfit(f"it has {len(row)} fields, and columns= names {len(self._columns)}", record)
        else:
            raise Misfit(f"it has to be a dict, or, with columns=, a tuple; and is {record!r:.200}", record)
        kinds = {*map(type, row)}
        if not kinds <= _PLAIN:
            for value in row:
                if _is_container(value):
                    raise Misfit(f"{value!r:.100} is a {type(value).__name__}, which CSV does not have", record)
            row = [self._sink.null if _is_null(value) else value for value in row]
        if len(row) == 1 and row[0] in ("", None):
            return [""]
        return row

    def _difference(self, record: Mapping[str, Any]) -> str:
        more = [name for name in record if name not in self._keys]
        if more:
            return f"it has the column {more[0]!r}, and the file has {', '.join(self._columns)}: give columns="
        lacks = next(name for name in self._columns if name not in record)
        return f"it has no column {lacks!r}: give it the value None"

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> Any:
        self._file.finish()
        return self._columns or None


class _Compressing:
    """A file of merged CSV."""

    pending = 0

    def __init__(self, sink: CSVSink, file: compressed) -> None:
        self._file = file

    def fits(self, unit: Any) -> bool:
        return True

    def write(self, unit: Any) -> int:
        self._file.write(unit)
        return len(unit)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> Any:
        self._file.finish()


#: Types whose text is what `str` gives.
_PLAIN = frozenset({str, int, float, bool})


def _is_container(value: Any) -> bool:
    is_array = type(value).__module__ == "numpy" and getattr(value, "shape", ()) != ()
    return is_array or isinstance(value, dict | list | tuple | set | frozenset | bytes | bytearray)


def _is_null(value: Any) -> bool:
    return value is None or type(value).__name__ in ("NaTType", "NAType")  # of pandas
