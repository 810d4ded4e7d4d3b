"""ColumnarBatches, the base of sources over files of columns (Parquet, Arrow, ORC), and AsRows, which makes rows of it.

prepare (once, at the producer)                     _records (each part)

paths -> values of folders (hive.py)                file -> its own batches -> the job's columns and types
      -> files that `filter` leaves                      -> rows that meet `filter` -> the columns wanted
      -> one schema of all files (arrowtypes.py)
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

from pymar.exceptions import PymarError, SourceError
from pymar.serialization.redaction import redacted
from pymar.sources import conditions as rules
from pymar.sources.arrowtypes import (
    NotUnited,
    alike,
    arrow,
    converted,
    difference,
    path_of,
    pruned,
    stored,
    united_schemas,
    without_views,
)
from pymar.sources.arrowvalues import rows_of, values_of
from pymar.sources.checks import check_settings
from pymar.sources.conditions import Condition, Conditions
from pymar.sources.files import FileSource
from pymar.sources.hive import kind_of, texts_of_files
from pymar.sources.storage import Row, is_passing, opened

log: logging.Logger = logging.getLogger(__name__)

#: Stands for the number of rows of a piece of a file that does not say it.
UNKNOWN = -1


@dataclass(frozen=True)
class Wanted:
    """What is read of a file."""

    columns: Sequence[str]
    """Names of its columns; there may be none, if only the number of rows counts."""
    nested: Sequence[str]
    """Where parts of structs are enough, the same as "a" or "a.b"; otherwise empty."""
    conditions: Conditions
    """What rows have to meet: rows that do not may be left out."""
    batch_rows: int
    """Rows of a batch, at most."""


class ColumnarBatches(FileSource):
    """The rows of files of columns as Arrow record batches: arrays, not objects, for speed.

    Its settings are described at ParquetBatches. A subclass has `_look`, for the producer, and `_table` and `_read`.

    Extension types are read as their storage, run-end encoded values as plain ones.
    """

    columns: ClassVar[Sequence[str]] = ()
    filter: ClassVar[Sequence[Any]] = ()
    batch_rows: ClassVar[int] = 131_072
    hive: ClassVar[bool | None] = None
    union: ClassVar[bool] = False
    #: What `prepare` found: the schema of the records' columns, as Arrow's bytes.
    file_schema: ClassVar[bytes] = b""

    @classmethod
    def prepare(cls) -> Mapping[str, Any]:
        check_settings(cls, flags=("union",), names=("columns",), numbers={"batch_rows": 1})
        if cls.hive is not None:
            check_settings(cls, flags=("hive",))
        conditions = rules.parsed(cls.filter)
        prepared = dict(super().prepare())
        files: list[Row] = prepared["files"]
        first = cls._looked_at(files[0])
        kinds = cls._add_folders(files, first[0])
        for row in files:
            row.append([])
        left = _left(files, conditions, kinds)
        whole: Any = None
        origins: dict[str, str] = {}
        for row in left or files[:1]:
            schema, counts = first if row is files[0] else cls._looked_at(row)
            schema = _with_folders(schema, kinds)
            if whole is None:
                whole, origins = schema, dict.fromkeys(schema.names, str(row[0]))
                if not cls.union:
                    _check_names(row[0], whole, cls.columns, conditions)
            elif not alike(schema, whole):
                whole = cls._together(whole, schema, row[0], origins)
            if left:
                row[4] = counts
        if cls.union:
            _check_names(f"path={cls.path!r}", whole, cls.columns, conditions)
        return {**prepared, "file_schema": whole.serialize().to_pybytes()}

    @classmethod
    def _add_folders(cls, files: Sequence[Row], schema: Any) -> dict[str, Any]:
        """Append the values of its folders to each row; return the types of these columns."""
        texts, left_out = texts_of_files(cls.path, [row[0] for row in files], cls.hive)
        if left_out:
            log.warning(
                "%s: folders such as %s give no columns here; set hive=True if they shall, or hive=False",
                redacted(str(cls.path)),
                left_out,
            )
        kinds = {}
        for name in texts[0]:
            kind = getattr(arrow(), kind_of(one[name] for one in texts))()
            if name in schema.names:
                kind = schema.field(name).type
                kind = kind.value_type if arrow().types.is_dictionary(kind) else kind
            kinds[name] = kind
        for row, one in zip(files, texts, strict=True):
            row.append(one)
            for name, text in one.items():
                _folder_value(row[0], name, text, kinds[name])
        return kinds

    @classmethod
    def _together(cls, whole: Any, schema: Any, path: str, origins: dict[str, str]) -> Any:
        """Return the schema of several files and one more; `origins` has the file where each column was seen last."""
        try:
            united = united_schemas(whole, schema)
        except NotUnited as error:
            united, name = None, str(error)
        if not cls.union:
            other = next(iter(origins.values()), "")
            hint = "" if united is None else ". union=True reads them together"
            raise SourceError(
                f"{redacted(path)} has other columns than {redacted(other)}: {difference(schema, whole)}{hint}"
            )
        if united is None:
            raise SourceError(
                f"{redacted(path)}, column {name!r}, is {schema.field(name).type}, and {whole.field(name).type} in "
                f"{redacted(origins[name])}: no type holds both. Convert one of them, or leave it out with columns="
            )
        for field in united:
            if field.name not in whole.names or field.type != whole.field(field.name).type:
                origins[field.name] = path
        return united

    @classmethod
    def _looked_at(cls, row: Row) -> tuple[Any, list[int]]:
        with opened(row, cls.storage) as file:
            try:
                schema, counts = cls._look(file, row[0])
            except PymarError:
                raise
            except Exception as error:  # of pyarrow, or of what carries the data to it
                if "://" in row[0] and is_passing(error):
                    raise  # `opened` says so
                if not isinstance(error, arrow().ArrowException | OSError):
                    raise SourceError(f"{redacted(row[0])} cannot be read: {redacted(str(error))}") from error
                raise cls._unreadable(row[0], error) from error
        names = schema.names
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise SourceError(
                f"{redacted(row[0])} has two columns called {twice!r}, of which neither can be meant: "
                "rename one where the file is written"
            )
        return schema, counts

    @classmethod
    def _look(cls, file: Any, path: str) -> tuple[Any, list[int]]:
        """Return the stored schema of a file, and the rows of each of its pieces, or UNKNOWN.

        Raises:
            SourceError: it cannot be read, for a reason that this knows.
            pyarrow.ArrowException, OSError: for another.
        """
        raise NotImplementedError

    @classmethod
    def _unreadable(cls, path: str, error: Exception) -> SourceError:
        """Return what to say of a file in which `_look` failed."""
        raise NotImplementedError

    def _table(self, file: Any) -> tuple[Any, Any]:
        """Return what reads an open file, and its schema."""
        raise NotImplementedError

    def _read(self, table: Any, path: str, start: int, end: int, wanted: Wanted) -> Iterator[Any]:
        """Yield record batches with the columns that are wanted, in any order, of pieces `start` to `end`."""
        raise NotImplementedError

    @classmethod
    def _extent(cls, row: Row) -> int:
        return len(row[4])

    def _records(self, row: Row, start: int, end: int) -> Iterator[Any]:
        where = f"{redacted(row[0])}, {self.unit} {start} to {end}"
        with self._open(row[:3]) as file:
            try:
                table, own = self._table(file)
                yield from self._wanted(where, row, start, end, table, own)
            except PymarError:
                raise
            except Exception as error:  # of pyarrow, or of what carries the data to it
                if "://" in row[0] and is_passing(error):
                    raise
                raise SourceError(f"{where}, cannot be read: {redacted(str(error))}{self._remedy(error)}") from error

    def _remedy(self, error: Exception) -> str:
        """Return what to do about an error of reading: "" if that is not known."""
        return ""

    def _wanted(self, where: str, row: Row, start: int, end: int, table: Any, own: Any) -> Iterator[Any]:
        whole = schema_from(self.file_schema)
        values = {name: _folder_value(row[0], name, text, whole.field(name).type) for name, text in row[3].items()}
        constants = _one_row({name: value for name, value in values.items() if name not in own.names})
        conditions = rules.resolved(rules.parsed(self.filter), constants)
        names = list(self.columns) or whole.names
        out = arrow().schema(pruned(whole, names))
        early = rules.relaxed(
            conditions if without_views(out) == out else (),
            lambda one: path_of(one.name, whole)[0] not in values and self._is_read_with(one, whole, own),
        )
        asked = list(dict.fromkeys([*names, *rules.names_of(conditions)]))
        nested = _nested(asked, whole, own)
        late = () if early == conditions and not nested else conditions
        needed = arrow().schema(pruned(whole, asked)) if late else out
        there = [field.name for field in needed if field.name in own.names]
        wanted = Wanted(there, nested, early, self.batch_rows)
        rows = 0
        for batch in self._read(table, row[0], start, end, wanted):
            rows += batch.num_rows
            if not batch.num_rows:
                continue
            if lost := set(there) - set(batch.schema.names):
                raise SourceError(f"{where}: pyarrow {arrow().__version__} has not read the columns {sorted(lost)}")
            batch = _conformed(batch, needed, values, where)
            if late:
                plain = _conformed(batch, without_views(needed), {}, where)
                batch = _conformed(plain.filter(rules.matching(plain, late)), out, {}, where)
            if batch.num_rows:
                yield batch
        counts = row[4][start:end]
        if not early and UNKNOWN not in counts and rows != sum(counts):
            raise SourceError(f"{where}: {rows:,} rows were read; there are {sum(counts):,} by the file's own count")

    def _is_read_with(self, condition: Condition, whole: Any, own: Any) -> bool:
        """True if `_read` may leave out rows that do not meet a condition on a column of the file; by default none."""
        return False


class AsRows(ColumnarBatches):
    """Makes dicts of the batches of the class behind it, in the order in which Python looks for methods."""

    def _records(self, row: Row, start: int, end: int) -> Iterator[Any]:
        for batch in super()._records(row, start, end):
            columns = []
            for place, field in enumerate(batch.schema):
                try:
                    columns.append(values_of(batch.column(place), field))
                except (arrow().ArrowException, ArithmeticError, ValueError, LookupError) as error:
                    raise SourceError(
                        f"{redacted(row[0])}, {self.unit} {start} to {end}, column {field.name!r}: {field.type} has "
                        f"values that Python's own types do not hold ({error}): read it as batches (ParquetBatches, "
                        "ArrowBatches, ORCBatches), or leave it out with columns="
                    ) from error
            yield from rows_of(batch, batch.schema.names, columns)


@lru_cache(maxsize=8)
def schema_from(data: bytes) -> Any:
    """Return the schema that `prepare` has found.

    Raises:
        SourceError: this worker's pyarrow does not know its types.
    """
    try:
        return stored(arrow("pyarrow.ipc").read_schema(arrow().py_buffer(data)))
    except arrow().ArrowException as error:
        raise SourceError(
            f"this worker's pyarrow {arrow().__version__} does not know the columns' types, as the producer's does "
            f"({error}): install the same version"
        ) from error


def _with_folders(schema: Any, kinds: Mapping[str, Any]) -> Any:
    """Return a schema with the columns of folders: where the file has one itself, in that place."""
    for name, kind in kinds.items():
        field = arrow().field(name, kind)
        place = schema.get_field_index(name)
        schema = schema.append(field) if place < 0 else schema.set(place, field)
    return schema


def _folder_value(path: str, name: str, text: str | None, kind: Any) -> Any:
    """Return what the name of a folder says, as a scalar of Arrow."""
    try:
        return arrow().scalar(text, arrow().string()).cast(kind)
    except arrow().ArrowException as error:
        raise SourceError(
            f"{redacted(path)} is in a folder {name}={text}, which is no {kind}, as the column {name!r} of the files "
            f"is ({error}): rename it, or set hive=False"
        ) from error


def _one_row(values: Mapping[str, Any]) -> Any:
    """Return a record batch of one row."""
    columns = [_repeated(value, 1, value.type) for value in values.values()]
    return arrow().RecordBatch.from_arrays(columns, names=list(values))


def _left(files: Sequence[Row], conditions: Conditions, kinds: Mapping[str, Any]) -> list[Row]:
    """Return the rows of the files whose folders do not rule out all that the conditions want."""
    ours = rules.relaxed(conditions, lambda condition: condition.name in kinds)
    if not ours:
        return list(files)
    rules.check(ours, arrow().schema(list(kinds.items())))

    def is_left(row: Row) -> bool:
        values = {name: _folder_value(row[0], name, row[3][name], kind) for name, kind in kinds.items()}
        return rules.matching(_one_row(values), ours)[0].as_py() is True

    return list(filter(is_left, files))


def _check_names(path: str, schema: Any, columns: Iterable[str], conditions: Conditions) -> None:
    for name in [*columns, *rules.names_of(conditions)]:
        if not path_of(name, schema):
            raise SourceError(f"{redacted(path)} has no column {name!r}; it has {', '.join(_all_names(schema))}")
    rules.check(conditions, schema)


def _all_names(fields: Iterable[Any], above: str = "") -> Iterator[str]:
    for field in fields:
        yield above + field.name
        if arrow().types.is_struct(field.type):
            yield from _all_names(field.type, f"{above}{field.name}.")


def _nested(names: Sequence[str], whole: Any, own: Any) -> list[str]:
    """Return the names, as paths of fields, if parts of structs are enough and the file has these; otherwise none."""
    paths = [path for name in names if (path := path_of(name, whole))[0] in own.names]
    if all(len(path) == 1 for path in paths):
        return []
    there = (path_of(".".join(path), own) == path for path in paths)
    return [".".join(path) for path in paths] if all(there) else []


def _conformed(batch: Any, schema: Any, values: Mapping[str, Any], where: str) -> Any:
    """Return a batch with the columns and types of a schema; `values` are those of the file's folders."""
    is_same = alike(batch.schema, schema)
    if is_same and not values and not any(field.metadata for field in schema):
        return batch
    columns = []
    for field in schema:
        place = batch.schema.get_field_index(field.name)
        if place < 0:
            value = values.get(field.name)
            nothing = arrow().nulls(batch.num_rows, field.type)
            columns.append(nothing if value is None else _repeated(value, batch.num_rows, field.type))
            continue
        try:
            columns.append(converted(batch.column(place), field.type))
        except arrow().ArrowException as error:
            raise SourceError(
                f"{where}, column {field.name!r}: a {batch.schema.field(place).type} is not exactly one of "
                f"{field.type}, as the files have it together ({error}): leave it out with columns="
            ) from error
        if field.name in values:
            _compare(columns[-1], values[field.name], field.name, where)
    return arrow().RecordBatch.from_arrays(columns, schema=schema)


def _repeated(value: Any, count: int, kind: Any) -> Any:
    if not value.is_valid:
        return arrow().nulls(count, kind)
    return converted(arrow().repeat(value, count), kind)


def _compare(column: Any, value: Any, name: str, where: str) -> None:
    """Refuse a column of a file that says something else than the name of the folder.

    Raises:
        SourceError: with both values.
    """
    compute = arrow("pyarrow.compute")
    same = compute.fill_null(compute.equal(column, value), False) if value.is_valid else compute.is_null(column)
    if not compute.all(same, min_count=0).as_py():
        other = column[compute.index(same, False).as_py()]
        raise SourceError(
            f"{where}: the column {name!r} is {other.as_py()!r} in the file, and {value.as_py()!r} by the name of its "
            "folder. Which is right? hive=False reads what the file has"
        )
