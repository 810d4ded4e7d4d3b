"""The state of one job and its rules: what runs next, what to repeat, what to believe, when it is over.

It takes reports and the time as arguments and does no I/O. runner.py drives it: that carries batches to an engine and
reports back. In whatever order reports arrive, twice or late, each part counts once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from math import inf
from typing import NamedTuple

from pymar.exceptions import PartFailed, PartLost, PartsFailed, PymarError
from pymar.job.pacing import Backups, Pacing
from pymar.parts import (
    BATCH_SECONDS,
    Connection,
    Done,
    Failed,
    Joined,
    Left,
    Lost,
    Part,
    Refused,
    Report,
    Returned,
    Running,
)
from pymar.serialization import loads

#: How often a part may be returned uncomputed before it is given up.
RETURNS = 100
#: How often refused parts are sent again while no worker computes any part.
REFUSALS = 3
#: Attempts at a part that exceeds its time-out or memory limit: it most likely will again.
ATTEMPTS_AT_A_LIMIT = 2


class Rules(NamedTuple):
    """How often parts are repeated, how many may fail (the producer's class attributes), and the engine's size of
    batches. Immutable."""

    attempts: int = 4
    retries: int = 0
    backups: float = 0.05
    batch_seconds: float = BATCH_SECONDS
    max_failed: float = 0


class _Batch:
    """Parts that were sent together. Thread of the job only."""

    __slots__ = ("began", "has_begun", "left", "parts", "seconds")

    def __init__(self, parts: list[Part], now: float) -> None:
        self.parts = parts
        self.left = len(parts)
        self.began = now
        #: True once its worker has reported that it began; until then it may have waited for a slot.
        self.has_begun = False
        self.seconds = 0.0

    def part(self, index: int) -> Part:
        return next(part for part in self.parts if part.index == index)


class _Trouble:
    """The failures, losses and returns of a part so far. Thread of the job only."""

    __slots__ = ("causes", "failures", "limits", "returns", "starts")

    def __init__(self) -> None:
        self.causes: list[str] = []
        #: `starts`: how many of the causes are that worker processes do not start.
        self.failures = self.limits = self.returns = self.starts = 0


class Job:
    """The state of one job: which parts wait, which are with the engine, which are finished, and what went wrong.

    Thread of the job only.

    Args:
        parts: made lazily, each when it is sent.
        total: their number, if it is known.
    """

    def __init__(self, parts: Iterator[Part], total: int | None, rules: Rules) -> None:
        self.total = total
        self.done: int = 0
        #: How many of these an earlier run has computed.
        self.recalled: int = 0
        self.duplicates: int = 0
        self.lost: int = 0
        self.failed: int = 0
        #: How many parts may be made so far: the driver raises it as it has room for results, or as there is data.
        self.limit: float = inf
        self._made = 0
        #: Why the job was stopped without an answer.
        self.error: PartFailed | PartLost | PartsFailed | None = None
        #: The parts that have failed for good, by number: they are set aside, while the others are computed.
        self.errors: dict[int, PartFailed | PartLost] = {}
        self._newly_failed: list[int] = []
        self._parts = parts
        self._rules = rules
        self._all_cut = False
        #: Parts to be sent again, each in a batch of its own; and those that may share a batch.
        self._again: deque[Part] = deque()
        self._back: deque[Part] = deque()
        #: Parts that were refused, and why; true if a worker has joined or computed a part since; how often they were
        #: sent again without that.
        self._refused: list[Part] = []
        self._refusal = ""
        self._is_encouraged = False
        self._refusals = 0
        #: Losses to worker processes that do not start, since the last result.
        self._start_losses: list[tuple[Part, str]] = []
        self._out: dict[int, _Batch] = {}
        self._batches = 0
        self._agents: dict[str, int] = {}
        self._pacing = Pacing(rules.batch_seconds)
        self._backups = Backups(rules.backups)
        self._troubled: dict[int, _Trouble] = {}
        #: Parts that were taken back from the engine, and are not finished.
        self._taken_back: set[int] = set()

    @property
    def slots(self) -> int:
        """Return how many parts can be computed at once."""
        return sum(self._agents.values())

    @property
    def running(self) -> int:
        """Return an upper bound of the parts being computed: those sent and not finished, at most the slots."""
        return min(len(self._out), self.slots or len(self._out))

    @property
    def over(self) -> bool:
        """True if every part is finished or set aside, or the job was stopped."""
        waiting = self._out or self._again or self._back or self._refused
        return self.error is not None or (self._all_cut and not waiting)

    def due(self, now: float) -> Iterator[list[Part]]:
        """Yield the batches to be sent now: parts to be repeated, each alone; then new ones, as the window allows."""
        any_was_due = False
        if self._refused and not self._resend_refused():
            return
        window = 2 * self.slots + 8
        while self.error is None and self._batches < window:
            if self._again:
                batch = [self._again.popleft()]
            else:
                known = self.done + len(self._out) + len(self.errors)
                remaining = None if self.total is None else self.total - known
                batch = self._next(self._pacing.batch_size(remaining, self.slots))
                if not batch:
                    self._all_cut = self._made < self.limit
                    break
            sent = _Batch(batch, now)
            self._batches += 1
            for part in batch:
                self._out[part.index] = sent
            any_was_due = True
            yield batch
        if self._all_cut and not any_was_due:
            for index in self._backups.due(self._out, self.done, self.slots, self._pacing.slow(), now):
                yield [self._out[index].part(index)]

    def _resend_refused(self) -> bool:
        """Send refused parts again once other workers may take them; return False if nothing is to be sent now."""
        if not self._is_encouraged:
            if self._out:  # a worker computes these, and will have a slot for others
                return False
            if self._refusals >= REFUSALS:
                self._give_up_refused()
                return False
            self._refusals += 1
        self._is_encouraged = False
        self._back.extend(self._refused)
        self._refused.clear()
        return True

    def _encourage(self) -> None:
        self._is_encouraged, self._refusals = True, 0

    def _give_up_refused(self) -> None:
        causes = self._trouble(self._refused[0].index).causes
        self._stop(self._refused[0], causes if self._refusal in causes else [*causes, self._refusal])

    def _next(self, count: int) -> list[Part]:
        back = self._back
        taken = [back.popleft() for _ in range(min(count, len(back)))]
        made = list(islice(self._parts, int(max(0, min(count - len(taken), self.limit - self._made)))))
        self._made += len(made)
        return taken + made

    def take_back_all(self) -> None:
        """Take back all unfinished parts, to be sent to another engine."""
        batches = dict.fromkeys(self._out.values())
        parts = [part for batch in batches for part in batch.parts if self._out.get(part.index) is batch]
        self._again.extend(sorted(parts, key=lambda part: part.index))
        self._again.extend(self._refused)
        self._refused.clear()
        self._taken_back.update(part.index for part in parts)
        self._out.clear()
        self._batches = 0
        self._agents.clear()

    def cancel(self, index: int) -> None:
        """Count a part as over that is no longer wanted: nothing that is reported of it counts any more."""
        if self._take_back(index) is None:
            self._again = deque(part for part in self._again if part.index != index)
            self._back = deque(part for part in self._back if part.index != index)
            self._refused = [part for part in self._refused if part.index != index]
        self._taken_back.discard(index)
        self._troubled.pop(index, None)

    def recall(self) -> None:
        """Count a part as done that an earlier run has computed: its partial comes from the checkpoint."""
        self.done += 1
        self.recalled += 1

    def receive(self, reports: Iterable[Report], now: float) -> list[Done]:
        """Take reports; return those that are the first good result of their part, which count."""
        kept: list[Done] = []
        for report in reports:
            if type(report) is not Done:
                self._note(report, now)
            elif self._finish(report):
                kept.append(report)
        if self.errors and self.error is None and len(self.errors) > self._rules.max_failed:
            first = next(iter(self.errors.values()))
            self.error = self.failures(is_stopped=True) if self._rules.max_failed else first
        return kept

    def set_all_aside(self) -> None:
        """Let any number of parts fail."""
        self._rules = self._rules._replace(max_failed=inf)

    def make_no_more(self) -> None:
        """End the job with the parts that were made so far."""
        self._parts = iter(())

    def newly_failed(self) -> list[int]:
        """Return the parts that have failed for good since the last call, and have not been finished since."""
        found, self._newly_failed = self._newly_failed, []
        return [index for index in found if index in self.errors]

    def failures(self, is_stopped: bool = False) -> PartsFailed:
        """Return the errors of all parts that are set aside, in part order."""
        return PartsFailed([error for _, error in sorted(self.errors.items())], self.done, self.total, is_stopped)

    def _note(self, report: Report, now: float) -> None:
        match report:
            case Running(index):
                if batch := self._out.get(index):
                    batch.began = now
                    batch.has_begun = True
            case Failed():
                self._fail(report)
            case Lost():
                self._lose(report)
            case Returned(index, alone):
                self._return(index, alone)
            case Refused(indices, text):
                self._refuse(indices, text)
            case Joined(agent, slots):
                self._agents[agent] = slots
                self._encourage()
            case Left(agent):
                self._agents.pop(agent, None)
                self._end_if_none_starts()
            case Connection():
                pass
            case _:  # to ignore it could mean to wait for ever
                raise PymarError(f"the engine has reported what no job understands: {report!r:.500}")

    def superfluous(self) -> list[int]:
        """Return the finished parts that two workers computed: one of them still does. Each is returned once."""
        return self._backups.superfluous(self._out)

    def _finish(self, report: Done) -> bool:
        batch = self._out.pop(report.index, None)
        if batch is None:
            return self._finish_late(report.index)
        self._taken_back.discard(report.index)
        self.done += 1
        self._encourage()
        self._start_losses.clear()
        self._pacing.part_took(report.seconds)
        batch.seconds += report.seconds
        batch.left -= 1
        if batch.left == 0:
            self._batches -= 1
            self._pacing.batch_took(len(batch.parts), batch.seconds)
        return True

    def _finish_late(self, index: int) -> bool:
        """Take a result of a part that is not with the engine: it counts if the part waits to be sent again, or was
        set aside."""
        if self._rules.max_failed and self.error is None and self.errors.pop(index, None) is not None:
            self.done += 1
            return True
        for waiting in (self._again, self._back, self._refused) if index in self._taken_back else ():
            for part in waiting:
                if part.index == index:
                    waiting.remove(part)
                    self._taken_back.discard(index)
                    self.done += 1
                    return True
        self.duplicates += 1
        return False

    def _take_back(self, index: int) -> Part | None:
        """Take a part back from the engine; return it, or None if it is finished or waits already."""
        batch = self._out.pop(index, None)
        if batch is None:
            return None
        batch.left -= 1
        if batch.left == 0:
            self._batches -= 1
        self._taken_back.add(index)
        return batch.part(index)

    def _trouble(self, index: int) -> _Trouble:
        return self._troubled.setdefault(index, _Trouble())

    def _fail(self, report: Failed) -> None:
        part = self._take_back(report.index)
        if part is None:
            return
        self.failed += 1
        trouble = self._trouble(part.index)
        trouble.failures += 1
        if trouble.failures <= self._rules.retries:
            self._again.append(part._replace(attempt=part.attempt + 1))
        else:
            self._set_aside(part, _part_failed(part, report))

    def _lose(self, report: Lost) -> None:
        batch = self._out.get(report.index)
        if batch is None:
            return
        part = batch.part(report.index)
        if report.again:
            self._take_back(report.index)
        self.lost += 1
        trouble = self._trouble(part.index)
        trouble.causes.append(report.cause.text)
        if report.cause.kind == "start":
            trouble.starts += 1
            self._start_losses.append((part, report.cause.text))
            self._end_if_none_starts()
        trouble.limits += report.cause.kind in ("timeout", "memory")
        at_limit = trouble.limits >= min(ATTEMPTS_AT_A_LIMIT, self._rules.attempts)
        if not at_limit and len(trouble.causes) < self._rules.attempts:
            if report.again:
                self._again.append(part._replace(attempt=part.attempt + 1))
        elif trouble.starts == len(trouble.causes):  # no part causes that: the others would meet it too
            self._stop(part, trouble.causes)
        else:
            self._set_aside(part, PartLost(part[:4], tuple(trouble.causes)))

    def _return(self, index: int, alone: bool) -> None:
        part = self._take_back(index)
        if part is None:
            return
        if not alone:  # parts have become slow: measure anew
            self._pacing.restart()
            self._back.append(part)
            return
        trouble = self._trouble(index)
        trouble.returns += 1
        if trouble.returns <= RETURNS:
            self._again.append(part)
        else:
            self._set_aside(part, PartLost(part[:4], (*trouble.causes, f"handed back {RETURNS} times")))

    def _end_if_none_starts(self) -> None:
        """Fail the job if the worker processes of all agents so far die before they compute anything."""
        if self.error is None and not self._agents and len(self._start_losses) >= self._rules.attempts:
            part, _ = self._start_losses[-1]
            self._stop(part, [text for _, text in self._start_losses])

    def _refuse(self, indices: Iterable[int], text: str) -> None:
        self._refusal, self._is_encouraged = text, False
        self._refused += [part for index in indices if (part := self._take_back(index)) is not None]

    def _stop(self, part: Part, causes: list[str]) -> None:
        """Stop the job: nobody computes its parts, of which this is one."""
        if self.error is None:
            self.error = PartLost(part[:4], tuple(causes))
            self.error.rerun = part

    def _set_aside(self, part: Part, error: PartFailed | PartLost) -> None:
        """Note that a part has failed for good: it is not sent again. A copy that still runs may finish it."""
        self._take_back(part.index)
        self._taken_back.discard(part.index)
        error.rerun = part
        self.errors[part.index] = error
        self._newly_failed.append(part.index)


def _part_failed(part: Part, report: Failed) -> PartFailed:
    failure = report.failure
    error = PartFailed(part[:4], report.worker, failure.error, failure.traceback, failure.variables)
    if failure.exception is not None:
        try:
            error.__cause__ = loads(failure.exception)
        except KeyboardInterrupt:
            raise
        except BaseException as problem:  # its class may be absent here, or cannot be made again; the text is enough
            error.add_note(f"(the original exception cannot be shown here: {problem!r})")
    return error
