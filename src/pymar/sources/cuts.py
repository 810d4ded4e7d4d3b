"""Where a file may be cut: after a delimiter, by one rule for both parts that meet there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from pymar.exceptions import SourceError
from pymar.serialization.redaction import redacted

#: Bytes that are read at a time: they and the lines made of them fit into the cache of a core.
CHUNK = 1 << 17


class Cut:
    """The rule where records begin in a file: at its start, and after each delimiter.

    `advice` is what the error about a record that is too long says: "If <advice>".
    """

    def __init__(
        self, delimiter: bytes, max_record: int, advice: str = "records do not end in a line end, set delimiter="
    ) -> None:
        self.delimiter = delimiter
        self.max_record = max_record
        self.advice = advice
        width = len(delimiter)
        #: True if two delimiters can overlap, as in three line ends with the delimiter "\n\n": the left one counts.
        self._overlaps = any(delimiter[:size] == delimiter[-size:] for size in range(1, width))

    def boundary(self, file: BinaryIO, position: int, path: str, size: int | None = None) -> int:
        """Return the first byte at or after `position` at which a record begins, or the file's end.

        Both parts that meet at `position` call this, so that each byte is in one of them.
        """
        if position == 0 or position == size:
            return position
        width = len(self.delimiter)
        start = max(0, position - width)
        if self._overlaps:
            start = self._unambiguous(file, start)
        file.seek(start)
        at, rest = start, b""
        while piece := file.read(CHUNK):
            rest += piece
            begin = 0
            while (found := rest.find(self.delimiter, begin)) >= 0:
                begin = found + width
                if at + begin >= position:
                    return at + begin
            keep = max(begin, len(rest) - width + 1)
            at, rest = at + keep, rest[keep:]
            if at - position > self.max_record:
                raise self.too_long(path, position)
        return at + len(rest)

    def _unambiguous(self, file: BinaryIO, start: int) -> int:
        """Return the last byte at or before `start` that is not within a delimiter, so that reading may begin there."""
        width = len(self.delimiter)
        while start > 0:
            low = max(0, start - width + 1)
            file.seek(low)
            window = file.read(start - low + width - 1)
            found = window.find(self.delimiter)
            if found < 0 or low + found >= start:
                return start
            start = low + found
        return start

    def pieces(self, file: BinaryIO, start: int, end: int | None, path: str) -> Iterator[tuple[int, bytes]]:
        """Yield whole records from `start` to `end` (None: all), about CHUNK bytes at a time: (first byte, records)."""
        if end is not None:
            file.seek(start)
        at, rest = start, b""
        while end is None or at + len(rest) < end:
            size = CHUNK if end is None else min(CHUNK, end - at - len(rest))
            piece = file.read(size)
            if not piece:
                break
            whole = self._whole(piece) if not rest or len(self.delimiter) == 1 else 0
            if whole:
                yield at, rest + piece[:whole] if rest else piece[:whole]
                at, rest = at + len(rest) + whole, piece[whole:]
            elif whole := self._whole(rest := rest + piece):
                yield at, rest[:whole]
                at, rest = at + whole, rest[whole:]
            if len(rest) > self.max_record:
                raise self.too_long(path, at)
        if rest:
            yield at, rest

    def _whole(self, data: bytes) -> int:
        """Return the number of bytes up to the end of the last complete record."""
        if self._overlaps:
            return len(data) - len(data.split(self.delimiter)[-1])
        found = data.rfind(self.delimiter)
        return found + len(self.delimiter) if found >= 0 else 0

    def too_long(self, path: str, position: int) -> SourceError:
        """Return the error about a record that is longer than `max_record`."""
        return SourceError(
            f"{redacted(path)}: the record at byte {position} is longer than max_record, {self.max_record:,} bytes. "
            f"If {self.advice}; if a file is one value (JSON, say), read it with pymar.sources.Files"
        )
