"""SlotRun: one job on a pool of child processes, as whoever drives the job sees it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from pymar.exceptions import PymarError
from pymar.parts import JobSpec, Joined, Part, Report
from pymar.values import dumps

if TYPE_CHECKING:
    from pymar.slots import SlotPool


class SlotRun:
    """The `Run` of engines whose parts are computed in children of this process."""

    def __init__(self, pool: SlotPool, key: int, spec: JobSpec, slots: int) -> None:
        self._pool = pool
        self.key = key
        self.spec = spec
        self.slots = slots
        self.definition = dumps(spec, f"the job {spec.producer.__name__} (its classes and settings)")
        #: Lists of reports from the pool's thread, or the error that ended it.
        self.reports: SimpleQueue[list[Report] | BaseException] = SimpleQueue()
        #: Reports that nobody has to be woken for.
        self.whispers: deque[Report] = deque([Joined("this host", slots)])
        self._submitted = 0
        # Of the pool's thread from here on.
        self.enqueued = 0
        self.waiting: deque[Sequence[Part]] = deque()
        self.busy = 0

    def submit(self, parts: Sequence[Part], /) -> None:
        """Hand out a batch; one child computes it, in order."""
        self._submitted += 1
        self._pool.loop.tell(self._pool.enqueue, self, parts)

    def next(self, timeout: float, /) -> list[Report]:
        """What has happened; [] once `timeout` seconds have passed."""
        found: list[Report] = []
        try:
            news = self.reports.get(timeout=timeout)
            while True:
                if isinstance(news, BaseException):
                    raise PymarError(f"the pool of child processes has failed: {news!r}") from news
                found += news
                news = self.reports.get_nowait()
        except Empty:
            while self.whispers:
                found.append(self.whispers.popleft())
            if not found and not self._pool.loop.is_running():
                raise PymarError("the pool of child processes has ended while a job was running") from None
            return found

    def cancel(self, index: int, /) -> None:
        """Stop computing a part: its child is ended if it computes nothing else."""
        self._pool.loop.tell(self._pool.cancel, self, index)

    def close(self) -> None:
        """Stop everything of this run."""
        loop = self._pool.loop
        over = self.enqueued == self._submitted and not self.waiting and not self.busy
        do = loop.leave if over else loop.tell  # to forget a run that is complete, nobody need be woken
        do(self._pool.remove, self)
