"""The runner drives a job over an engine: it sends batches, receives reports and yields partials on demand."""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from itertools import chain
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any

from pymar.engines.base import Noting
from pymar.events import Event, JobEnded, JobProgress, JobStarted, Listener, notify
from pymar.exceptions import JobCancelled, JobError, JobTimeout, PartFailed, PartLost, PartsFailed, UsageError
from pymar.job.arrivals import Arrivals
from pymar.job.interrupt import Terminated, progress_of, running
from pymar.job.reduction import SMALL, check_partial
from pymar.job.reorder import ReorderBuffer
from pymar.job.state import Job
from pymar.job.stopping import stops
from pymar.parts import JobSpec, Joined, Left, Part, Report
from pymar.serialization import loads

if TYPE_CHECKING:
    from os import PathLike

    from pymar.engines import Choice
    from pymar.engines.base import Run
    from pymar.job.checkpoint import Journal
    from pymar.job.plan import Plan

log: logging.Logger = logging.getLogger(__name__)

#: The variable that gives jobs checkpoints of their own (automatic.py, which is imported only where it is set).
AUTOMATIC = "PYMAR_CHECKPOINTS"
#: Seconds after which a waiting producer checks its deadline and backup tasks, even if nothing was reported.
CHECK_EVERY = 0.25


class Deadline:
    """When a run must be over, and what follows then: "fail" or "local_mode". Immutable.

    Raises:
        UsageError: the seconds are no number of 0 or more, or `then` is something else.
    """

    def __init__(self, seconds: float, then: str) -> None:
        if not isinstance(seconds, int | float) or not seconds >= 0:
            raise UsageError(f"timeout={seconds!r}: give seconds, or 0 for no time-out")
        if then not in ("fail", "local_mode"):
            raise UsageError(f"on_timeout={then!r}: it is 'local_mode' (compute the rest here) or 'fail' (raise)")
        self.seconds = seconds
        self.then = then
        self.at: float | None = monotonic() + seconds if seconds else None


class Runner:
    """One run of a job. It owns the engine's run, the journal and the reorder buffer, and is a context that ends them.

    Thread of the job only.
    """

    def __init__(
        self,
        plan: Plan,
        choice: Choice,
        *,
        deadline: Deadline,
        checkpoint: str | PathLike[str] | None = None,
        listeners: Sequence[Listener] = (),
        on_mismatch: str = "refuse",
    ) -> None:
        self._journal = journal = _journal(checkpoint, plan, on_mismatch)
        self._checkpoint = "" if journal is None else os.fspath(journal.path)
        parts = plan.parts() if journal is None else journal.fresh(plan.parts())
        shares = plan.spec.producer._shares_batches
        rules = plan.rules._replace(batch_seconds=choice.batch_seconds if shares else 0.0)
        job = Job(parts, plan.total, rules)
        self.job: Job = job
        self._spec = spec = plan.spec
        self._plan = plan
        self._deadline = deadline
        self._listeners = listeners
        self._buffer = ReorderBuffer()
        #: How many parts may be made before those before them have been taken, by `in_order`.
        self.ahead: float = inf
        #: Seconds after which a waiting producer looks around, even if nothing was reported.
        self.check_every: float = CHECK_EVERY
        #: The parts that were set aside in this round.
        self._failed: list[int] = []
        self._began = monotonic()
        self._stop = stops.get()
        #: The exception that the iterator of partials has raised, even if reduce_fn caught it.
        self.ended_by: BaseException | None = None
        name = self._name = stage_name(spec)
        #: None where this process, or its host, is all there is.
        self._arrivals: Arrivals | None = None if choice.engine.name in ("serial", "processes") else Arrivals()
        log.info("%s: engine %s (%s), %s parts", name, choice.engine.name, choice.why, job.total)
        try:
            self._run: Run = choice.engine.start(spec)
            self._noting = self._run if isinstance(self._run, Noting) else None
            if self._noting is not None:
                self._noting.note(self._progress())
        except BaseException:  # the context was not entered: nothing else closes them
            self._close_files()
            raise
        self._notify(JobStarted(name, choice.engine.name, choice.why, job.total))

    def __enter__(self) -> Runner:
        self._process = os.getpid()
        self._is_over = running(stage_name(self._spec), self._how_far)
        # It runs before the exit handler of the engine, which was registered earlier.
        atexit.register(self._end_with_the_script)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        atexit.unregister(self._end_with_the_script)
        if os.getpid() != self._process:
            return  # in a fork that has inherited an iterator: the job is its parent's
        try:
            self._run.close()
        finally:
            self._close_files()
            self._plan.release()
            self._is_over()
        self._notify(JobEnded(error, monotonic() - self._began))
        if isinstance(error, JobCancelled):
            error.progress = self._how_far()
        elif isinstance(error, KeyboardInterrupt) and not isinstance(error, Terminated):
            error.args = (self._how_far(),)

    def _how_far(self) -> str:
        """Return what was finished, and how to go on, for people."""
        return progress_of(self.job.done, self.job.total, self._checkpoint)

    def _end_with_the_script(self) -> None:
        """Stop what a script that ends has left running, while the engine can still send that to workers."""
        if os.getpid() != self._process:
            return  # in a fork of the script: the job is its parent's
        try:
            self._run.close()
        except Exception as error:  # of an engine that another thread was using; nothing more can be done
            log.debug("the job could not be stopped", exc_info=error)

    def _close_files(self) -> None:
        self._buffer.close()
        if self._journal is not None:
            self._journal.close()

    def in_order(self) -> Iterator[Any]:
        """Yield the partials in part order, each as soon as it and all before it have finished.

        From the first part that has failed on, none is yielded: what reduces them never meets a gap. They are computed,
        and put into the checkpoint; of data that are read as results are taken, and may be endless, those made so far.

        Raises:
            PartFailed, PartLost, JobTimeout: the job has no answer.
            PartsFailed: likewise, and MAX_FAILED is more than 0.
            UsageError: `reduce_fn` does not return the first partial, if it is small, unchanged.
        """
        buffer = self._buffer
        is_reduced = self._spec.producer._reduces_parts
        self.job.limit = self.ahead
        missing: PartFailed | PartLost | None = None
        try:
            for finished in self._rounds():
                for index in self._failed:
                    missing = self.job.errors[index]
                    buffer.end_at(index)
                    self.job.limit = inf  # nothing is held any more
                    if self.ahead < inf and self.job.total is None:  # data that are read as results are taken
                        self.job.make_no_more()
                buffer.add(finished)
                for index, value in buffer.next():
                    assert value is not None
                    if index == 0 and is_reduced and self.job.total != 1 and len(value) <= SMALL:
                        check_partial(self._spec.producer, value)
                    yield self._decoded(index, value)
                    if missing is None:
                        self.job.limit = index + 1 + self.ahead
            self._check_all_finished()
            if missing is not None:  # what came behind it meanwhile was dropped
                error = PartsFailed([missing], self.job.done, self.job.total)
                error.add_note("A copy of it has been finished since: repeat the call.")
                raise error
        except GeneratorExit:
            raise
        except BaseException as error:
            self.ended_by = error
            raise

    def as_finished(self) -> Iterator[Any]:
        """Yield the partials as they finish. Raises as `in_order` does."""
        for finished in self._rounds():
            for index, value in finished:
                yield self._decoded(index, value)
        self._check_all_finished()

    def outcomes(self, in_order: bool) -> Iterator[tuple[int, Any, PartFailed | PartLost | None]]:
        """Yield what became of each part, in part order or as they finish: its number, partial and error.

        However many fail, the others are computed: it never raises PartsFailed.

        Raises:
            PartLost: there is nobody who computes parts.
            JobTimeout: the job has no answer.
        """
        self.job.set_all_aside()
        self.job.limit = self.ahead if in_order else inf
        errors: dict[int, PartFailed | PartLost] = {}
        for finished in self._rounds():
            found: Iterable[tuple[int, bytes | None]] = [(index, None) for index in self._failed]
            errors.update((index, self.job.errors[index]) for index in self._failed)
            if in_order:
                self._buffer.add(found)
                self._buffer.add(finished)
                found = self._buffer.next()
            else:  # one that was yielded as an error is not yielded again
                found = chain(found, (one for one in finished if one[0] not in errors) if errors else finished)
            for index, value in found:
                if value is None:
                    yield index, None, errors[index]
                else:
                    yield index, self._decoded(index, value), None
                if in_order:
                    self.job.limit = index + 1 + self.ahead

    def rounds(self) -> Iterator[tuple[list[tuple[int, bytes]], list[PartFailed | PartLost]]]:
        """Yield what has finished (parts, encoded partials) and what has failed for good, round after round.

        However many parts fail, the others are computed. A round may bring nothing: after each, the caller may raise
        `job.limit`, and `cancel`.

        Raises:
            PartLost: there is nobody who computes parts.
        """
        self.job.set_all_aside()
        for finished in self._rounds():
            yield finished, [self.job.errors.pop(index) for index in self._failed]

    def cancel(self, index: int) -> None:
        """Stop a part, as far as the engine can, and count it as over."""
        self.job.cancel(index)
        self._run.cancel(index)

    def check(self) -> None:
        """Raise the error that ended the job, if there is one: the user's reduce_fn may have caught it."""
        if self.ended_by is not None:
            raise self.ended_by
        error = self.job.error
        if error is not None:
            self._make_replayable(error)
            raise error

    def _check_all_finished(self) -> None:
        """Raise the errors of the parts that were set aside.

        Raises:
            PartsFailed: there are some.
        """
        if self.job.errors:
            raise self.job.failures()

    def _make_replayable(self, error: Any) -> None:
        if isinstance(error, PartFailed | PartLost) and isinstance(error.rerun, Part):
            error.rerun = self._spec, error.rerun

    def _rounds(self) -> Iterator[list[tuple[int, bytes]]]:
        """Yield what has finished (parts, encoded partials), round after round, until the job is over.

        The parts that were set aside in a round are in `_failed` meanwhile.
        """
        while True:
            self._check_stopped()
            for batch in self.job.due(monotonic()):
                self._run.submit(batch)
            if self._journal is not None:
                for recalled in self._journal.recalled():
                    self.job.recall()
                    yield [recalled]
            self.check()
            if self.job.over:
                return
            finished = self._round()
            yield finished
            self._failed = []

    def _check_stopped(self) -> None:
        """Stop the job if its future was cancelled.

        Raises:
            CancelledError: it was.
        """
        if self._stop is not None and self._stop.is_set():
            raise CancelledError("the future of the job was cancelled")

    def _round(self) -> list[tuple[int, bytes]]:
        """Wait for reports once; return the first good results among them."""
        reports = self._run.next(self._seconds_to_wait())
        now = monotonic()
        self._log_arrivals(reports, now)
        finished = [(index, value) for index, value, _ in self.job.receive(reports, now)]
        for index in self.job.superfluous():
            self._run.cancel(index)
        if self.job.errors:
            self._failed = self.job.newly_failed()
            for index in self._failed:
                self._make_replayable(self.job.errors[index])
        if self._journal is not None:
            if finished:
                self._journal.write(finished)
            if self._failed:
                self._journal.note_failed([self.job.errors[index] for index in self._failed])
        if self._noting is not None:
            self._noting.note(self._progress())
        if self._listeners:
            for report in reports:
                self._notify(report)
            self._notify(self._progress())
        return finished

    def _log_arrivals(self, reports: Sequence[Report], now: float) -> None:
        for report in reports:
            if isinstance(report, Joined | Left) and self._arrivals is not None:
                for level, text in self._arrivals.lines(report, now):
                    log.log(level, "%s: %s", self._name, text)

    def _progress(self) -> JobProgress:
        job = self.job
        return JobProgress(
            job.done, job.running, job.failed, job.lost, job.total, job.slots, job.recalled, len(job.errors)
        )

    def _seconds_to_wait(self) -> float:
        """Return the seconds to wait for reports; past the deadline, raise or compute here.

        Raises:
            JobTimeout: the deadline has passed, and it says "fail".
        """
        if self._deadline.at is None:
            return self.check_every
        left = self._deadline.at - monotonic()
        if left <= 0:
            if self._deadline.then == "fail":
                raise JobTimeout(self._deadline.seconds, self.job.done, self.job.total)
            self._compute_here()
        return min(max(left, 0.0), self.check_every)

    def _compute_here(self) -> None:
        from pymar.engines.serial import SerialEngine

        log.warning("no answer within %g s: computing the unfinished parts here", self._deadline.seconds)
        self._run.close()
        self._noting = None
        self._deadline = Deadline(0, "fail")
        self._run, self._arrivals = SerialEngine().start(self._spec), None
        self.job.take_back_all()
        for batch in self.job.due(monotonic()):
            self._run.submit(batch)

    def _decoded(self, index: int, value: bytes) -> Any:
        try:
            return loads(value)
        except Exception as error:
            name = self._spec.producer.__name__
            raise JobError(
                f"the value of part {index}, from {name}.reduce_fn, cannot be read here: {error!r}"
            ) from error

    def _notify(self, event: Event) -> None:
        if self._listeners:
            notify(self._listeners, event)


def stage_name(spec: JobSpec) -> str:
    """Return the name of a job in log lines and events: of its producer, and of the stage if there are several."""
    stage = "" if spec.sink is None else spec.sink.stage
    return f"{spec.producer.__name__} ({stage})" if stage else spec.producer.__name__


def _journal(path: str | PathLike[str] | None, plan: Plan, on_mismatch: str) -> Journal | None:
    if os.environ.get(AUTOMATIC):
        from pymar.job import automatic

        if path is None:
            return automatic.journal_of(plan)
        if automatic.is_automatic(path):
            return automatic.renewed(path, plan.description())
    if path is None:
        return None
    from pymar.job.checkpoint import Journal

    return Journal(path, plan.description(), keeps=on_mismatch == "keep")
