"""Whole files, one a record: for everything that cannot be cut."""

from __future__ import annotations

from collections.abc import Iterator

from pymar.sources.filesource import FileSource
from pymar.sources.stored import Row


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
