"""CSVBatches: CSV as Arrow record batches, by pyarrow's reader where it gives the values that CSVRows gives."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Any, ClassVar

from pymar.exceptions import SourceError
from pymar.serialization.redaction import redacted
from pymar.sources import csvtypes
from pymar.sources.checks import check_settings
from pymar.sources.csvrows import CSVRows
from pymar.sources.cuts import Cut
from pymar.sources.extras import needed
from pymar.sources.storage import Row

#: Types of Arrow for those of columns. Decimals have no scale that all values would share.
_ARROW = {
    "int": "int64",
    "float": "float64",
    "bool": "bool_",
    "date": "date32",
    "datetime": "timestamp",
    "text": "string",
}
#: What fields have to be, in the words of RE2.
_PATTERNS = {
    "int": csvtypes.INT.pattern,
    "float": f"(?i:{csvtypes.FLOAT.pattern})",
    "bool": "(?i:true|false|1|0)",
    "date": csvtypes.DATE.pattern,
    "datetime": csvtypes.DATETIME.pattern,
}

#: The same, where digits with a leading zero are no number.
_STRICT = {"int": csvtypes.STRICT_INT.pattern, "float": f"(?i:{csvtypes.STRICT_FLOAT.pattern})"}


class CSVBatches(CSVRows):
    """The rows of CSV files as Arrow record batches: arrays, not objects, for speed.

    The settings are those of CSVRows, and so are the values: columns without `types` are text. pyarrow's reader does
    the work for pieces of a file where no field is quoted and no row is bad; others are read as CSVRows does. With
    `single_line` a piece with quotes is read so alone; without it, all that follows in the file is.

    Class attributes, besides those of CSVRows:
        batch_rows: rows of a batch, at most.

    Raises:
        SourceError: as CSVRows; or `types` has "decimal", or a "datetime" has a time zone: their values need not be of
            one type of Arrow.
    """

    batch_rows: ClassVar[int] = 65_536

    @classmethod
    def prepare(cls) -> Mapping[str, Any]:
        check_settings(cls, numbers={"batch_rows": 1})
        _arrow()
        if cls.as_tuples:
            raise SourceError(f"{cls.__name__}.as_tuples is True: batches have named columns")
        if not cls.header and (not cls.columns or cls._are_places()):
            raise SourceError(f"{cls.__name__} needs names of columns: without a header, set columns= to them")
        prepared = super().prepare()
        if odd := [name for name, kind in prepared["types"].items() if kind not in _ARROW]:
            raise SourceError(f"{cls.__name__}.types has {odd[0]!r} as a decimal: read 'text', and cast the column")
        return prepared

    def _read(
        self, file: Any, row: Row, at: int, names: list[str] | None, first_width: int | None = None
    ) -> Iterator[Any]:
        if codecs.lookup(self.encoding or "utf-8").name not in ("utf-8", "utf-8-sig") or self.errors != "strict":
            yield from self._of_rows(super()._read(file, row, at, names, first_width))
            return
        for start, piece in Cut(b"\n", self.max_record).pieces(file, at, None, row[0]):
            if self._is_odd(piece):
                if not self.single_line:  # a quoted field may go on in the next piece
                    with self._from(row, start) as rest:
                        yield from self._of_rows(super()._read(rest, row, start, names, first_width))
                    return
                rows = super()._read(io.BytesIO(piece), row, start, names, first_width)
                batches: Any = self._of_rows(rows)
            else:
                batches = self._of_piece(piece, row, start, names, first_width)
            yield from batches
            if self.header and names is None:
                names = self._top_of(piece, start)

    def _is_odd(self, piece: bytes) -> bool:
        """True if pyarrow may read a piece otherwise than the csv module with these settings."""
        if self.quotechar is not None and self.quotechar.encode() in piece:
            return True
        if self.escapechar is not None and self.escapechar.encode() in piece:
            return True
        if self.comment and (piece.startswith(self.comment.encode()) or f"\n{self.comment}".encode() in piece):
            return True
        if self.skip_space and f"{self.delimiter} ".encode() in piece:
            return True
        return b"\0" in piece or piece.count(b"\r") != piece.count(b"\r\n")

    def _top_of(self, piece: bytes, at: int) -> list[str] | None:
        """Return the first row of a piece that is not empty."""
        return next(filter(None, self._reader(io.BytesIO(piece), at)), None)

    def _of_piece(
        self, piece: bytes, row: Row, at: int, names: list[str] | None, first_width: int | None
    ) -> Iterator[Any]:
        """Yield the batches of a piece by pyarrow; if it finds anything wrong, as CSVRows, which says what."""
        try:
            found = self._by_arrow(piece, row, at, names)
        except (_arrow().ArrowException, _Unlike, csv.Error, UnicodeDecodeError):
            rows = super()._read(io.BytesIO(piece), row, at, names, first_width)
            yield from self._of_rows(rows)
            return
        for start in range(0, found.num_rows, self.batch_rows):
            yield found.slice(start, self.batch_rows)

    def _by_arrow(self, piece: bytes, row: Row, at: int, names: list[str] | None) -> Any:
        reader, arrow = needed("pyarrow.csv", "parquet", "CSVBatches"), _arrow()
        if at == 0:
            piece = piece.removeprefix(codecs.BOM_UTF8)
        if self.header and names is None:
            names = self._top_of(piece, at)
            if names is None:
                return arrow.record_batch([], names=[])
            piece = piece.lstrip(b"\r\n").partition(b"\n")[2]
        every = self._renamed(names) if names is not None else [str(name) for name in self.columns]
        if names is not None:
            if [name for name in row[4] if name in every]:
                raise _Unlike
            chosen, places = self._chosen(row, [*every, *row[4]])
        else:
            chosen, places = [*every, *row[4]], None
        places = list(range(len(chosen))) if places is None else places
        if not piece.strip(b"\r\n"):
            columns = {place: arrow.array([], arrow.string()) for place in range(len(every))}
            count = 0
        else:
            numbers = [str(place) for place in range(len(every))]
            table = reader.read_csv(
                io.BytesIO(piece),
                reader.ReadOptions(use_threads=False, block_size=len(piece) + 1, column_names=numbers),
                reader.ParseOptions(delimiter=self.delimiter, quote_char=False, double_quote=False),
                reader.ConvertOptions(column_types=dict.fromkeys(numbers, arrow.string())),
            ).combine_chunks()
            count = table.num_rows
            columns = {place: table.column(place).combine_chunks() for place in range(len(every))}
        for place, text in enumerate(row[4].values(), len(every)):
            columns[place] = arrow.array([text] * count, arrow.string())
        arrays = [
            self._converted(columns[place], str(self.types.get(name, "text")), name in self.no_leading_zeros)
            for name, place in zip(chosen, places, strict=True)
        ]
        return arrow.RecordBatch.from_arrays(arrays, names=chosen)

    def _converted(self, column: Any, kind: str, is_strict: bool) -> Any:
        """Return texts as values of a type; strictly, 007 is no number.

        Raises:
            _Unlike: some may be none of it.
        """
        arrow, compute = _arrow(), needed("pyarrow.compute", "parquet", "CSVBatches")
        if null := [*self.null, *(() if kind == "text" else self.null_typed)]:
            is_null = compute.is_in(column, value_set=arrow.array(null, arrow.string()))
            column = compute.if_else(is_null, arrow.scalar(None, arrow.string()), column)
        if kind == "text":
            return column
        if kind in ("int", "float", "bool"):
            column = compute.utf8_trim(column, " ")
        pattern = _STRICT.get(kind, _PATTERNS[kind]) if is_strict else _PATTERNS[kind]
        is_right = compute.match_substring_regex(column, f"^(?:{pattern})$")
        if not compute.all(is_right, min_count=0).as_py():
            raise _Unlike
        if kind == "bool":
            is_true = compute.is_in(compute.utf8_lower(column), value_set=arrow.array(["true", "1"]))
            return compute.if_else(compute.is_valid(column), is_true, arrow.scalar(None, arrow.bool_()))
        if kind == "int":
            column = compute.replace_substring_regex(column, r"^\+", "")
        return column.cast(_type_of(kind))

    def _of_rows(self, rows: Iterator[Any]) -> Iterator[Any]:
        """Yield batches of rows that are dicts."""
        arrow = _arrow()
        while some := list(islice(rows, self.batch_rows)):
            columns = []
            for name in some[0]:
                values = [one[name] for one in some]
                if zoned := [one for one in values if isinstance(one, datetime) and one.tzinfo is not None]:
                    raise SourceError(
                        f"{redacted(str(self.path))}, column {name!r}: {zoned[0].isoformat()} has a time zone: read it "
                        "as 'text', and cast the column"
                    )
                try:
                    columns.append(arrow.array(values, _type_of(str(self.types.get(name, "text")))))
                except (arrow.ArrowException, OverflowError) as error:
                    raise SourceError(
                        f"{redacted(str(self.path))}, column {name!r}: {error}: read it as 'text'"
                    ) from error
            yield arrow.RecordBatch.from_arrays(columns, names=list(some[0]))


class _Unlike(Exception):
    """What pyarrow has read may not be what CSVRows gives."""


def _type_of(kind: str) -> Any:
    """Return Arrow's type for that of a column."""
    arrow = _arrow()
    return arrow.timestamp("us") if kind == "datetime" else getattr(arrow, _ARROW[kind])()


def _arrow() -> Any:
    return needed("pyarrow", "parquet", "CSVBatches")
