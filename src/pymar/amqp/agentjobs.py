"""The jobs of an agent, and what it remembers of those that it has no more."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any

from pymar.amqp import protocol, times
from pymar.amqp.agentjob import AgentJob
from pymar.amqp.assembly import digest_of
from pymar.amqp.execution import Holding
from pymar.amqp.link import Delivery
from pymar.amqp.memory import Memory
from pymar.amqp.protocol import python_version
from pymar.amqp.wire import fresh
from pymar.slotrun import Work
from pymar.values import PLAIN_MARK

if TYPE_CHECKING:
    from pymar.amqp.agent import WorkerAgent

log = logging.getLogger(__name__)

#: Definitions, and finished deliveries and jobs, that are remembered.
_DEFINITIONS, _REMEMBERED = 16, 10_000
#: Seconds between two looks, after which it was this process that was stopped.
_AWAY = 3.0


class AgentJobs:
    """Belongs to the agent's thread."""

    def __init__(self, agent: WorkerAgent) -> None:
        self._agent = agent
        self._jobs: dict[bytes, AgentJob] = {}
        self._definitions: Memory[bytes, Work] = Memory(_DEFINITIONS)
        self._over: Memory[bytes, None] = Memory(_REMEMBERED)
        #: Why jobs do not want us; and why we cannot compute them, until we look again.
        self._unwanted: Memory[bytes, str] = Memory(_REMEMBERED)
        self._refusals: Memory[bytes, str] = Memory(_REMEMBERED)
        #: Jobs whose producer did not answer: whether it lives is asked before anything more is done for it.
        self._forsaken: Memory[bytes, None] = Memory(_REMEMBERED)
        self._finished: Memory[tuple[bytes, int], None] = Memory(_REMEMBERED)
        self._looked_at = monotonic()

    def __iter__(self) -> Iterator[AgentJob]:
        """Those that there are at this moment."""
        return iter(list(self._jobs.values()))

    # What comes from the work queue.

    def take(self, delivery: Delivery, parts: protocol.Parts) -> None:
        """Parts to compute, if they are wanted, and wanted of us."""
        agent = self._agent
        if parts.job in self._over or (delivery.redelivered and (parts.job, parts.serial) in self._finished):
            agent.drop(delivery)
            return
        if not agent.keys and any(type(row[4]) is bytes and row[4][:3] != PLAIN_MARK for row in parts.batch):
            agent.read.refuse("its data are not plain, and there is no key")
            agent.drop(delivery)
            return
        job = self._jobs.get(parts.job)
        refused = self._unwanted.get(parts.job) or self._refusals.get(parts.job)
        if refused:
            # Its producer, if it lives, sends them again: for others, while we pause.
            agent.pause(refused)
            message = protocol.Refused(agent.me, parts.job, [row[0] for row in parts.batch], refused)
            agent.say(parts.reply, message, lambda was_taken: agent.drop(delivery))
            return
        if job is None:
            job = self._jobs[parts.job] = AgentJob(agent, parts.job, parts.reply, agent.serving.code)
            work = self._definitions.get(parts.definition)
            if work is not None and parts.job not in self._forsaken:
                job.begin(work)
        job.reply = parts.reply
        if job.is_known:
            job.take(delivery, parts)
            agent.lists.tell_soon()
        else:
            job.hold(delivery, parts)
            agent.consumers.park(delivery)
            self._join(job)

    def finished(self, job: AgentJob, holding: Holding) -> None:
        """A delivery is dealt with: what there was to say of it is confirmed."""
        self._finished.keep((job.id, holding.parts.serial), None)
        if holding.delivery is not None:
            self._agent.drop(holding.delivery)
        else:
            self._agent.consumers.resume()
        self._let_go_if_refused(job)
        self._agent.leaving.go_if_idle()

    # What comes to the agent's own queue.

    def heard(self, message: Any) -> None:
        """A producer has said something about a job of its, or about several."""
        if isinstance(message, protocol.Over):
            for over in message.jobs:
                if over in self._jobs:
                    self.let_go(self._jobs[over])
                else:
                    self._over.keep(over, None)
            return
        now = monotonic()
        for name in message.jobs if isinstance(message, protocol.Alive) else [message.job]:
            if name in self._jobs:
                self._jobs[name].heard_at = now
        if isinstance(message, protocol.Alive) or message.job not in self._jobs:
            return
        job = self._jobs[message.job]
        match message:
            case protocol.Welcome():
                self._welcome(job, message)
            case protocol.Refusal(_, text):
                log.warning("job %s: its producer has refused us: %s", job.name, text)
                job.refused = text
                self._unwanted.keep(job.id, text)
                self._agent.pause(text)
                job.hand_back_held()
                self.let_go(job, is_over=False)
            case protocol.Cancel(_, indices):
                job.stop(indices)
            case protocol.Piece():
                job.fetched(message)

    def _welcome(self, job: AgentJob, welcome: protocol.Welcome) -> None:
        if job.is_known:
            return
        agent = self._agent
        serving = agent.serving
        definition: Any = welcome.definition
        if serving.path:
            only = serving.producer, serving.source
            definition = (serving.path, job.code, *only, bool(agent.keys), definition)
        limits = welcome.part_timeout or None, welcome.memory_limit or None
        work = Work(definition, *limits, times.BATCH_SECONDS)
        if job.code == serving.code:
            self._definitions.keep(digest_of(python_version().encode() + welcome.definition), work)
        self._forsaken.forget(job.id)
        log.info("job %s: joined", job.name)
        for delivery, _ in job.held:
            agent.consumers.unpark(delivery)
        job.begin(work)
        agent.lists.tell_soon()

    def join_all(self) -> None:
        """Ask the producers of jobs that are not known what they are."""
        for job in self:
            self._join(job)

    def _join(self, job: AgentJob) -> None:
        if job.is_known or job.refused or job.id not in self._jobs:
            return

        def done(was_taken: bool) -> None:
            if not was_taken and self._jobs.get(job.id) is job and not job.is_known:
                self.let_go(job, is_over=False)

        join = protocol.Join(self._agent.me, job.id, python_version(), fresh())
        self._agent.send(job.reply, join, done, lasting=False)

    # What else happens to them.

    def let_go(self, job: AgentJob, is_over: bool = True) -> None:
        """Nothing more is done for a job: it is over, or its producer has gone, which may come back."""
        self._jobs.pop(job.id, None)
        (self._over if is_over else self._forsaken).keep(job.id, None)
        job.end()

    def refuse(self, job: AgentJob, is_passing: bool) -> None:
        """Take no more parts of a job, until we look again; those that are being computed, or told of, go on."""
        self._refusals.keep(job.id, job.refused)
        self._agent.pause(job.refused, renews=not is_passing, grows=is_passing)
        self._let_go_if_refused(job)

    def _let_go_if_refused(self, job: AgentJob) -> None:
        if job.refused and not job.running and self._jobs.get(job.id) is job:
            self.let_go(job, is_over=False)

    def look_again(self) -> None:
        """What we could not compute may work now."""
        self._refusals.clear()
        for job in self:
            job.refused = ""

    def connected_again(self) -> None:
        """What was delivered, and is not begun, will come again, to us or to others."""
        comes_back = monotonic() + times.COMES_BACK
        for job in self:
            job.heard_at = comes_back
            job.held.clear()
            self._join(job)
            job.fetches.ask_again()

    def code_has_changed(self) -> None:
        """What waits is of the code that was."""
        self._definitions.clear()
        for job in self:
            job.hand_back_held()

    def look_around(self, now: float) -> None:
        """See to what time alone calls for."""
        agent = self._agent
        lease = agent.settings.lease_after
        can_hear = agent.link.is_up and not agent.link.blocked and now - self._looked_at < _AWAY
        self._looked_at = now
        for job in self:
            if not can_hear:
                job.heard_at = max(job.heard_at, now)
            elif job.is_known and now - job.heard_at > times.PRODUCER_SILENT:
                self._suspend(job)
            job.fetches.look_around(now)
            if job.held and now - job.held_since > lease:
                job.hand_back_held()  # its producer does not answer, and the broker's patience has an end
            agent.lists.acknowledge_early(job, lease)

    def _suspend(self, job: AgentJob) -> None:
        """Its producer is dead, stopped or cut off: its parts hold up nobody."""
        whose = protocol.producer_of(job.reply)
        log.warning("job %s: nothing was heard of its producer, %s: its parts wait until it speaks", job.name, whose)
        self._forsaken.keep(job.id, None)
        job.suspend()
        self._join(job)
