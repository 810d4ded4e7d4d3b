"""The records of a part as columns, with their names and types checked before anything is sent."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import time
from io import StringIO
from itertools import chain, islice
from math import isfinite
from typing import Any, Protocol

from pymar.exceptions import SinkError
from pymar.parts import Part
from pymar.sinks.lines import has_text_keys
from pymar.sinks.sql.kinds import (
    TAKES,
    arrow_extremes,
    arrow_text,
    as_text,
    common_kind,
    for_mysql,
    for_sqlite,
    is_of_arrow,
    kind_of,
    kind_of_arrow,
    kind_of_value,
)
from pymar.sources.sql.connection import near

#: Records that are converted at a time.
_BATCH = 2_000


class Columns(Protocol):
    """What is known of the columns of a table: `SQLSink`."""

    table: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    types: dict[str, str]
    exists: bool
    there: tuple[str, ...]


class Rows:
    """The records of a part as columns, a batch at a time, with their names and types checked.

    A batch is a list of columns; or, for PostgreSQL, an Arrow record batch whose text it reads as the same values.
    """

    def __init__(self, sink: Columns, part: Part, records: Iterator[Any], takes_arrow: bool) -> None:
        self._sink = sink
        self._records = records
        self._takes_arrow = takes_arrow
        self.part = part
        self.names: list[str] = list(sink.columns)
        self.kinds: dict[str, str] = {}
        self.count: int = 0
        #: The kinds of the columns of a table that this job has made.
        self.made: dict[str, str] | None = None
        #: The first integer of each column that floats do not hold.
        self._large: dict[str, int] = {}
        #: True as long as each record was one line of text.
        self._is_a_line_each = True

    def __iter__(self) -> Rows:
        return self

    def __next__(self) -> Any:
        first = next(self._records)
        while is_of_arrow(first) and not first.num_rows:
            first = next(self._records)
        if is_of_arrow(first):
            return self._of_arrow(first)
        batch = [first]
        for record in islice(self._records, _BATCH - 1):
            if is_of_arrow(record):
                self._records = chain([record], self._records)
                break
            batch.append(record)
        if not self.names:
            if not isinstance(first, Mapping) or not first:
                raise self._misfit(0, f"it has to be a dict with names of columns, and is {first!r:.200}")
            self._name(list(first))
        columns = self._columns(batch)
        for name, column in zip(self.names, columns, strict=True):
            self._check(name, column)
        self.count += len(batch)
        return columns

    def _name(self, names: list[str]) -> None:
        """Note the names of the columns, which all records have to have."""
        self.names = names
        for name in names:
            if self._sink.there and name not in self._sink.there:
                raise self._misfit(
                    0, f"the table {self._sink.table} has no column {name!r}; {near(name, list(self._sink.there))}"
                )

    def _of_arrow(self, table: Any) -> Any:
        if hasattr(table, "to_batches"):  # a table: one batch now, the others next
            batches = table.to_batches()
            self._records = chain(batches, self._records)
            return next(self)
        batch = table
        if not self.names:
            self._name(list(batch.schema.names))
        if set(batch.schema.names) != set(self.names):
            differing = sorted(map(repr, set(batch.schema.names) ^ set(self.names)))
            raise self._misfit(0, f"a batch has other columns than the records before it ({', '.join(differing[:3])})")
        batch = batch.select(self.names)
        kinds = [kind_of_arrow(kind) for kind in batch.schema.types]
        if self._takes_arrow and all(kinds):
            for name, kind, column in zip(self.names, kinds, batch.columns, strict=True):
                wider = common_kind(self.kinds.get(name, ""), kind if column.null_count < len(column) else "")
                if wider is None:
                    raise self._misfit(0, f"column {name!r} is {kind}, and those before it are {self.kinds[name]}")
                if name in self._sink.key and column.null_count:
                    raise self._misfit(0, f"column {name!r}, of the key, is None in a batch")
                self._check_type(name, kind if column.null_count < len(column) else "", ())
                self.kinds[name] = wider
                if kind == "int":
                    for value in arrow_extremes(column):
                        if not -(2**53) <= value <= 2**53:
                            self._large.setdefault(name, value)
                self._check_large(name)
            self._is_a_line_each = False
            self.count += batch.num_rows
            return batch
        columns = [column.to_pylist() for column in batch.columns]
        for name, column in zip(self.names, columns, strict=True):
            self._check(name, column)
        self.count += batch.num_rows
        return columns

    def packed(self, batch: Any, dialect: str) -> Any:
        """Return a batch as it is kept until it is sent: for PostgreSQL its text, and if that is Arrow's.

        Raises:
            SinkError: a value has no text, or is too large.
        """
        try:
            if not isinstance(batch, list):
                return True, arrow_text(batch)
            if dialect == "postgresql":
                return False, self._text(batch).encode()
            found = [(for_sqlite if dialect == "sqlite" else for_mysql)(column) for column in batch]
            for column in found:
                for value in column:
                    if type(value) is str:
                        value.encode()
                    elif dialect == "sqlite" and type(value) is int and not -(2**63) <= value < 2**63:
                        raise OverflowError(f"{value} has more than 64 bits")
            return found
        except (UnicodeEncodeError, OverflowError, TypeError, ValueError) as error:
            first = self.count - (len(batch[0]) if isinstance(batch, list) else 0)
            raise SinkError(
                f"SQLSink: one of the records from {first} on, of part {self.part.index}, cannot be written: {error}. "
                "Convert it in map_fn"
            ) from error

    def _text(self, columns: Sequence[list[Any]]) -> str:
        """Return columns as CSV in which text is quoted, and NULL is not."""
        buffer = StringIO()
        csv.writer(buffer, quoting=csv.QUOTE_NONNUMERIC).writerows(zip(*map(as_text, columns), strict=True))
        text = buffer.getvalue()
        self._is_a_line_each = self._is_a_line_each and text.count("\n") == len(columns[0])
        return text

    def place_in(self, message: str) -> str:
        """Return which record an error of COPY is about, if its number of lines says that."""
        found = re.search(r"COPY \S+, line (\d+)", message)
        return f", record {int(found[1]) - 1}" if found and self._is_a_line_each else ""

    def _columns(self, batch: list[Any]) -> list[list[Any]]:
        count = len(self.names)
        if self._sink.columns and set(map(type, batch)) == {tuple} and set(map(len, batch)) == {count}:
            return [list(column) for column in zip(*batch, strict=True)]
        keys = frozenset(self.names)
        rows = []
        for number, record in enumerate(batch):
            if isinstance(record, Mapping):
                if record.keys() != keys:
                    differing = sorted(map(repr, set(record) ^ keys))
                    raise self._misfit(
                        number, f"its columns are not those of the records before it ({', '.join(differing[:3])})"
                    )
                rows.append([record[name] for name in self.names])
            elif isinstance(record, tuple | list) and self._sink.columns:
                if len(record) != count:
                    raise self._misfit(number, f"it has {len(record)} fields, and columns= names {count}")
                rows.append(list(record))
            else:
                raise self._misfit(number, f"it has to be a dict, or, with columns=, a tuple; and is {record!r:.200}")
        return [list(column) for column in zip(*rows, strict=True)]

    def _check(self, name: str, column: list[Any]) -> None:
        found = {kind_of(kind) for kind in set(map(type, column)) - {type(None)}}
        if "datetime" in found:  # with and without a time zone they are different types
            found = {kind_of_value(value) for value in column if value is not None}
        self.kinds.setdefault(name, "")  # of None alone
        if name in self._sink.key and None in column:
            raise self._misfit(column.index(None), f"column {name!r}, of the key, is None")
        if "json" in found and not all(map(has_text_keys, column)):
            number = next(place for place, value in enumerate(column) if not has_text_keys(value))
            raise self._misfit(
                number, f"column {name!r} has a dict with keys that are not text: {column[number]!r:.200}"
            )
        if "time" in found and any(value.tzinfo is not None for value in column if isinstance(value, time)):
            raise self._misfit(0, f"column {name!r} has times of day with a time zone: convert them in map_fn")
        there = self._sink.types.get(name) or (self.made or {}).get(name) or self.kinds[name]
        if "int" in found:
            for number, value in enumerate(column):
                if isinstance(value, int) and not -(2**53) <= value <= 2**53:
                    if "float" in found or there == "float":
                        raise self._misfit(number, f"column {name!r} is of floats, which do not hold {value} exactly")
                    self._large.setdefault(name, value)
        if "float" in found:
            self._check_large(name)
        if "float" in found and not self._takes_arrow and not all(map(isfinite, filter(None, column))):
            number = next(place for place, value in enumerate(column) if value is not None and not isfinite(value))
            raise self._misfit(number, f"column {name!r} is {column[number]}, which this database does not have")
        for kind in sorted(found):
            wider = common_kind(self.kinds[name], kind)
            self._check_type(name, kind, column)
            if wider is None or not kind:
                number = next(place for place, value in enumerate(column) if kind_of_value(value) == kind)
                before = f", and those before it are {self.kinds[name]}" if kind else ", which SQL does not have"
                raise self._misfit(
                    number, f"column {name!r} has {column[number]!r:.200} ({type(column[number]).__name__}){before}"
                )
            self.kinds[name] = wider

    def _check_type(self, name: str, kind: str, column: Sequence[Any]) -> None:
        """Refuse values that the column of the table would change without a word.

        Raises:
            SinkError: it would.
        """
        there = self._sink.types.get(name) or (self.made or {}).get(name)
        if kind and there and kind not in TAKES.get(there, (kind,)):
            number = next((place for place, value in enumerate(column) if kind_of_value(value) == kind), 0)
            remedy = "convert it in map_fn" if self._sink.exists else "convert it in map_fn, or give schema="
            value = f"{column[number]!r:.200} is " if column else ""
            raise self._misfit(number, f"column {name!r} of the table is {there}, and {value}{kind}: {remedy}")

    def _check_large(self, name: str) -> None:
        """Refuse integers that floats do not hold, if the column is one of floats, or has some.

        Raises:
            SinkError: it is.
        """
        kinds = (self._sink.types.get(name), (self.made or {}).get(name), self.kinds.get(name), "")
        if name in self._large and "float" in kinds:
            raise self._misfit(0, f"column {name!r} is of floats, which do not hold {self._large[name]} exactly")

    def check_made(self) -> None:
        """Check what was read before the table was made."""
        for name, kind in self.kinds.items():
            self._check_type(name, kind, ())
            self._check_large(name)

    def _misfit(self, number: int, text: str) -> SinkError:
        return SinkError(f"SQLSink: record {self.count + number} of part {self.part.index} does not fit: {text}")
