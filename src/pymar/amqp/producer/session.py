"""Session: what the jobs of one process share on one broker: the link, the queue of results, the ticks, the agents.

jobs (Subscriber) --Parts, Probe, answers--> Session --> link --> broker
jobs (Subscriber) <--messages, ticks-------- Session <-- link <-- queue of results
"""

from __future__ import annotations

import atexit
import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from itertools import count
from time import monotonic, time
from typing import Any, Protocol

from pymar.amqp import protocol, timing
from pymar.amqp.address import Address
from pymar.amqp.keys import Keys
from pymar.amqp.link import Delivery, LinkFactory, LinkListener, Message
from pymar.amqp.link.link import PikaLink
from pymar.amqp.producer.printed import BURST, LINES_A_SECOND
from pymar.amqp.wire import Reader, encode, fresh, probes
from pymar.exceptions import BrokerRefused, PymarError
from pymar.slots.loop import Loop
from pymar.slots.quota import Rate

log: logging.Logger = logging.getLogger(__name__)

#: Unacknowledged messages that the broker delivers at most; each has at most about 4 MiB.
PREFETCH = 20
#: Seconds that the first connection may take; and that a user may be refused later, before the jobs fail.
PATIENCE = 20.0
#: Seconds after which agents receive the end of jobs: one message for many short ones.
TOGETHER = 0.2
#: The share of JOB_EXPIRES without a message after which the queue of results counts as expired.
_EXPIRED = 0.8
#: The prefix of the names of work queues.
_WORK = "pymar.work."
#: Jobs that ended incomplete, whose end is sent again when the script ends; seconds for the broker to confirm that.
_REMEMBERED, _LAST_MESSAGES = 100, 1.0


def user_of_process() -> str:
    """Return the name of this process's user; "" if it has none."""
    try:
        import pwd

        return pwd.getpwuid(os.getuid()).pw_name
    except (ImportError, KeyError):  # not POSIX; a container's user without a name
        return ""


class Subscriber(Protocol):
    """One job, as the session sees it. Only the session's thread calls these methods."""

    @property
    def id(self) -> bytes:
        """The job's 128 random bits."""

    @property
    def pool(self) -> str:
        """The name of the pool of workers that computes it."""

    @property
    def code(self) -> str:
        """The code that they run."""

    @property
    def queue(self) -> str:
        """Its work queue."""

    def connected(self, again: bool) -> None:
        """The link is up; `again`: not for the first time."""

    def disturbed(self, trouble: str) -> None:
        """The way to the agents is disturbed, for this reason; or, if it is empty, in order again."""

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
        """A tick has arrived: all that was in the queue of results before it was received."""

    def publish_all_again(self) -> None:
        """The queue of results was lost, with the messages in it: outstanding parts are to be published again."""

    def is_waiting(self) -> bool:
        """True if no agent computes anything of it."""

    def probes(self) -> bool:
        """True if consumers of its work queue do not answer, and it is to be found out why."""

    def members(self) -> list[protocol.Agent]:
        """Return the agents that take part."""

    def end(self, error: PymarError) -> None:
        """The job ends with this error: nothing more can be received for it."""

    def cancelled(self, who: str) -> None:
        """The job ends, since somebody has said so: its parts stop."""

    def row(self) -> list[Any]:
        """Return how far it is, as a row of `protocol.Jobs`."""

    def workers(self) -> list[list[Any]]:
        """Return which agents take part, likewise."""


class Session(LinkListener):
    """One link of this process to one broker, shared by its jobs there.

    It owns the link, the thread that serves it, the queue of results, the ticks, and the list of agents that have sent
    messages. `wait` and `shutdown` may be called from any thread, all else from the session's own thread only.

    Args:
        link: makes the link; `PikaLink` unless a test has another.
    """

    def __init__(self, address: Address, keys: Keys, link: LinkFactory = PikaLink) -> None:
        self.address = address
        self.keys = keys
        self.queue: str = protocol.job_queue(socket.gethostname(), os.getpid(), os.urandom(12).hex(), user_of_process())
        self.read: Reader = Reader(protocol.TO_PRODUCER, keys)
        self._runs: dict[bytes, Subscriber] = {}
        #: Agents that have sent messages: their work queue, and when the last one was received.
        self._agents: dict[bytes, tuple[protocol.Agent, str, float]] = {}
        self._serials = count(1)
        self._declared: set[str] = set()
        #: The tick that was sent and has not arrived, and when it was sent.
        self._ticking: int | None = None
        self._ticked_at = 0.0
        self._received_at = monotonic()
        #: How many lines of workers the jobs of this process may show.
        self.printing: Rate = Rate(LINES_A_SECOND, BURST, monotonic())
        #: Set once the first connection is open, or refused.
        self._first_outcome = threading.Event()
        #: Why this session cannot be used; None while it can.
        self.refusal: BrokerRefused | None = None
        #: How the first connection was cut; and since when the broker refuses one that it has accepted before.
        self._cut: BrokerRefused | None = None
        self._refused_since: float | None = None
        #: What disturbs the way to the agents, for people; "" while it is in order.
        self._trouble = ""
        self._consumer = ""
        self._is_draining = False
        #: Jobs that have ended, by the agents (and pools) which have not received that.
        self._ended: dict[tuple[protocol.Agent, str], list[bytes]] = {}
        self._will_send_ended = False
        #: Jobs that look for workers: the question who serves their pool is sent repeatedly.
        self._searching: set[bytes] = set()
        #: Jobs that ended incomplete, and their pools: agents that are unknown here may have parts of them.
        self._unfinished: dict[bytes, str] = {}
        self.loop: Loop = Loop("pymar-amqp")
        self._link = link(self.loop, address, self)
        self.loop.start(failed=self._failed)
        atexit.register(self.shutdown)
        self._link.start()

    # Calls of other threads.

    def wait(self) -> None:
        """Wait for the first connection.

        Raises:
            BrokerRefused: the broker cannot be reached, or refuses it.
        """
        try:
            is_decided = self._first_outcome.wait(PATIENCE)
        except BaseException:  # an interrupt
            self.shutdown()
            raise
        if not is_decided:
            self.refusal = self._cut or BrokerRefused(f"{self.address} does not answer. Is it a RabbitMQ server?")
        if self.refusal is not None:
            self.shutdown()
            raise self.refusal

    def shutdown(self) -> None:
        """Send the end of all jobs, disconnect, and end the thread."""
        atexit.unregister(self.shutdown)
        if self.loop.is_running():
            gone = threading.Event()
            self.loop.call_soon(self._drain, gone.set)
            gone.wait(2.5)
            self.loop.stop(1)

    # Calls of the jobs.

    def add(self, run: Subscriber) -> None:
        """Add a job that begins: report the agents that are known to serve it, or look for some."""
        if self.refusal is not None:
            run.end(self.refusal)
            return
        self._runs[run.id] = run
        if self._trouble:
            run.disturbed(self._trouble)
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
        """Remove a job that is over, and send that to the agents that took part.

        Args:
            at_once: send it now, since agents still compute; else together with the end of other jobs.
        """
        if self._runs.pop(run.id, None) is None:
            return
        for agent in agents:
            self._ended.setdefault((agent, run.pool), []).append(run.id)
        if at_once:
            self._unfinished[run.id] = run.pool
            if len(self._unfinished) > _REMEMBERED:
                del self._unfinished[next(iter(self._unfinished))]
            self._send_ended()
        elif not self._will_send_ended:
            self._will_send_ended = True
            self.loop.call_later(TOGETHER, self._send_ended)

    def _send_ended(self) -> None:
        self._will_send_ended = False
        ended, self._ended = self._ended, {}
        for (agent, pool), jobs in ended.items():
            self.to_agent(agent, pool, protocol.Over(jobs, fresh()))

    def refuse(self, why: str) -> None:
        """Count a message that is refused, and log the first for each reason."""
        self.read.refuse(why)

    def blocked(self) -> str:
        """Return why the broker takes no messages; "" while it does."""
        return self._link.blocked

    def next_serial(self) -> int:
        """Return a new number, larger than all before, for a message to a work queue."""
        return next(self._serials)

    def to_work_queue(self, run: Subscriber, message: protocol.Parts | protocol.Probe) -> None:
        """Publish a message behind all earlier ones; declare the work queue if it does not exist."""
        body = encode(message, run.pool, self.keys, run.queue)

        def done(was_taken: bool) -> None:
            if not was_taken and run.id in self._runs:
                self._declared.discard(run.queue)
                self._with_queue(run.queue, send)

        def send() -> None:
            self._link.publish(Message("", run.queue, body, done))

        self._with_queue(run.queue, send)

    def to_agent(self, agent: protocol.Agent, pool: str, message: Any) -> None:
        """Send a message to one agent, if it is connected now; an agent requests again what it needs."""
        self._link.publish(Message("", agent.queue, encode(message, pool, self.keys, agent.queue), lasting=False))

    # Events of the link.

    def link_is_up(self) -> None:
        again = self._first_outcome.is_set()
        self._refused_since = None
        self._declared.clear()
        self._link.open_exchange(protocol.CONTROL)
        self._consume()
        self._ticking = None
        self._disturbed("")
        for run in self._runs.values():
            run.connected(again)
        if again:
            log.warning("connected to %s again", self.address)
            if monotonic() - self._received_at > _EXPIRED * timing.JOB_EXPIRES:
                self._publish_all_again()
        else:
            self.loop.call_later(timing.TICK_EVERY, self._tick)
        self._received_at = monotonic()
        self._first_outcome.set()

    def publishers_are_blocked(self, reason: str) -> None:
        self._disturbed(reason and f"the broker is blocked, short of memory or disk ({reason})")

    def _disturbed(self, trouble: str) -> None:
        """Report to the jobs what disturbs the way to their agents, if that has changed."""
        if trouble != self._trouble:
            self._trouble = trouble
            for run in self._runs.values():
                run.disturbed(trouble)

    def link_is_down(self, error: BrokerRefused) -> None:
        if self._first_outcome.is_set():
            self._disturbed("the broker is away")
        if not self._first_outcome.is_set():
            if error.is_cut or (self._cut is not None and not error.is_final):
                if self._cut is None:  # it may work soon; `wait` limits the attempts
                    log.warning("%s: trying again", error)
                self._cut = error
            else:
                self.refusal = error
                self._first_outcome.set()
        elif error.about:
            self._refused(error)
        elif error.is_final:  # a server that has just started may not have loaded its users yet
            now = monotonic()
            self._refused_since = self._refused_since or now
            if now - self._refused_since > PATIENCE:
                self._refused(error)

    def _refused(self, error: BrokerRefused) -> None:
        """End the jobs that need what the broker refuses; all of them, unless that is one job's queue."""
        needing = [run for run in self._runs.values() if run.queue == error.about]
        if not needing and error.about.startswith(_WORK):
            return  # the queue of a job that is over
        if not needing:
            self.refusal = error
            self._link.stop(lambda: None, now=True)
            needing = list(self._runs.values())
        for run in needing:
            del self._runs[run.id]
            run.end(error)

    def consumer_was_cancelled(self, consumer: str) -> None:
        if consumer == self._consumer and not self._is_draining:
            log.warning("the queue of results was deleted: it is made again, and unfinished parts are sent again")
            self._consume()
            self._publish_all_again()

    def _consume(self) -> None:
        self._link.declare(self.queue, timing.JOB_EXPIRES)
        self._link.listen(protocol.PRODUCERS, self.queue)
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
        self._received_at = monotonic()
        try:
            if read := self.read(delivery.body, self.queue, protocol.PRODUCERS):
                self._handle(*read)
        except Exception:  # a defect in Pymar: this message is lost, and what it contained is requested again
            log.exception("a message could not be handled")
        self._link.acknowledge(delivery)

    def _handle(self, message: Any, pool: str) -> None:
        if isinstance(message, protocol.Tick):
            if message.number == self._ticking:
                self._ticking = None
                for run in list(self._runs.values()):
                    run.ticked()
            return
        if isinstance(message, protocol.Inquiry):
            self._answer(message.reply)
            return
        if isinstance(message, protocol.EndJob):
            self._end_job(message)
            return
        agent: protocol.Agent = message.agent
        if isinstance(message, protocol.Running):
            self._heartbeat(agent, message.parts, pool)
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
                self.read.refuse("its pool is not that of its job")
        else:
            self.to_agent(agent, pool, protocol.Over([message.job], fresh()))

    def _answer(self, asker: str) -> None:
        """Send the jobs of this process to who has asked for them."""
        runs = list(self._runs.values())
        workers = [row for run in runs for row in run.workers()]
        jobs = protocol.Jobs(self.queue, time(), [run.row() for run in runs], workers)
        self._link.publish(Message("", asker, encode(jobs, "", self.keys, asker), lasting=False))

    def _end_job(self, message: protocol.EndJob) -> None:
        """End a job if it is one of this process; no other producer answers."""
        run = self._runs.get(message.job)
        if run is None:
            return
        log.info("job %s: cancelled by %s", run.id.hex()[:8], message.who)
        run.cancelled(message.who)
        ended = protocol.Ended(message.job, self.queue)
        self._link.publish(Message("", message.reply, encode(ended, "", self.keys, message.reply), lasting=False))

    def _heartbeat(self, agent: protocol.Agent, parts: list[list[Any]], pool: str) -> None:
        """Pass the rows of a heartbeat to their jobs; it has a row with the index -1 for each job without parts."""
        listed: dict[bytes, dict[int, str]] = {}
        for job, index, worker in parts:
            listed.setdefault(job, {})[index] = worker
        if unknown := [job for job in listed if job not in self._runs]:
            self.to_agent(agent, pool, protocol.Over(unknown, fresh()))  # one message for all of them
        for job, workers in listed.items():
            run = self._runs.get(job)
            if run is None:
                continue
            if run.pool == pool:
                self._agents[agent.id] = agent, run.queue, monotonic()
                run.listed(agent, {index: worker for index, worker in workers.items() if index >= 0})

    def _tick(self) -> None:
        """Send a tick, unless one is on its way: a slow one counts once, and one that was replaced does not count."""
        self.loop.call_later(timing.TICK_EVERY, self._tick)
        now = monotonic()
        if self._runs and (self._ticking is None or now - self._ticked_at > timing.TICK_LOST_AFTER):
            self._ticking, self._ticked_at = self.next_serial(), now
            body = encode(protocol.Tick(self._ticking), "", self.keys, self.queue)
            self._link.publish(Message("", self.queue, body, lasting=False))
        self._send_alive()

    def _send_alive(self) -> None:
        jobs: dict[tuple[protocol.Agent, str], list[bytes]] = {}
        for run in self._runs.values():
            for agent in run.members():
                jobs.setdefault((agent, run.pool), []).append(run.id)
        for (agent, pool), of_agent in jobs.items():
            self.to_agent(agent, pool, protocol.Alive(of_agent))

    def look_for_workers(self, run: Subscriber) -> None:
        """Send the question who serves the pool of a job, again and again, until agents compute it."""
        if run.id not in self._searching:
            self._searching.add(run.id)
            self._ask_for_workers(run)

    def _ask_for_workers(self, run: Subscriber) -> None:
        if run.id in self._runs and run.is_waiting():
            hello = protocol.Hello(run.pool, run.code, self.queue)
            self._to_all(run.pool, hello)
            if run.probes():
                for body in probes(hello, self.keys):
                    self._link.publish(Message(protocol.CONTROL, "", body, lasting=False))
            self._link.count_consumers(run.queue, timing.WORK_EXPIRES, run.counted)
            self.loop.call_later(timing.HELLO_EVERY, self._ask_for_workers, run)
        else:
            self._searching.discard(run.id)

    def _to_all(self, pool: str, message: Any, done: Callable[[bool], None] | None = None) -> None:
        """Send a message to all agents."""
        body = encode(message, pool, self.keys, protocol.CONTROL)
        self._link.publish(Message(protocol.CONTROL, "", body, done, lasting=False))

    def _failed(self, error: BaseException) -> None:
        log.error("the thread of the connection to the broker has failed", exc_info=error)
        self.refusal = BrokerRefused(f"{self.address}: {error!r}")
        self._first_outcome.set()
        for run in self._runs.values():
            run.end(PymarError(f"the thread of the connection to the broker has failed: {error!r}"))

    def _drain(self, then: Callable[[], None]) -> None:
        """Send the end of all jobs, delete the queue of results, disconnect, and call `then`."""
        self._is_draining = True
        self._send_ended()
        jobs = {run.id: run.pool for run in self._runs.values()} | self._unfinished
        unconfirmed = set(jobs.values())
        is_gone = False

        def go(*_: object) -> None:
            nonlocal is_gone
            if not is_gone:
                is_gone = True
                self._link.delete(self.queue)
                self._link.stop(then)

        def send_over(pool: str) -> None:
            def done(was_taken: bool) -> None:
                unconfirmed.discard(pool)
                if not unconfirmed:
                    go()

            over = protocol.Over([job for job, its in jobs.items() if its == pool], fresh())
            self._to_all(pool, over, done)

        # Agents receive the end of the jobs before the queue of results is deleted: else results would find no queue.
        if jobs and self._link.is_up and not self._link.blocked:
            for pool in sorted(unconfirmed):
                send_over(pool)
            self.loop.call_later(_LAST_MESSAGES, go)
        else:
            go()
