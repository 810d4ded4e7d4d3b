"""Pace: how long parts take, and what follows from it for the size of batches and for what is called slow."""

from __future__ import annotations

from collections import deque

#: Seconds of work that a batch is sized for, within a host: enough to hide the 0.1 ms that a batch costs, short enough
#: to balance.
BATCH_SECONDS = 0.002
#: A batch has at most so many times the parts of one that was measured, since the first measurements say little.
GROWTH = 8
#: A batch never has more parts.
LARGEST_BATCH = 1_000
#: A part is slow once it has run this many times the median, and so long (seconds): a copy of less gains nothing.
SLOW, SLOW_SECONDS = 3.0, 0.25
#: Durations that the median is taken over.
_SAMPLE = 101


class Pace:
    """What was measured so far."""

    def __init__(self, batch_seconds: float = BATCH_SECONDS) -> None:
        self._batch_seconds = batch_seconds
        self._seconds: deque[float] = deque(maxlen=_SAMPLE)
        self._size = 1
        #: Note how long a part took, in seconds.
        self.part_took = self._seconds.append

    def batch_took(self, parts: int, seconds: float) -> None:
        """Note how long all parts of a batch took together."""
        wanted = self._batch_seconds * parts / max(seconds, 1e-9)
        largest = max(self._size, parts * GROWTH)
        self._size = max(1, int(min(wanted, largest, LARGEST_BATCH)))

    def restart(self) -> None:
        """Begin with batches of one part again: the next parts are not like the last ones."""
        self._size = 1

    def batch_size(self, remaining: int | None, slots: int) -> int:
        """Parts for the next batch; of the last ones (None: nobody knows how many remain) each slot gets a few."""
        if remaining is None:
            return self._size
        return max(1, min(self._size, remaining // (2 * max(1, slots))))

    def slow(self) -> float | None:
        """Seconds from which on a part is slow; None while nothing is known."""
        if not self._seconds:
            return None
        return max(SLOW * sorted(self._seconds)[len(self._seconds) // 2], SLOW_SECONDS)
