"""Parquet files: a part is a range of row groups; the reader skips columns and rows that are not wanted."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from pymar.exceptions import SourceError
from pymar.serialization.redaction import redacted
from pymar.sources.checks import check_settings
from pymar.sources.extras import needed
from pymar.sources.files import FileSource
from pymar.sources.storage import Row, opened


class ParquetBatches(FileSource):
    """The rows of Parquet files as Arrow record batches: arrays, not objects, for speed.

    A part is some row groups, so that a file with a single row group is in one part. A file that changes while it is
    read is `SourceChanged`. Without a filter, the number of rows read is compared with that of the row groups.

    Class attributes, besides those of FileSource:
        columns: names of the columns to read; all by default.
        filter: conditions that rows have to meet, `[("distance", ">", 1000), ...]`: with ==, !=, <, <=, >, >=, in.
            Row groups whose statistics rule them out are not read.
        batch_rows: rows of a batch, at most.

    Raises:
        SourceError: files differ in their columns; a column is missing; a file is not Parquet.
    """

    unit: ClassVar[str] = "row groups"
    columns: ClassVar[Sequence[str]] = ()
    filter: ClassVar[Sequence[Sequence[Any]]] = ()
    batch_rows: ClassVar[int] = 131_072

    @classmethod
    def prepare(cls) -> Mapping[str, Any]:
        check_settings(cls, names=("columns",), numbers={"batch_rows": 1})
        prepared = dict(super().prepare())
        for condition in cls.filter:
            if isinstance(condition, str) or not isinstance(condition, Sequence) or len(condition) != 3:
                raise _no_condition(condition)
        first: Any = None
        for row in prepared["files"]:
            with opened(row, cls.storage) as file:
                known = _parquet_file(file, row[0])
            schema = known.schema_arrow.remove_metadata()
            if len(set(schema.names)) < len(schema.names):
                twice = next(name for name in schema.names if schema.names.count(name) > 1)
                raise SourceError(f"{redacted(row[0])} has two columns called {twice!r}, of which neither can be meant")
            if first is None:
                first = row[0], schema
                _check_present(row[0], schema.names, [*cls.columns, *(name for name, *_ in cls.filter)])
                _check_filter(cls.filter, schema)
            elif schema != first[1]:
                raise SourceError(
                    f"{redacted(row[0])} has other columns than {redacted(first[0])}: {_difference(schema, first[1])}"
                )
            row += [[known.metadata.row_group(number).num_rows for number in range(known.metadata.num_row_groups)]]
        return prepared

    @classmethod
    def _extent(cls, row: Row) -> int:
        return len(row[3])

    def _records(self, row: Row, start: int, end: int) -> Iterator[Any]:
        dataset = _arrow("pyarrow.dataset")
        with self._open(row[:3]) as file:
            # Nanoseconds, which Arrow makes of INT96 otherwise, end in 2262: what lies beyond gave other years.
            form = dataset.ParquetFileFormat(dataset.ParquetReadOptions(coerce_int96_timestamp_unit="us"))
            fragment = form.make_fragment(_arrow("pyarrow").PythonFile(file, mode="r"))
            try:
                yield from self._groups(row, fragment.subset(row_group_ids=list(range(start, end))), start, end)
            except (_arrow("pyarrow").ArrowException, OSError) as error:
                locked = ": leave encrypted columns out with columns=, or decrypt the file first"
                remedy = locked if "decrypt" in str(error) else ""
                raise SourceError(
                    f"{redacted(row[0])}, row groups {start} to {end}, cannot be read: {error}{remedy}"
                ) from error

    def _groups(self, row: Row, fragment: Any, start: int, end: int) -> Iterator[Any]:
        # Statistics of a row group know nothing of NaN: where all other values are 1, Arrow skips it for `x != 1`.
        unequal = [(name, sign, value) for name, sign, value in self.filter if sign == "!=" and value is not None]
        others = [(name, sign, value) for name, sign, value in self.filter if sign != "!=" or value is None]
        names = list(self.columns) or fragment.physical_schema.names
        wanted = {"columns": list(dict.fromkeys([*names, *(name for name, _, _ in unequal)]))}
        if others:
            wanted["filter"] = _expression(others)
        rows = 0
        for batch in fragment.to_batches(batch_size=self.batch_rows, **wanted):
            rows += batch.num_rows
            if unequal:
                table = _arrow("pyarrow").Table.from_batches([batch]).filter(_expression(unequal)).select(names)
                yield from (part for part in table.to_batches() if part.num_rows)
            elif batch.num_rows:
                yield batch
        there = sum(row[3][start:end])
        if not self.filter and rows != there:
            raise SourceError(
                f"{redacted(row[0])}: {rows:,} rows were read from row groups {start} to {end}, which have {there:,}"
            )


class ParquetRows(ParquetBatches):
    """The rows of Parquet files as dicts; see ParquetBatches, which is faster where numpy or Arrow can do the work."""

    def _records(self, row: Row, start: int, end: int) -> Iterator[Any]:
        arrow = _arrow("pyarrow")
        types: list[Any] = []
        for batch in super()._records(row, start, end):
            types = types or [_of_python(arrow, field.type) for field in batch.schema]
            columns = []
            for field, column, kind in zip(batch.schema, batch.columns, types, strict=True):
                try:
                    columns.append(column if kind == field.type else column.cast(kind))
                except arrow.ArrowException as error:
                    raise SourceError(
                        f"{redacted(row[0])}, column {field.name!r}: {field.type} has times that Python's own "
                        f"types do not hold ({error}): read it with ParquetBatches, or leave it out with columns="
                    ) from error
            yield from arrow.RecordBatch.from_arrays(columns, names=batch.schema.names).to_pylist()


def _of_python(arrow: Any, kind: Any) -> Any:
    """Return the type whose values Python has by itself: microseconds for nanoseconds, which are pandas' where that is.

    What is a record must not depend on what else a worker has installed.
    """
    types = arrow.types
    if types.is_timestamp(kind) and kind.unit == "ns":
        return arrow.timestamp("us", kind.tz)
    if types.is_duration(kind) and kind.unit == "ns":
        return arrow.duration("us")
    if types.is_time64(kind) and kind.unit == "ns":
        return arrow.time64("us")
    if types.is_large_list(kind):
        return arrow.large_list(_of_python(arrow, kind.value_type))
    if types.is_list(kind):
        return arrow.list_(_of_python(arrow, kind.value_type))
    if types.is_struct(kind):
        return arrow.struct([field.with_type(_of_python(arrow, field.type)) for field in kind])
    if types.is_map(kind):
        return arrow.map_(_of_python(arrow, kind.key_type), _of_python(arrow, kind.item_type))
    return kind


def _arrow(module: str) -> Any:
    return needed(module, "parquet", "Parquet")


def _parquet_file(file: Any, path: str) -> Any:
    try:
        return _arrow("pyarrow.parquet").ParquetFile(file, coerce_int96_timestamp_unit="us")
    except (_arrow("pyarrow").ArrowException, OSError) as error:
        if "encrypted" in str(error):
            raise SourceError(f"{redacted(path)} is encrypted, and Pymar takes no keys: decrypt it first") from error
        raise SourceError(f"{redacted(path)} is not a Parquet file: {error}") from error


def _check_present(path: str, there: Sequence[str], wanted: Sequence[str]) -> None:
    for name in wanted:
        if name not in there:
            raise SourceError(f"{redacted(path)} has no column {name!r}; it has {', '.join(there)}")


def _difference(one: Any, other: Any) -> str:
    fields = {field.name: str(field.type) for field in one}, {field.name: str(field.type) for field in other}
    differing = [
        f"{name} is {fields[0].get(name, 'missing')} in the one and {fields[1].get(name, 'missing')} in the other"
        for name in sorted(fields[0].keys() | fields[1].keys())
        if fields[0].get(name) != fields[1].get(name)
    ]
    return "; ".join(differing[:3]) or "the order of the columns, or which of them may be null"


def _check_filter(conditions: Sequence[Sequence[Any]], schema: Any) -> None:
    """Refuse a filter whose values cannot be compared with the columns.

    Raises:
        SourceError: the condition, the type of its column, and what is wrong.
    """
    for condition in conditions:
        try:
            schema.empty_table().filter(_expression([condition]))
        except _arrow("pyarrow").ArrowException as error:
            kind = schema.field(condition[0]).type
            raise SourceError(
                f"filter has {tuple(condition)!r}, and the column {condition[0]!r} is {kind}: give a value of that "
                f"type ({error})"
            ) from error


#: The operators of a condition, by what stands in its middle.
_OPERATORS: dict[str, Any] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": lambda field, values: field.isin(None if isinstance(values, str) else list(values)),
}


def _no_condition(condition: Any) -> SourceError:
    return SourceError(
        f"filter has {condition!r}: it has to be a list of conditions (column, operator, value), the operator one of "
        f"{', '.join(_OPERATORS)}"
    )


def _expression(conditions: Sequence[Sequence[Any]]) -> Any:
    compute = _arrow("pyarrow.compute")
    whole: Any = None
    for condition in conditions:
        try:
            name, sign, value = condition
            if value is None:
                one = {"==": compute.field(name).is_null(), "!=": compute.field(name).is_valid()}[sign]
            else:
                one = _OPERATORS[sign](compute.field(name), value)
        except (KeyError, TypeError, ValueError):
            raise _no_condition(condition) from None
        whole = one if whole is None else whole & one
    return whole
