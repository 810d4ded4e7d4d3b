"""Session: what the jobs of one process share on one broker: the link, the queue of results, the ticks, the agents."""

from __future__ import annotations

import atexit
import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from itertools import count
from time import monotonic
from typing import Any, Protocol

from pymar.amqp import protocol, timing
from pymar.amqp.address import Address
from pymar.amqp.keys import Keys
from pymar.amqp.link import Delivery, LinkFactory, LinkListener, Message
from pymar.amqp.link.link import PikaLink
from pymar.amqp.wire import Reader, encode, fresh
from pymar.exceptions import BrokerRefused, PymarError
from pymar.slots.loop import Loop

log = logging.getLogger(__name__)

#: Messages that the broker may send ahead of our acknowledgements: at most 4 MiB each.
PREFETCH = 20
#: Seconds that a first connection may take.
PATIENCE = 20.0
#: Seconds after which agents are told of jobs that have ended: many short ones are told together.
TOGETHER = 0.2
#: The share of JOB_EXPIRES after which, unheard of, the queue of results is held to be gone.
_SOON = 0.8
#: What names of work queues begin with.
_WORK = "pymar.work."
#: Jobs that are told to be over when the script ends, though they ended before; seconds for the broker to take that.
_REMEMBERED, _LAST_WORDS = 100, 1.0


class Subscriber(Protocol):
    """One job, as the session knows it. The session's thread calls all of this."""

    @property
    def id(self) -> bytes:
        """The job's 128 random bits."""

    @property
    def pool(self) -> str:
        """The name of the workers that compute it."""

    @property
    def code(self) -> str:
        """The code that they run."""

    @property
    def queue(self) -> str:
        """Its work queue."""

    def connected(self, again: bool) -> None:
        """The link is up; `again`: not for the first time."""

    def joined_by(self, agents: Sequence[protocol.Agent]) -> None:
        """These agents are known to serve its queue."""

    def received(self, message: Any) -> None:
        """An agent has sent a message about this job."""

    def listed(self, agent: protocol.Agent, workers: dict[int, str]) -> None:
        """An agent has sent its heartbeat: the parts of this job that it computes, and the worker of each."""

    def left(self, agent: protocol.Agent) -> None:
        """An agent takes no more parts."""

    def met(self, answer: protocol.Here) -> None:
        """A worker has answered the question who serves the pool."""

    def counted(self, consumers: int) -> None:
        """The work queue has this many consumers now."""

    def ticked(self) -> None:
        """A tick has come back: all that was sent before it has arrived."""

    def publish_all_again(self) -> None:
        """The queue of results is gone, and with it what was in it."""

    def is_waiting(self) -> bool:
        """True if nobody computes anything of it."""

    def members(self) -> list[protocol.Agent]:
        """Return the agents that take part."""

    def end(self, error: PymarError) -> None:
        """Nothing more can be received for this job."""


class Session(LinkListener):
    """One connection of this process to one broker: its queue of results, its ticks, and the jobs that share them.

    `wait` and `shutdown` may be called from any thread; all else is for its own.

    Args:
        link: makes the link; `PikaLink` unless a test has another.
    """

    def __init__(self, address: Address, keys: Keys, link: LinkFactory = PikaLink) -> None:
        self.address, self.keys = address, keys
        self.queue = protocol.job_queue(socket.gethostname(), os.getpid(), os.urandom(12).hex())
        self.read = Reader(protocol.TO_PRODUCER, keys)
        self._runs: dict[bytes, Subscriber] = {}
        #: Agents that were heard of: their work queue, and when.
        self._agents: dict[bytes, tuple[protocol.Agent, str, float]] = {}
        self._serials = count(1)
        self._declared: set[str] = set()
        #: The tick that is on its way, and since when.
        self._ticking: int | None = None
        self._ticked_at = 0.0
        self._heard_at = monotonic()
        self._has_stood = threading.Event()
        #: Why it is of no use, once it is.
        self.refusal: BrokerRefused | None = None
        #: How the first connection was cut, and since when one that has stood is refused.
        self._cut: BrokerRefused | None = None
        self._refused_since: float | None = None
        self._consumer = ""
        self._is_leaving = False
        #: Jobs that have ended, and the agents and pools that have not been told.
        self._ended: dict[tuple[protocol.Agent, str], list[bytes]] = {}
        self._is_telling = False
        #: Jobs for which the question who serves their pool is asked again and again.
        self._searching: set[bytes] = set()
        #: Jobs that were ended before they were complete, and their pools: agents may have parts of them, unknown here.
        self._unfinished: dict[bytes, str] = {}
        self.loop = Loop("pymar-amqp")
        self._link = link(self.loop, address, self)
        self.loop.start(failed=self._failed)
        atexit.register(self.shutdown)
        self._link.start()

    # What other threads call.

    def wait(self) -> None:
        """Wait for the first connection.

        Raises:
            BrokerRefused: there is none.
        """
        try:
            came = self._has_stood.wait(PATIENCE)
        except BaseException:  # an interrupt
            self.shutdown()
            raise
        if not came:
            self.refusal = self._cut or BrokerRefused(f"{self.address} does not answer. Is it a RabbitMQ server?")
        if self.refusal is not None:
            self.shutdown()
            raise self.refusal

    def shutdown(self) -> None:
        """Say goodbye and end the thread."""
        atexit.unregister(self.shutdown)
        if self.loop.is_running():
            gone = threading.Event()
            self.loop.call_soon(self._leave, gone.set)
            gone.wait(2.5)
            self.loop.stop(1)

    # What runs call.

    def add(self, run: Subscriber) -> None:
        """A job has begun."""
        if self.refusal is not None:
            run.end(self.refusal)
            return
        self._runs[run.id] = run
        now = monotonic()
        there = [
            agent
            for agent, queue, seen in self._agents.values()
            if queue == run.queue and now - seen < timing.SILENT_TICKS * timing.TICK_EVERY
        ]
        run.joined_by(there)
        if not there:
            self.look_for_workers(run)

    def remove(self, run: Subscriber, agents: Sequence[protocol.Agent], at_once: bool) -> None:
        """A job is over. Those who took part are told: at once if they still compute, else with other jobs together."""
        if self._runs.pop(run.id, None) is None:
            return
        for agent in agents:
            self._ended.setdefault((agent, run.pool), []).append(run.id)
        if at_once:
            self._unfinished[run.id] = run.pool
            if len(self._unfinished) > _REMEMBERED:
                del self._unfinished[next(iter(self._unfinished))]
            self._tell_ended()
        elif not self._is_telling:
            self._is_telling = True
            self.loop.call_later(TOGETHER, self._tell_ended)

    def _tell_ended(self) -> None:
        self._is_telling = False
        ended, self._ended = self._ended, {}
        for (agent, pool), jobs in ended.items():
            self.to_agent(agent, pool, protocol.Over(jobs, fresh()))

    def refuse(self, why: str) -> None:
        """Log that a message was not believed."""
        self.read.refuse(why)

    def next_serial(self) -> int:
        """Another number for every message that is published to a work queue."""
        return next(self._serials)

    def to_work_queue(self, run: Subscriber, message: protocol.Parts | protocol.Probe) -> None:
        """Publish behind all that was published before; the queue is declared if it is not there."""
        body = encode(message, run.pool, self.keys, run.queue)

        def done(was_taken: bool) -> None:
            if not was_taken and run.id in self._runs:
                self._declared.discard(run.queue)
                self._with_queue(run.queue, send)

        def send() -> None:
            self._link.publish(Message("", run.queue, body, done))

        self._with_queue(run.queue, send)

    def to_agent(self, agent: protocol.Agent, pool: str, message: Any) -> None:
        """Say something to one agent, if it is there now; what matters is asked for again."""
        self._link.publish(Message("", agent.queue, encode(message, pool, self.keys, agent.queue), lasting=False))

    # What the link tells.

    def link_is_up(self) -> None:
        again = self._has_stood.is_set()
        self._refused_since = None
        self._declared.clear()
        self._link.open_exchange(protocol.CONTROL)
        self._consume()
        self._ticking = None
        for run in self._runs.values():
            run.connected(again)
        if again:
            log.warning("connected to %s again", self.address)
            if monotonic() - self._heard_at > _SOON * timing.JOB_EXPIRES:
                self._publish_all_again()
        else:
            self.loop.call_later(timing.TICK_EVERY, self._tick)
        self._heard_at = monotonic()
        self._has_stood.set()

    def link_is_down(self, error: BrokerRefused) -> None:
        if not self._has_stood.is_set():
            if error.is_cut or (self._cut is not None and not error.is_final):
                if self._cut is None:  # by what will pass, perhaps: `wait` has an end
                    log.warning("%s: trying again", error)
                self._cut = error
            else:
                self.refusal = error
                self._has_stood.set()
        elif error.about:
            self._refused(error)
        elif error.is_final:  # a server that starts anew may not know its users yet
            now = monotonic()
            self._refused_since = self._refused_since or now
            if now - self._refused_since > PATIENCE:
                self._refused(error)

    def _refused(self, error: BrokerRefused) -> None:
        """The broker refuses a queue or an exchange: jobs that need it end."""
        needing = [run for run in self._runs.values() if run.queue == error.about]
        if not needing and error.about.startswith(_WORK):
            return  # of a job that is over
        if not needing:
            self.refusal = error
            self._link.stop(lambda: None, now=True)
            needing = list(self._runs.values())
        for run in needing:
            del self._runs[run.id]
            run.end(error)

    def consumer_was_cancelled(self, consumer: str) -> None:
        if consumer == self._consumer and not self._is_leaving:
            log.warning("the queue of results was deleted: made again, and unfinished parts are sent again")
            self._consume()
            self._publish_all_again()

    def _consume(self) -> None:
        self._link.declare(self.queue, timing.JOB_EXPIRES)
        self._consumer = self._link.consume(self.queue, PREFETCH, self._delivered)

    def _publish_all_again(self) -> None:
        for run in self._runs.values():
            run.publish_all_again()

    def _with_queue(self, queue: str, then: Callable[[], None]) -> None:
        if queue in self._declared or not self._link.is_up:
            then()
            return

        def declared() -> None:
            self._declared.add(queue)
            then()

        self._link.declare(queue, timing.WORK_EXPIRES, declared)

    def _delivered(self, delivery: Delivery) -> None:
        self._heard_at = monotonic()
        try:
            if read := self.read(delivery.body, self.queue):
                self._came(*read)
        except Exception:  # a fault of ours: one message is lost, and will be missed and asked for
            log.exception("a message could not be dealt with")
        self._link.acknowledge(delivery)

    def _came(self, message: Any, pool: str) -> None:
        if isinstance(message, protocol.Tick):
            if message.number == self._ticking:
                self._ticking = None
                for run in list(self._runs.values()):
                    run.ticked()
            return
        agent: protocol.Agent = message.agent
        if isinstance(message, protocol.Running):
            self._running(agent, message.parts, pool)
        elif isinstance(message, protocol.Leaving):
            self._agents.pop(agent.id, None)
            for run in self._runs.values():
                run.left(agent)
        elif isinstance(message, protocol.Here):
            for run in self._runs.values():
                run.met(message)
        elif (known := self._runs.get(message.job)) is not None:
            if pool == known.pool:
                self._agents[agent.id] = agent, known.queue, monotonic()
                known.received(message)
            else:
                self.read.refuse("it is of another pool than its job")
        else:
            self.to_agent(agent, pool, protocol.Over([message.job], fresh()))

    def _running(self, agent: protocol.Agent, parts: list[list[Any]], pool: str) -> None:
        """A list concerns all jobs of ours that the agent knows: it names each, with -1 where it computes nothing."""
        listed: dict[bytes, dict[int, str]] = {}
        for job, index, worker in parts:
            listed.setdefault(job, {})[index] = worker
        if unknown := [job for job in listed if job not in self._runs]:
            self.to_agent(agent, pool, protocol.Over(unknown, fresh()))  # in one message, however many there are
        for job, workers in listed.items():
            run = self._runs.get(job)
            if run is None:
                continue
            if run.pool == pool:
                self._agents[agent.id] = agent, run.queue, monotonic()
                run.listed(agent, {index: worker for index, worker in workers.items() if index >= 0})

    def _tick(self) -> None:
        """One at a time is on its way: however long it takes, it counts once, and one that others overtook does not."""
        self.loop.call_later(timing.TICK_EVERY, self._tick)
        now = monotonic()
        if self._runs and (self._ticking is None or now - self._ticked_at > timing.TICK_LOST_AFTER):
            self._ticking, self._ticked_at = self.next_serial(), now
            body = encode(protocol.Tick(self._ticking), "", self.keys, self.queue)
            self._link.publish(Message("", self.queue, body, lasting=False))
        self._say_alive()

    def _say_alive(self) -> None:
        jobs: dict[tuple[protocol.Agent, str], list[bytes]] = {}
        for run in self._runs.values():
            for agent in run.members():
                jobs.setdefault((agent, run.pool), []).append(run.id)
        for (agent, pool), of_agent in jobs.items():
            self.to_agent(agent, pool, protocol.Alive(of_agent))

    def look_for_workers(self, run: Subscriber) -> None:
        """Ask who serves the pool of a job, until somebody has joined."""
        if run.id not in self._searching:
            self._searching.add(run.id)
            self._ask_for_workers(run)

    def _ask_for_workers(self, run: Subscriber) -> None:
        if run.id in self._runs and run.is_waiting():
            self._to_all(run.pool, protocol.Hello(run.pool, run.code, self.queue))
            self._link.count_consumers(run.queue, timing.WORK_EXPIRES, run.counted)
            self.loop.call_later(timing.HELLO_EVERY, self._ask_for_workers, run)
        else:
            self._searching.discard(run.id)

    def _to_all(self, pool: str, message: Any, done: Callable[[bool], None] | None = None) -> None:
        """Say something to all agents."""
        body = encode(message, pool, self.keys, protocol.CONTROL)
        self._link.publish(Message(protocol.CONTROL, "", body, done, lasting=False))

    def _failed(self, error: BaseException) -> None:
        log.error("the thread that speaks to the broker has failed", exc_info=error)
        self.refusal = BrokerRefused(f"{self.address}: {error!r}")
        self._has_stood.set()
        for run in self._runs.values():
            run.end(PymarError(f"the thread that speaks to the broker has failed: {error!r}"))

    def _leave(self, then: Callable[[], None]) -> None:
        self._is_leaving = True
        self._tell_ended()
        jobs = {run.id: run.pool for run in self._runs.values()} | self._unfinished
        untold = set(jobs.values())
        is_gone = False

        def go(*_: object) -> None:
            nonlocal is_gone
            if not is_gone:
                is_gone = True
                self._link.delete(self.queue)
                self._link.stop(then)

        def tell(pool: str) -> None:
            def told(was_taken: bool) -> None:
                untold.discard(pool)
                if not untold:
                    go()

            over = protocol.Over([job for job, its in jobs.items() if its == pool], fresh())
            self._to_all(pool, over, told)

        # Whoever computes for us hears of the end before the queue of results goes: what it sends would find no queue.
        if jobs and self._link.is_up and not self._link.blocked:
            for pool in sorted(untold):
                tell(pool)
            self.loop.call_later(_LAST_WORDS, go)
        else:
            go()
