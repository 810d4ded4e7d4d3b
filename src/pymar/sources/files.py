"""A source over files: their bytes, one file behind the other, are its number line."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any, ClassVar

from pymar.datasource import DataSource
from pymar.sources.storage import Row, found, opened


class FileSource(DataSource):
    """Files, local or of any store that fsspec knows.

    Class attributes:
        path: a path, a pattern (`logs/*.txt`, `**` for all folders below) or a list of those; a local path, or an
            address such as s3://bucket/key. Relative paths are made absolute at the producer.
        storage: options of the store (fsspec's `storage_options`), such as {"anon": True}. They travel with the job:
            give secrets to the workers' environment instead.
    """

    unit: ClassVar[str] = "bytes"
    path: Any = ""
    storage: ClassVar[dict[str, Any]] = {}
    #: Rows of `stored.py`: what `prepare` found.
    files: ClassVar[list[Row]] = []

    @classmethod
    def prepare(cls) -> Mapping[str, Any]:
        return {"files": found(cls.path, cls.storage)}

    @classmethod
    def full_length(cls) -> int:
        return sum(cls._extent(row) for row in cls.files)

    @classmethod
    def _extent(cls, row: Row) -> int:
        """How much of the number line a file takes."""
        return int(row[1])

    def _spans(self) -> Iterator[tuple[Row, int, int]]:
        """The files that this part touches, and from where to where, counted from the file's own start."""
        start, end = self.offset, self.offset + self.limit
        ends = list(accumulate(map(self._extent, self.files)))
        for number in range(bisect_right(ends, start), len(ends)):
            base = ends[number - 1] if number else 0
            if base >= end:
                return
            if ends[number] > base:
                yield self.files[number], max(start - base, 0), min(end, ends[number]) - base

    def _begun(self) -> Iterator[Row]:
        """The files that begin in this part."""
        return (row for row, start, end in self._spans() if start == 0 < end)

    def _open(self, row: Row) -> Any:
        return opened(row, self.storage)


class Files(FileSource):
    """`(path, bytes)` of each file. Parts are cut by size, so that many small files and a few large ones balance.

    A file that changes while it is read is `SourceChanged`.
    """

    @classmethod
    def _extent(cls, row: Row) -> int:
        return int(row[1]) + 1  # an empty file is a record too

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        for row in self._begun():
            with self._open(row) as file:
                data = file.read()
            yield row[0], data
