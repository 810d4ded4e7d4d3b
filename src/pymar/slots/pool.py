"""The pool: the jobs that this process computes in slots, driven by one thread.

    SlotRun.submit() -> the thread's inbox -> waiting batches of each job -> a slot (one process, one batch at a time)
    SlotRun.next()   <- reports of each job <------------------------------- frames from the process

Only the pool's thread touches slots, processes and waiting batches. Other threads of the process send it calls through
its inbox, and receive the reports of each job.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Sequence
from itertools import count, islice
from time import monotonic
from typing import Any

from pymar.exceptions import PymarError
from pymar.parts import Cause, Lost, Part, Refused, Report, Returned, Running
from pymar.serialization.records import encode, fields, is_raw
from pymar.slots.loop import Loop
from pymar.slots.output import write_line
from pymar.slots.queue import PoolJob, ReportListener, Reports, Work
from pymar.slots.slot import Slot
from pymar.slots.supervisor import LAST_GRACE, Health, Supervisor

log: logging.Logger = logging.getLogger(__name__)

#: A batch has overrun, and idle slots may take parts of it, after this many times the seconds that it was sized for.
OVERRUN = 2
#: Seconds that more idle processes than there are slots are kept, for jobs that alternate.
KEEP_OTHERS = 10.0


class SlotRun:
    """One job on a pool: the `Run` of engines whose parts are computed in slots of this process.

    `submit`, `next`, `cancel`, `recall` and `close` may be called from any thread, one at a time.
    """

    def __init__(self, pool: SlotPool, job: PoolJob) -> None:
        self._pool = pool
        self._job = job
        self._submitted = 0

    def submit(self, parts: Sequence[Part], /) -> None:
        """Send a batch to the pool; one slot computes it, in order."""
        self._submitted += 1
        self._pool.loop.call_soon(self._pool.enqueue, self._job, parts)

    def next(self, timeout: float, /) -> list[Report]:
        """Return what has happened; [] once `timeout` seconds have passed."""
        reports = self._job.reports
        assert isinstance(reports, Reports)
        found = reports.next(timeout)
        if not found and not self._pool.loop.is_running():
            raise PymarError("the pool of worker processes has ended while a job was running")
        return found

    def cancel(self, index: int, /) -> None:
        """Stop computing a part: end its process if that computes nothing else."""
        self._pool.loop.call_soon(self._pool.cancel, self._job, index)

    def recall(self, silent: float) -> None:
        """Have the pool return the parts that were not begun, of slots without a report for `silent` seconds.

        A process that is starting, or loading the job's modules, does not count as silent.
        """
        self._pool.loop.call_soon(self._pool.recall, self._job, silent)

    def close(self) -> None:
        """Stop everything of this job."""
        loop, job = self._pool.loop, self._job
        over = job.enqueued == self._submitted and not job.waiting and not job.busy and not job.prints.dropped
        do = loop.call_with_next if over else loop.call_soon  # a complete job can be removed at the next wake-up
        do(self._pool.remove, job)


class SlotPool:
    """The running jobs and, through its supervisor, the worker processes that compute them.

    Processes are started when there is work for them and kept for the next job.
    `warm`, `start` and `shutdown` may be called from any thread, everything else from the pool's only.

    Args:
        preload: path and code of a job file that each process loads before there is a job.
    """

    def __init__(self, preload: tuple[str, str] | None = None) -> None:
        self._jobs: dict[int, PoolJob] = {}
        self._keys = count(1)
        #: The most slots that a job has had; and True if processes beyond that are ended soon.
        self._most = 1
        self._will_end_idle = False
        self.loop: Loop = Loop("pymar-slots")
        self.supervisor: Supervisor = Supervisor(self.loop, self, preload)
        self.loop.start(
            timeout=self._timeout, after_round=self._round, failed=self._failed, ended=self.supervisor.end_all
        )
        atexit.register(self.shutdown)
        # A process that multiprocessing has started runs its finalizers at its end, and no exit handlers.
        util: Any = sys.modules.get("multiprocessing.util")
        self._finalizer = util and util.Finalize(None, self.shutdown, exitpriority=100)

    # Called from any thread.

    def warm(self, slots: int, processes: int) -> None:
        """Start this many processes, each with the share of the cores that `slots` leave it; do not wait for them."""
        if len(self.supervisor) < processes:
            self.loop.call_soon(self._begin, None, slots, processes)

    def start(self, work: Work, slots: int, processes: int, reports: ReportListener) -> SlotRun:
        """Begin a job on at most `slots` slots; start `processes` of them at once."""
        job = PoolJob(next(self._keys), work, slots, reports)
        self.loop.call_with_next(self._begin, job, slots, processes)
        return SlotRun(self, job)

    def shutdown(self) -> None:
        """End all processes and wait for their end."""
        atexit.unregister(self.shutdown)
        if self._finalizer is not None:
            self._finalizer.cancel()
        self.loop.stop(sum(LAST_GRACE) + 1)

    # Called in the pool's thread.

    def _round(self) -> None:
        now = monotonic()
        self._assign(now)
        self._share_overrun(now)
        self._encode_ahead()
        self.supervisor.look(now)

    def _failed(self, error: BaseException) -> None:
        for job in list(self._jobs.values()):
            job.reports.put(error)
        log.error("the pool's thread has failed", exc_info=error)

    def _timeout(self) -> float | None:
        if self.supervisor.idle():
            sharing = [
                slot.job.work.batch_seconds for slot in self.supervisor if slot.job is not None and slot.can_share()
            ]
            if sharing:
                return OVERRUN * min(sharing)
        return self.supervisor.next_look(monotonic())

    def _begin(self, job: PoolJob | None, slots: int, processes: int) -> None:
        self.supervisor.look_around(slots)
        if job is not None and not self.supervisor.living():
            self.supervisor.starts.again()  # what stopped earlier starts may be over
        self.supervisor.open(processes)
        if job is not None:
            self._jobs[job.key] = job
            self._most = max(self._most, job.slots)

    def enqueue(self, job: PoolJob, parts: Sequence[Part]) -> None:
        """Add a batch to those that wait for a slot."""
        job.waiting.append(parts)
        job.enqueued += 1

    def cancel(self, job: PoolJob, index: int) -> None:
        """Stop computing a part: end its process if that computes nothing else."""
        job.waiting = deque(batch for parts in job.waiting if (batch := [p for p in parts if p.index != index]))
        for slot in self.supervisor:
            if slot.job is job and list(slot.unreported) == [index]:
                slot.give_up()

    def recall(self, job: PoolJob, silent: float) -> None:
        """Return the parts that were not begun, of slots without a report for `silent` seconds."""
        rest: list[Part] = []
        now = monotonic()
        for slot in self.supervisor:
            if slot.job is job and len(slot.unreported) > 1 and now - slot.since >= silent:
                behind = list(slot.unreported.values())[1:]
                slot.drop(behind)
                rest += behind
        if rest:
            job.reports.put([Returned(part.index, alone=False) for part in rest])

    def hand_back_waiting(self) -> None:
        """Return all waiting parts to their jobs: there are fewer slots than there should be."""
        for job in self._jobs.values():
            indices = job.indices_waiting()
            job.waiting.clear()
            if indices:
                job.reports.put([Returned(index, alone=False) for index in indices])

    def remove(self, job: PoolJob) -> None:
        """Stop everything of a job and remove it."""
        self._jobs.pop(job.key, None)
        job.waiting.clear()
        if dropped := job.prints.summary():
            write_line(f"[all parts] {dropped}")
        self.supervisor.forget(job)

    def _end_idle(self) -> None:
        """End processes that were kept for jobs with other code, if these have not come for a while."""
        self._will_end_idle = False
        self.supervisor.end_idle(self.supervisor.living() - self._most, monotonic() - KEEP_OTHERS)
        self._end_idle_later()

    def _end_idle_later(self) -> None:
        if self.supervisor.living() > self._most and not self._will_end_idle:
            self._will_end_idle = True
            self.loop.call_later(KEEP_OTHERS, self._end_idle)

    def health(self) -> Health:
        """Return how the starts of processes go."""
        return self.supervisor.health()

    def open(self, processes: int) -> None:
        """Start processes until there are this many, as far as their starts succeed."""
        self.supervisor.open(processes)

    def renew(self, preload: tuple[str, str] | None = None) -> None:
        """Compute parts with new processes from now on; end each old one once its batch is computed.

        Args:
            preload: path and code of the job file that the new ones load, if it is another.
        """
        self.supervisor.renew(preload)

    # Called by the supervisor (SlotListener).

    def reported(self, job: PoolJob, reports: list[Report]) -> None:
        job.reports.put(reports)

    def freed(self, job: PoolJob) -> None:
        job.busy -= 1

    def not_begun(self, job: PoolJob, parts: Sequence[Part]) -> None:
        job.waiting.appendleft(parts)

    def printed(self, slot: Slot, index: int, line: str, lines: int = 1) -> None:
        """Write a line to stderr with its part, or its process, in front of it; or pass it to the job's listener."""
        job = slot.job
        if job is not None and job.work.lines is not None:
            job.work.lines.printed(slot.process.worker, index, line, lines)
        elif job is None or job.prints.has_room(line):
            write_line(f"[{f'part {index}' if index >= 0 else slot.process.name}] {line}")

    def has_ended(self, slot: Slot) -> None:
        if slot.job is not None and slot.job.work.lines is not None:
            slot.job.work.lines.ended(slot.process.worker)

    # Which slot computes which batch.

    def _assign(self, now: float) -> None:
        """Send waiting batches to idle slots, one batch of each job in turn: no job waits for another's end."""
        turn = deque(job for job in self._jobs.values() if job.waiting)
        while turn:
            job = turn.popleft()
            if job.busy >= job.slots:
                continue
            slot = self._idle(job, now)
            if slot is None:
                continue
            self._give(slot, job, job.waiting.popleft(), now)
            if job.waiting:
                turn.append(job)

    def _idle(self, job: PoolJob, now: float) -> Slot | None:
        may_load = self.supervisor.loads_of(job).may(now)
        idle = self._idle_for(job)
        if not idle and may_load:
            self._open_for_another()
            idle = self._idle_for(job)
        if not may_load:
            idle = [slot for slot in idle if job.key in slot.loaded]
        if not idle:
            self._refuse_if_failing(job, now)
            return None
        return min(idle, key=lambda slot: (job.key not in slot.known, slot.code is None))

    def _idle_for(self, job: PoolJob) -> list[Slot]:
        return [slot for slot in self.supervisor.idle() if slot.takes(job)]

    def _open_for_another(self) -> None:
        """Start a process, since no idle one can compute a job.

        Idle ones may have modules of other jobs. As many of them are kept as there are slots: jobs with other code may
        alternate, and a process that is replaced each time costs more than one that waits.
        """
        most = max(other.slots for other in self._jobs.values())
        if self.supervisor.living() >= 2 * most:
            self.supervisor.end_idle(1)
        idle, living = len(self.supervisor.idle()), self.supervisor.living()
        self.supervisor.open(min(living + 1, most + idle))
        self._end_idle_later()

    def _refuse_if_failing(self, job: PoolJob, now: float) -> None:
        """Refuse what waits for processes that keep failing to start, and count a loss for one of these parts."""
        starts, loading = self.supervisor.starts, self.supervisor.loads_of(job)
        if starts.keep_failing and not starts.may(now) and not self.supervisor.are_up():
            text = f"{starts.failures} worker processes in a row did not start; the last: {starts.why}"
        elif loading.keep_failing and not loading.may(now) and not self.supervisor.have_loaded(job.key):
            text = (
                f"{loading.failures} worker processes in a row ended while they loaded the job; the last: {loading.why}"
            )
        else:
            return
        indices = job.indices_waiting()
        job.waiting.clear()
        episodes = starts.episodes, loading.episodes
        if job.charged != episodes:
            job.charged = episodes
            job.reports.put([Lost(indices.pop(0), Cause("start", text))])
        job.reports.put([Refused(tuple(indices), text, is_passing=True)])

    def _give(self, slot: Slot, job: PoolJob, parts: Sequence[Part], now: float) -> None:
        parts = self._encoded(job, parts)
        if not parts:
            return
        job.busy += 1
        slot.begin(
            self.supervisor.where, job, {part.index: part for part in parts}, [fields(part) for part in parts], now
        )
        job.reports.put_without_waking(Running(parts[0].index, slot.process.worker))

    def _encode_ahead(self) -> None:
        """Encode waiting batches while the slots compute: one batch a round of the loop."""
        for job in self._jobs.values():
            for place, parts in enumerate(islice(job.waiting, job.slots)):
                if is_raw(parts):
                    job.waiting[place] = self._encoded(job, parts)
                    return

    def _encoded(self, job: PoolJob, parts: Sequence[Part]) -> Sequence[Part]:
        if not is_raw(parts):
            return parts
        encoded, failed = encode(parts, job.work.encode)
        if failed:
            job.reports.put([*failed])
        return encoded

    def _share_overrun(self, now: float) -> None:
        """Send parts that wait behind a slow one to idle slots."""
        for slot in self.supervisor:
            job = slot.job
            if job is None or not slot.can_share() or now - slot.since < OVERRUN * job.work.batch_seconds:
                continue
            idle = self._idle_for(job)[: job.slots - job.busy]
            if not idle:
                continue
            rest = list(slot.unreported.values())[1:]
            for number, other in enumerate(idle):
                if share := rest[number :: len(idle)]:
                    self._give(other, job, share, now)
            slot.drop(rest)


_pool: SlotPool | None = None
_making = threading.Lock()


def pool() -> SlotPool:
    """Return the pool of this process; make it if there is none, or if it has ended."""
    global _pool
    with _making:
        if _pool is None or not _pool.loop.is_running():
            _pool = SlotPool()
        return _pool


def shutdown() -> None:
    """End the processes of the pool now; the next job starts new ones. Python's exit does the same."""
    global _pool
    with _making:
        ended, _pool = _pool, None
    if ended is not None:
        ended.shutdown()


def _forget() -> None:
    """Drop the pool in a forked process: its worker processes are the parent's."""
    global _pool, _making
    _pool, _making = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
