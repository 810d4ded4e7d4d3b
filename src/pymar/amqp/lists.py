"""Lists: what an agent tells producers of what it computes for them, and the deliveries that it holds for too long."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from pymar.amqp import protocol, times
from pymar.amqp.agentjob import AgentJob
from pymar.amqp.execution import Holding

if TYPE_CHECKING:
    from pymar.amqp.agent import WorkerAgent

log = logging.getLogger(__name__)


class Lists:
    """Belongs to the agent's thread."""

    def __init__(self, agent: WorkerAgent) -> None:
        self._agent = agent
        self._told_at = 0.0
        self._will_tell = False

    def tell_regularly(self, now: float) -> bool:
        """Tell all producers, if that was LIST_EVERY ago; whether it was."""
        if now - self._told_at < times.LIST_EVERY:
            return False
        self.tell_all()
        return True

    def tell_all(self) -> None:
        """Tell every producer."""
        self._told_at = monotonic()
        for reply in {job.reply for job in self._agent.jobs}:
            self.tell(reply)

    def tell_soon(self) -> None:
        """Have producers know of what still runs in a while; one timer at a time, however many parts come and go."""
        if not self._will_tell:
            self._will_tell = True
            self._agent.loop.later(times.WORTH_TELLING, self._tell_news)

    def _tell_news(self) -> None:
        """Tell those producers, for whom something has run for a while that they do not know of."""
        self._will_tell = False
        since = monotonic() - times.WORTH_TELLING
        untold = [(job.reply, one.since) for job in self._agent.jobs for one in job.running.values() if not one.told]
        told = {reply for reply, began in untold if began <= since}
        for reply in told:
            self.tell(reply)
        if any(reply not in told for reply, _ in untold):  # something younger runs
            self.tell_soon()

    def tell(self, reply: str) -> None:
        """Tell one producer all that is computed for it."""
        listed = self._list(reply)

        def done(was_taken: bool) -> None:
            for job in self._of(reply):
                if was_taken:
                    job.answers.is_heard()
                else:
                    job.answers.is_forsaken()

        for job in self._of(reply):
            for execution in job.running.values():
                execution.told = True
        if listed.parts:
            self._agent.send(reply, listed, done, False)

    def acknowledge_early(self, job: AgentJob, age: float) -> None:
        """Have the producer know of parts older than that, then acknowledge their deliveries: it watches over them."""
        since = monotonic() - age
        for index, execution in job.running.items():
            for holding in execution.holdings if execution.since < since else ():
                if (
                    not holding.takes_long
                    and holding.delivery is not None
                    and self._agent.consumers.is_held(holding.delivery)
                ):
                    holding.takes_long = True
                    self._agent.send(job.reply, self._list(job.reply), self._known(job, index, holding), True)

    def _known(self, job: AgentJob, index: int, holding: Holding) -> Callable[[bool], None]:
        def done(was_taken: bool) -> None:
            delivery = holding.delivery
            if was_taken and delivery is not None and self._agent.consumers.suspend(delivery):
                holding.delivery = None
                log.info("job %s: part %d takes long: acknowledged early", job.name, index)

        return done

    def _of(self, reply: str) -> list[AgentJob]:
        return [job for job in self._agent.jobs if job.reply == reply]

    def _list(self, reply: str) -> protocol.Running:
        rows: list[list[Any]] = []
        for job in self._of(reply):
            if job.is_known:
                # While it takes no parts, it is no worker that a job could count on.
                nothing = [] if self._agent.pausing.is_on else [[job.id, -1]]
                rows += [[job.id, index] for index in job.running] or nothing
        return protocol.Running(self._agent.me, rows)
