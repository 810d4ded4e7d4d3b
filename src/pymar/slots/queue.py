"""What the pool is given for a job, the pool's record of it, and the queue of the reports on their way back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, Protocol, TypeVar

from pymar.exceptions import PymarError
from pymar.parts import BATCH_SECONDS, JobSpec, Part, Report
from pymar.serialization.package import pack
from pymar.serialization.values import dumps
from pymar.slots.quota import OF_A_JOB, Quota

Item = TypeVar("Item")


class Work(NamedTuple):
    """What a job is, for the pool and its processes."""

    definition: Any
    """What a process makes a Task of (childjobs.py); of a type that frames hold."""
    part_timeout: float | None = None
    memory_limit: int | None = None
    batch_seconds: float = BATCH_SECONDS
    encode: Callable[[Any, str], bytes] = dumps
    """Encodes the data of parts that come unencoded."""
    refusals_fail: bool = False
    """True if a part that even a fresh process refuses has failed: all processes are alike."""
    is_remote: bool = False
    """True if the job comes from another process: what it prints must not move the cursor of our terminal."""


def work_by_value(spec: JobSpec) -> Work:
    """Return the work of a job whose classes are pickled."""
    job = pack(spec)
    return Work(job.definition, spec.part_timeout, spec.memory_limit, encode=job.dumps, refusals_fail=True)


class ReportListener(Protocol):
    """Takes the reports of one job, in the pool's thread."""

    def put(self, news: list[Report] | BaseException) -> None:
        """Take reports; or the error that ended the pool."""

    def put_without_waking(self, report: Report) -> None:
        """Take a report that nobody has to be woken for."""


class Reports:
    """Reports of one job, from the thread that makes them to the one that waits. One thread puts, one takes."""

    def __init__(self, *first: Report) -> None:
        self._queue: SimpleQueue[list[Report] | BaseException] = SimpleQueue()
        self._without_waking: deque[Report] = deque(first)

    def put(self, news: list[Report] | BaseException) -> None:
        """Add reports; or the error that ended whoever would have reported."""
        self._queue.put(news)

    def put_without_waking(self, report: Report) -> None:
        """Add a report that nobody has to be woken for."""
        self._without_waking.append(report)

    def next(self, timeout: float) -> list[Report]:
        """Return what has come since the last call; [] once `timeout` seconds have passed.

        Raises:
            PymarError: an error was put: as it is, if it is one of ours.
        """
        found: list[Report] = []
        for news in drained(self._queue, timeout):
            if isinstance(news, PymarError):
                raise news
            if isinstance(news, BaseException):
                raise PymarError(f"the thread that carries parts has failed: {news!r}") from news
            found += news
        while self._without_waking:
            found.append(self._without_waking.popleft())
        return found


def drained(queue: SimpleQueue[Item], timeout: float) -> Iterator[Item]:
    """Yield what is in a queue; wait `timeout` seconds if there is nothing."""
    try:
        yield queue.get(timeout=timeout) if timeout > 0 else queue.get_nowait()
        while True:
            yield queue.get_nowait()
    except Empty:
        return


class PoolJob:
    """The pool's record of a job: its batches that wait, how many slots compute it, what it may still print.

    The pool alone changes it, in its thread; slots read its key and its work.
    """

    def __init__(self, key: int, work: Work, slots: int, reports: ReportListener) -> None:
        self.key = key
        self.work = work
        #: How many slots may compute it at a time, and how many do.
        self.slots = slots
        self.busy = 0
        self.reports = reports
        self.waiting: deque[Sequence[Part]] = deque()
        #: Batches that have come from its engine.
        self.enqueued = 0
        #: How often processes did not come up, of all and of those that load its code, when a part was charged with it.
        self.charged: tuple[int, int] = (0, 0)
        self.prints: Quota = Quota(OF_A_JOB)

    def indices_waiting(self) -> list[int]:
        """Return the parts that wait for a slot."""
        return [part.index for parts in self.waiting for part in parts]
