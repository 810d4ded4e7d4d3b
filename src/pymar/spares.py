"""Spares: parts of slow workers, of which an idle slot may compute a copy; the first result wins."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Protocol


class HandedOut(Protocol):
    """Parts that were handed out together."""

    began: float
    has_begun: bool
    """Whether their worker has said that it began; until then they may have waited for a slot."""


class Spares:
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
