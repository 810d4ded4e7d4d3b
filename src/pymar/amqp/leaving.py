"""Leaving: an agent that was asked to stop finishes what runs, or hands it back when its grace is over, and goes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from pymar.amqp import protocol

if TYPE_CHECKING:
    from pymar.amqp.agent import WorkerAgent

log = logging.getLogger(__name__)

#: Seconds for the broker to confirm what is handed back, and for the last words to get through.
_LAST_WORDS, _GOODBYE = 5.0, 2.0


class Leaving:
    """Belongs to the agent's thread."""

    def __init__(self, agent: WorkerAgent, gone: Callable[[], None]) -> None:
        self._agent = agent
        self._gone = gone
        self._hand_back_at = 0.0
        self.has_begun = False

    def begin(self) -> None:
        """Take nothing new."""
        if self.has_begun:
            return
        agent = self._agent
        log.info("asked to stop: finishing what runs, for %g s at most", agent.settings.grace)
        self.has_begun = True
        self._hand_back_at = monotonic() + agent.settings.grace
        agent.consumers.leave()
        for job in agent.jobs:
            job.hand_back_held()
        self.go_if_idle()

    def look(self, now: float) -> None:
        """See whether the grace is over."""
        if self.has_begun and now > self._hand_back_at:
            self._hand_back(now)

    def _hand_back(self, now: float) -> None:
        agent = self._agent
        running = [execution for job in agent.jobs for execution in job.running.values()]
        if running and agent.link.is_up:
            log.info("handing back %d parts", len(running))
            self._hand_back_at = now + _LAST_WORDS
            for job in agent.jobs:
                job.hand_back()
        if not agent.link.is_up or all(execution.over for execution in running):
            agent.loop.later(_GOODBYE, self.go_now)

    def go_if_idle(self) -> None:
        """Say goodbye, if nothing runs any more."""
        agent = self._agent
        if not self.has_begun or any(job.running for job in agent.jobs):
            return
        for reply in {job.reply for job in agent.jobs}:
            agent.say(reply, protocol.Leaving(agent.me))
        log.info("leaving")
        agent.link.stop(self._gone)

    def go_now(self) -> None:
        """End. What was not acknowledged, the broker gives to others."""
        self._agent.link.stop(self._gone, now=True)
