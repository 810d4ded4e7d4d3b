"""ParquetSink: Parquet files of one schema, from dicts or from Arrow record batches."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from pymar.exceptions import SinkError, UsageError
from pymar.sinks.arrowcolumns import cast, exact, united
from pymar.sinks.files import FileSink, Misfit, Row, Writer, folder_value
from pymar.sinks.targets import Target
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
        return cast(batch, schema)

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
                    yield cast(batch, schema)

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
                batches = [cast(one, schema) for one in self._waiting]
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
