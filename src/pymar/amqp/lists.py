"""Lists: what an agent tells producers of what it computes for them, and the deliveries that it holds for too long."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from pymar.amqp import protocol, times
from pymar.amqp.agentjob import AgentJob
from pymar.amqp.consumers import Consumers
from pymar.amqp.execution import Holding

log = logging.getLogger(__name__)

#: Says something to a producer's queue: what to whom, who hears what became of it, and whether it is kept until then.
Say = Callable[[str, Any, Callable[[bool], None], bool], None]


class Lists:
    """Belongs to the agent's thread."""

    def __init__(self, jobs: Mapping[bytes, AgentJob], consumers: Consumers, say: Say) -> None:
        self._jobs, self._consumers, self._say = jobs, consumers, say
        self._told_at = 0.0

    def tell_regularly(self, me: protocol.Agent, now: float) -> bool:
        """Tell all producers, if that was LIST_EVERY ago; whether it was."""
        if now - self._told_at < times.LIST_EVERY:
            return False
        self.tell_all(me)
        return True

    def tell_all(self, me: protocol.Agent) -> None:
        """Tell every producer."""
        self._told_at = monotonic()
        for reply in {job.reply for job in self._jobs.values()}:
            self.tell(me, reply)

    def tell_news(self, me: protocol.Agent) -> bool:
        """Tell those producers, for whom something has run for a while that they do not know of.

        Returns:
            Whether something younger runs, of which they may have to know soon.
        """
        since = monotonic() - times.WORTH_TELLING
        untold = [(job.reply, one.since) for job in self._jobs.values() for one in job.running.values() if not one.told]
        told = {reply for reply, began in untold if began <= since}
        for reply in told:
            self.tell(me, reply)
        return any(reply not in told for reply, _ in untold)

    def tell(self, me: protocol.Agent, reply: str) -> None:
        """Tell one producer all that is computed for it."""
        listed = self._list(me, reply)

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
            self._say(reply, listed, done, False)

    def acknowledge_early(self, me: protocol.Agent, job: AgentJob, age: float) -> None:
        """Have the producer know of parts older than that, then acknowledge their deliveries: it watches over them."""
        since = monotonic() - age
        for index, execution in job.running.items():
            for holding in execution.holdings if execution.since < since else ():
                if (
                    not holding.takes_long
                    and holding.delivery is not None
                    and self._consumers.is_held(holding.delivery)
                ):
                    holding.takes_long = True
                    self._say(job.reply, self._list(me, job.reply), self._known(job, index, holding), True)

    def _known(self, job: AgentJob, index: int, holding: Holding) -> Callable[[bool], None]:
        def done(was_taken: bool) -> None:
            delivery = holding.delivery
            if was_taken and delivery is not None and self._consumers.suspend(delivery):
                holding.delivery = None
                log.info("job %s: part %d takes long: acknowledged early", job.name, index)

        return done

    def _of(self, reply: str) -> list[AgentJob]:
        return [job for job in self._jobs.values() if job.reply == reply]

    def _list(self, me: protocol.Agent, reply: str) -> protocol.Running:
        rows: list[list[Any]] = []
        for job in self._of(reply):
            if job.is_known:
                rows += [[job.id, index] for index in job.running] or [[job.id, -1]]
        return protocol.Running(me, rows)
