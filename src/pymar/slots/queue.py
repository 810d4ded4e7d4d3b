"""What engines and the pool share: a job's work, the pool's record of the job, and the queue of its reports."""

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


class LineListener(Protocol):
    """Takes what the parts of one job print. Called in the pool's thread."""

    def printed(self, worker: str, index: int, line: str, lines: int = 1) -> None:
        """Take a line of a worker process.

        Args:
            worker: its slot, with its host.
            index: the part; -1 if it is unknown.
            lines: how many lines it stands for: it may be the note about those that were too many.
        """

    def ended(self, worker: str) -> None:
        """A worker process has ended while it computed parts of the job: its last lines may say why."""


class Work(NamedTuple):
    """What the pool and its worker processes need to compute a job's parts. Immutable."""

    definition: Any
    """What a worker process makes a Task of (childjobs.py); of a type that `marshal` can write."""
    part_timeout: float | None = None
    memory_limit: int | None = None
    batch_seconds: float = BATCH_SECONDS
    encode: Callable[[Any, str], bytes] = dumps
    """Encodes the records of parts that are not encoded yet."""
    refusals_fail: bool = False
    """True if a part fails that even a new process refuses: all processes load the same code."""
    code: tuple[Any, ...] = ()
    """The modules that travelled with the job (travelled.Code); () if none did. A process computes jobs of one code."""
    lines: LineListener | None = None
    """Takes what its parts print, in place of the stderr of this process: the job comes from another one."""


def work_by_value(spec: JobSpec) -> Work:
    """Return the work of a job whose classes travel by value.

    Raises:
        NotPicklable: its classes or settings cannot be pickled.
    """
    job = pack(spec)
    return Work(job.definition, spec.part_timeout, spec.memory_limit, encode=job.dumps, refusals_fail=True)


class ReportListener(Protocol):
    """Takes the reports of one job. Called in the pool's thread."""

    def put(self, news: list[Report] | BaseException) -> None:
        """Take reports, or the error that ended the pool."""

    def put_without_waking(self, report: Report) -> None:
        """Take a report for which the waiting thread need not wake."""


class Reports:
    """The queue of one job's reports: the pool's thread puts, the producer's thread takes."""

    def __init__(self, *first: Report) -> None:
        self._queue: SimpleQueue[list[Report] | BaseException] = SimpleQueue()
        self._without_waking: deque[Report] = deque(first)

    def put(self, news: list[Report] | BaseException) -> None:
        """Add reports, or the error that ended the thread which reports."""
        self._queue.put(news)

    def put_without_waking(self, report: Report) -> None:
        """Add a report for which the waiting thread need not wake."""
        self._without_waking.append(report)

    def next(self, timeout: float) -> list[Report]:
        """Return the reports since the last call; [] once `timeout` seconds have passed.

        Raises:
            PymarError: an error was put: that error, or one that has it as its cause.
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
    """Yield what is in a queue; if it is empty, wait `timeout` seconds for the first item."""
    try:
        yield queue.get(timeout=timeout) if timeout > 0 else queue.get_nowait()
        while True:
            yield queue.get_nowait()
    except Empty:
        return


class PoolJob:
    """The pool's record of a job: its waiting batches, how many slots compute it, what it may still print.

    The pool alone changes it; slots read its key and its work. Pool thread only.
    """

    def __init__(self, key: int, work: Work, slots: int, reports: ReportListener) -> None:
        self.key = key
        self.work = work
        #: How many slots may compute it at a time, and how many do.
        self.slots = slots
        self.busy = 0
        self.reports = reports
        self.waiting: deque[Sequence[Part]] = deque()
        #: Batches that its engine has sent.
        self.enqueued = 0
        #: Episodes (see Starts) of all processes and of those that load its code, when a part was last lost to them.
        self.charged: tuple[int, int] = (0, 0)
        self.prints: Quota = Quota(OF_A_JOB)

    def indices_waiting(self) -> list[int]:
        """Return the numbers of the parts that wait for a slot."""
        return [part.index for parts in self.waiting for part in parts]
