"""One slot of the pool: a worker process, and what it is doing."""

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

#: Seconds that user code gets to clean up once it was interrupted, before its process is killed.
GRACE = 1.0
#: Seconds that a process may live on once its results pipe is closed; one that dies closes it too, a moment before.
HANG_UP = 1.0


class Slot:
    """One worker process as the pool sees it: its batch, what of it is unreported, whether it is being stopped.

    Pool thread only.

    Args:
        where: paths, arguments, folder and environment that the process was told.
        preloads: whether it was told to load a job file first.
        on_line: is given each line that its process prints, with the number of the part, or -1.
    """

    def __init__(
        self,
        process: WorkerProcess,
        where: tuple[Any, ...],
        loop: Loop,
        on_line: Callable[[Slot, int, str], None],
        preloads: bool = False,
    ) -> None:
        self.process = process
        self._on_line = on_line
        self.began: float = monotonic()
        #: Whether it has not loaded the job file yet that it was told to.
        self._preloads = preloads
        #: Paths, arguments, folder and environment that the child was told.
        self.where: tuple[Any, ...] = where
        #: Keys of the jobs whose definition it has.
        self.known: set[int] = set()
        #: Keys of jobs that are over, which its process has not been told.
        self._over: list[int] = []
        #: The job of its batch; None while it is idle.
        self.job: PoolJob | None = None
        #: The parts of the batch that it has not reported, in the order in which it computes them.
        self.unreported: dict[int, Part] = {}
        #: When it was given its batch, or last reported; infinity while it starts, or loads the job's code.
        self.since: float = 0.0
        #: When it was given its batch.
        self.given_at: float = 0.0
        #: When it will be killed; None as long as nobody wants its end.
        self.kill_at: float | None = None
        #: Whether its end is its own fault: nothing can be heard from it.
        self.was_ended_at_once: bool = False
        #: Why its end is wanted, if its parts are to be charged with that.
        self.cause: Cause | None = None
        #: Whether its interpreter is up: before that, an interrupt would only make it print a traceback.
        self.ready: bool = False
        #: Keys of the jobs whose code it has loaded.
        self.loaded: set[int] = set()
        #: Whether it loads the job file, or a job's code.
        self.is_loading: bool = False
        #: When it closed its results pipe, or sent what is no frame: nothing more is read from it.
        self.unreadable_since: float | None = None
        #: Whether its process has ended and its pipes are closed.
        self.gone = False
        #: Whether parts of its batch were given to others: then nobody knows which it was computing.
        self.shared: bool = False
        #: Whether it has loaded code that nobody wants any more: it ends when its batch does.
        self.is_stale: bool = False
        self._batch = 0
        #: The key of the job that the latest batch was of.
        self._latest = -1
        self._loop = loop

    def is_idle(self) -> bool:
        """True if it can be given a batch."""
        return self.job is None and self.is_here_to_stay()

    def is_here_to_stay(self) -> bool:
        """Whether nobody wants its end."""
        return self.kill_at is None and self.unreadable_since is None and not self.is_stale

    @property
    def is_up(self) -> bool:
        """Whether it could compute: its interpreter is up, and the job file of its pool is loaded."""
        return self.ready and not self._preloads

    def has_failed_to_start(self) -> bool:
        """Whether it has ended, though nobody wanted that, before it could compute what it was given."""
        was_stopped = self.kill_at is not None and not self.was_ended_at_once
        return not was_stopped and (self.is_loading or not self.is_up)

    def can_share(self) -> bool:
        """True if parts of its batch could be given to others."""
        job = self.job
        return job is not None and len(self.unreported) > 1 and self.kill_at is None and job.busy < job.slots

    def begin(
        self, where: tuple[Any, ...], job: PoolJob, parts: dict[int, Part], batch: list[tuple[Any, ...]], now: float
    ) -> None:
        """Send the process a batch, as it travels; before it, what it does not know of its environment and the job."""
        if self.where is not where:
            self.where = where
            self.process.put("hello", *where)
        if job.key not in self.known:
            self.known.add(job.key)
            self.process.put("job", job.key, job.work.definition, self._over)
            self._over = []
        if job.key != self._latest:  # what an earlier job has printed explains no death in this one
            self._latest = job.key
            self.process.forget_lines()
        self.job, self.unreported, self.given_at = job, parts, now
        self.since = now if self.ready and not self.is_loading else inf
        self.shared = False
        self._batch += 1
        self.process.put("batch", job.key, self._batch, batch)
        self.flush()

    def forget(self, job: PoolJob) -> None:
        """Stop what it computes of a job that is over, and have its process forget the job."""
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
        """What a frame of the child's says of the parts of its batch.

        Raises:
            Garbled: it is none of a child's.
        """
        try:
            return self._received(frame)
        except (
            TypeError,
            ValueError,
            KeyError,
            IndexError,
            AttributeError,
        ) as problem:  # of fields that we do not send
            raise Garbled(f"{frame!r:.100}: {problem!r}") from problem

    def _received(self, frame: Frame) -> list[Report]:
        match frame:
            case ("done", _, results, last):
                return self._done(results, last)
            case ("failed", _, index, failure):
                return self._reported([index], Failed(index, self.process.worker, Failure(*failure)))
            case ("lost", _, index, text):
                return self._reported([index], Lost(index, Cause("source", f"{self.process.name}: {printable(text)}")))
            case ("refused", _, indices, text):
                return self._reported(indices, Refused(tuple(indices), printable(text)))
            case ("interrupted", _, index, text):
                return self._interrupted(index, printable(text, "\n\t"))
            case ("garbled", text):
                self._ends_for(f"could not read what it was sent ({text}): something wrote into its tasks pipe")
            case ("print", index, line):
                self.show(index, line)
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
                raise Garbled(f"{frame!r:.100} is no frame of a child")
        return []

    def _interrupted(self, index: int, text: str) -> list[Report]:
        """KeyboardInterrupt was raised in the user's code: by itself, or from outside, unless we have asked for it."""
        if self.kill_at is not None:
            return []
        if index not in self.unreported:
            self._ends_for(f"ended: {text}")
            return []
        self.shared = True  # it ends now, and the parts behind are not to blame
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
        if last:  # before anybody hears of the results: whoever does may close the run, and wants to know it idle
            reports += map(Returned, self.unreported)  # none, unless the child has skipped a part
            self.end()
        return reports

    def drop(self, parts: list[Part]) -> None:
        """Take parts away from the child, if it has not begun them."""
        for part in parts:
            del self.unreported[part.index]
        self.shared = True
        self.process.put("drop", self._batch, [part.index for part in parts])
        self.flush()

    def end(self) -> None:
        """The batch is over."""
        self.job, self.unreported = None, {}
        if self.is_stale:
            self.terminate(None)

    def flush(self) -> None:
        """Send what was put, the rest when the pipe takes it."""
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
                f"could not be told anything ({error}): something in this process has closed its tasks pipe"
            )
            return True

    def printed(self) -> None:
        """Show what came on the child's stderr: from C code, or from an interpreter that dies."""
        if self.gone:
            return
        lines = self.process.printed()
        if not lines and self.process.is_silent:
            self._loop.unwatch(self.process.stderr)
        for line in lines:
            self.show(next(iter(self.unreported), -1) if self.is_up and not self.is_loading else -1, line)

    def show(self, index: int, line: str) -> None:
        """Show a line of output; keep it to explain a death."""
        self.process.keep_line(line)
        self._on_line(self, index, line)

    def terminate(self, cause: Cause | None) -> None:
        """Stop what the child computes: a word first, force after GRACE. Without a cause nobody asks for its parts."""
        if self.kill_at is None:
            self.cause = cause
            self.kill_at = monotonic() + GRACE
            if cause is None:
                self.unreported.clear()
            self.stop()

    def end_at_once(self, text: str) -> None:
        """End the child at once, since nothing can be heard from it any more; its part is charged with that."""
        self._ends_for(text)
        self.was_ended_at_once = self.kill_at is None
        self.unreadable_since = self.kill_at = monotonic()
        self.process.kill()

    def hang_up(self, now: float) -> None:
        """Its results pipe is closed: it dies; or user code has closed it, and it ends in a moment."""
        if self.unreadable_since is None:
            self.unreadable_since = now

    def has_hung_up(self, now: float) -> bool:
        """Whether it has lived on for long since it closed its results pipe."""
        return self.unreadable_since is not None and self.kill_at is None and now - self.unreadable_since > HANG_UP

    def give_up(self) -> None:
        """Nobody wants what the child computes.

        One that is starting, or has reported all that it still had, is not ended: the next job would start another.
        """
        if self.unreported and self.ready:
            self.terminate(None)
        elif self.unreported:
            self.drop(list(self.unreported.values()))

    def lingers(self, now: float) -> bool:
        """Whether the child goes on with what was taken from it: the word of that came too late."""
        return self.job is not None and not self.unreported and self.ready and now - self.since > GRACE

    def stop(self) -> None:
        """Have the child end: user code may clean up."""
        if not self.ready:
            self.process.kill()
        elif self.job is not None:
            self.process.interrupt()
        else:
            self.process.put("end")
            self.flush()

    def cause_of_end(self, how: str) -> Cause:
        """Why it has ended, with the last lines that it printed."""
        lines = "".join(f"\n    | {printable(line)}" for line in self.process.lines)
        cause = self.cause or Cause("died", how)
        return Cause(cause.kind, cause.text + lines)

    def reports_of_end(self, how: str) -> list[Report]:
        """What the end of a child means for the parts that it had: only one that was alone there is charged."""
        if len(self.unreported) == 1 and not self.shared:
            return [Lost(index, self.cause_of_end(how)) for index in self.unreported]
        return [Returned(index) for index in self.unreported]

    def needs_watching(self) -> bool:
        """Whether the passing of time alone may call for something."""
        if (
            self.kill_at is not None
            or self.unreadable_since is not None
            or (self.job is not None and (self.process.ended is None or not self.unreported))
        ):
            return True
        work = self.job.work if self.job is not None else None
        return work is not None and (work.part_timeout is not None or work.memory_limit is not None)

    def overstepped(self, now: float) -> Cause | None:
        """The limit of its job that the child is over."""
        if self.job is None or self.kill_at is not None:
            return None
        work = self.job.work
        if work.part_timeout is not None and now - self.since > work.part_timeout:
            return Cause("timeout", f"stopped on {self.process.name} after PART_TIMEOUT, {work.part_timeout:g} s")
        if work.memory_limit is not None and (used := self.process.memory()) > work.memory_limit:
            limit = work.memory_limit
            return Cause("memory", f"stopped on {self.process.name}: {used:,} bytes, over MEMORY_LIMIT of {limit:,}")
        return None
