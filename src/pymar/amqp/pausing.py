"""Pausing: an agent that cannot compute what is in its queue leaves that to others, and looks whether it can again."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pymar.amqp import times
from pymar.amqp.answers import shortened
from pymar.exceptions import UsageError
from pymar.jobfile import code_of

if TYPE_CHECKING:
    from pymar.amqp.agent import WorkerAgent

log = logging.getLogger(__name__)


class Pausing:
    """Belongs to the agent's thread.

    It ends when the job file is what the agent serves, children come up, and some seconds have passed; at once, if the
    file was another and is the right one again.
    """

    def __init__(self, agent: WorkerAgent) -> None:
        self._agent = agent
        self.is_on = False
        #: Empty, unless it is on.
        self.why = ""
        self._seconds = times.REFUSED_PAUSE
        self._until = 0.0
        self._renews = False
        self._file_differed = False

    def begin(self, why: str, now: float, renews: bool, grows: bool) -> None:
        """Pause; see `WorkerAgent.pause`."""
        self._renews |= renews
        if self.is_on:
            return
        self.is_on, self.why = True, why
        self._until = now + (self._seconds if grows else times.REFUSED_PAUSE)
        if grows:
            self._seconds = min(2 * self._seconds, times.LONGEST_REFUSED_PAUSE)
        self._file_differed = False
        log.warning("no parts are taken for %g s, or until this worker can compute them", self._until - now)

    def end(self) -> None:
        """No longer."""
        self.is_on = self._renews = False
        self.why = ""

    def is_well(self) -> None:
        """Something was computed: the next pause is a short one."""
        self._seconds = times.REFUSED_PAUSE

    def look(self, now: float) -> None:
        """See whether children come up, and whether to go on; what time alone calls for."""
        children = self._agent.pool.children
        if children.starts.failures and not children.living():
            children.open(1)
        if children.starts.are_hopeless and not children.are_up() and not self.is_on:
            text = f"its child processes do not come up; the last: {children.starts.why}"
            log.error("this worker cannot compute: %s", text)
            for job in self._agent.jobs:
                job.answers.refused([], shortened(text))
            self._agent.pause(shortened(text))
        if self.is_on and self._may_end(now):
            log.info("taking parts again")
            renews = self._renews
            self.end()
            self._agent.serve_again(renews)

    def _may_end(self, now: float) -> bool:
        children = self._agent.pool.children
        if not self._file_is_right():
            self._file_differed = True
            return False
        if children.starts.are_hopeless and not children.are_up():
            return False
        return self._file_differed or now >= self._until

    def _file_is_right(self) -> bool:
        serving = self._agent.serving
        try:
            return not serving.path or code_of(serving.path) == serving.code
        except UsageError:
            return False
