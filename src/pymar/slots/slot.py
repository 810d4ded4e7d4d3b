"""A slot: the pool's handle of one worker process, and what that computes."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Any

from pymar.parts import Cause, Done, Failed, Failure, Lost, Part, Refused, Report, Returned, make
from pymar.serialization.redaction import printable
from pymar.slots.frames import Frame, Garbled
from pymar.slots.loop import WRITE, Loop
from pymar.slots.process import WorkerProcess
from pymar.slots.queue import PoolJob
from pymar.slots.quota import and_more

#: Seconds that user code has to clean up after it was interrupted, before its process is killed.
GRACE = 1.0
#: Seconds that a process may run on with its results pipe closed; one that is dying closes it too, a moment before.
HANG_UP = 1.0


class Slot:
    """One worker process as the pool sees it: its batch, what of it is unreported, whether it is being stopped.

    Pool thread only.

    Args:
        where: import path, arguments, folder and variables that the process has received.
        preloads: True if it loads a job file before any job.
        on_line: called with each line that the process prints, after the number of its part, or -1, and before the
            number of lines that it stands for.
    """

    def __init__(
        self,
        process: WorkerProcess,
        where: tuple[Any, ...],
        loop: Loop,
        on_line: Callable[[Slot, int, str, int], None],
        preloads: bool = False,
    ) -> None:
        self.process = process
        self._on_line = on_line
        self.began: float = monotonic()
        #: True until it has loaded the job file that it loads before any job.
        self._preloads = preloads
        #: Import path, arguments, folder and variables that the process has received.
        self.where: tuple[Any, ...] = where
        #: The modules (Work.code) of the jobs that it computes; None until it has had one.
        self.code: tuple[Any, ...] | None = None
        #: True if it has refused a job, and files that it had loaded have changed since.
        self.has_old_files: bool = False
        #: Keys of the jobs whose definition it has received.
        self.known: set[int] = set()
        #: Keys of jobs that are over, and that were not sent to the process yet.
        self._over: list[int] = []
        #: The job of its batch; None while it is idle.
        self.job: PoolJob | None = None
        #: The parts of the batch that it has not reported, in the order in which it computes them.
        self.unreported: dict[int, Part] = {}
        #: When it received its batch, or last reported; infinity while it starts, or loads the job's code.
        self.since: float = 0.0
        #: When it received its batch.
        self.given_at: float = 0.0
        #: When it will be killed; None unless it is to end.
        self.kill_at: float | None = None
        #: True if the pool has ended it because nothing can be read from it.
        self.was_ended_at_once: bool = False
        #: Why it is to end, if that is the cause of a loss of its part.
        self.cause: Cause | None = None
        #: True once its interpreter is up: before that, an interrupt would only make it print a traceback.
        self.ready: bool = False
        #: Keys of the jobs whose code it has loaded.
        self.loaded: set[int] = set()
        #: True while it loads the job file, or a job's code.
        self.is_loading: bool = False
        #: When it closed its results pipe, or sent what is no frame; nothing is read from it after that.
        self.unreadable_since: float | None = None
        #: True once its process has ended and its pipes are closed.
        self.gone: bool = False
        #: True if parts of its batch were moved to other slots: then it is unknown which one it was computing.
        self.shared: bool = False
        #: True if the code that it has loaded is outdated: it ends when its batch does.
        self.is_stale: bool = False
        self._batch = 0
        #: The key of the job of its latest batch.
        self._latest = -1
        self._loop = loop

    def is_idle(self) -> bool:
        """True if it can take a batch."""
        return self.job is None and self.is_here_to_stay()

    def takes(self, job: PoolJob) -> bool:
        """True if it has loaded no modules of jobs with other code."""
        return self.code is None or self.code == job.work.code

    def is_here_to_stay(self) -> bool:
        """True if it is not to end."""
        return self.kill_at is None and self.unreadable_since is None and not self.is_stale

    @property
    def is_up(self) -> bool:
        """True if it is ready to compute: its interpreter is up, and the job file of its pool is loaded."""
        return self.ready and not self._preloads

    def has_failed_to_start(self) -> bool:
        """True if it has ended by itself before it could compute anything of its batch."""
        was_stopped = self.kill_at is not None and not self.was_ended_at_once
        return not was_stopped and (self.is_loading or not self.is_up)

    def can_share(self) -> bool:
        """True if parts of its batch may be moved to other slots."""
        job = self.job
        return job is not None and len(self.unreported) > 1 and self.kill_at is None and job.busy < job.slots

    def begin(
        self, where: tuple[Any, ...], job: PoolJob, parts: dict[int, Part], batch: list[tuple[Any, ...]], now: float
    ) -> None:
        """Send the process a batch, encoded; before it, the environment and the job, if it has not received them."""
        if self.where is not where:
            self.where = where
            self.process.put("hello", *where)
        if self.code is None:
            self.code = job.work.code
            if self.code:
                self.process.put("code", self.code)
        if job.key not in self.known:
            self.known.add(job.key)
            self.process.put("job", job.key, job.work.definition, self._over)
            self._over = []
        if job.key != self._latest:  # lines of an earlier job explain no death in this one
            self._latest = job.key
            self.process.forget_lines()
        self.job, self.unreported, self.given_at = job, parts, now
        self.since = now if self.ready and not self.is_loading else inf
        self.shared = False
        self._batch += 1
        self.process.put("batch", job.key, self._batch, batch)
        self.flush()

    def forget(self, job: PoolJob) -> None:
        """Stop what it computes of a job that is over; its process drops the definition with the next job."""
        if self.job is job:
            self.give_up()
        if job.key in self.known:
            self.known.discard(job.key)
            self._over.append(job.key)

    def renew(self) -> None:
        """Replace the process once its batch is over: the code that it has loaded has changed."""
        self.is_stale = True
        if self.job is None:
            self.terminate(None)

    def receive(self, frame: Frame) -> list[Report]:
        """Return what a frame of the process reports of the parts of its batch.

        Raises:
            Garbled: it is not a frame that a worker process sends.
        """
        try:
            return self._received(frame)
        except (
            TypeError,
            ValueError,
            KeyError,
            IndexError,
            AttributeError,
        ) as problem:  # its fields are none that our code sends
            raise Garbled(f"{frame!r:.100}: {problem!r}") from problem

    def _received(self, frame: Frame) -> list[Report]:
        match frame:
            case ("done", _, results, last):
                if last:
                    self.printed()  # what C code has written comes through another pipe
                return self._done(results, last)
            case ("failed", _, index, failure):
                self.printed()
                return self._reported([index], Failed(index, self.process.worker, Failure(*failure)))
            case ("lost", _, index, text):
                return self._reported([index], Lost(index, Cause("source", f"{self.process.name}: {printable(text)}")))
            case ("refused", _, indices, text, has_old_files):
                self.has_old_files = bool(has_old_files)
                return self._reported(indices, Refused(tuple(indices), printable(text)))
            case ("interrupted", _, index, text):
                return self._interrupted(index, printable(text, "\n\t"))
            case ("garbled", text):
                self._ends_for(f"could not read what it received ({text}): something wrote into its tasks pipe")
            case ("print", index, line):
                self.show(index, line)
            case ("dropped", index, lines):
                self.show(index, and_more(lines), lines)
            case ("ready",):
                self.ready = True
                self.since = monotonic()
            case ("loading",):
                self.is_loading = True
                self.since = inf if self.unreported else monotonic()
            case ("loaded",):
                if self.job is not None and not self._preloads:
                    self.loaded.add(self.job.key)
                self.is_loading = self._preloads = False
                self.since = monotonic()
            case _:
                raise Garbled(f"{frame!r:.100} is no frame of a worker process")
        return []

    def _interrupted(self, index: int, text: str) -> list[Report]:
        """Return the loss of a part in which KeyboardInterrupt was raised, unless this slot has interrupted it."""
        if self.kill_at is not None:
            return []
        if index not in self.unreported:
            self._ends_for(f"ended: {text}")
            return []
        self.shared = True  # it ends now, which is not the fault of the parts that it had not begun
        return self._reported([index], Lost(index, Cause("died", f"{self.process.name} ended: {text}")))

    def _ends_for(self, text: str) -> None:
        if self.kill_at is None:
            self.cause = Cause("died", f"{self.process.name} {text}")

    def _reported(self, indices: list[int], *reports: Report) -> list[Report]:
        for index in indices:
            self.unreported.pop(index, None)
        return [*reports]

    def _done(self, results: list[tuple[int, bytes, float]], last: bool) -> list[Report]:
        self.since = monotonic()
        self.loaded.add(self._latest)
        reports = self._reported([result[0] for result in results], *(make(Done, result) for result in results))
        if last:  # before the reports are delivered: who receives them may close the run, and then finds this slot idle
            reports += map(Returned, self.unreported)  # none, unless the process has skipped a part
            self.end()
        return reports

    def drop(self, parts: list[Part]) -> None:
        """Take parts away from the process, if it has not begun them."""
        for part in parts:
            del self.unreported[part.index]
        self.shared = True
        self.process.put("drop", self._batch, [part.index for part in parts])
        self.flush()

    def end(self) -> None:
        """End the batch; end the process too, if its code is outdated."""
        self.job, self.unreported = None, {}
        if self.is_stale:
            self.terminate(None)

    def flush(self) -> None:
        """Send what the pipe takes, and the rest when it is ready."""
        if not self._flushed():
            self._loop.watch(self.process.tasks, WRITE, self._writable)

    def _writable(self) -> None:
        if not self.gone and self._flushed():
            self._loop.unwatch(self.process.tasks)

    def _flushed(self) -> bool:
        try:
            return self.process.flush()
        except OSError as error:
            self._loop.unwatch(self.process.tasks)
            self.process.disown(self.process.tasks)
            self.end_at_once(
                f"could not be sent anything ({error}): other code in this process has closed its tasks pipe"
            )
            return True

    def printed(self) -> None:
        """Show what arrived on the stderr of the process: from C code, or from an interpreter that dies."""
        if self.gone:
            return
        try:
            lines = self.process.printed()
        except OSError:  # other code in this process has closed its stderr
            self._loop.unwatch(self.process.stderr)
            self.process.disown(self.process.stderr)
            return
        if not lines and self.process.is_silent:
            self._loop.unwatch(self.process.stderr)
        index = self._likely_part() if lines else -1
        for line in lines:
            self.show(index, line)

    def _likely_part(self) -> int:
        """Return the part whose C code writes; -1 if that is unknown. Of several that are unreported it is the first,
        which is said only to who can see what else they print."""
        if not self.is_up or self.is_loading or self.job is None:
            return -1
        is_known = len(self.unreported) == 1 or self.job.work.lines is None
        return next(iter(self.unreported), -1) if is_known else -1

    def show(self, index: int, line: str, lines: int = 1) -> None:
        """Show a line of output, which stands for so many; keep it, to explain how the process ended."""
        self.process.keep_line(line)
        self._on_line(self, index, line, lines)

    def terminate(self, cause: Cause | None) -> None:
        """Interrupt what the process computes; kill it after GRACE. Without a cause its parts are not reported."""
        if self.kill_at is None:
            self.cause = cause
            self.kill_at = monotonic() + GRACE
            if cause is None:
                self.unreported.clear()
            self.stop()

    def end_at_once(self, text: str) -> None:
        """Kill the process, since nothing can be read from it any more; that is the cause of the loss of its part."""
        self._ends_for(text)
        self.was_ended_at_once = self.kill_at is None
        self.unreadable_since = self.kill_at = monotonic()
        self.process.kill()

    def hang_up(self, now: float) -> None:
        """Note that the results pipe is closed: by a process that dies, or by user code in one that is ended soon."""
        if self.unreadable_since is None:
            self.unreadable_since = now

    def has_hung_up(self, now: float) -> bool:
        """True if it has run on for more than HANG_UP seconds with its results pipe closed."""
        return self.unreadable_since is not None and self.kill_at is None and now - self.unreadable_since > HANG_UP

    def give_up(self) -> None:
        """Stop what the process computes: its results are not needed.

        A process that is starting, or has reported all its parts, is not ended: the next job can use it.
        """
        if self.unreported and self.ready:
            self.terminate(None)
        elif self.unreported:
            self.drop(list(self.unreported.values()))

    def lingers(self, now: float) -> bool:
        """True if the process still computes a part that was taken away: the "drop" came after it had begun."""
        return self.job is not None and not self.unreported and self.ready and now - self.since > GRACE

    def stop(self) -> None:
        """Ask the process to end, so that user code may clean up; kill one that is starting."""
        if not self.ready:
            self.process.kill()
        elif self.job is not None:
            self.process.interrupt()
        else:
            self.process.put("end")
            self.flush()

    def ended(self) -> None:
        """The process has ended: nothing more is written to its pipes, nor read from them."""
        self.gone = True

    def cause_of_end(self, how: str) -> Cause:
        """Return why it has ended, with the last lines that it printed."""
        lines = "".join(f"\n    | {printable(line)}" for line in self.process.lines)
        cause = self.cause or Cause("died", how)
        return Cause(cause.kind, cause.text + lines)

    def reports_of_end(self, how: str) -> list[Report]:
        """Return the reports of its unreported parts: a single one is lost; of several, nobody knows which to blame."""
        if len(self.unreported) == 1 and not self.shared:
            return [Lost(index, self.cause_of_end(how)) for index in self.unreported]
        return [Returned(index) for index in self.unreported]

    def needs_watching(self) -> bool:
        """True if `Supervisor.look` has something to check while no frame arrives."""
        if (
            self.kill_at is not None
            or self.unreadable_since is not None
            or (self.job is not None and (self.process.ended is None or not self.unreported))
        ):
            return True
        work = self.job.work if self.job is not None else None
        return work is not None and (work.part_timeout is not None or work.memory_limit is not None)

    def overstepped(self, now: float) -> Cause | None:
        """Return the limit of its job that the process has exceeded; None if there is none."""
        if self.job is None or self.kill_at is not None:
            return None
        work = self.job.work
        if work.part_timeout is not None and now - self.since > work.part_timeout:
            return Cause("timeout", f"stopped on {self.process.name} after PART_TIMEOUT, {work.part_timeout:g} s")
        if work.memory_limit is not None and (used := self.process.memory()) > work.memory_limit:
            limit = work.memory_limit
            return Cause("memory", f"stopped on {self.process.name}: {used:,} bytes, over MEMORY_LIMIT of {limit:,}")
        return None
