"""The supervisor: starts, watches and ends the worker processes of a pool, each with its slot."""

from __future__ import annotations

import errno
import logging
import select
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count
from math import inf
from time import monotonic
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

from pymar.parts import Failed, Failure, Part, Refused, Report, Returned
from pymar.slots.environment import Environment, Where
from pymar.slots.frames import Garbled
from pymar.slots.loop import READ, Loop
from pymar.slots.output import wait_until_written
from pymar.slots.process import LeftoverGroup, WorkerProcess
from pymar.slots.queue import PoolJob
from pymar.slots.slot import Slot
from pymar.slots.starts import Starts

log: logging.Logger = logging.getLogger(__name__)

#: Seconds that worker processes have for their exit handlers when the pool ends; and then what they have started.
LAST_GRACE = 2.0, 1.0
#: Refused definitions that are kept, at most.
_REFUSED = 16
#: Seconds between two checks of time-outs, memory and processes that are to end.
TICK = 0.1


#: The remedy for each error of the system when a process is started.
_REMEDIES = {
    errno.EMFILE: "raise the limit of this process (ulimit -n), or use fewer slots",
    errno.ENFILE: "the host has no more files: raise fs.file-max",
    errno.EAGAIN: "raise the limit of the user's processes (ulimit -u), or of the container, or use fewer slots",
    errno.ENOMEM: "the host has no memory for it: use fewer slots",
}


class SlotListener(Protocol):
    """Receives what slots report of jobs. Called in the pool's thread."""

    def reported(self, job: PoolJob, reports: list[Report]) -> None:
        """Take reports of parts."""

    def freed(self, job: PoolJob) -> None:
        """A slot computes nothing of this job any more. Called before `reported` with its last reports."""

    def not_begun(self, job: PoolJob, parts: Sequence[Part]) -> None:
        """A process ended before it could begin these parts: they wait again, before all other parts."""

    def printed(self, slot: Slot, index: int, line: str, lines: int = 1) -> None:
        """A process has printed a line, which stands for so many; `index` is its part, or -1."""

    def has_ended(self, slot: Slot) -> None:
        """A process has ended, after its last line and before the reports of its parts."""


class Health(NamedTuple):
    """How the starts of a pool's processes go. Immutable."""

    living: int
    """Processes that are not to end."""
    is_up: bool
    """True if any of them is ready to compute."""
    failures: int
    """Starts that have failed in a row."""
    keeps_failing: bool
    """True if the next start has to wait for a pause."""
    why: str
    """Why the last start failed."""


class Supervisor:
    """All slots of a pool. It owns them and what their ended processes have left running.

    Pool thread only.

    Args:
        listener: receives what slots report of jobs.
        preload: path and code of a job file that each process loads before there is a job.
    """

    def __init__(self, loop: Loop, listener: SlotListener, preload: tuple[str, str] | None = None) -> None:
        self._loop = loop
        self._listener = listener
        self._preload = preload
        self._slots: list[Slot] = []
        self._leftovers: list[LeftoverGroup] = []
        self._numbers = count(1)
        self._latest = 0
        #: By definitions that a process has refused: the number of the first process that was started after that.
        self._fresh_from: dict[Any, int] = {}
        self._environment = Environment()
        self._next_tick = 0.0
        self.starts: Starts = Starts()
        #: The failed starts of processes that load the code of a job.
        self._loads: WeakKeyDictionary[PoolJob, Starts] = WeakKeyDictionary()
        #: Why a process could not be started, as it was last logged.
        self._logged = ""

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots)

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def where(self) -> Where:
        """The environment that worker processes receive."""
        return self._environment.where

    def look_around(self, slots: int) -> None:
        """Update the environment if the user has changed this process's; `slots` share the cores."""
        self._environment.look(slots)

    def health(self) -> Health:
        """Return how the starts of processes go."""
        starts = self.starts
        return Health(self.living(), self.are_up(), starts.failures, starts.keep_failing, starts.why)

    def loads_of(self, job: PoolJob) -> Starts:
        """Return the failed starts of processes that load the code of a job."""
        return self._loads.setdefault(job, Starts())

    def forget(self, job: PoolJob) -> None:
        """Stop what slots compute of a job that is over; their processes drop its definition."""
        for slot in self._slots:
            slot.forget(job)

    def living(self) -> int:
        """Return how many processes are not to end."""
        return sum(slot.is_here_to_stay() for slot in self._slots)

    def idle(self) -> list[Slot]:
        """Return the slots that can take a batch."""
        return [slot for slot in self._slots if slot.is_idle()]

    def end_idle(self, number: int, since: float = inf) -> None:
        """End at most this many processes that compute nothing, and have modules of jobs: the longest idle first.

        Args:
            since: those that became idle later are kept.
        """
        idle = sorted((slot for slot in self.idle() if slot.code and slot.since <= since), key=lambda slot: slot.since)
        for slot in idle[: max(0, number)]:
            slot.renew()

    def are_up(self) -> bool:
        """True if any process is ready to compute."""
        return any(slot.is_up and slot.is_here_to_stay() for slot in self._slots)

    def have_loaded(self, key: int) -> bool:
        """True if any process has loaded the code of the job with this key."""
        return any(key in slot.loaded and slot.is_here_to_stay() for slot in self._slots)

    def open(self, number: int) -> None:
        """Start processes until there are `number`, as far as their starts succeed; do not wait for them."""
        while self.living() < number and self.starts.may(now := monotonic()):
            try:
                self._latest = next(self._numbers)
                process = WorkerProcess(self._latest, self.where[3])
            except (
                Exception
            ) as error:  # of the system: no more processes, files or memory; or an environment it refuses
                why = f"no worker process could be started: {_reason(error)}"
                if why != self._logged and self._slots:  # without any, the pool refuses the parts with this reason
                    self._logged = why
                    log.warning("%s. The %d that run go on", why, len(self._slots))
                self._failed(self.starts, why, now)
                return
            slot = Slot(process, self.where, self._loop, self._listener.printed, self._preload is not None)
            self._slots.append(slot)
            self._loop.watch(slot.process.results, READ, partial(self._read, slot))
            self._loop.watch(slot.process.stderr, READ, slot.printed)
            if slot.process.ended is not None:
                self._loop.watch(slot.process.ended, READ, partial(self._ended, slot))
            slot.process.put("hello", *self.where)
            if self._preload is not None:
                slot.process.put("preload", *self._preload)
            slot.flush()

    def renew(self, preload: tuple[str, str] | None = None) -> None:
        """Compute with new processes from now on: the code that these have loaded has changed.

        Args:
            preload: path and code of the job file that the new ones load, if it is another.
        """
        self._preload = preload or self._preload
        for slot in self._slots:
            slot.renew()

    def next_look(self, now: float) -> float | None:
        """Return the seconds until `look` is due; None if only the processes' frames matter."""
        has_to = self._leftovers or any(slot.needs_watching() for slot in self._slots)
        return max(0.0, self._next_tick - now) if has_to else None

    def look(self, now: float) -> None:
        """Enforce what depends on time: limits, grace periods, processes that were to end."""
        if now < self._next_tick:
            return
        self._next_tick = now + TICK
        for slot in list(self._slots):
            if slot.kill_at is not None and now >= slot.kill_at:
                slot.process.kill()
            elif slot.has_hung_up(now):
                slot.end_at_once("closed its results pipe, and was ended")
            elif (cause := slot.overstepped(now)) is not None:
                slot.terminate(cause)
            elif slot.lingers(now):
                slot.terminate(None)
            if slot.process.ended is None:
                self._ended(slot)
        self._leftovers = [one for one in self._leftovers if not one.is_over(now)]

    def end_all(self) -> None:
        """End all processes and what they have started, and wait for that. Called once the loop is over."""
        for slot in self._slots:
            if slot.kill_at is None:
                slot.stop()
        self._wait_for_ends(monotonic() + LAST_GRACE[0])
        until = monotonic() + LAST_GRACE[1]
        for slot in self._slots:
            slot.process.kill()
            slot.process.wait(block=True)
            slot.process.close()
            self._leftovers.append(LeftoverGroup(slot.process.pid, until))
        self._slots.clear()
        while left := [one for one in self._leftovers if not one.is_over(monotonic())]:
            self._leftovers = left
            threading.Event().wait(0.005)

    def _wait_for_ends(self, deadline: float) -> None:
        """Read what processes print at their end, since full pipes would block them; until all end, or the deadline."""
        waiting = list(self._slots)
        while waiting and monotonic() < deadline:
            poll = select.poll()
            for slot in waiting:
                if slot.process.ended is not None:
                    poll.register(slot.process.ended, select.POLLIN)
            poll.poll(5)  # milliseconds: their pipes may fill, and not every system has a descriptor of a process's end
            for slot in waiting:
                self._read(slot)
                slot.printed()
            waiting = [slot for slot in waiting if slot.process.wait() is None]

    def _read(self, slot: Slot) -> None:
        if slot.gone or slot.unreadable_since is not None:
            return
        try:
            for frame in slot.process.frames():
                job, is_starting = slot.job, slot.is_loading or not slot.is_up
                reports = slot.receive(frame)
                if job is not None and slot.job is None:
                    self._listener.freed(job)
                if is_starting and slot.is_up and not slot.is_loading:
                    self.starts.succeeded()
                    if job is not None and job.key in slot.loaded:
                        self.loads_of(job).succeeded()
                if job is not None and reports:
                    wait_until_written()  # what a part has printed is shown before it is reported as done
                    self._listener.reported(job, self._judged(job, slot, reports))
        except Garbled as problem:
            slot.end_at_once(f"sent what is no frame ({problem}): something wrote into its results pipe")
        except OSError as error:
            self._loop.unwatch(slot.process.results)
            slot.process.disown(slot.process.results)
            slot.end_at_once(f"could not be read ({error}): other code in this process has closed its results pipe")
        if slot.process.hung_up:
            slot.hang_up(monotonic())
        if slot.unreadable_since is not None and slot.process.results in slot.process.watched:
            self._loop.unwatch(slot.process.results)

    def _judged(self, job: PoolJob, slot: Slot, reports: list[Report]) -> list[Report]:
        """Return the reports; parts that a process with perhaps old code refuses are returned, for a new process."""
        refused = [report for report in reports if isinstance(report, Refused)]
        if not refused:
            return reports
        others: list[Report] = [report for report in reports if not isinstance(report, Refused)]
        if slot.has_old_files:  # a new process loads them as they are now
            self.renew()
            return [*others, *(Returned(index, alone=False) for report in refused for index in report.indices)]
        fresh_from = self._fresh_from.get(job.work.definition)
        if fresh_from is None:
            while len(self._fresh_from) >= _REFUSED:
                del self._fresh_from[next(iter(self._fresh_from))]
            fresh_from = self._fresh_from[job.work.definition] = self._latest + 1
            self.renew()
        for report in refused:
            if slot.process.number < fresh_from:
                others += [Returned(index, alone=False) for index in report.indices]
            elif job.work.refusals_fail:
                failure = Failure(report.text)
                others += [Failed(index, slot.process.worker, failure) for index in report.indices]
            else:
                others.append(report)
        return others

    def _ended(self, slot: Slot) -> None:
        how = None if slot.gone else slot.process.wait()
        if how is None:
            return
        self._read(slot)  # its last frames
        slot.printed()
        self._listener.has_ended(slot)
        slot.ended()
        self._slots.remove(slot)
        process = slot.process
        for end in process.watched:
            self._loop.unwatch(end)
        process.close()
        self._leftovers.append(LeftoverGroup(process.pid, monotonic() + LAST_GRACE[1]))
        job = slot.job
        has_failed = slot.has_failed_to_start()
        if has_failed:
            cause = slot.cause_of_end(how).text
            if job is not None and slot.is_up:
                self._failed(self.loads_of(job), cause, slot.given_at)
            else:
                self._failed(self.starts, cause, slot.began)
        unreported = list(slot.unreported.values())
        reports = slot.reports_of_end(how)
        slot.end()
        if job is not None:
            self._listener.freed(job)
            if not has_failed:
                self._listener.reported(job, reports)
            elif unreported:  # no part is to blame
                self._listener.not_begun(job, unreported)

    def _failed(self, starts: Starts, why: str, began: float) -> None:
        now = monotonic()
        if starts.failed(why, began, now):
            log.warning(
                "no worker process is started for %.0f s, after %d failed: %s", starts.wait(now), starts.failures, why
            )
        self._loop.call_later(starts.wait(now), _look_again)


def _reason(error: Exception) -> str:
    if not isinstance(error, OSError):
        return repr(error)
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{error}: {remedy}" if remedy else str(error)


def _look_again() -> None:
    """Do nothing: the round of the loop that calls this does what is due."""
