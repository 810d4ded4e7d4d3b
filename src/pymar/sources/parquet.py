"""Parquet files: a part is a range of row groups; the reader skips columns and rows that are not wanted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from pymar.exceptions import SourceError
from pymar.serialization.redaction import redacted
from pymar.sources import conditions as rules
from pymar.sources.arrowtypes import arrow, path_of, stored
from pymar.sources.columnar import AsRows, ColumnarBatches, Wanted, schema_from


class ParquetBatches(ColumnarBatches):
    """The rows of Parquet files as Arrow record batches: arrays, not objects, for speed.

    A part is some row groups, so that a file with a single row group is in one part. A file that changes while it is
    read is `SourceChanged`. Without a filter, the number of rows read is compared with that of the row groups.

    Class attributes, besides those of FileSource:
        columns: names of the columns to read; all by default. "a.b" is the struct a with its field b alone.
        filter: conditions that rows have to meet, `[("distance", ">", 1000), ...]`: with ==, !=, <, <=, >, >=, in,
            not in; or a list of such lists, of which one has to be met. Null meets only `== None`, or `in` with None.
            Row groups whose statistics rule them out are not read, nor are files whose folders do.
        batch_rows: rows of a batch, at most.
        hive: True for columns from the names of folders below `path`, such as year=2013: integers if all are, else
            text. By default (None) if `path` is a folder, or a list of folders. False: no such columns.
        union: True to read files together whose columns differ: what one lacks is null there, and types become the
            one that holds both. A value that this does not hold exactly is an error.

    Extension types are read as their storage: a UUID is 16 bytes, JSON is text.

    Raises:
        SourceError: files differ in their columns; a column is missing; a file is not Parquet.
    """

    unit: ClassVar[str] = "row groups"

    @classmethod
    def _look(cls, file: Any, path: str) -> tuple[Any, list[int]]:
        # Nanoseconds, which Arrow makes of INT96 otherwise, end in 2262: what lies beyond gave other years.
        known = arrow("pyarrow.parquet").ParquetFile(file, coerce_int96_timestamp_unit="us")
        leaves = (known.schema.column(place).logical_type.type for place in range(len(known.schema)))
        groups = range(known.metadata.num_row_groups)
        return stored(known.schema_arrow, leaves), [known.metadata.row_group(number).num_rows for number in groups]

    @classmethod
    def _unreadable(cls, path: str, error: Exception) -> SourceError:
        if "encrypted" in str(error):
            return SourceError(f"{redacted(path)} is encrypted, and Pymar takes no keys: decrypt it first")
        return SourceError(
            f"{redacted(path)} is not a Parquet file that pyarrow {arrow().__version__} reads: {redacted(str(error))}"
        )

    def _table(self, file: Any) -> tuple[Any, Any]:
        dataset = arrow("pyarrow.dataset")
        form = dataset.ParquetFileFormat(dataset.ParquetReadOptions(coerce_int96_timestamp_unit="us"))
        fragment = form.make_fragment(arrow().PythonFile(file, mode="r"))
        return (file, fragment), fragment.physical_schema

    def _read(self, table: Any, path: str, start: int, end: int, wanted: Wanted) -> Iterator[Any]:
        file, fragment = table
        fragment = fragment.subset(row_group_ids=list(range(start, end)))
        conditions = wanted.conditions
        # The schema of the job, which knows more than Arrow does of a file that it has not written, such as UUIDs.
        condition = rules.expression(conditions, schema_from(self.file_schema)) if conditions else None
        if not wanted.nested:
            yield from fragment.to_batches(batch_size=wanted.batch_rows, columns=wanted.columns, filter=condition)
            return
        if condition is not None:
            fragment = fragment.subset(filter=condition)
        groups = [group.id for group in fragment.row_groups]
        if groups:  # none at all would mean all of them
            parquet = arrow("pyarrow.parquet")
            whole = parquet.ParquetFile(file, metadata=fragment.metadata, coerce_int96_timestamp_unit="us")
            yield from whole.iter_batches(wanted.batch_rows, row_groups=groups, columns=wanted.nested)

    def _is_read_with(self, condition: rules.Condition, whole: Any, own: Any) -> bool:
        top = path_of(condition.name, whole)[0]
        if top not in own.names or own.field(top).type != whole.field(top).type:
            return False
        return rules.may_be_read_with(condition, whole)

    def _remedy(self, error: Exception) -> str:
        locked = ": leave encrypted columns out with columns=, or decrypt the file first"
        return locked if "decrypt" in str(error) else ""


class ParquetRows(AsRows, ParquetBatches):
    """The rows of Parquet files as dicts; see ParquetBatches, which is faster where numpy or Arrow can do the work.

    The values are Python's own, whatever is installed: `datetime` for all times, `uuid.UUID` for a UUID, a list of
    pairs for a map.
    """
