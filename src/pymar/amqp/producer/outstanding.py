"""Outstanding: the parts of a job that were handed out and are not finished, as they were sent. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from pymar.amqp import protocol
from pymar.amqp.chunks import digest_of
from pymar.exceptions import UsageError
from pymar.parts import Failed, Failure, Part
from pymar.serialization.records import check_size

#: A part as it is sent: see protocol.Parts.
Row = list[Any]


class Batch(NamedTuple):
    """The parts of one message, and the data that is too large for it, by part: agents fetch that."""

    rows: list[Row]
    large: dict[int, bytes]


def packed(parts: Sequence[Part], encode: Callable[[Any, str], bytes]) -> tuple[list[Batch], list[Failed]]:
    """Return parts in batches, one for each message; and reports of parts whose data cannot be sent."""
    batches, failed = [Batch([], {})], []
    together = 0
    for part in parts:
        data = None
        if part.data is not None:
            try:
                data = encode(part.data, what := f"the data of part {part.index}")
                check_size(data, what)
            except UsageError as error:
                failed.append(Failed(part.index, "the producer", Failure(f"{type(error).__name__}: {error}")))
                continue
        if data is not None and len(data) > protocol.INLINE:
            batches[-1].large[part.index] = data
            batches[-1].rows.append([*part[:4], [len(data), digest_of(data)]])
            continue
        together += len(data or b"")
        if together > protocol.INLINE:
            batches.append(Batch([], {}))
            together = len(data or b"")
        batches[-1].rows.append([*part[:4], data])
    return [batch for batch in batches if batch.rows], failed


class Outstanding:
    """The outstanding parts of one job, by index, and their large data. It owns these. One thread only."""

    def __init__(self) -> None:
        #: The row that was sent, and the serial of its message.
        self._out: dict[int, tuple[Row, int]] = {}
        self._large: dict[int, bytes] = {}

    def __contains__(self, index: object) -> bool:
        return index in self._out

    def __iter__(self) -> Iterator[int]:
        return iter(self._out)

    def __len__(self) -> int:
        return len(self._out)

    def keep(self, large: dict[int, bytes]) -> None:
        """Keep data of parts that agents will fetch."""
        self._large.update(large)

    def sent(self, rows: Iterable[Row], serial: int) -> None:
        """Keep parts that are published now."""
        for row in rows:
            self._out[row[0]] = row, serial

    def as_sent(self, indices: Iterable[int]) -> list[list[Row]]:
        """Return the outstanding ones of these parts, a list for each message that they were sent in."""
        together: dict[int, list[Row]] = {}
        for index in indices:
            if index in self._out:
                row, serial = self._out[index]
                together.setdefault(serial, []).append(row)
        return list(together.values())

    def before(self, serial: int) -> list[int]:
        """Return the parts that were published before the message with this serial."""
        return [index for index, (_, sent) in self._out.items() if sent < serial]

    def piece(self, index: int, start: int) -> bytes | None:
        """Return bytes of a part's data from `start`, b"" where it has none; None if there is no such data."""
        data = self._large.get(index)
        return None if data is None else data[start : start + protocol.CHUNK] if start >= 0 else b""

    def forget(self, index: int) -> None:
        """Drop a part that is finished."""
        self._out.pop(index, None)
        self._large.pop(index, None)

    def clear(self) -> None:
        """Drop all parts."""
        self._out.clear()
        self._large.clear()
