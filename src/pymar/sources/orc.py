"""ORC files: a part is a range of stripes."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import cache
from typing import Any, ClassVar

from pymar.exceptions import SourceError
from pymar.serialization.redaction import redacted
from pymar.sources.arrowtypes import arrow, is_list, stored
from pymar.sources.columnar import UNKNOWN, AsRows, ColumnarBatches, Wanted


class ORCBatches(ColumnarBatches):
    """The rows of ORC files as Arrow record batches. Its settings are those of ParquetBatches.

    A part is some stripes, so that a file with a single one is in one part. A file that changes while it is read is
    `SourceChanged`. Where a file is read whole, the number of its rows is compared with what it says itself.

    Raises:
        SourceError: files differ in their columns; a column is missing; a file is not ORC.
    """

    unit: ClassVar[str] = "stripes"

    @classmethod
    def _look(cls, file: Any, path: str) -> tuple[Any, list[int]]:
        known = arrow("pyarrow.orc").ORCFile(file)
        return stored(known.schema), [UNKNOWN] * known.nstripes

    @classmethod
    def _unreadable(cls, path: str, error: Exception) -> SourceError:
        return SourceError(
            f"{redacted(path)} is not an ORC file that pyarrow {arrow().__version__} reads: {redacted(str(error))}"
        )

    def _table(self, file: Any) -> tuple[Any, Any]:
        known = arrow("pyarrow.orc").ORCFile(file)
        return known, known.schema

    def _read(self, table: Any, path: str, start: int, end: int, wanted: Wanted) -> Iterator[Any]:
        for field in table.schema:
            if field.name in wanted.columns and _has_times(field.type) and not _refuses_far_times():
                raise SourceError(
                    f"{redacted(path)}, column {field.name!r}, has times, of which pyarrow {arrow().__version__} makes "
                    "others if they are before 1678 or after 2262: upgrade pyarrow, or leave it out with columns="
                )
        columns: Sequence[str] | None = list(wanted.nested or wanted.columns) or table.schema.names[:1]
        if any("." in name for name in table.schema.names):
            columns = None  # all of them: pyarrow takes the name "a.b" for the field b of a column a
        rows = 0
        for number in range(start, end):
            batch = table.read_stripe(number, columns=columns)
            rows += batch.num_rows
            for first in range(0, batch.num_rows, wanted.batch_rows):
                yield batch.slice(first, wanted.batch_rows)
        if (start, end) == (0, table.nstripes) and rows != table.nrows:
            raise SourceError(f"{redacted(path)}: {rows:,} rows were read; it has {table.nrows:,} by its own count")


class ORCRows(AsRows, ORCBatches):
    """The rows of ORC files as dicts, with Python's own values as those of ParquetRows; see ORCBatches."""


def _has_times(kind: Any) -> bool:
    types = arrow().types
    if types.is_struct(kind):
        return any(_has_times(field.type) for field in kind)
    if types.is_map(kind):
        return _has_times(kind.key_type) or _has_times(kind.item_type)
    return _has_times(kind.value_type) if is_list(kind) else bool(types.is_timestamp(kind))


@cache
def _refuses_far_times() -> bool:
    """True if this pyarrow has an error for times that nanoseconds do not hold; pyarrow 17 gives other years."""
    file = io.BytesIO()
    table = arrow().table({"t": arrow().array([datetime(9999, 1, 1)], arrow().timestamp("us"))})
    arrow("pyarrow.orc").write_table(table, file)
    try:
        arrow("pyarrow.orc").ORCFile(io.BytesIO(file.getvalue())).read()
    except arrow().ArrowException:
        return True
    return False
