"""One job at an agent: parts go to the pool of children, and what those report goes to the producer."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from time import monotonic
from typing import TYPE_CHECKING

from pymar.amqp import protocol
from pymar.amqp.answers import Answers, shortened
from pymar.amqp.execution import Execution, Holding
from pymar.amqp.fetches import Fetches
from pymar.amqp.link import Delivery
from pymar.encoded import Encoded
from pymar.parts import Cause, Done, Failed, Lost, Part, Refused, Report, Returned
from pymar.slotrun import SlotRun, Work

if TYPE_CHECKING:
    from pymar.amqp.agent import WorkerAgent

log = logging.getLogger(__name__)


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
        #: When its producer was last heard of.
        self.heard_at = monotonic()
        #: Whether nobody wants it any more.
        self.is_over = False
        self.running: dict[int, Execution] = {}
        self.fetches = Fetches(self._ask_for)
        self._agent = agent
        self._run: SlotRun | None = None
        self.answers = Answers(agent, self)

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
        self.heard_at = monotonic()
        if self._run is None:
            agent = self._agent
            slots = agent.settings.slots
            self._run = agent.pool.start(work, slots, slots, self)
            self._run.is_others = True
            held, self.held = self.held, []
            for delivery, parts in held:
                self.take(delivery, parts)

    def take(self, delivery: Delivery, parts: protocol.Parts) -> None:
        """Compute parts that were delivered. Those that are being computed already are waited for."""
        assert self._run is not None
        holding = Holding(delivery, parts)
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
            self._agent.lists.tell(self.reply)  # before it begins: it may be the death of us
        if fresh:
            self._run.submit(fresh)

    def stop(self, indices: Iterable[int]) -> None:
        """Compute these parts no longer: nobody wants them."""
        for index in list(indices):
            if index in self.running and not self.running[index].over:
                if self._run is not None:
                    self._run.cancel(index)
                self.settle([self.running[index]])

    def suspend(self) -> None:
        """Compute nothing until the producer is heard of again. What was delivered is kept, to be begun anew then."""
        run, self._run = self._run, None
        if run is not None:
            run.close()
        stopped = {index: execution for index, execution in self.running.items() if not execution.over}
        for index in stopped:
            del self.running[index]
            self.fetches.forget(index)
        for holding in dict.fromkeys(holding for execution in stopped.values() for holding in execution.holdings):
            if holding.delivery is None:  # acknowledged before its time: its producer will miss it
                self._agent.jobs.finished(self, holding)
            elif self._agent.consumers.is_held(holding.delivery):
                rows = [row for row in holding.parts.batch if row[0] in stopped and row[0] in holding.left]
                self.hold(holding.delivery, holding.parts._replace(batch=rows))
                self._agent.consumers.park(holding.delivery)

    def end(self) -> None:
        """The job is over."""
        self.is_over = True
        for delivery, _ in self.held:
            self._agent.drop(delivery)
        self.held.clear()
        self.settle(list(self.running.values()))
        if self._run is not None:
            self._run.close()

    def hold(self, delivery: Delivery, parts: protocol.Parts) -> None:
        """Keep a delivery until it is known what to compute."""
        if not self.held:
            self.held_since = monotonic()
        self.held.append((delivery, parts))

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
            self.answers.returned(indices)

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
            self.answers.unsendable(part.index, f"UsageError: its data cannot be sent: {problem}")

    def _ask_for(self, index: int, start: int) -> None:
        self._agent.say(self.reply, protocol.Fetch(self._agent.me, self.id, index, start))

    # What the pool says.

    def put(self, news: list[Report] | BaseException) -> None:
        if isinstance(news, BaseException):
            return  # the agent hears of it too
        try:
            self._put(news)
        except Exception as error:  # a fault of ours, or no memory: it must not cost the agent, which has other jobs
            log.exception("a report could not be sent")
            self._charge_unsent(news, error)

    def _charge_unsent(self, news: list[Report], error: Exception) -> None:
        """Parts whose report could not be sent are lost, and told as such: nobody would compute them again."""
        for report in news:
            index = report[0]
            if isinstance(index, int) and (execution := self.running.get(index)) is not None and not execution.is_sent:
                cause = Cause("died", f"its report could not be sent: {error!r}")
                try:
                    self.answers.lost(Lost(index, cause))
                except Exception:  # the broker gives the part to others, once this agent has gone
                    log.exception("nor could that")

    def _put(self, news: list[Report]) -> None:
        done: list[Done] = []
        for report in news:
            if not isinstance(report, Done):
                self._tell(report)
            elif self._is_ours(report.index, is_done=True):
                done.append(report)
        if done:
            self._agent.pausing.is_well()
        self.answers.results(done)

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
        match report:
            case Failed(index) if self._is_ours(index):
                self.answers.failed(report)
            case Lost(index) if self._is_ours(index):
                self.answers.lost(report)
            case Returned(index) if self._is_ours(index):
                self.answers.returned([index])
            case Refused(indices, text, is_passing):
                self.refused = shortened(text)
                ours = [index for index in indices if self._is_ours(index)]
                self.answers.refused(ours, self.refused)
                self._agent.jobs.refuse(self, is_passing)

    def settle(self, executions: Iterable[Execution]) -> None:
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
                    self._agent.jobs.finished(self, holding)
