"""Temporary files for buckets that memory may not hold: numbered pairs out, and rows of results back in order."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

from pymar.keyed.columns import Codec
from pymar.keyed.exchange import temporary, translated
from pymar.keyed.reduction import Chunk, chunk_bytes, chunks_in

#: Bytes that a file collects before it writes them, and pairs of a chunk.
_WRITE = 1 << 18
_PAIRS = 4_096


class Spill:
    """A temporary folder of this process with files that have no names any more: nothing stays if it is killed."""

    def __init__(self, codec: Codec) -> None:
        self.codec: Codec = codec
        self.folder: str = temporary()
        self._files: list[SpillFile] = []

    def __enter__(self) -> Spill:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files:
            file.close()

    def new(self) -> SpillFile:
        """Return a new file."""
        file = SpillFile(self)
        self._files.append(file)
        return file


class SpillFile:
    """Numbered pairs, or rows (number, key, value): written, then read from the beginning. One thread at a time."""

    def __init__(self, spill: Spill) -> None:
        self._spill = spill
        self._file: Any = None
        self._lengths: list[int] = []
        self._pending: list[bytes] = []
        self._pending_size = 0
        self.size: int = 0

    def write(
        self, is_raw: bool, numbers: Sequence[int], keys: Sequence[Any], columns: Sequence[Sequence[Any]]
    ) -> None:
        """Write pairs with their numbers."""
        data = chunk_bytes(is_raw, keys, [list(numbers), *columns], self._spill.codec)
        self._lengths.append(len(data))
        self.size += len(data)
        self._pending.append(data)
        self._pending_size += len(data)
        if self._pending_size >= _WRITE:
            self._flush()

    def write_rows(self, numbers: Sequence[int], keys: Sequence[Any], values: Sequence[Any]) -> None:
        """Write rows: numbers, keys and values."""
        for start in range(0, len(keys), _PAIRS):
            end = start + _PAIRS
            self.write(False, numbers[start:end], keys[start:end], [values[start:end]])

    def _flush(self) -> None:
        with translated(self._spill.folder, "TMPDIR"):
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._spill.folder, prefix="pymar-", buffering=0)  # noqa: SIM115
            data = memoryview(b"".join(self._pending))
            while data:
                data = data[self._file.write(data) :]
        self._pending, self._pending_size = [], 0

    def chunks(self) -> Iterator[tuple[Sequence[int], Chunk]]:
        """Yield numbers and pairs as they were written; several may read at once."""
        self._flush()
        at = 0
        for length in self._lengths:
            for chunk in chunks_in(os.pread(self._file.fileno(), length, at), self._spill.codec):
                numbers, *columns = chunk.columns
                yield numbers, Chunk(chunk.is_raw, chunk.keys, columns)
            at += length

    def rows(self) -> Iterator[tuple[int, Any, Any]]:
        """Yield rows as they were written."""
        for numbers, chunk in self.chunks():
            yield from zip(numbers, chunk.keys, chunk.columns[0], strict=True)

    def close(self) -> None:
        """Close the file, which removes it."""
        if self._file is not None:
            self._file.close()
            self._file = None
