"""Pacing: how long parts take, and what follows from it for the size of batches and for what is called slow."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Protocol

from pymar.parts import BATCH_SECONDS

#: A batch has at most so many times the parts of one that was measured, since the first measurements say little.
GROWTH = 8
#: A batch never has more parts.
LARGEST_BATCH = 1_000
#: A part is slow once it has run this many times the median, and so long (seconds): a copy of less gains nothing.
SLOW, SLOW_SECONDS = 3.0, 0.25
#: Durations that the median is taken over.
_SAMPLE = 101


class Pacing:
    """What was measured so far."""

    def __init__(self, batch_seconds: float = BATCH_SECONDS) -> None:
        self._batch_seconds = batch_seconds
        self._seconds: deque[float] = deque(maxlen=_SAMPLE)
        self._size = 1
        #: Note how long a part took, in seconds.
        self.part_took: Callable[[float], None] = self._seconds.append

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


class HandedOut(Protocol):
    """Parts that were handed out together."""

    began: float
    has_begun: bool
    """Whether their worker has said that it began; until then they may have waited for a slot."""


class Backups:
    """`share` of a job's parts may be copied, and one in any case; none if it is 0. Each part once."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._copied: set[int] = set()
        #: Those that two workers compute, as far as is known.
        self._twice: set[int] = set()
        #: Since when all parts that are out have had a slot; None if some have to wait for one.
        self._all_run_since: float | None = None

    def due(
        self, out: Mapping[int, HandedOut], done: int, slots: int, limit: float | None, now: float
    ) -> Iterator[int]:
        """Parts to be copied now: those that have run for more than `limit` seconds (None: nobody knows what is slow).

        Args:
            out: the parts that are handed out and not finished.
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
            if len(self._copied) >= allowed or len(self._copied) + len(out) > slots * 2:
                return
            began = batch.began if batch.has_begun else max(batch.began, self._all_run_since or now)
            if now - began > limit and index not in self._copied:
                self._copied.add(index)
                self._twice.add(index)
                yield index

    def superfluous(self, out: Container[int]) -> list[int]:
        """Parts that are finished and were given to two workers: one of them still computes. Each is told once."""
        finished = [index for index in self._twice if index not in out]
        self._twice.difference_update(finished)
        return finished
