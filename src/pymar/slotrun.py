"""SlotRun: one job on a pool of child processes, as whoever drives the job sees it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pymar.exceptions import PymarError
from pymar.pace import BATCH_SECONDS
from pymar.package import pack
from pymar.parts import JobSpec, Part, Report
from pymar.prints import OF_A_JOB, Quota
from pymar.reports import Reports
from pymar.starts import Starts
from pymar.values import dumps

if TYPE_CHECKING:
    from pymar.slots import SlotPool


class Work(NamedTuple):
    """What the pool and its children are told of a job."""

    definition: Any
    """What a child makes a Task of (slot.py): of a type that frames hold."""
    part_timeout: float | None = None
    memory_limit: int | None = None
    batch_seconds: float = BATCH_SECONDS
    encode: Callable[[Any, str], bytes] = dumps
    """How data of its parts are encoded, where that is to be done."""
    refusals_fail: bool = False
    """True if a part fails that even a fresh child refuses: all of them are alike."""


def work_by_value(spec: JobSpec) -> Work:
    """A job whose classes go to the children pickled."""
    job = pack(spec)
    return Work(job.definition, spec.part_timeout, spec.memory_limit, encode=job.dumps, refusals_fail=True)


class Listening(Protocol):
    """Who hears what the pool has to say of a run, in the pool's thread."""

    def put(self, news: list[Report] | BaseException) -> None:
        """Reports; or the error that ended the pool."""

    def whisper(self, report: Report) -> None:
        """A report that nobody has to be woken for."""


class SlotRun:
    """The `Run` of engines whose parts are computed in children of this process."""

    def __init__(self, pool: SlotPool, key: int, work: Work, slots: int, reports: Listening) -> None:
        self._pool = pool
        self.key = key
        self.work = work
        self.slots = slots
        self.reports = reports
        self._submitted = 0
        # Of the pool's thread from here on.
        self.enqueued = 0
        self.waiting: deque[Sequence[Part]] = deque()
        self.busy = 0
        #: Of children that load its code.
        self.starts = Starts()
        #: How often hope was lost, of all children and of these, when one of its parts was charged with that.
        self.charged = (0, 0)
        #: Whether the job is somebody else's: what it prints is not to move our cursor.
        self.is_others = False
        #: What user code may still print.
        self.prints = Quota(OF_A_JOB)

    def submit(self, parts: Sequence[Part], /) -> None:
        """Hand out a batch; one child computes it, in order."""
        self._submitted += 1
        self._pool.loop.tell(self._pool.enqueue, self, parts)

    def next(self, timeout: float, /) -> list[Report]:
        """What has happened; [] once `timeout` seconds have passed."""
        assert isinstance(self.reports, Reports)
        found = self.reports.next(timeout)
        if not found and not self._pool.loop.is_running():
            raise PymarError("the pool of child processes has ended while a job was running")
        return found

    def cancel(self, index: int, /) -> None:
        """Stop computing a part: its child is ended if it computes nothing else."""
        self._pool.loop.tell(self._pool.cancel, self, index)

    def recall(self, silent: float) -> None:
        """Have the parts handed back that no child has begun, of children that have said nothing for so many seconds.

        A child that starts, or loads the job's modules, has nothing to say yet.
        """
        self._pool.loop.tell(self._pool.recall, self, silent)

    def close(self) -> None:
        """Stop everything of this run."""
        loop = self._pool.loop
        over = self.enqueued == self._submitted and not self.waiting and not self.busy and not self.prints.dropped
        do = loop.leave if over else loop.tell  # to forget a run that is complete, nobody need be woken
        do(self._pool.remove, self)
