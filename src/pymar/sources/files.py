"""FileSource, the base of sources over files, and Files.

The units of such a source are bytes, or whatever `_extent` counts, numbered over all files, one behind the other.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from itertools import accumulate, chain, repeat
from typing import Any, ClassVar

from pymar.datasource import DataSource
from pymar.sources.checks import check_settings
from pymar.sources.storage import Row, found, opened


class FileSource(DataSource):
    """The base of sources over files, local or in any store that fsspec knows; finds them once, at the producer.

    Class attributes:
        path: a path, a pattern (`logs/*.txt`, `**` for all folders below) or a list of those; a local path, or an
            address such as s3://bucket/key. Relative paths are made absolute at the producer.
        storage: options of the store (fsspec's `storage_options`), such as {"anon": True}. They travel with the job:
            put secrets into the environment of the workers instead.
        with_path: True for records that are `(path, record)`: the file that each came from.
    """

    unit: ClassVar[str] = "bytes"
    path: Any = ""
    storage: ClassVar[dict[str, Any]] = {}
    with_path: ClassVar[bool] = False
    #: What `prepare` found: rows of storage.py, [path, bytes, version].
    files: ClassVar[list[Row]] = []

    @classmethod
    def prepare(cls) -> Mapping[str, Any]:
        check_settings(cls, flags=("with_path",))
        return {"files": found(cls.path, cls.storage)}

    @classmethod
    def full_length(cls) -> int:
        return sum(cls._extent(row) for row in cls.files)

    @classmethod
    def _extent(cls, row: Row) -> int:
        """Return how many units a file has."""
        return int(row[1])

    def _spans(self) -> Iterator[tuple[Row, int, int]]:
        """Yield the files of which this part has a piece; start and end of the piece, counted from the file's start."""
        start, end = self.offset, self.offset + self.limit
        ends = list(accumulate(map(self._extent, self.files)))
        for number in range(bisect_right(ends, start), len(ends)):
            base = ends[number - 1] if number else 0
            if base >= end:
                return
            if ends[number] > base:
                yield self.files[number], max(start - base, 0), min(end, ends[number]) - base

    def __iter__(self) -> Iterator[Any]:
        spans = list(self._spans())
        if len(spans) == 1:
            return self._of_span(spans[0])  # a chain around it would cost 7 ns a record
        return chain.from_iterable(map(self._of_span, spans))

    def _of_span(self, span: tuple[Row, int, int]) -> Iterator[Any]:
        records = self._records(*span)
        return zip(repeat(span[0][0]), records) if self.with_path else records

    def _records(self, row: Row, start: int, end: int) -> Iterator[Any]:
        """Yield the records of a file that belong to a piece of it, its units `start` to `end`."""
        raise NotImplementedError

    def _open(self, row: Row) -> Any:
        return opened(row, self.storage)


class Files(FileSource):
    """Whole files: each record is `(path, bytes)`; without `with_path`, the bytes.

    Parts are cut by size, which balances small and large files. A file that changes while it is read is
    `SourceChanged`.
    """

    @classmethod
    def _extent(cls, row: Row) -> int:
        return int(row[1]) + 1  # an empty file is a record too

    with_path: ClassVar[bool] = True

    def _records(self, row: Row, start: int, end: int) -> Iterator[Any]:
        if start == 0:
            with self._open(row) as file:
                data = file.read()
            yield data
