"""JSON Lines: one JSON value on each line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pymar.exceptions import SourceError
from pymar.serialization.redaction import redacted
from pymar.sources.storage import Row
from pymar.sources.text import LineFiles

#: Characters of a bad line that its error shows.
_SHOWN = 200
#: Lines that are how a value over several lines begins.
_OPEN = ("[", "{", b"[", b"{")


class JSONLines(LineFiles):
    """The values of JSON Lines files (https://jsonlines.org), one a line; empty lines are skipped.

    Cut like TextLines, with the same class attributes.

    Raises:
        SourceError: a line is not JSON; with the file, the byte and the line, cut to 200 characters.
    """

    def _records(self, row: Row, start: int, end: int) -> Iterator[Any]:
        loads = json.loads
        for at, lines in self._batches(row, start, end):
            for number, line in enumerate(lines):
                try:
                    yield loads(line)
                except ValueError as error:
                    if line.strip():
                        where = f"{redacted(row[0])}, byte {self._byte_of(row, at, number)}"
                        hint = (
                            ". If a file is one value, read it with pymar.sources.Files"
                            if line.strip() in _OPEN
                            else ""
                        )
                        raise SourceError(
                            f"{where}: this line is not JSON ({error}): {line[:_SHOWN]!r}{hint}"
                        ) from None
