"""Arrow IPC files (.arrow, Feather version 2): a part is a range of record batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from pymar.exceptions import SourceError
from pymar.serialization.redaction import redacted
from pymar.sources.arrowtypes import arrow, stored
from pymar.sources.columnar import UNKNOWN, AsRows, ColumnarBatches, Wanted
from pymar.sources.formats import HEAD, format_of, remedy_of


class ArrowBatches(ColumnarBatches):
    """The rows of Arrow IPC files, compressed or not, as record batches. Its settings are those of ParquetBatches.

    A part is some record batches of a file, so that a file with a single one is in one part. A file that changes while
    it is read is `SourceChanged`. Batches are validated as they are read, since the format has no checksums.

    Raises:
        SourceError: files differ in their columns; a column is missing; a file is not an Arrow file: a stream, say.
    """

    unit: ClassVar[str] = "record batches"

    @classmethod
    def _look(cls, file: Any, path: str) -> tuple[Any, list[int]]:
        form = format_of(file.read(HEAD))
        if form != "Arrow" and (remedy := remedy_of(form)):
            raise SourceError(f"{redacted(path)} is not an Arrow file, but {form}: {remedy}")
        file.seek(0)
        reader = arrow("pyarrow.ipc").open_file(arrow().PythonFile(file, mode="r"))
        return stored(reader.schema), [UNKNOWN] * reader.num_record_batches

    @classmethod
    def _unreadable(cls, path: str, error: Exception) -> SourceError:
        what = f"is not an Arrow file that pyarrow {arrow().__version__} reads, or is cut off"
        return SourceError(f"{redacted(path)} {what}: {redacted(str(error))}")

    def _table(self, file: Any) -> tuple[Any, Any]:
        reader = arrow("pyarrow.ipc").open_file(arrow().PythonFile(file, mode="r"))
        return file, reader.schema

    def _read(self, table: Any, path: str, start: int, end: int, wanted: Wanted) -> Iterator[Any]:
        ipc = arrow("pyarrow.ipc")
        file = arrow().PythonFile(table, mode="r")
        names = ipc.open_file(file).schema.names
        # No fields at all would mean all of them: the first one is read for the number of its rows.
        fields = sorted(map(names.index, wanted.columns)) or [0]
        options = ipc.IpcReadOptions(included_fields=fields if names else [])
        reader = ipc.open_file(file, options=options)
        for number in range(start, end):
            batch = reader.get_batch(number)
            batch.validate(full=True)
            for first in range(0, batch.num_rows, wanted.batch_rows):
                yield batch.slice(first, wanted.batch_rows)


class ArrowRows(AsRows, ArrowBatches):
    """The rows of Arrow IPC files as dicts, with Python's own values as those of ParquetRows; see ArrowBatches."""
