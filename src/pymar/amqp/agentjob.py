"""One job at an agent: parts go to the pool of children, and what those report goes to the producer."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from time import monotonic
from typing import TYPE_CHECKING, Any

from pymar.amqp import protocol, times
from pymar.amqp.assembly import digest_of
from pymar.amqp.execution import Execution, Holding
from pymar.amqp.fetches import Fetches
from pymar.amqp.link import Delivery
from pymar.encoded import Encoded
from pymar.parts import Done, Failed, Lost, Part, Refused, Report, Returned
from pymar.slotrun import SlotRun, Work
from pymar.values import PLAIN_MARK

if TYPE_CHECKING:
    from pymar.amqp.agent import WorkerAgent

log = logging.getLogger(__name__)

#: Bytes of values that travel together.
_TOGETHER = 1 << 20
#: Seconds after which what nobody took is sent again.
AGAIN_AFTER = 1.0


class AgentJob:
    """Belongs to the agent's thread. `put` and `whisper` are the pool's to call, in the same thread."""

    def __init__(self, agent: WorkerAgent, job: bytes, reply: str, code: str) -> None:
        self.id = job
        self.reply = reply
        #: Of the job file, as it was when the job came.
        self.code = code
        #: Why it takes no part, if it was refused.
        self.refused = ""
        #: Deliveries that wait until the job is known, and since when.
        self.held: list[tuple[Delivery, protocol.Parts]] = []
        self.held_since = 0.0
        self.running: dict[int, Execution] = {}
        self.fetches = Fetches(self._ask_for)
        self._agent = agent
        self._run: SlotRun | None = None
        #: Since when the producer's queue takes nothing.
        self._lost_since: float | None = None

    @property
    def name(self) -> str:
        """For people."""
        return self.id.hex()[:8]

    @property
    def is_known(self) -> bool:
        """Whether it is known what to compute."""
        return self._run is not None

    def begin(self, work: Work) -> None:
        """It is known now what to compute."""
        if self._run is None:
            agent = self._agent
            slots = agent.settings.slots
            self._run = agent.pool.start(work, slots, slots, self)
            held, self.held = self.held, []
            for delivery, parts in held:
                self.take(delivery, parts)

    def take(self, delivery: Delivery, parts: protocol.Parts) -> None:
        """Compute parts that were delivered. Those that are being computed already are waited for."""
        assert self._run is not None
        holding = Holding(delivery, parts.serial)
        now = monotonic()
        fresh: list[Part] = []
        for row in parts.batch:
            part = Part(*row)
            holding.left.add(part.index)
            execution = self.running.get(part.index)
            # One that failed is to be computed again, though the broker has not confirmed yet that it has the failure.
            if execution is not None and (execution.is_done or not execution.over):
                execution.holdings.append(holding)
                if not parts.is_copy or execution.over or part.index in self.fetches:
                    continue
                execution.copies += 1
            else:
                self.running[part.index] = Execution(part.index, now, [holding])
            if type(part.data) is list:
                self._fetch(part)
            else:
                data = None if part.data is None else Encoded(part.data)
                fresh.append(part._replace(data=data))
        if delivery.redelivered:
            self._agent.list_running(self.reply)  # before it begins: it may be the death of us
        if fresh:
            self._run.submit(fresh)

    def stop(self, indices: Iterable[int]) -> None:
        """Compute these parts no longer: nobody wants them."""
        for index in list(indices):
            if index in self.running and not self.running[index].over:
                if self._run is not None:
                    self._run.cancel(index)
                self._settle([self.running[index]])

    def end(self) -> None:
        """The job is over."""
        for delivery, _ in self.held:
            self._agent.drop(delivery)
        self.held.clear()
        self._settle(list(self.running.values()))
        if self._run is not None:
            self._run.close()

    def hand_back_held(self) -> None:
        """Let others have the deliveries that wait until the job is known."""
        held, self.held = self.held, []
        for delivery, _ in held:
            self._agent.consumers.hand_back(delivery)

    def hand_back(self) -> None:
        """Give up what is being computed: others are to do it."""
        indices = [index for index, execution in self.running.items() if not execution.over]
        if self._run is not None:
            self._run.close()
        if indices:
            self._send(protocol.Returned(self._agent.me, self.id, indices), indices)

    def fetched(self, piece: protocol.Piece) -> None:
        """Some of a part's data has come."""
        try:
            part = self.fetches.came(piece)
        except ValueError as problem:
            self._agent.read.refuse(str(problem))
            return
        if part is not None and self._run is not None:
            self._run.submit([part])

    def _fetch(self, part: Part) -> None:
        try:
            self.fetches.begin(part)
        except ValueError as problem:
            self._fail(part.index, f"UsageError: its data cannot be sent: {problem}")

    def _ask_for(self, index: int, start: int) -> None:
        self._agent.say(self.reply, protocol.Fetch(self._agent.me, self.id, index, start))

    # What the pool says.

    def put(self, news: list[Report] | BaseException) -> None:
        if isinstance(news, BaseException):
            return  # the agent hears of it too
        try:
            self._put(news)
        except Exception:  # a fault of ours: it must not cost the agent, which has other jobs
            log.exception("a report could not be sent")

    def _put(self, news: list[Report]) -> None:
        done: list[list[Any]] = []
        size = 0
        for report in news:
            if not isinstance(report, Done):
                self._tell(report)
            elif self._is_ours(report.index, is_done=True):
                if len(report.value) >= protocol.CHUNK:
                    self._send_large(report)
                    continue
                done.append([*report])
                size += len(report.value)
                if size > _TOGETHER:
                    self._send_values(done)
                    done, size = [], 0
        if done:
            self._send_values(done)

    def whisper(self, report: Report) -> None:
        """That a part has begun, the agent knows."""

    def _is_ours(self, index: int, is_done: bool = False) -> bool:
        """Whether a report counts: the part runs, and no other slot that computes it may still have its value."""
        execution = self.running.get(index)
        if execution is None or execution.over:
            return False
        if execution.copies > 1:
            execution.copies -= 1
            if not is_done:
                return False
            if self._run is not None:
                self._run.cancel(index)  # at the slot that is slower
        execution.over, execution.is_done = True, is_done
        return True

    def _tell(self, report: Report) -> None:
        me = self._agent.me
        match report:
            case Failed(index, worker, failure) if self._is_ours(index):
                exception = (failure.exception or b"") if self._agent.keys else b""
                if len(exception) > _TOGETHER:
                    exception = b""  # the text tells all
                log.info("job %s: part %d failed: %s", self.name, index, failure.error[:200])
                told = _cut(failure.error), _cut(failure.traceback), _cut(failure.variables)
                failed = protocol.Failed(me, self.id, index, worker, *told, exception)
                self._send(failed, [index])
            case Lost(index, cause) if self._is_ours(index):
                log.warning("job %s: part %d was lost: %s", self.name, index, cause.text)
                self._send(protocol.Lost(me, self.id, index, cause.kind, _cut(cause.text)), [index])
            case Returned(index) if self._is_ours(index):
                self._send(protocol.Returned(me, self.id, [index]), [index])
            case Refused(indices, text):
                ours = [index for index in indices if self._is_ours(index)]
                self.refused = _cut(text)
                log.warning("job %s: cannot take part: %s", self.name, self.refused)
                self._send(
                    protocol.Refused(me, self.id, ours, self.refused), ours, then=lambda: self._agent.refuse(self)
                )
                self._agent.pause()

    def _send_values(self, rows: list[list[Any]]) -> None:
        if not self._agent.keys and not all(row[1][:3] == PLAIN_MARK for row in rows):
            raise ValueError("a child without a key has sent something else than plain data")
        self._send(protocol.Partial(self._agent.me, self.id, rows), [row[0] for row in rows])

    def _send_large(self, done: Done) -> None:
        index, value, seconds = done
        most = self._agent.settings.max_result
        if len(value) > most:
            text = (
                f"UsageError: the partial has {len(value):,} bytes, more than the {most:,} that this worker sends: "
                "make more and smaller parts, or start workers with a larger --max-result"
            )
            self._fail(index, text)
            return
        execution, name, digest = self.running[index], os.urandom(8), digest_of(value)
        starts = range(0, len(value), protocol.CHUNK)
        unconfirmed = len(starts)

        def confirmed() -> None:
            nonlocal unconfirmed
            unconfirmed -= 1
            if not unconfirmed:
                self._settle([execution])

        for start in starts:
            piece = value[start : start + protocol.CHUNK]
            whole = (index, seconds, start, len(value), digest, piece)
            self._send(protocol.Chunk(self._agent.me, self.id, name, *whole), [index], confirmed)

    def _fail(self, index: int, text: str) -> None:
        self._send(protocol.Failed(self._agent.me, self.id, index, "the agent", text, "", "", b""), [index])

    def _send(self, message: Any, indices: list[int], then: Callable[[], None] | None = None) -> None:
        """Send to the producer, and when that is confirmed be done with these parts."""
        executions = [self.running[index] for index in indices]
        for execution in executions:
            execution.over = True

        def done(was_taken: bool) -> None:
            if was_taken:
                self._lost_since = None
                (then or (lambda: self._settle(executions)))()
            elif not self.is_forsaken():
                self._agent.loop.later(AGAIN_AFTER, self._agent.say, self.reply, message, done)

        self._agent.say(self.reply, message, done)

    def is_forsaken(self) -> bool:
        """The producer's queue took nothing, again: let go of the job once that has lasted; whether it has."""
        now = monotonic()
        if self._lost_since is None:
            self._lost_since = now
        if now - self._lost_since < times.GIVE_UP_AFTER:
            return False
        log.info("job %s: its producer has gone", self.name)
        self._agent.let_go(self, is_over=False)
        return True

    def is_heard(self) -> None:
        """The producer's queue took something."""
        self._lost_since = None

    def _settle(self, executions: Iterable[Execution]) -> None:
        """Nothing more is to be done for these parts: the broker has what there is to say of them."""
        for execution in executions:
            index = execution.index
            if self.running.get(index) is execution:  # and not its next attempt
                del self.running[index]
                self.fetches.forget(index)
            holdings, execution.holdings = execution.holdings, []
            for holding in holdings:
                holding.left.discard(index)
                if not holding.left:
                    self._agent.finished(self, holding)


def _cut(text: str) -> str:
    most = protocol.LONGEST_TEXT
    return text if len(text) <= most else f"{text[: most // 2]}\n[...]\n{text[-most // 2 :]}"
