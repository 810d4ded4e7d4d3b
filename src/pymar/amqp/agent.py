"""The worker's half: one agent a host takes parts from the broker and has its children compute them.

The agent never loads a user's code, and never decodes a value. It and the pool of children share one thread.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from time import monotonic
from typing import Any

from pymar.amqp import protocol, times
from pymar.amqp.address import Address
from pymar.amqp.agentjob import AgentJob
from pymar.amqp.assembly import digest_of
from pymar.amqp.consumers import Consumers
from pymar.amqp.execution import Holding
from pymar.amqp.keys import Keys
from pymar.amqp.leaving import Leaving
from pymar.amqp.link import Delivery, Link, Owner
from pymar.amqp.lists import Lists
from pymar.amqp.memory import Memory
from pymar.amqp.outbox import Message
from pymar.amqp.protocol import python_version
from pymar.amqp.serving import Serving, Settings
from pymar.amqp.wire import Reader, encode, fresh
from pymar.exceptions import BrokerRefused, UsageError
from pymar.jobfile import code_of
from pymar.slotrun import Work
from pymar.slots import SlotPool
from pymar.values import PLAIN_MARK

log = logging.getLogger(__name__)

#: Definitions, and finished deliveries and jobs, that are remembered.
_DEFINITIONS, _REMEMBERED = 16, 10_000
#: Seconds between two looks at what time alone calls for.
_LOOK_EVERY = 0.5


class WorkerAgent(Owner):
    """Serves until it is stopped. `start`, `drain`, `halt` and `wait` may be called from any thread."""

    def __init__(self, address: Address, keys: Keys, serving: Serving, settings: Settings) -> None:
        self.address, self.keys, self.serving, self.settings = address, keys, serving, settings
        self.me = protocol.Agent(os.urandom(8), f"{socket.gethostname()} {os.getpid()}", "", settings.slots)
        self.read = Reader(protocol.TO_AGENT, keys)
        self.pool = SlotPool()
        self.pool.children.preload = (serving.path, serving.code) if serving.path else None
        self.loop = self.pool.loop
        self.link = Link(self.loop, address, self)
        self.consumers = Consumers(self.link, settings.slots, self._delivered)
        self.jobs: dict[bytes, AgentJob] = {}
        self.lists = Lists(self.jobs, self.consumers, self._say)
        self._definitions: Memory[bytes, Work] = Memory(_DEFINITIONS)
        self._over: Memory[bytes, None] = Memory(_REMEMBERED)
        #: Why jobs do not want us, or we them.
        self._refusals: Memory[bytes, str] = Memory(_REMEMBERED)
        #: Jobs whose producer did not answer: whether it lives is asked before anything more is done for it.
        self._forsaken: Memory[bytes, None] = Memory(_REMEMBERED)
        self._finished: Memory[tuple[bytes, int], None] = Memory(_REMEMBERED)
        self._looked_at_file = 0.0
        self._will_list = False
        self._was_up = False
        self._purge = settings.purge
        #: The broker's refusal of the very first connection for a reason that will not pass.
        self.refusal: BrokerRefused | None = None
        self._ended = threading.Event()
        self.leaving = Leaving(self, self._ended.set)

    def start(self) -> None:
        """Connect and serve."""
        self.pool.warm(self.settings.slots, self.settings.slots)
        self.loop.tell(self._look_around)
        self.link.start()

    def drain(self) -> None:
        """Take nothing new, finish or hand back what is there, and end."""
        self.loop.tell(self.leaving.begin)

    def halt(self) -> None:
        """End now. What was not acknowledged, the broker gives to others."""
        self.loop.tell(self.leaving.go_now)

    def wait(self) -> None:
        """Wait for the end.

        Raises:
            BrokerRefused: the broker does not let us in, and never has.
        """
        while not self._ended.wait(0.5):
            if not self.loop.is_running():
                raise UsageError("the agent's thread has failed; its log says how")
        self.pool.shutdown()
        if self.refusal is not None:
            raise self.refusal

    # What the link tells.

    def link_is_up(self) -> None:
        serving = self.serving
        if self.leaving.has_begun:
            return
        log.info(
            "connected to %s: serving the pool %s (code %s) with %d slots",
            *(self.address, serving.pool, serving.code, self.settings.slots),
        )
        self._was_up = True
        self.me = self.me._replace(queue=f"pymar.agent.{self.me.id.hex()}.{self.link.epoch}.{os.urandom(4).hex()}")
        self.link.declare(self.me.queue, None)
        self.link.listen(protocol.CONTROL, self.me.queue)
        self.link.consume(self.me.queue, 20, self._told)
        for job in list(self.jobs.values()):
            job.held.clear()  # they will come again, to us or to others
            self._join(job)
            job.fetches.ask_again()
        self._serve()
        self.lists.tell_all(self.me)

    def link_is_down(self, error: BrokerRefused) -> None:
        self.consumers.forget()
        if not self._was_up:
            log.warning("%s", error)
            if error.is_final:
                self.refusal = error
                self.leaving.go_now()

    def consumer_was_cancelled(self, consumer: str) -> None:
        if consumer in self.consumers:
            log.warning("the work queue was deleted: made again")
            self.consumers.lost(consumer)
            self._serve()

    def _serve(self) -> None:
        queue = protocol.work_queue(self.serving.pool, self.serving.code)
        if not self.leaving.has_begun:
            self.link.declare(queue, times.WORK_EXPIRES)
            if self._purge:
                self._purge = False
                self.link.purge(queue)
            self.consumers.serve(queue)

    # Work.

    def _delivered(self, delivery: Delivery) -> None:
        try:
            if read := self.read(delivery.body):
                self._came(delivery, *read)
            else:
                self.drop(delivery)
        except Exception:  # a fault of ours: the parts will be missed, and sent again
            log.exception("a message could not be dealt with")
            self.drop(delivery)

    def _came(self, delivery: Delivery, message: Any, pool: str) -> None:
        if pool != self.serving.pool or not isinstance(message, protocol.Parts | protocol.Probe):
            self.read.refuse("it is of another pool, or does not belong into a work queue")
            self.drop(delivery)
        elif isinstance(message, protocol.Probe):
            self.say(message.reply, protocol.Echo(self.me, message.job, message.serial))
            self.drop(delivery)
        elif self.leaving.has_begun:
            self.link.hand_back(delivery)
        else:
            self._take(delivery, message)

    def _take(self, delivery: Delivery, parts: protocol.Parts) -> None:
        if parts.job in self._over or (delivery.redelivered and (parts.job, parts.serial) in self._finished):
            self.drop(delivery)
            return
        if not self.keys and any(type(row[4]) is bytes and row[4][:3] != PLAIN_MARK for row in parts.batch):
            self.read.refuse("its data are not plain, and there is no key")
            self.drop(delivery)
            return
        job = self.jobs.get(parts.job)
        refused = self._refusals.get(parts.job) or (job.refused if job is not None else "")
        if refused:
            # Its producer, if it lives, sends them again: for others, while we pause.
            self.pause()
            message = protocol.Refused(self.me, parts.job, [row[0] for row in parts.batch], refused)
            self.say(parts.reply, message, lambda was_taken: self.drop(delivery))
            return
        if job is None:
            job = self.jobs[parts.job] = AgentJob(self, parts.job, parts.reply, self.serving.code)
            work = self._definitions.get(parts.definition)
            if work is not None and parts.job not in self._forsaken:
                job.begin(work)
        job.reply = parts.reply
        if job.is_known:
            job.take(delivery, parts)
            self._list_soon()
        else:
            if not job.held:
                job.held_since = monotonic()
            job.held.append((delivery, parts))
            self.consumers.park(delivery)
            self._join(job)

    def _list_soon(self) -> None:
        """Have producers know of what still runs in a while; one timer at a time, however many parts come and go."""
        if not self._will_list:
            self._will_list = True
            self.loop.later(times.WORTH_TELLING, self._list_news)

    def _list_news(self) -> None:
        self._will_list = False
        if self.lists.tell_news(self.me):
            self._list_soon()

    def finished(self, job: AgentJob, holding: Holding) -> None:
        """A delivery is dealt with: what there was to say of it is confirmed."""
        self._finished.keep((job.id, holding.serial), None)
        if holding.delivery is not None:
            self.drop(holding.delivery)
        else:
            self.consumers.resume()
        self.leaving.go_if_idle()

    def drop(self, delivery: Delivery) -> None:
        """Have the broker forget a delivery, and send another."""
        self.consumers.free(delivery)

    def pause(self) -> None:
        """Leave the queue to others for a while: what is in it is not for us."""
        if self.consumers.pause():
            self.loop.later(times.REFUSED_PAUSE, self._serve)

    def let_go(self, job: AgentJob, is_over: bool = True) -> None:
        """Nothing more is done for a job: it is over, or its producer has gone, which may come back."""
        self.jobs.pop(job.id, None)
        (self._over if is_over else self._forsaken).keep(job.id, None)
        job.end()

    def refuse(self, job: AgentJob) -> None:
        """Have nothing to do with a job; its parts are handed back to others."""
        self._refusals.keep(job.id, job.refused)
        self.let_go(job, is_over=False)

    # What is said, and heard.

    def say(self, reply: str, message: Any, done: Callable[[bool], None] | None = None) -> None:
        """Say something to a producer; what has a `done` is kept until it is confirmed."""
        self._say(reply, message, done, done is not None)

    def _say(self, reply: str, message: Any, done: Callable[[bool], None] | None, lasting: bool) -> None:
        self.link.publish(Message("", reply, encode(message, self.serving.pool, self.keys), done, lasting))

    def list_running(self, reply: str) -> None:
        """Tell a producer all that is computed for it."""
        self.lists.tell(self.me, reply)

    def _join(self, job: AgentJob) -> None:
        if job.is_known or job.refused or job.id not in self.jobs:
            return

        def done(was_taken: bool) -> None:
            if not was_taken and self.jobs.get(job.id) is job and not job.is_known:
                self.let_go(job, is_over=False)

        self._say(job.reply, protocol.Join(self.me, job.id, python_version(), fresh()), done, False)

    def _told(self, delivery: Delivery) -> None:
        """Something has come to our own queue."""
        try:
            if read := self.read(delivery.body):
                self._heard(*read)
        except Exception:  # a fault of ours: whatever it was, it will be said again
            log.exception("a message could not be dealt with")
        self.link.acknowledge(delivery)

    def _heard(self, message: Any, pool: str) -> None:
        if isinstance(message, protocol.Hello):
            self._hello(message)
            return
        if pool != self.serving.pool or isinstance(message, protocol.Parts | protocol.Probe):
            self.read.refuse("it is of another pool, or belongs into a work queue")
            return
        if isinstance(message, protocol.Over):
            for over in message.jobs:
                if over in self.jobs:
                    self.let_go(self.jobs[over])
                else:
                    self._over.keep(over, None)
            return
        job = self.jobs.get(message.job)
        if job is None:
            return
        match message:
            case protocol.Welcome():
                self._welcome(job, message)
            case protocol.Refusal(_, text):
                log.warning("job %s: its producer has refused us: %s", job.name, text)
                job.refused = text
                self.pause()
                job.hand_back_held()
                self.refuse(job)
            case protocol.Cancel(_, indices):
                job.stop(indices)
            case protocol.Piece():
                job.fetched(message)

    def _welcome(self, job: AgentJob, welcome: protocol.Welcome) -> None:
        if job.is_known:
            return
        serving = self.serving
        definition: Any = welcome.definition
        if serving.path:
            only = serving.producer, serving.source
            definition = (serving.path, job.code, *only, bool(self.keys), definition)
        limits = welcome.part_timeout or None, welcome.memory_limit or None
        work = Work(definition, *limits, times.BATCH_SECONDS)
        if job.code == serving.code:
            self._definitions.keep(digest_of(welcome.definition), work)
        self._forsaken.forget(job.id)
        log.info("job %s: joined", job.name)
        for delivery, _ in job.held:
            self.consumers.unpark(delivery)
        job.begin(work)
        self._list_soon()

    def _hello(self, hello: protocol.Hello) -> None:
        serving = self.serving
        if hello.pool not in ("", serving.pool):
            return
        now = monotonic()
        if hello.pool and hello.code != serving.code and serving.path and now - self._looked_at_file > 1:
            self._looked_at_file = now
            try:
                if code_of(serving.path) == hello.code:
                    self._switch(hello.code)
            except UsageError as error:
                log.warning("%s", error)
        serving = self.serving
        running = sum(len(job.running) for job in self.jobs.values())
        jobs = [job.name for job in self.jobs.values()]
        consumers = len(self.consumers)
        here = protocol.Here(self.me, *serving[:3], python_version(), running, consumers, jobs, time.time())
        self.say(hello.reply, here)

    def _switch(self, code: str) -> None:
        """The job file has changed on disk, to what a producer asks for."""
        log.info("the job file %s has changed: serving code %s from now on", self.serving.path, code)
        self.serving = self.serving._replace(code=code)
        self._definitions.clear()
        self.pool.children.preload = self.serving.path, code
        self.pool.children.renew()
        self.pool.warm(self.settings.slots, self.settings.slots)
        self.consumers.leave()
        for job in list(self.jobs.values()):
            job.hand_back_held()  # it is of the code that was
        self._serve()

    # What time alone calls for.

    def _look_around(self) -> None:
        self.loop.later(_LOOK_EVERY, self._look_around)
        now = monotonic()
        if self.lists.tell_regularly(self.me, now):
            for job in list(self.jobs.values()):
                self._join(job)
        for job in self.jobs.values():
            job.fetches.look_around(now)
            if job.held and now - job.held_since > self.settings.lease_after:
                job.hand_back_held()  # its producer does not answer, and the broker's patience has an end
            self.lists.acknowledge_early(self.me, job, self.settings.lease_after)
        self.leaving.look(now)
