"""Pacing: from the measured durations of parts, the size of batches, and when a slow part gets a backup task."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Protocol

from pymar.parts import BATCH_SECONDS

#: The next batch has at most this many times the parts of a measured one: first measurements are unreliable.
GROWTH = 8
#: A batch never has more parts.
LARGEST_BATCH = 1_000
#: A part is slow once it has run this many times the median, and at least this many seconds: below that, computing it
#: again gains nothing.
SLOW, SLOW_SECONDS = 3.0, 0.25
#: Durations that the median is taken over.
_SAMPLE = 101


class Pacing:
    """The measured durations of parts, and what follows from them. Thread of the job only."""

    def __init__(self, batch_seconds: float = BATCH_SECONDS) -> None:
        self._batch_seconds = batch_seconds
        self._seconds: deque[float] = deque(maxlen=_SAMPLE)
        self._size = 1
        #: Note the duration of a part, in seconds.
        self.part_took: Callable[[float], None] = self._seconds.append

    def batch_took(self, parts: int, seconds: float) -> None:
        """Note the seconds that all parts of a batch took together."""
        wanted = self._batch_seconds * parts / max(seconds, 1e-9)
        largest = max(self._size, parts * GROWTH)
        self._size = max(1, int(min(wanted, largest, LARGEST_BATCH)))

    def restart(self) -> None:
        """Begin with batches of one part again: the next parts take longer than the last ones."""
        self._size = 1

    def batch_size(self, remaining: int | None, slots: int) -> int:
        """Return the parts of the next batch; if few remain (None: unknown), few, so that each slot gets some."""
        if remaining is None:
            return self._size
        return max(1, min(self._size, remaining // (2 * max(1, slots))))

    def slow(self) -> float | None:
        """Return the seconds after which a part is slow; None before any was measured."""
        if not self._seconds:
            return None
        return max(SLOW * sorted(self._seconds)[len(self._seconds) // 2], SLOW_SECONDS)


class HandedOut(Protocol):
    """A batch that was sent to the engine."""

    began: float
    has_begun: bool
    """True once its worker has reported that it began; until then it may have waited for a slot."""


class Backups:
    """Which parts get a backup task: a slow part is computed by a second worker, and the first result counts.

    At most `share` of a job's parts, but at least one (none if it is 0), each once. Thread of the job only.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._backed_up: set[int] = set()
        #: Those that two workers may be computing.
        self._twice: set[int] = set()
        #: Since when all parts that were sent have had a slot; None if some have to wait for one.
        self._all_run_since: float | None = None

    def due(
        self, out: Mapping[int, HandedOut], done: int, slots: int, limit: float | None, now: float
    ) -> Iterator[int]:
        """Yield the parts to be sent once more now: those that have run for more than `limit` seconds (None: unknown).

        Args:
            out: the parts that were sent and are not finished.
            done: how many are finished.
            slots: how many can be computed at once.
        """
        if len(out) > slots:
            self._all_run_since = None
        elif self._all_run_since is None:
            self._all_run_since = now
        if limit is None or len(out) >= slots:
            return
        allowed = max(self._share * (done + len(out)), self._share > 0)
        for index, batch in list(out.items()):
            if len(self._backed_up) >= allowed or len(self._backed_up) + len(out) > slots * 2:
                return
            began = batch.began if batch.has_begun else max(batch.began, self._all_run_since or now)
            if now - began > limit and index not in self._backed_up:
                self._backed_up.add(index)
                self._twice.add(index)
                yield index

    def superfluous(self, out: Container[int]) -> list[int]:
        """Return the finished parts that two workers computed: one of them still does. Each is returned once."""
        finished = [index for index in self._twice if index not in out]
        self._twice.difference_update(finished)
        return finished
