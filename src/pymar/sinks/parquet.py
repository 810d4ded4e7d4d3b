"""ParquetSink: Parquet files of one schema, from dicts or from Arrow record batches."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

from pymar.exceptions import SinkError, UsageError
from pymar.sinks.files import FileSink, Misfit, Row, Writer, folder_value
from pymar.sinks.targets import Target
from pymar.sources import arrowtypes
from pymar.sources.extras import needed

#: Bytes of the rows of a row group, in memory.
ROW_GROUP = 64 << 20


class ParquetSink(FileSink):
    """Parquet: records are dicts, or Arrow record batches or tables, which are faster where numpy or Arrow do the work.

    All files have one schema: `schema`, or what the records show. Without `schema`, columns that are null so far take
    the type of later values, and integers become floats where no value changes; what else differs is an error.

    Args:
        compression: "zstd", "snappy", "gzip", "lz4", "brotli", or None.
        schema: a pyarrow schema. Columns that a dict does not have are null then.

    Raises:
        SinkError: a record does not fit: with the part, the record, the column and the value.
    """

    suffix: ClassVar[str] = ".parquet"
    compressions: ClassVar[Sequence[str]] = ("zstd", "snappy", "gzip", "lz4", "brotli")

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        mode: str = "new",
        partition_by: Sequence[str] = (),
        records_a_file: int | None = None,
        bytes_a_file: int = 128 << 20,
        compression: str | None = "zstd",
        storage: Mapping[str, Any] | None = None,
        schema: Any = None,
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
        if schema is not None and not isinstance(schema, _arrow().Schema):
            raise UsageError(f"schema={schema!r:.200}: give a pyarrow.schema([(name, type), ...])")
        if schema is not None and (missing := [name for name in self.partition_by if name not in schema.names]):
            raise UsageError(f"schema has no column {missing[0]!r}, by which the records are partitioned")
        #: As Arrow writes it, since it travels as plain data; b"" if the records show it.
        self.schema: bytes = b"" if schema is None else _packed(schema)

    def end(self) -> str:
        return self.suffix  # the pages within the file are compressed, not the file

    def units(self, records: list[Any]) -> Iterable[Any]:
        arrow = _arrow()
        waiting: list[Any] = []
        for record in records:
            if isinstance(record, Mapping):
                waiting.append(record)
                continue
            if waiting:
                yield self._batch(waiting)
                waiting = []
            if (
                isinstance(record, arrow.RecordBatch | arrow.Table)
                and len(set(record.schema.names)) < record.num_columns
            ):
                raise Misfit(f"it has two columns of one name ({', '.join(record.schema.names)})", record)
            if not isinstance(record, arrow.RecordBatch | arrow.Table):
                hint = ": pyarrow.Table.from_pandas(frame)" if type(record).__name__ == "DataFrame" else ""
                raise Misfit(
                    f"it has to be a dict, or an Arrow record batch or table{hint}; and is {record!r:.200}", record
                )
            for batch in record.to_batches() if isinstance(record, arrow.Table) else [record]:
                yield self._conformed(batch)
        if waiting:
            yield self._batch(waiting)

    def _batch(self, records: list[Any]) -> Any:
        """Return dicts as a record batch.

        Raises:
            Misfit: the first that does not fit.
        """
        arrow = _arrow()
        schema = self._given()
        names = list(records[0]) if schema is None else schema.names
        if not names:
            raise Misfit("it has no columns, and Parquet does not keep how many such records there are", records[0])
        keys = frozenset(names)
        for record in records:
            if record.keys() != keys and (schema is None or not record.keys() <= keys):
                raise Misfit(_other_columns(record, names, schema is None), record)
        columns = []
        for place, name in enumerate(names):
            if not isinstance(name, str):
                raise Misfit(f"the name of a column is {name!r:.100}, and has to be text", records[0])
            values = [record[name] for record in records] if schema is None else [one.get(name) for one in records]
            kind = None if schema is None else schema.field(place).type
            try:
                columns.append(exact(values, kind))
            except (arrow.ArrowException, TypeError, ValueError, OverflowError) as error:
                raise _misfit(records, values, name, kind, error) from error
        if schema is not None:
            return arrow.RecordBatch.from_arrays(columns, schema=schema)
        return arrow.RecordBatch.from_arrays(columns, names=names)

    def _conformed(self, batch: Any) -> Any:
        """Return a record batch with the columns of `schema`, in its order."""
        if batch.num_rows and not batch.num_columns:
            raise Misfit("a batch has rows without columns, which Parquet does not keep")
        schema = self._given()
        if schema is None or batch.schema.equals(schema):
            return batch
        if set(batch.schema.names) != set(schema.names):
            differing = sorted(set(batch.schema.names) ^ set(schema.names))
            raise Misfit(f"a batch has other columns than schema=: {', '.join(differing[:3])}")
        return _cast(batch.select(schema.names), schema)

    def _given(self) -> Any:
        if not self.schema:
            return None
        if "_unpacked" not in vars(self):
            vars(self)["_unpacked"] = _unpacked(self.schema)
        return vars(self)["_unpacked"]

    def divided(self, unit: Any) -> Iterable[tuple[str, Any]]:
        compute = needed("pyarrow.compute", "parquet", "ParquetSink")
        for name in self.partition_by:
            if name not in unit.schema.names:
                raise Misfit(f"there is no column {name!r}, by which the records are partitioned")
        keys = [unit.column(name).to_pylist() for name in self.partition_by]
        folders: dict[str, int] = {}
        numbers = [
            folders.setdefault(self.folder([*map(folder_value, values)]), len(folders))
            for values in zip(*keys, strict=True)
        ]
        if len(self.partition_by) == unit.num_columns:
            raise Misfit("all its columns are in partition_by, and none is left for the file")
        rest = unit.drop_columns(list(self.partition_by))
        which = _arrow().array(numbers)
        for folder, number in folders.items():
            yield folder, rest.filter(compute.equal(which, number))

    def writer(self, file: Any) -> Writer:
        given = self._given()
        if given is not None and self.partition_by:
            for name in self.partition_by:
                given = given.remove(given.get_field_index(name))
        return _RowGroups(self.compression, file, given)

    def arrived(self, wrote: Any) -> None:
        for row in wrote:
            schema = _unpacked(row[4])
            known = vars(self).get("_shown")
            try:
                vars(self)["_shown"] = schema if known is None else united(known, schema)
            except Misfit as misfit:
                raise SinkError(
                    f"ParquetSink: part {int(row[1][1:9])} does not fit those before it: {misfit.text}. Give schema="
                ) from misfit.__cause__

    def can_merge(self, one: Any, other: Any) -> bool:
        return True

    def must_rewrite(self, noted: Any) -> bool:
        return bool(not _unpacked(noted).equals(vars(self)["_shown"]))

    def merges(self, wrote: Sequence[list[Row]]) -> list[list[Row]]:
        groups = super().merges(wrote)
        for group in groups:
            group[0] = [*group[0][:4], _packed(vars(self)["_shown"])]  # the schema to write, for the worker that merges
        return groups

    def merge(self, rows: Sequence[Row], target: Target) -> Iterator[Any]:
        schema = _unpacked(rows[0][4])
        for row in rows:
            with target.open(row[1]) as file:
                for batch in needed("pyarrow.parquet", "parquet", "ParquetSink").ParquetFile(file).iter_batches():
                    yield _cast(_with_all(batch, schema), schema)

    def merging_writer(self, file: Any) -> Writer:
        return _RowGroups(self.compression, file, None)

    def check_append(self, file: Any, path: str, final: Sequence[Row]) -> None:
        there = needed("pyarrow.parquet", "parquet", "ParquetSink").ParquetFile(file).schema_arrow.remove_metadata()
        for row in final:
            here = _unpacked(row[4])
            if not here.equals(there):
                raise SinkError(
                    f"{self.path}: {path} has another schema than the records of this job. Give schema= that of the "
                    f"files: {'; '.join(f'{one.name}: {one.type}' for one in there)}; and not "
                    f"{'; '.join(f'{one.name}: {one.type}' for one in here)}"
                )


class _RowGroups:
    """One Parquet file."""

    def __init__(self, compression: str | None, file: Any, schema: Any) -> None:
        self._compression = compression or "none"
        self._file = file
        self._schema = schema
        self._writer: Any = None
        self._waiting: list[Any] = []
        self.pending = 0

    def fits(self, unit: Any) -> bool:
        schema = unit.schema.remove_metadata()
        if self._schema is None:
            self._schema = schema
        elif schema != self._schema:
            wanted = united(self._schema, schema)
            if self._writer is not None and wanted != self._schema:
                return False  # a row group of this file has the narrower type already
            self._schema = wanted
        return True

    def write(self, unit: Any) -> int:
        size = int(unit.nbytes)
        self._waiting.append(unit)
        self.pending += size
        if self.pending >= ROW_GROUP:
            self.flush()
        return size

    def flush(self) -> None:
        arrow = _arrow()
        if not self._waiting and self._writer is not None:
            return
        schema = self._schema if self._schema is not None else arrow.schema([])
        try:
            if self._writer is None:
                make = needed("pyarrow.parquet", "parquet", "ParquetSink").ParquetWriter
                self._writer = make(self._file, schema, compression=self._compression)
            if self._waiting:
                batches = [_cast(_with_all(one, schema), schema) for one in self._waiting]
                self._writer.write_table(arrow.Table.from_batches(batches, schema), row_group_size=1 << 30)
        except arrow.ArrowException as error:
            raise SinkError(
                f"ParquetSink: these records cannot be written as Parquet: {error}. Give schema="
            ) from error
        self._waiting, self.pending = [], 0

    def close(self) -> Any:
        self.flush()
        self._writer.close()
        return _packed(self._schema if self._schema is not None else _arrow().schema([]))


def exact(values: list[Any], kind: Any) -> Any:
    """Return values as an array of a type, or of the one that they show (None); none is changed by that.

    Raises:
        ValueError, TypeError, OverflowError, pyarrow.ArrowException: some are of other types, or would be changed.
    """
    arrow = _arrow()
    _check_alike(values)
    if kind is None:
        return arrow.array(values)
    types = arrow.types
    found = arrow.array(values, kind)  # it takes no text for a number, but cuts floats, times and dates
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_temporal(kind) or types.is_decimal(kind)):
        return found
    shown = arrow.array(values)
    if types.is_null(shown.type) or (types.is_decimal(kind) and types.is_integer(shown.type)):
        return found
    return found if types.is_duration(kind) and kind.unit in ("us", "ns") else _exactly(shown, kind)


def _check_alike(values: Iterable[Any]) -> None:
    """Refuse values of several types, also within lists and dicts: Arrow would make one type of them.

    Raises:
        TypeError: it says which.
    """
    kinds = set(map(type, values)) - {type(None)}
    if kinds == {list}:
        _check_alike([one for value in values if value is not None for one in value])
        return
    if kinds == {tuple}:  # of one length: a column each, as the pairs of a map have
        rows = [value for value in values if value is not None]
        for column in (
            zip(*rows, strict=False) if len({*map(len, rows)}) == 1 else [[one for row in rows for one in row]]
        ):
            _check_alike(column)
        return
    if kinds == {dict}:
        for name in {name for value in values if value is not None for name in value}:
            _check_alike([value.get(name) for value in values if value is not None])
        return
    if len(kinds) > 1 and len({_family(kind) for kind in kinds}) > 1:
        raise TypeError(f"the column has values of several types: {', '.join(sorted(kind.__name__ for kind in kinds))}")
    if any(issubclass(kind, datetime) for kind in kinds):
        zones = {value.tzinfo is None for value in values if value is not None}
        if len(zones) > 1:
            raise TypeError("the column has times with and without a time zone")


def _family(kind: type) -> Any:
    """Return what stands for all types that go together in a column: integers and floats do, and numpy's with them."""
    if kind is bool or kind.__name__ in ("bool_", "bool"):
        return "bool"
    if issubclass(kind, int | float) or (
        kind.__module__ == "numpy" and kind.__name__.startswith(("int", "uint", "float"))
    ):
        return "number"
    if issubclass(kind, str):
        return "text"
    return kind


def united(one: Any, other: Any) -> Any:
    """Return the schema that holds the values of both: see `arrowtypes.united`.

    Raises:
        Misfit: there is none; or they have other columns.
    """
    if set(one.names) != set(other.names) or len(one.names) != len(other.names):
        differing = sorted(set(one.names) ^ set(other.names))
        raise Misfit(f"its columns are {', '.join(other.names)} instead of {', '.join(one.names)} ({differing[:3]})")
    try:
        found = arrowtypes.united_schemas(one, other)
    except arrowtypes.NotUnited as error:
        name = str(error)
        raise Misfit(f"its column {name!r} is {other.field(name).type} instead of {one.field(name).type}") from None
    return _arrow().schema([field.with_nullable(True) for field in found])


def _with_all(batch: Any, schema: Any) -> Any:
    """Return a batch with its columns in the order of a schema."""
    return batch if batch.schema.names == schema.names else batch.select(schema.names)


def _cast(batch: Any, schema: Any) -> Any:
    arrow = _arrow()
    if batch.schema.equals(schema):
        return batch
    columns = []
    for field in schema:
        column = batch.column(field.name)
        try:
            columns.append(_exactly(column, field.type))
        except (arrow.ArrowException, ValueError) as error:
            raise Misfit(f"column {field.name!r} has values that are not exactly {field.type}: {error}") from error
    return arrow.RecordBatch.from_arrays(columns, schema=schema)


def _exactly(array: Any, kind: Any) -> Any:
    """Return an array as one of another type with the same values.

    Raises:
        pyarrow.ArrowException, ValueError: a value would be another one.
    """
    arrow, types = _arrow(), _arrow().types
    have = array.type
    if have == kind:
        return array
    if types.is_struct(have) and types.is_struct(kind) and {one.name for one in have} - {one.name for one in kind}:
        raise ValueError(f"a {have} has fields that {kind} does not have")
    if (
        types.is_temporal(have)
        and types.is_temporal(kind)
        and getattr(have, "tz", None) is None is not getattr(kind, "tz", None)
    ):
        raise ValueError(f"{have} has no time zone")
    if types.is_temporal(have) and getattr(have, "tz", None) is not None is getattr(kind, "tz", None):
        raise ValueError(f"{have} has a time zone")
    if types.is_dictionary(kind):
        return _exactly(array, kind.value_type).dictionary_encode().cast(kind)
    found = arrowtypes.converted(array, kind)
    is_lossy = types.is_floating(kind) or types.is_decimal(kind) or types.is_date(kind) or types.is_boolean(kind)
    if is_lossy and not types.is_null(have) and not types.is_nested(have):
        back = found.cast(have)
        compute = needed("pyarrow.compute", "parquet", "ParquetSink")
        same = compute.equal(back, array)
        if types.is_floating(have):
            same = compute.or_(same, compute.and_(compute.is_nan(back), compute.is_nan(array)))
        is_narrower = types.is_floating(kind) and types.is_floating(have)  # which rounds, as whoever asks for it knows
        if is_narrower:
            same = compute.equal(compute.is_finite(back), compute.is_finite(array))
        if not compute.all(same, min_count=0).as_py():
            raise arrow.ArrowInvalid(f"{have} has values that {kind} does not have")
    return found


def _other_columns(record: Mapping[str, Any], names: Sequence[str], is_shown: bool) -> str:
    more = [name for name in record if name not in names]
    remedy = "Give schema=, and columns that a record does not have are null"
    if more:
        others = "the records before it do" if is_shown else "schema= does"
        return f"it has the column {more[0]!r}, which {others} not. {remedy}"
    lacks = next(name for name in names if name not in record)
    return f"it has no column {lacks!r}, which the records before it have. {remedy}"


def _misfit(records: list[Any], values: list[Any], name: str, kind: Any, error: Exception) -> Misfit:
    """Return the error about the first record whose value does not go with those before it."""
    low, high = 0, len(values)  # the first `low` values can be converted, the first `high` cannot
    while high - low > 1:
        middle = (low + high) // 2
        try:
            exact(values[:middle], kind)
            low = middle
        except (_arrow().ArrowException, TypeError, ValueError, OverflowError):
            high = middle
    of = f" of type {kind}" if kind is not None else ""
    text = f"column {name!r}{of} has {values[high - 1]!r:.200} ({type(values[high - 1]).__name__}): {error}"
    return Misfit(f"{text}. Convert it in map_fn, or give schema=", records[high - 1])


def _packed(schema: Any) -> bytes:
    return bytes(schema.serialize())


def _unpacked(data: bytes) -> Any:
    return needed("pyarrow.ipc", "parquet", "ParquetSink").read_schema(_arrow().py_buffer(data))


def _arrow() -> Any:
    return needed("pyarrow", "parquet", "ParquetSink")
