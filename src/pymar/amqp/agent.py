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
from pymar.amqp.agentjobs import AgentJobs
from pymar.amqp.consumers import Consumers
from pymar.amqp.keys import Keys
from pymar.amqp.leaving import Leaving
from pymar.amqp.link import Delivery, Link, Owner
from pymar.amqp.lists import Lists
from pymar.amqp.outbox import Message
from pymar.amqp.pausing import Pausing
from pymar.amqp.protocol import python_version
from pymar.amqp.serving import Serving, Settings
from pymar.amqp.wire import Reader, encode
from pymar.exceptions import BrokerRefused, UsageError
from pymar.jobfile import code_of
from pymar.slots import SlotPool

log = logging.getLogger(__name__)

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
        self.jobs = AgentJobs(self)
        self.lists = Lists(self)
        self._looked_at_file = 0.0
        self._was_up = False
        self._purge = settings.purge
        #: The broker's refusal, for a reason that will not pass: of the very first connection, or of a queue.
        self.refusal: BrokerRefused | None = None
        self._ended = threading.Event()
        self.pausing = Pausing(self)
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
        self.jobs.connected_again()
        self._serve()
        self.lists.tell_all()

    def link_is_down(self, error: BrokerRefused) -> None:
        self.consumers.forget()
        if error.is_final and (error.about or not self._was_up):  # a user who was let in once may be so again
            self.refusal = error
            self.leaving.go_now()
        elif error.is_final or not self._was_up:
            log.warning("%s", error)

    def consumer_was_cancelled(self, consumer: str) -> None:
        if consumer in self.consumers:
            log.warning("the work queue was deleted: made again")
            self.consumers.lost(consumer)
            self._serve()

    def serve_again(self, with_fresh_children: bool) -> None:
        """What was not for us may be now."""
        if with_fresh_children:
            self.pool.children.renew()
            self.pool.warm(self.settings.slots, self.settings.slots)
        self.jobs.look_again()
        self._serve()

    def _serve(self) -> None:
        queue = self._work_queue()
        if not self.leaving.has_begun and not self.pausing.is_on:
            self.link.declare(queue, times.WORK_EXPIRES)
            if self._purge:
                self._purge = False
                self.link.purge(queue)
            self.consumers.serve(queue)

    def _work_queue(self) -> str:
        return protocol.work_queue(self.serving.pool, self.serving.code)

    # Work.

    def _delivered(self, delivery: Delivery) -> None:
        try:
            if read := self.read(delivery.body, self._work_queue()):
                self._came(delivery, *read)
            elif delivery.redelivered:
                self.drop(delivery)
            else:  # a worker with another key may understand it
                self.consumers.hand_back(delivery)
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
            self.jobs.take(delivery, message)

    def drop(self, delivery: Delivery) -> None:
        """Have the broker forget a delivery, and send another."""
        self.consumers.free(delivery)

    def pause(self, why: str, renews: bool = False, grows: bool = False) -> None:
        """Leave the queue to others for a while: what is in it is not for us.

        With `renews` the children are replaced before we go on; with `grows` the while is longer each time in a row.
        """
        self.consumers.pause()
        self.pausing.begin(why, monotonic(), renews, grows)

    # What is said, and heard.

    def say(self, reply: str, message: Any, done: Callable[[bool], None] | None = None) -> None:
        """Say something to a producer; what has a `done` is kept until it is confirmed."""
        self.send(reply, message, done, done is not None)

    def send(self, reply: str, message: Any, done: Callable[[bool], None] | None, lasting: bool) -> None:
        """Say something to a producer; `done` hears whether its queue took it, what is lasting is kept until then."""
        self.link.publish(Message("", reply, encode(message, self.serving.pool, self.keys, reply), done, lasting))

    def _told(self, delivery: Delivery) -> None:
        """Something has come to our own queue."""
        try:
            if read := self.read(delivery.body, self.me.queue, protocol.CONTROL):
                self._heard(*read)
        except Exception:  # a fault of ours: whatever it was, it will be said again
            log.exception("a message could not be dealt with")
        self.link.acknowledge(delivery)

    def _heard(self, message: Any, pool: str) -> None:
        if isinstance(message, protocol.Hello):
            self._hello(message)
        elif isinstance(message, protocol.Over):  # said to all, whatever they serve, when a script ends
            self.jobs.heard(message)
        elif pool != self.serving.pool or isinstance(message, protocol.Parts | protocol.Probe):
            self.read.refuse("it is of another pool, or belongs into a work queue")
        else:
            self.jobs.heard(message)

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
        running = sum(len(job.running) for job in self.jobs)
        jobs = [f"job {job.name} of {protocol.producer_of(job.reply)}" for job in self.jobs if job.running]
        consumers = len(self.consumers)
        python, why = python_version(), self.pausing.why
        here = protocol.Here(self.me, *serving[:3], python, running, consumers, jobs, time.time(), why)
        self.say(hello.reply, here)

    def _switch(self, code: str) -> None:
        """The job file has changed on disk, to what a producer asks for."""
        log.info("the job file %s has changed: serving code %s from now on", self.serving.path, code)
        self.serving = self.serving._replace(code=code)
        self.pool.children.preload = self.serving.path, code
        self.pool.children.renew()
        self.pool.warm(self.settings.slots, self.settings.slots)
        self.consumers.leave()
        self.jobs.code_has_changed()
        self.pausing.end()
        self.jobs.look_again()
        self._serve()

    # What time alone calls for.

    def _look_around(self) -> None:
        self.loop.later(_LOOK_EVERY, self._look_around)
        now = monotonic()
        if self.lists.tell_regularly(now):
            self.jobs.join_all()
        self.jobs.look_around(now)
        self.pausing.look(now)
        self.leaving.look(now)
