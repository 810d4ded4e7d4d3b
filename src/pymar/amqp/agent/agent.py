"""The agent: one on each host takes parts from the broker, and has the slots of this host compute them.

    the broker --> WorkerAgent --> events --> Ledger (decides) --> instructions --> WorkerAgent --> broker, slots
    the slots  ----^

The agent never loads a user's code, and never decodes a value. It shares one thread with the pool of slots.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any, NamedTuple

from pymar.amqp import protocol, timing
from pymar.amqp.address import Address
from pymar.amqp.agent import ledger
from pymar.amqp.agent.archives import Archives
from pymar.amqp.agent.consumers import Consumers
from pymar.amqp.agent.fetches import Fetches
from pymar.amqp.agent.ledger import Ledger
from pymar.amqp.agent.lingering import Lingering
from pymar.amqp.agent.pausing import Pausing
from pymar.amqp.agent.relay import Relay
from pymar.amqp.agent.replies import Outgoing, Replies, shortened, unsendable
from pymar.amqp.agent.sender import Sender
from pymar.amqp.chunks import digest_of
from pymar.amqp.keys import Keys
from pymar.amqp.link import Delivery, LinkFactory, LinkListener
from pymar.amqp.link.link import PikaLink
from pymar.amqp.protocol import python_version
from pymar.amqp.why import lines_of
from pymar.amqp.wire import Reader, fresh
from pymar.exceptions import BrokerRefused, UsageError
from pymar.parts import Done, Failed, Lost, Report, Running
from pymar.serialization.archive import reference
from pymar.serialization.jobfile import code_of
from pymar.serialization.plain import PLAIN_MARK
from pymar.serialization.travelled import Code
from pymar.slots.output import write_line
from pymar.slots.pool import SlotPool, SlotRun
from pymar.slots.queue import Work

log: logging.Logger = logging.getLogger(__name__)

#: Seconds between two checks of what is due; with more than _STOPPED between two, this process itself was stopped.
_CHECK_EVERY, _STOPPED = 0.5, 3.0
#: Seconds for the broker to take the last messages.
_CLOSING = 2.0
#: Seconds between two looks at lines that parts have printed; messages with such lines that are unconfirmed at most.
_LOOK_AT_LINES_EVERY, _LINES_UNCONFIRMED = 0.1, 4


class Serving(NamedTuple):
    """What an agent serves."""

    pool: str
    code: str
    path: str = ""
    """The job file; empty if classes are sent by value."""
    producer: str = ""
    source: str = ""
    """The only producer and the only source of the file that are served; all of them if empty."""


class Settings(NamedTuple):
    """How an agent works; times in seconds, sizes in bytes."""

    slots: int
    grace: float = 30.0
    """How long parts may continue after `drain`."""
    lease_after: float = 300.0
    """How long a running part is unacknowledged: RabbitMQ closes the channel after 30 minutes."""
    max_result: int = 256 << 20
    """The largest value that is sent."""
    purge: bool = False
    """True if the work queue is to be emptied at the start."""
    idle: float = 0.0
    """After how long without a part and without a job it ends; 0 for never."""
    away: float = 0.0
    """After how long without the broker it ends, likewise."""


class _JobReports:
    """Passes the pool's reports of one job to the agent. Only the thread that both share."""

    def __init__(
        self,
        job: bytes,
        reported: Callable[[bytes, list[Report]], None],
        begun: Callable[[bytes, int, str], None],
    ) -> None:
        self._job, self._reported, self._begun = job, reported, begun

    def put(self, news: list[Report] | BaseException) -> None:
        if not isinstance(news, BaseException):  # the pool has failed, and with it the agent's thread
            self._reported(self._job, news)

    def put_without_waking(self, report: Report) -> None:
        if isinstance(report, Running):
            self._begun(self._job, *report)


class _JobLines:
    """Passes what the parts of one job print to the agent. Only the thread that both share."""

    def __init__(
        self,
        job: bytes,
        printed: Callable[[bytes, str, int, str, int], None],
        ended: Callable[[bytes, str], None],
    ) -> None:
        self._job, self._printed, self._ended = job, printed, ended

    def printed(self, worker: str, index: int, line: str, lines: int = 1) -> None:
        self._printed(self._job, worker, index, line, lines)

    def ended(self, worker: str) -> None:
        self._ended(self._job, worker)


class WorkerAgent(LinkListener):
    """Serves a pool of workers on this host until it is stopped: carries out what the ledger decides.

    It owns the link, the consumers, the ledger, and the pool of slots. `start`, `drain`, `halt` and `wait` may be
    called from any thread, all else from the loop's thread only.

    Args:
        connected: called each time that the agent is connected to the broker.
        pool: computes the parts; `wait` ends it.
        link: makes the link; `PikaLink` unless a test has another.
    """

    def __init__(
        self,
        address: Address,
        keys: Keys,
        serving: Serving,
        settings: Settings,
        *,
        connected: Callable[[], object] = lambda: None,
        pool: SlotPool | None = None,
        link: LinkFactory = PikaLink,
    ) -> None:
        self._connected = connected
        self._address, self._keys, self._serving, self._settings = address, keys, serving, settings
        self._read = Reader(protocol.TO_AGENT, keys)
        self.pool: SlotPool = pool or SlotPool((serving.path, serving.code) if serving.path else None)
        self._loop = self.pool.loop
        self._link = link(self._loop, address, self)
        me = protocol.Agent(os.urandom(8), f"{socket.gethostname()} {os.getpid()}", "", settings.slots)
        self._sender = Sender(self._link, me, serving.pool, keys)
        self._consumers = Consumers(self._link, settings.slots, self._delivered)
        self._ledger = Ledger(lease=settings.lease_after, grace=settings.grace, code=serving.code, now=monotonic())
        self._replies = Replies(bool(keys), settings.max_result)
        self._pausing = Pausing()
        self._relay = Relay(write_line, monotonic())
        #: Messages with lines that the broker has not confirmed; True while the next look at lines is scheduled.
        self._lines_sent = 0
        self._will_look_at_lines = False
        #: Jobs that the pool computes; and the data of their parts that is being fetched.
        self._runs: dict[bytes, SlotRun] = {}
        self._fetches: dict[bytes, Fetches] = {}
        #: Jobs whose modules are not on this host yet: the digest of their definition, and their work.
        self._archives = Archives(self._loop, self._ask_for_modules, self._modules_are_fetched, self._modules_are_here)
        self._without_modules: dict[bytes, tuple[bytes, Work, str]] = {}
        self._checked_at = monotonic()
        self._lingering = Lingering(settings.idle, settings.away, monotonic())
        self._file_checked_at = 0.0
        self._was_up = False
        self._purge = settings.purge
        #: Why the agent ends: the broker refuses the first connection, or a queue, for good.
        self._refusal: BrokerRefused | None = None
        self._ended = threading.Event()
        self._performers: dict[type, Callable[[Any], None]] = {
            ledger.Begin: self._begin,
            ledger.Compute: self._compute,
            ledger.Fetch: self._fetch,
            ledger.Stop: self._stop,
            ledger.DropData: self._drop_data,
            ledger.End: self._end,
            ledger.Acknowledge: lambda one: self._consumers.free(one.delivery),
            ledger.HandBack: lambda one: self._consumers.hand_back(one.delivery),
            ledger.Park: lambda one: self._consumers.park(one.delivery),
            ledger.Unpark: lambda one: self._consumers.unpark(one.delivery),
            ledger.AcknowledgeEarly: lambda one: self._consumers.acknowledge_early(one.delivery),
            ledger.FreeSlot: lambda one: self._consumers.free_slot(one.delivery),
            ledger.Reply: self._reply,
            ledger.Refuse: self._refuse,
            ledger.Announce: self._announce,
            ledger.AnnounceSoon: self._announce_soon,
            ledger.Ask: self._ask,
            ledger.Pause: lambda one: self._pause(*one),
            ledger.StopConsuming: lambda one: self._consumers.leave(),
            ledger.Goodbye: self._send_leaving,
            ledger.EndSoon: self._end_soon,
        }

    def start(self) -> None:
        """Start the worker processes, connect, and serve."""
        self.pool.warm(self._settings.slots, self._settings.slots)
        self._loop.call_soon(self._check)
        self._link.start()

    def drain(self) -> None:
        """Take no new parts, finish or hand back the present ones, and end."""
        self._loop.call_soon(lambda: self._perform(self._ledger.drain(monotonic())))

    def halt(self) -> None:
        """End now. The broker delivers to others what is not acknowledged."""
        self._loop.call_soon(self._end_now)

    def wait(self) -> None:
        """Wait until the agent has ended.

        Raises:
            BrokerRefused: the broker refuses the first connection, or a queue, for good.
            UsageError: the agent's thread has failed.
        """
        while not self._ended.wait(0.5):
            if not self._loop.is_running():
                raise UsageError("the agent's thread has failed; the log contains the error")
        self.pool.shutdown()
        if self._refusal is not None:
            raise self._refusal

    # Events of the link.

    def link_is_up(self) -> None:
        serving = self._serving
        if self._ledger.is_draining:
            return
        log.info(
            "connected to %s: serving the pool %s (code %s) with %d slots",
            *(self._address, serving.pool, serving.code, self._settings.slots),
        )
        self._was_up = True
        queue = f"pymar.agent.{self._sender.me.id.hex()}.{self._link.epoch}.{os.urandom(4).hex()}"
        self._sender.listens_at(queue)
        self._link.declare(queue, None)
        self._link.listen(protocol.CONTROL, queue)
        self._link.consume(queue, 20, self._received)
        for fetches in self._fetches.values():
            fetches.ask_again()
        self._archives.ask_again()
        instructions = self._ledger.connected(monotonic())
        self._lines_sent = 0
        self._look_at_lines()  # before the reports that wait: lines come before the failure that they explain
        self._serve()
        self._perform(instructions)
        self._connected()

    def link_is_down(self, error: BrokerRefused) -> None:
        self._consumers.forget()
        self._ledger.disconnected()
        # A user that was accepted before may be accepted again.
        if error.is_final and (error.about or not self._was_up):
            self._refusal = error
            self._end_now()
        elif error.is_final or not self._was_up:
            log.warning("%s", error)

    def publishers_are_blocked(self, reason: str) -> None:
        if not reason:
            self._look_at_lines()

    def consumer_was_cancelled(self, consumer: str) -> None:
        if consumer in self._consumers:
            log.warning("the work queue was deleted: it is made again")
            self._consumers.lost(consumer)
            self._serve()

    def _serve(self) -> None:
        queue = self._work_queue()
        if not self._ledger.is_draining and not self._pausing.is_on:
            self._link.declare(queue, timing.WORK_EXPIRES)
            if self._purge:
                self._purge = False
                self._link.purge(queue)
            self._consumers.serve(queue)

    def _work_queue(self) -> str:
        return protocol.work_queue(self._serving.pool, self._serving.code)

    # Messages of the work queue.

    def _delivered(self, delivery: Delivery) -> None:
        try:
            if read := self._read(delivery.body, self._work_queue()):
                self._take(delivery, *read)
            elif delivery.redelivered:
                self._consumers.free(delivery)
            else:  # a worker with another key may be able to read it
                self._consumers.hand_back(delivery)
        except Exception:  # a defect in Pymar: the producer finds that the parts are lost, and sends them again
            log.exception("a message could not be handled")
            self._perform(self._ledger.dropped(delivery))
            if self._consumers.is_held(delivery):  # the ledger does not know it
                self._consumers.free(delivery)

    def _take(self, delivery: Delivery, message: Any, pool: str) -> None:
        if pool != self._serving.pool or not isinstance(message, protocol.Parts | protocol.Probe):
            self._read.refuse("it is for another pool, or not for a work queue")
            self._consumers.free(delivery)
        elif isinstance(message, protocol.Probe):
            self._sender.send(message.reply, protocol.Echo(self._sender.me, message.job, message.serial))
            self._consumers.free(delivery)
        elif not self._keys and any(type(row[4]) is bytes and row[4][:3] != PLAIN_MARK for row in message.batch):
            self._read.refuse("its data is not plain, and there is no key")
            self._consumers.free(delivery)
        else:
            self._perform(self._ledger.delivered(delivery, message, monotonic()))

    # Messages of the agent's own queue.

    def _received(self, delivery: Delivery) -> None:
        try:
            if read := self._read(delivery.body, self._sender.me.queue, protocol.CONTROL):
                self._handle(*read)
        except Exception:  # a defect in Pymar: producers send again what matters
            log.exception("a message could not be handled")
        self._link.acknowledge(delivery)

    def _handle(self, message: Any, pool: str) -> None:
        if isinstance(message, protocol.Hello):
            self._answer(message)
        elif isinstance(message, protocol.Over):  # also sent to all agents, of any pool, when a script ends
            self._perform(self._ledger.over(message.jobs))
        elif pool != self._serving.pool or isinstance(message, protocol.Parts | protocol.Probe):
            self._read.refuse("it is for another pool, or for a work queue")
        elif isinstance(message, protocol.Alive):
            self._ledger.heard(message.jobs, monotonic())
        elif isinstance(
            message, protocol.Welcome | protocol.Refusal | protocol.Cancel | protocol.Piece | protocol.CodePiece
        ):
            self._ledger.heard([message.job], monotonic())
            match message:
                case protocol.Welcome():
                    self._welcomed(message)
                case protocol.Refusal(job, text):
                    self._perform(self._ledger.rejected(job, text))
                case protocol.Cancel(job, indices):
                    self._perform(self._ledger.cancelled(job, indices))
                case protocol.Piece():
                    self._fetched(message)
                case protocol.CodePiece():
                    self._take_modules(message)
        else:
            self._read.refuse(f"no agent handles a message of the kind {type(message).__name__}")

    def _welcomed(self, welcome: protocol.Welcome) -> None:
        code = self._ledger.asks_for(welcome.job)
        if code is None:
            return
        serving = self._serving
        definition: Any = welcome.definition
        if serving.path:
            definition = (serving.path, code, serving.producer, serving.source, bool(self._keys), definition)
        limits = welcome.part_timeout or None, welcome.memory_limit or None
        work = Work(definition, *limits, timing.BATCH_SECONDS)
        digest = digest_of(python_version().encode() + welcome.definition + welcome.modules)
        if serving.path or not welcome.modules:
            self._perform(self._ledger.welcomed(welcome.job, digest, work, monotonic(), welcome.name))
        elif welcome.job not in self._archives:  # else they are on their way
            try:
                self._without_modules[welcome.job] = digest, work, welcome.name
                self._archives.place(welcome.job, reference(welcome.modules))
            except ValueError as problem:
                self._read.refuse(str(problem))

    def _ask_for_modules(self, job: bytes, start: int) -> None:
        self._sender.send(self._ledger.reply_of(job), protocol.FetchCode(self._sender.me, job, start))

    def _modules_are_fetched(self, job: bytes) -> None:
        self._perform(self._ledger.fetches_modules(job))

    def _take_modules(self, piece: protocol.CodePiece) -> None:
        try:
            self._archives.received(piece)
        except ValueError as problem:
            self._read.refuse(str(problem))

    def _modules_are_here(self, job: bytes, code: Code | None, why: str) -> None:
        digest, work, name = self._without_modules.pop(job, (b"", None, ""))
        if work is None:
            return
        if code is None:
            self._perform(self._ledger.cannot_begin(job, shortened(why)))
        else:
            self._perform(self._ledger.welcomed(job, digest, work._replace(code=code), monotonic(), name))

    def _answer(self, hello: protocol.Hello) -> None:
        if hello.pool not in ("", self._serving.pool):
            return
        now = monotonic()
        differs = hello.pool and hello.code != self._serving.code and self._serving.path
        if differs and now - self._file_checked_at > 1:
            self._file_checked_at = now
            try:
                if code_of(self._serving.path) == hello.code:
                    self._switch(hello.code)
            except UsageError as error:
                log.warning("%s", error)
        serving = self._serving
        is_other = bool(self._keys and hello.pool and hello.code != serving.code)
        running, consumers = self._ledger.running, len(self._consumers)
        here = protocol.Here(
            self._sender.me,
            *serving[:3],
            python_version(),
            running,
            consumers,
            self._ledger.holds(now),
            time.time(),
            self._pausing.why,
            lines_of(serving.path, serving.code) if is_other else b"",
        )
        self._sender.send(hello.reply, here)

    def _switch(self, code: str) -> None:
        """Serve the job file as it is on disk now, which is what a producer asks for."""
        log.info("the job file %s has changed: serving code %s from now on", self._serving.path, code)
        self._serving = self._serving._replace(code=code)
        self._renew((self._serving.path, code))
        self._consumers.leave()
        self._perform(self._ledger.serves(code))
        self._take_parts_again()

    # Instructions of the ledger.

    def _perform(self, instructions: ledger.Instructions) -> None:
        for one in instructions:
            self._performers[type(one)](one)

    def _begin(self, one: ledger.Begin) -> None:
        slots = self._settings.slots
        # The work may be that of an earlier job with the same definition: the lines are this one's.
        work = one.work._replace(lines=_JobLines(one.job, self._printed, self._worker_ended))
        self._runs[one.job] = self.pool.start(
            work, slots, slots, _JobReports(one.job, self._reported, self._ledger.begun)
        )

    def _reported(self, job: bytes, reports: list[Report]) -> None:
        """Take reports. A fault of ours, or no memory, costs their parts an attempt, and not the agent's other jobs."""
        try:
            self._perform(self._ledger.reported(job, reports))
        except Exception as error:
            log.exception("reports could not be dealt with")
            self._perform(self._ledger.unreported(job, reports, error))

    def _compute(self, one: ledger.Compute) -> None:
        self._runs[one.job].submit(one.parts)

    def _stop(self, one: ledger.Stop) -> None:
        if one.job in self._runs:
            self._runs[one.job].cancel(one.index)

    def _end(self, one: ledger.End) -> None:
        self._fetches.pop(one.job, None)
        self._archives.forget(one.job)
        self._without_modules.pop(one.job, None)
        if (run := self._runs.pop(one.job, None)) is not None:
            run.close()
        self._relay.forget(one.job)

    def _fetch(self, one: ledger.Fetch) -> None:
        fetches = self._fetches.get(one.job)
        if fetches is None:
            fetches = self._fetches[one.job] = Fetches(partial(self._ask_for_data, one.job))
        try:
            fetches.begin(one.part)
        except ValueError as problem:
            text = f"UsageError: its data cannot be sent: {problem}"
            self._reported(one.job, [unsendable(one.part.index, text)])

    def _ask_for_data(self, job: bytes, index: int, start: int) -> None:
        self._sender.send(self._ledger.reply_of(job), protocol.Fetch(self._sender.me, job, index, start))

    def _fetched(self, piece: protocol.Piece) -> None:
        if piece.job not in self._fetches:
            return
        try:
            part = self._fetches[piece.job].received(piece)
        except ValueError as problem:
            self._read.refuse(str(problem))
            return
        if part is not None:
            self._perform(self._ledger.fetched(piece.job, part))

    def _drop_data(self, one: ledger.DropData) -> None:
        if one.job in self._fetches:
            self._fetches[one.job].forget(one.index)

    def _reply(self, one: ledger.Reply) -> None:
        """Send a reply. If that fails, as without memory, its parts lose an attempt, and other jobs nothing."""
        if any(isinstance(report, Done) for report in one.reports):
            self._pausing.computed()
        unsent = set(one.executions)
        try:
            self._send_lines_before(one)
            for outgoing in self._replies.messages(self._sender.me, one):
                self._send(one, outgoing)
                unsent.difference_update(outgoing.executions)
        except Exception as error:
            log.exception("a report could not be sent")
            if not isinstance(one.reports[0], Lost):  # else others receive the part once this agent has ended
                self._perform(self._ledger.unsent(sorted(unsent), error))

    def _send(self, reply: ledger.Reply, outgoing: Outgoing) -> None:
        """Send messages, each again until the broker confirms it; then confirm their executions to the ledger."""
        unconfirmed = outgoing.total

        def done(message: Any, was_taken: bool) -> None:
            nonlocal unconfirmed
            if was_taken:
                self._ledger.taken(reply.job)
                unconfirmed -= 1
                if not unconfirmed:
                    self._perform(self._ledger.confirmed(outgoing.executions))
                return
            self._perform(self._ledger.not_taken(reply.job, monotonic()))
            if self._ledger.knows(reply.job):
                self._loop.call_later(timing.AGAIN_AFTER, send, message)

        def send(message: Any) -> None:
            self._sender.send(reply.queue, message, partial(done, message))

        for message in outgoing.messages:
            if isinstance(message, protocol.Partial):
                message = message._replace(printed=self._relay.total(reply.job))
            send(message)

    # What parts print.

    def _printed(self, job: bytes, worker: str, index: int, line: str, lines: int) -> None:
        if job in self._runs:
            self._relay.printed(job, worker, index, line, lines, monotonic())
            self._look_at_lines_later()

    def _worker_ended(self, job: bytes, worker: str) -> None:
        self._relay.failed(job, worker, monotonic())

    def _send_lines_before(self, reply: ledger.Reply) -> None:
        """Send the lines that belong before this reply, if the link takes them at once."""
        now = monotonic()
        for report in reply.reports:
            if isinstance(report, Failed):
                self._relay.failed(reply.job, report.worker, now)
        self._relay.finished(reply.job, {report.index for report in reply.reports if isinstance(report, Done)}, now)
        if self._relay.has(reply.job):
            self._send_lines(reply.job, reply.queue, now)

    def _send_lines(self, job: bytes, queue: str, now: float) -> None:
        """Send lines of a job, unless the link is down, blocked or busy with earlier ones: results come first."""
        if not self._link.is_up or self._link.blocked or self._lines_sent >= _LINES_UNCONFIRMED:
            return
        first, total, lines = self._relay.take(job, now)
        self._lines_sent += 1
        epoch = self._link.epoch

        def done(was_taken: bool) -> None:
            if epoch == self._link.epoch:
                self._lines_sent -= 1

        message = protocol.Printed(self._sender.me, job, first, total, [[*line] for line in lines])
        self._sender.send(queue, message, done, lasting=False)

    def _look_at_lines_later(self) -> None:
        if not self._will_look_at_lines:
            self._will_look_at_lines = True
            self._loop.call_later(_LOOK_AT_LINES_EVERY, self._look_at_lines_again)

    def _look_at_lines_again(self) -> None:
        self._will_look_at_lines = False
        self._look_at_lines()
        if not self._relay.is_idle():
            self._look_at_lines_later()

    def _look_at_lines(self) -> None:
        """Send the lines that are due, of all jobs."""
        now = monotonic()
        for job in self._relay.look(now):
            if queue := self._ledger.reply_of(job):
                self._send_lines(job, queue, now)

    def _refuse(self, one: ledger.Refuse) -> None:
        message = protocol.Refused(self._sender.me, one.parts.job, [row[0] for row in one.parts.batch], one.text)

        def done(was_taken: bool) -> None:
            self._perform(self._ledger.refusal_sent(one.delivery))

        self._sender.send(one.parts.reply, message, done)

    def _announce(self, one: ledger.Announce) -> None:
        message = protocol.Running(self._sender.me, [[*row] for row in one.rows])

        def done(was_taken: bool) -> None:
            self._perform(self._ledger.announced(one.queue, was_taken, monotonic(), one.batch))

        self._sender.send(one.queue, message, done, lasting=one.batch is not None)

    def _announce_soon(self, one: ledger.AnnounceSoon) -> None:
        self._loop.call_later(one.seconds, self._announce_news)

    def _announce_news(self) -> None:
        self._perform(self._ledger.announce_news(monotonic()))

    def _ask(self, one: ledger.Ask) -> None:
        def done(was_taken: bool) -> None:
            if not was_taken:
                self._perform(self._ledger.ask_not_taken(one.job))

        self._sender.send(
            one.queue, protocol.Join(self._sender.me, one.job, python_version(), fresh()), done, lasting=False
        )

    def _send_leaving(self, one: ledger.Goodbye) -> None:
        for queue in one.queues:
            self._sender.send(queue, protocol.Leaving(self._sender.me))
        self._link.stop(self._ended.set)

    def _end_soon(self, one: ledger.EndSoon) -> None:
        self._loop.call_later(_CLOSING, self._end_now)

    def _end_now(self) -> None:
        """End without waiting. The broker delivers to others what is not acknowledged."""
        self._link.stop(self._ended.set, now=True)

    # Pauses, and what is due after some time.

    def _pause(self, why: str, renews: bool = False, grows: bool = False) -> None:
        """Take no parts for a while, since this agent cannot compute those in its queue."""
        self._consumers.pause()
        seconds = self._pausing.begin(why, monotonic(), renews=renews, grows=grows)
        self._ledger.paused()
        if seconds is not None:
            log.warning("no parts are taken for %g s, or until this worker can compute them", seconds)

    def _take_parts_again(self) -> None:
        """End the pause: what could not be computed may work now."""
        self._pausing.end()
        self._ledger.resumed()
        self._serve()

    def _renew(self, preload: tuple[str, str] | None = None) -> None:
        self.pool.renew(preload)
        self.pool.warm(self._settings.slots, self._settings.slots)

    def _check(self) -> None:
        self._loop.call_later(_CHECK_EVERY, self._check)
        now = monotonic()
        can_receive = self._link.is_up and not self._link.blocked and now - self._checked_at < _STOPPED
        self._checked_at = now
        self._perform(self._ledger.look(now, can_receive))
        for fetches in self._fetches.values():
            fetches.retry(now)
        self._archives.retry(now)
        self._check_processes(now)
        if why := self._lingering.look(now, is_busy=self._ledger.is_busy, is_up=self._link.is_up):
            self._linger_no_more(why)

    def _linger_no_more(self, why: str) -> None:
        """End: what runs cannot be reported without a broker."""
        if not self._ledger.is_draining:
            log.info("ending: %s", why)
            self._perform(self._ledger.drain(monotonic()))
            if not self._link.is_up:
                self._end_now()

    def _check_processes(self, now: float) -> None:
        """Take as many parts as there are worker processes, and none if none can be started."""
        health = self.pool.health()
        if health.failures and not health.living:
            self.pool.open(1)
            health = self.pool.health()
        starts = health.is_up or not health.keeps_failing
        if not starts and not self._pausing.is_on:
            text = shortened(f"its worker processes cannot be started; the last: {health.why}")
            log.error("this worker cannot compute: %s", text)
            self._perform(self._ledger.cannot_compute(text))
        is_short = health.keeps_failing and health.is_up
        self._consumers.limit(health.living if is_short else self._settings.slots)
        if is_short:  # parts would wait here for a busy process, while other hosts may be idle
            self.pool.hand_back_waiting()
        if self._pausing.is_on and self._pausing.may_end(
            now, file_is_right=self._file_is_right(), processes_start=starts
        ):
            log.info("taking parts again")
            if self._pausing.renews:
                self._renew()
            self._take_parts_again()

    def _file_is_right(self) -> bool:
        serving = self._serving
        try:
            return not serving.path or code_of(serving.path) == serving.code
        except UsageError:
            return False
