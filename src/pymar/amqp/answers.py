"""Answers: what an agent has to say to a producer of a job's parts, said again until the broker has it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

from pymar.amqp import protocol, times
from pymar.amqp.assembly import digest_of
from pymar.masks import printable
from pymar.parts import Done, Failed, Lost
from pymar.values import PLAIN_MARK

if TYPE_CHECKING:
    from pymar.amqp.agent import WorkerAgent
    from pymar.amqp.agentjob import AgentJob

log = logging.getLogger(__name__)

#: Bytes of values that travel together.
_TOGETHER = 1 << 20


class Answers:
    """Of one job. What is said of a part settles it once the broker has confirmed that."""

    def __init__(self, agent: WorkerAgent, job: AgentJob) -> None:
        self._agent, self._job = agent, job
        #: Since when the producer's queue takes nothing.
        self._lost_since: float | None = None

    def results(self, results: Sequence[Done]) -> None:
        """Values of parts, several in a message; one that is large in pieces."""
        rows: list[list[Any]] = []
        size = 0
        for done in results:
            if len(done.value) >= protocol.CHUNK:
                self._large(done)
                continue
            rows.append([*done])
            size += len(done.value)
            if size > _TOGETHER:
                self._values(rows)
                rows, size = [], 0
        if rows:
            self._values(rows)

    def failed(self, report: Failed) -> None:
        """What the user's code raised."""
        index, worker, failure = report
        exception = (failure.exception or b"") if self._agent.keys else b""
        if len(exception) > _TOGETHER:
            exception = b""  # the text tells all
        log.info("job %s: part %d failed: %s", self._job.name, index, printable(failure.error[:200]))
        told = shortened(failure.error), shortened(failure.traceback), shortened(failure.variables)
        self._send(protocol.Failed(*self._of_us(), index, worker, *told, exception), [index])

    def unsendable(self, index: int, text: str) -> None:
        """What goes wrong on the way here, or back."""
        self._send(protocol.Failed(*self._of_us(), index, "the agent", text, "", "", b""), [index])

    def lost(self, report: Lost) -> None:
        """A child has died, or was stopped."""
        log.warning("job %s: part %d was lost: %s", self._job.name, report.index, report.cause.text.partition("\n")[0])
        text = shortened(report.cause.text)
        self._send(protocol.Lost(*self._of_us(), report.index, report.cause.kind, text), [report.index])

    def returned(self, indices: list[int]) -> None:
        """These parts were not computed."""
        self._send(protocol.Returned(*self._of_us(), indices), indices)

    def refused(self, indices: list[int], text: str) -> None:
        """This worker cannot take part."""
        log.warning("job %s: cannot take part: %s", self._job.name, text)
        self._send(protocol.Refused(*self._of_us(), indices, text), indices)

    def is_forsaken(self) -> bool:
        """The producer's queue took nothing, again: let go of the job once that has lasted; whether it has."""
        now = monotonic()
        if self._lost_since is None:
            self._lost_since = now
        if now - self._lost_since < times.GIVE_UP_AFTER:
            return False
        log.info("job %s: its producer has gone", self._job.name)
        self._agent.jobs.let_go(self._job, is_over=False)
        return True

    def is_heard(self) -> None:
        """The producer's queue took something."""
        self._lost_since = None

    def _of_us(self) -> tuple[protocol.Agent, bytes]:
        return self._agent.me, self._job.id

    def _values(self, rows: list[list[Any]]) -> None:
        if not self._agent.keys and not all(row[1][:3] == PLAIN_MARK for row in rows):
            raise ValueError("a child without a key has sent something else than plain data")
        self._send(protocol.Partial(*self._of_us(), rows), [row[0] for row in rows])

    def _large(self, done: Done) -> None:
        index, value, seconds = done
        most = self._agent.settings.max_result
        if len(value) > most:
            text = (
                f"UsageError: the partial has {len(value):,} bytes, more than the {most:,} that this worker sends: "
                "make more and smaller parts, or start workers with a larger --max-result"
            )
            self.unsendable(index, text)
            return
        execution, name, digest = self._job.running[index], os.urandom(8), digest_of(value)
        starts = range(0, len(value), protocol.CHUNK)
        unconfirmed = len(starts)

        def confirmed() -> None:
            nonlocal unconfirmed
            unconfirmed -= 1
            if not unconfirmed:
                self._job.settle([execution])

        for start in starts:
            execution.is_sent = False  # as long as any piece may fail
            piece = value[start : start + protocol.CHUNK]
            chunk = protocol.Chunk(*self._of_us(), name, index, seconds, start, len(value), digest, piece)
            self._send(chunk, [index], confirmed)

    def _send(self, message: Any, indices: list[int], then: Callable[[], None] | None = None) -> None:
        """Send to the producer, and when that is confirmed be done with these parts."""
        executions = [self._job.running[index] for index in indices]
        for execution in executions:
            execution.over = True

        def done(was_taken: bool) -> None:
            if was_taken:
                self._lost_since = None
                (then or (lambda: self._job.settle(executions)))()
            elif not self._job.is_over and not self.is_forsaken():
                self._agent.loop.later(times.AGAIN_AFTER, self._agent.say, self._job.reply, message, done)

        self._agent.say(self._job.reply, message, done)
        for execution in executions:
            execution.is_sent = True


def shortened(text: str) -> str:
    """Text that fits into a message."""
    most = protocol.LONGEST_TEXT
    return text if len(text) <= most else f"{text[: most // 2]}\n[...]\n{text[-most // 2 :]}"
