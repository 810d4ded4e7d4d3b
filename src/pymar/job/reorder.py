"""The reorder buffer: encoded partials wait for those before them, small ones in memory, large ones in a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import IO

#: Bytes from which on an encoded partial waits in the temporary file.
LARGE = 4 << 20


class ReorderBuffer:
    """The partials that wait for those before them, and the temporary file of the large ones.

    It yields each once, in part order, whatever the order in which they arrived; None in place of the partial of a part
    that has failed. Thread of the job only.
    """

    def __init__(self) -> None:
        self._turn = 0
        #: The part from which on nothing is kept; None if everything is.
        self._end: int | None = None
        self._small: dict[int, bytes | None] = {}
        self._large: dict[int, tuple[int, int]] = {}
        self._file: IO[bytes] | None = None

    def add(self, partials: Iterable[tuple[int, bytes | None]]) -> None:
        """Add partials, each with the number of its part. One that comes in place of a None counts, until its turn."""
        for index, value in partials:
            if index < self._turn or (self._end is not None and index >= self._end):
                continue
            if value is not None and len(value) >= LARGE and index != self._turn:
                self._small.pop(index, None)
                self._large[index] = self._spill(value)
            else:
                self._small[index] = value

    def end_at(self, index: int) -> None:
        """Drop the partials from this part on: those that wait, and those that come."""
        if self._end is None or index < self._end:
            self._end = index
            for waiting in (self._small, self._large):
                for other in [one for one in waiting if one >= index]:
                    del waiting[other]

    def next(self) -> Iterator[tuple[int, bytes | None]]:
        """Yield the partials whose turn it is, with their numbers."""
        small, large = self._small, self._large
        while True:
            turn = self._turn
            value: bytes | None
            if turn in small:
                value = small.pop(turn)
            elif turn in large:
                value = self._fetch(*large.pop(turn))
            else:
                return
            self._turn += 1
            yield turn, value

    def _spill(self, value: bytes) -> tuple[int, int]:
        from tempfile import TemporaryFile, gettempdir

        try:
            if self._file is None:
                self._file = TemporaryFile(prefix="pymar-")  # noqa: SIM115 - until close()
            start = self._file.seek(0, 2)
            self._file.write(value)
            self._file.flush()  # here, where an error is translated
        except OSError as error:
            text = (
                f"{error.strerror}: a partial of {len(value):,} bytes that waits for its turn cannot be kept there; "
                "set the environment variable TMPDIR to a folder with more room, or return smaller partials"
            )
            raise OSError(error.errno, text, gettempdir()) from error
        return start, len(value)

    def _fetch(self, start: int, size: int) -> bytes:
        assert self._file is not None
        self._file.seek(start)
        value = self._file.read(size)
        if not self._large:
            self._file.seek(0)
            self._file.truncate()
        return value

    def close(self) -> None:
        """Drop what is left; close the file."""
        self._small.clear()
        self._large.clear()
        if self._file is not None:
            self._file.close()
