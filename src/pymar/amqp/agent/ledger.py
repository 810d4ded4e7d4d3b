"""The ledger of an agent: what it was given, what it computes, what it has sent, and what to do at each event.

    event, with the time --> Ledger --> instructions, in the order in which they are to be carried out

It does no I/O: `agent.py` carries the instructions out, and calls the ledger with the outcome. These rules are its own:

- A delivery is acknowledged once the broker has confirmed a reply for each of its parts, or once these are no longer
  needed. If one takes long, it is acknowledged early: once the broker has confirmed a heartbeat that contains the part.
- A part that is delivered again while it runs, or while its result is unconfirmed, is not computed again, unless it is
  marked as a backup task.
- The broker delivers again what it delivered on a connection that is lost: nothing is acknowledged for it.
- Parts of a job that is unknown, or whose producer is silent, wait without occupying a slot.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Generic, NamedTuple, TypeVar

from pymar.amqp import protocol, timing
from pymar.amqp.link import Delivery
from pymar.parts import Cause, Done, Failed, Lost, Part, Refused, Report, Returned
from pymar.serialization.records import Encoded
from pymar.slots.queue import Work

log: logging.Logger = logging.getLogger(__name__)

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

#: Definitions that are remembered; and finished deliveries and jobs.
_DEFINITIONS, _REMEMBERED = 16, 10_000
#: Seconds for the broker to confirm the parts that are returned at the end.
_LAST_MESSAGES = 5.0


class Begin(NamedTuple):
    """Start a job on the pool of slots."""

    job: bytes
    work: Work


class Compute(NamedTuple):
    """Give parts of a job to the pool of slots."""

    job: bytes
    parts: tuple[Part, ...]


class Fetch(NamedTuple):
    """Fetch the data of a part, which was delivered with size and digest of the data only."""

    job: bytes
    part: Part


class Stop(NamedTuple):
    """Stop computing a part."""

    job: bytes
    index: int


class DropData(NamedTuple):
    """Stop fetching the data of a part."""

    job: bytes
    index: int


class End(NamedTuple):
    """End a job on the pool of slots."""

    job: bytes


class Acknowledge(NamedTuple):
    """Acknowledge a delivery: the broker forgets it."""

    delivery: Delivery


class HandBack(NamedTuple):
    """Hand a delivery back to the broker, which delivers it to another agent."""

    delivery: Delivery


class Park(NamedTuple):
    """Free the slot of a delivery that waits."""

    delivery: Delivery


class Unpark(NamedTuple):
    """Give a parked delivery a slot again."""

    delivery: Delivery


class AcknowledgeEarly(NamedTuple):
    """Acknowledge a delivery whose slot is still busy."""

    delivery: Delivery


class FreeSlot(NamedTuple):
    """Free the slot of a delivery that was acknowledged early."""

    delivery: Delivery


class Reply(NamedTuple):
    """Send reports of a job to its producer; call `confirmed` with `executions` once the broker has confirmed them."""

    job: bytes
    queue: str
    reports: tuple[Report, ...]
    executions: tuple[int, ...]


class Refuse(NamedTuple):
    """Send a refusal of a delivery's parts; call `refusal_sent` once the broker has taken or returned it."""

    delivery: Delivery
    parts: protocol.Parts
    text: str


class Announce(NamedTuple):
    """Send the heartbeat to one producer: all that runs here of its jobs."""

    queue: str
    rows: tuple[tuple[bytes, int, str], ...]
    """Job, part (-1 if nothing of the job runs) and worker."""
    batch: int | None = None
    """The batch that may be acknowledged early once this is confirmed."""


class Ask(NamedTuple):
    """Send Join to the producer of a job: the question what the job is."""

    job: bytes
    queue: str


class Pause(NamedTuple):
    """Take no parts for a while."""

    why: str
    renews: bool = False
    """True if the worker processes are to be replaced before parts are taken again."""
    grows: bool = False
    """True if the pause is longer each time in a row."""


class AnnounceSoon(NamedTuple):
    """Call `announce_news` in this many seconds."""

    seconds: float


class StopConsuming(NamedTuple):
    """Take no more deliveries from the work queue."""


class Goodbye(NamedTuple):
    """Send Leaving to these queues, and end."""

    queues: tuple[str, ...]


class EndSoon(NamedTuple):
    """End in a moment, even if replies are unconfirmed."""


Instruction = (
    Begin
    | Compute
    | Fetch
    | Stop
    | DropData
    | End
    | Acknowledge
    | HandBack
    | Park
    | Unpark
    | AcknowledgeEarly
    | FreeSlot
    | Reply
    | Refuse
    | Announce
    | Ask
    | Pause
    | AnnounceSoon
    | StopConsuming
    | Goodbye
    | EndSoon
)
Instructions = list[Instruction]


@dataclass(eq=False)
class _Batch:
    """A delivery of parts."""

    id: int
    delivery: Delivery
    parts: protocol.Parts
    rows: list[list[Any]]
    """The rows of its parts that are to be computed."""
    left: set[int] = field(default_factory=set)
    """Its parts that have no confirmed reply yet, and are still needed."""
    is_announced: bool = False
    """True once a heartbeat was sent after which it can be acknowledged early."""
    is_released: bool = False
    """True once it was acknowledged early."""


@dataclass(eq=False)
class _Execution:
    """A part that is being computed, or whose result is unconfirmed."""

    id: int
    index: int
    since: float
    batches: list[_Batch]
    """The batches that wait for it: several, if the part was delivered again meanwhile."""
    worker: str = ""
    """The slot that computes it, with its host; "" while that is not known."""
    is_listed: bool = False
    """True if a heartbeat has contained it."""
    is_over: bool = False
    """True once its slot has reported; then the broker has to confirm the reply."""
    is_done: bool = False
    """True if that report contains the part's value."""
    is_fetching: bool = False
    """True while its data is being fetched."""
    copies: int = 1
    """Slots that compute it."""


@dataclass(eq=False)
class _Job:
    """A job whose parts were delivered."""

    id: bytes
    reply: str
    code: str
    """Of the job file, as it was when the first parts were delivered."""
    heard_at: float
    """When a message of its producer was last received."""
    fetches_modules: bool = False
    """True while its modules are fetched: others may compute its parts meanwhile."""
    is_begun: bool = False
    """True while it is known what the job is, and the pool computes it."""
    refused: str = ""
    """Why the job is not computed here; "" unless it was refused."""
    held: list[_Batch] = field(default_factory=list)
    """Batches that wait until it is known what the job is."""
    held_since: float = 0.0
    """When the first of them began to wait."""
    title: str = ""
    """The name of its producer, for people; "" while that is not known."""
    running: dict[int, _Execution] = field(default_factory=dict)
    """By part: what is computed, or has an unconfirmed reply."""
    unreachable_since: float | None = None
    """Since when the queue of its producer has taken no message; None while it takes them."""

    @property
    def name(self) -> str:
        return self.id.hex()[:8]


class Memory(Generic[Key, Value]):
    """At most `most` values by key, which it owns; the least recently used is dropped first. One thread only."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[Key, Value] = OrderedDict()

    def __contains__(self, key: Key) -> bool:
        return key in self._values

    def keep(self, key: Key, value: Value) -> None:
        """Keep a value."""
        self._values[key] = value
        self._values.move_to_end(key)
        if len(self._values) > self._most:
            self._values.popitem(last=False)

    def get(self, key: Key) -> Value | None:
        """Return the value, or None; mark it most recently used."""
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def forget(self, key: Key) -> None:
        """Drop a value, if there is one."""
        self._values.pop(key, None)

    def clear(self) -> None:
        """Drop all values."""
        self._values.clear()


class Ledger:
    """All that an agent knows of jobs, deliveries, executions and replies; it owns these.

    A method takes one event, and returns the instructions that follow from it, in order. Agent's thread only.

    Args:
        lease: seconds after which a delivery that still runs is acknowledged early.
        grace: seconds that parts may continue after `drain`.
        code: of the job file that the agent serves.
        now: the time, in seconds of any clock that never goes back.
    """

    def __init__(self, *, lease: float, grace: float, code: str, now: float) -> None:
        self._lease, self._grace, self._code = lease, grace, code
        self._jobs: dict[bytes, _Job] = {}
        self._executions: dict[int, tuple[_Job, _Execution]] = {}
        self._batches: dict[int, _Batch] = {}
        self._numbers = count(1)
        #: Deliveries of this connection that are neither acknowledged nor handed back.
        self._unacknowledged: set[tuple[int, int]] = set()
        self._definitions: Memory[bytes, tuple[Work, str]] = Memory(_DEFINITIONS)
        self._over: Memory[bytes, None] = Memory(_REMEMBERED)
        #: Jobs whose producer refuses this agent, and why; and jobs that it could not compute, until `resumed`.
        self._unwanted: Memory[bytes, str] = Memory(_REMEMBERED)
        self._refusals: Memory[bytes, str] = Memory(_REMEMBERED)
        #: Jobs whose producer was silent: before more of their parts are computed, it has to answer Join.
        self._forsaken: Memory[bytes, None] = Memory(_REMEMBERED)
        self._finished: Memory[tuple[bytes, int], None] = Memory(_REMEMBERED)
        self._is_up = self._is_paused = self._will_announce = False
        self._announced_at = now
        self._hand_back_at: float | None = None
        self._has_left = False

    # Queries.

    @property
    def is_draining(self) -> bool:
        """True once `drain` was called."""
        return self._hand_back_at is not None

    @property
    def is_busy(self) -> bool:
        """True if it has parts, or takes part in a job that is not over."""
        return bool(self._jobs)

    @property
    def running(self) -> int:
        """The number of parts that are computed, or whose reply is unconfirmed."""
        return sum(len(job.running) for job in self._jobs.values())

    def holds(self, now: float) -> list[list[Any]]:
        """Return the jobs whose parts run or wait here, as rows of `protocol.Here`."""
        return [
            [job.id, job.title, job.reply, len(job.running), len(job.held), max(0.0, now - job.heard_at)]
            for job in self._jobs.values()
            if job.running or job.held
        ]

    def knows(self, job: bytes) -> bool:
        """True if parts of this job were delivered, and it is not over."""
        return job in self._jobs

    def asks_for(self, job: bytes) -> str | None:
        """Return the code for a job that is not known yet; None if it is known, or has no parts here."""
        found = self._jobs.get(job)
        return None if found is None or found.is_begun else found.code

    def reply_of(self, job: bytes) -> str:
        """Return the queue of a job's producer; "" if the job is over."""
        return self._jobs[job].reply if job in self._jobs else ""

    # Events of the link.

    def connected(self, now: float) -> Instructions:
        """The link is connected: ask for the jobs that are not known, and send heartbeats."""
        self._is_up = True
        self._unacknowledged.clear()
        out: Instructions = []
        for job in list(self._jobs.values()):
            job.heard_at = now + timing.COMES_BACK  # a producer may reconnect later than this agent
            out += self._ask(job)
        return out + self.announce_all(now)

    def disconnected(self) -> None:
        """The connection is lost. The broker delivers again what was delivered on it, here or to other agents."""
        self._is_up = False
        self._unacknowledged.clear()
        for job in self._jobs.values():
            self._forget_held(job)

    # Deliveries of the work queue.

    def delivered(self, delivery: Delivery, parts: protocol.Parts, now: float) -> Instructions:
        """Parts were delivered: compute them, hold them until the job is known, or refuse them."""
        self._unacknowledged.add((delivery.epoch, delivery.tag))
        if self.is_draining:
            return self._handed_back(delivery)
        if parts.job in self._over or (delivery.redelivered and (parts.job, parts.serial) in self._finished):
            return self._acknowledged(delivery)
        refused = self._unwanted.get(parts.job) or self._refusals.get(parts.job)
        if refused:  # its producer, if it lives, sends them again: to others, since this agent pauses
            return [Pause(refused), Refuse(delivery, parts, refused)]
        out: Instructions = []
        job = self._jobs.get(parts.job)
        if job is None:
            job = self._jobs[parts.job] = _Job(parts.job, parts.reply, self._code, now)
            known = self._definitions.get(parts.definition)
            if known is not None and parts.job not in self._forsaken:
                job.is_begun = True
                work, job.title = known
                out.append(Begin(job.id, work))
        job.reply = parts.reply
        batch = _Batch(next(self._numbers), delivery, parts, parts.batch, {row[0] for row in parts.batch})
        self._batches[batch.id] = batch
        if job.is_begun:
            return out + self._take(job, batch, now) + self._announce_soon()
        self._hold(job, batch, now)
        if job.fetches_modules:  # without Park, no more of its parts come than there are slots
            return out
        return [*out, Park(delivery), *self._ask(job)]

    def dropped(self, delivery: Delivery) -> Instructions:
        """Something went wrong with a delivery: have the broker forget it. Its parts will be missed, and sent again."""
        return self._acknowledged(delivery)

    def refusal_sent(self, delivery: Delivery) -> Instructions:
        """The broker has taken or returned the refusal of this delivery: acknowledge it."""
        return self._acknowledged(delivery)

    def _take(self, job: _Job, batch: _Batch, now: float) -> Instructions:
        """Compute the parts of a batch, except those that are being computed already: the batch waits for these."""
        out: Instructions = []
        fresh: list[Part] = []
        for row in batch.rows:
            part = Part(*row)
            execution = job.running.get(part.index)
            # A part that has failed is computed again, even if the broker has not confirmed the failure yet.
            if execution is not None and (execution.is_done or not execution.is_over):
                execution.batches.append(batch)
                if not batch.parts.is_copy or execution.is_over or execution.is_fetching:
                    continue
                execution.copies += 1
            else:
                execution = _Execution(next(self._numbers), part.index, now, [batch])
                job.running[part.index] = execution
                self._executions[execution.id] = job, execution
            if type(part.data) is list:
                execution.is_fetching = True
                out.append(Fetch(job.id, part))
            else:
                fresh.append(part if part.data is None else part._replace(data=Encoded(part.data)))
        if batch.delivery.redelivered:  # a heartbeat first: computing it may kill this agent
            out += self._announce(job.reply)
        if fresh:
            out.append(Compute(job.id, tuple(fresh)))
        return out

    # Messages of producers.

    def heard(self, jobs: Iterable[bytes], now: float) -> None:
        """Note that the producer of these jobs has sent a message, and so lives."""
        for name in jobs:
            if name in self._jobs:
                self._jobs[name].heard_at = now

    def welcomed(self, name: bytes, digest: bytes, work: Work, now: float, title: str = "") -> Instructions:
        """The producer of a job has sent what the job is: start it.

        Args:
            digest: of the definition.
            title: the name of its producer, for people.
        """
        job = self._jobs.get(name)
        if job is None or job.is_begun:
            return []
        if job.code == self._code and not work.code:  # its modules may be removed from the cache
            self._definitions.keep(digest, (work, title))
        self._forsaken.forget(name)
        log.info("job %s: joined", job.name)
        job.is_begun, job.heard_at, job.title, job.fetches_modules = True, now, title, False
        held, job.held = job.held, []
        out: Instructions = [Unpark(batch.delivery) for batch in held]
        out.append(Begin(name, work))
        for batch in held:
            out += self._take(job, batch, now)
        return out + self._announce_soon()

    def rejected(self, name: bytes, text: str) -> Instructions:
        """The producer of a job refuses this agent: hand its parts back, and pause."""
        job = self._jobs.get(name)
        if job is None:
            return []
        log.warning("job %s: its producer has refused this worker: %s", job.name, text)
        job.refused = text
        self._unwanted.keep(name, text)
        return [Pause(text), *self._hand_back_held(job), *self._let_go(job, is_over=False)]

    def fetches_modules(self, name: bytes) -> Instructions:
        """The modules of a job are not here, and are fetched: hand its parts back, for agents that have them."""
        job = self._jobs.get(name)
        if job is None or job.is_begun or job.fetches_modules:
            return []
        job.fetches_modules = True
        return self._hand_back_held(job)

    def cannot_begin(self, name: bytes, text: str) -> Instructions:
        """The modules of a job cannot be had on this host: refuse its parts, and pause."""
        job = self._jobs.get(name)
        if job is None or job.is_begun:
            return []
        log.warning("job %s: cannot be computed here: %s", job.name, text)
        self._refusals.keep(name, text)
        out: Instructions = [Pause(text, grows=True)]
        out += [Refuse(batch.delivery, batch.parts, text) for batch in job.held]
        self._forget_held(job)
        return out + self._let_go(job, is_over=False)

    def cancelled(self, name: bytes, indices: Iterable[int]) -> Instructions:
        """Nobody needs these parts any more: stop them."""
        job = self._jobs.get(name)
        out: Instructions = []
        for index in list(indices) if job is not None else []:
            assert job is not None
            execution = job.running.get(index)
            if execution is not None and not execution.is_over:
                out += [Stop(name, index), *self._settle(job, execution)]
        return out

    def over(self, jobs: Iterable[bytes]) -> Instructions:
        """These jobs are over, or unknown to their producer: drop them."""
        out: Instructions = []
        for name in jobs:
            if name in self._jobs:
                out += self._let_go(self._jobs[name], is_over=True)
            else:
                self._over.keep(name, None)
        return out

    def fetched(self, name: bytes, part: Part) -> Instructions:
        """All of a part's data is here, encoded: compute it."""
        job = self._jobs.get(name)
        execution = None if job is None else job.running.get(part.index)
        if job is None or execution is None or execution.is_over or not execution.is_fetching or not job.is_begun:
            return []
        execution.is_fetching = False
        return [Compute(name, (part,))]

    # Reports of the slots.

    def reported(self, name: bytes, reports: Iterable[Report]) -> Instructions:
        """Slots have reported parts of a job: send replies."""
        job = self._jobs.get(name)
        if job is None:
            return []
        out: Instructions = []
        done: list[tuple[Done, int]] = []
        for report in reports:
            match report:
                case Done(index):
                    if (execution := self._ends(job, index, out, is_done=True)) is not None:
                        done.append((report, execution.id))
                case Failed(index) | Lost(index) | Returned(index):
                    if (execution := self._ends(job, index, out)) is not None:
                        out.append(Reply(name, job.reply, (report,), (execution.id,)))
                case Refused(indices, text, is_passing):
                    job.refused = text
                    ended = [one for index in indices if (one := self._ends(job, index, out)) is not None]
                    refused = report._replace(indices=tuple(one.index for one in ended))
                    out.append(Reply(name, job.reply, (refused,), tuple(one.id for one in ended)))
                    self._refusals.keep(name, text)
                    out.append(Pause(text, renews=not is_passing, grows=is_passing))
                    out += self._let_go_if_refused(job)
        if done:
            out.append(Reply(name, job.reply, tuple(one for one, _ in done), tuple(number for _, number in done)))
        return out

    def begun(self, name: bytes, index: int, worker: str) -> None:
        """Note that a slot has begun a part; it computes the parts behind it in the same batch next."""
        job = self._jobs.get(name)
        execution = None if job is None else job.running.get(index)
        if job is None or execution is None or not execution.batches:
            return
        rows = execution.batches[-1].rows
        behind = next((position for position, row in enumerate(rows) if row[0] == index), len(rows))
        for row in rows[behind:]:
            if (one := job.running.get(row[0])) is not None and not one.is_over:
                one.worker = worker

    def _ends(self, job: _Job, index: int, out: Instructions, is_done: bool = False) -> _Execution | None:
        """Return the execution that a report ends; None if it was over, or another slot still computes it."""
        execution = job.running.get(index)
        if execution is None or execution.is_over:
            return None
        if execution.copies > 1:
            execution.copies -= 1
            if not is_done:
                return None
            out.append(Stop(job.id, index))  # on the slower slot
        execution.is_over, execution.is_done = True, is_done
        return execution

    def unreported(self, name: bytes, reports: Iterable[Report], error: Exception) -> Instructions:
        """Reports could not be dealt with: their parts are lost. A result that has arrived counts all the same."""
        job = self._jobs.get(name)
        out: Instructions = []
        for report in reports if job is not None else ():
            assert job is not None
            for index in report.indices if isinstance(report, Refused) else [report[0]]:
                if isinstance(index, int) and (execution := job.running.get(index)) is not None:
                    execution.is_over, execution.is_done = True, False
                    out += self.unsent([execution.id], error)
        return out

    def cannot_compute(self, text: str) -> Instructions:
        """No worker process can be started: send that to all producers, and pause."""
        out: Instructions = [
            Reply(job.id, job.reply, (Refused((), text, is_passing=True),), ()) for job in self._jobs.values()
        ]
        return [*out, Pause(text)]

    # Outcomes of messages.

    def taken(self, name: bytes) -> None:
        """Note that the queue of a job's producer has taken a message, and so exists."""
        if name in self._jobs:
            self._jobs[name].unreachable_since = None

    def confirmed(self, executions: Iterable[int]) -> Instructions:
        """The broker has confirmed the reply of these executions: acknowledge deliveries of which no part is left."""
        out: Instructions = []
        for number in executions:
            if number in self._executions:
                out += self._settle(*self._executions[number])
        return out

    def unsent(self, executions: Iterable[int], error: Exception) -> Instructions:
        """The reply of these executions could not be made or sent: report them as lost, so that they are repeated."""
        out: Instructions = []
        for number in executions:
            if number in self._executions:
                job, execution = self._executions[number]
                lost = Lost(execution.index, Cause("died", f"its report could not be sent: {error!r}"))
                execution.is_done = False
                out.append(Reply(job.id, job.reply, (lost,), (number,)))
        return out

    def not_taken(self, name: bytes, now: float) -> Instructions:
        """The queue of a job's producer has not taken a message: drop the job if that lasts for GIVE_UP_AFTER."""
        job = self._jobs.get(name)
        if job is None:
            return []
        if job.unreachable_since is None:
            job.unreachable_since = now
        if now - job.unreachable_since < timing.GIVE_UP_AFTER:
            return []
        log.info("job %s: its producer has gone", job.name)
        return self._let_go(job, is_over=False)

    def ask_not_taken(self, name: bytes) -> Instructions:
        """The queue of a job's producer has not taken Join: drop the job, unless it has begun."""
        job = self._jobs.get(name)
        return [] if job is None or job.is_begun else self._let_go(job, is_over=False)

    def announced(self, queue: str, was_taken: bool, now: float, number: int | None = None) -> Instructions:
        """The broker has confirmed or returned a heartbeat; `number` is that of the batch in its Announce, if any."""
        if number is not None:
            batch = self._batches.get(number)
            if not was_taken or batch is None or not self._is_unacknowledged(batch.delivery):
                return []
            batch.is_released = True
            self._unacknowledged.discard((batch.delivery.epoch, batch.delivery.tag))
            log.info("job %s: part %d takes long: acknowledged early", batch.parts.job.hex()[:8], min(batch.left))
            return [AcknowledgeEarly(batch.delivery)]
        out: Instructions = []
        for job in self._of(queue):
            if was_taken:
                job.unreachable_since = None
            else:
                out += self.not_taken(job.id, now)
        return out

    # Heartbeats.

    def announce_all(self, now: float) -> Instructions:
        """Send the heartbeat to every producer."""
        self._announced_at = now
        out: Instructions = []
        for queue in dict.fromkeys(job.reply for job in self._jobs.values()):
            out += self._announce(queue)
        return out

    def announce_news(self, now: float) -> Instructions:
        """Send the heartbeat to producers of parts that have run for a while and were in none yet."""
        self._will_announce = False
        unlisted = [
            (job.reply, one.since) for job in self._jobs.values() for one in job.running.values() if not one.is_listed
        ]
        old = dict.fromkeys(queue for queue, since in unlisted if now - since >= timing.WORTH_TELLING)
        out: Instructions = []
        for queue in old:
            out += self._announce(queue)
        if any(queue not in old for queue, _ in unlisted):  # other parts have begun later
            out += self._announce_soon()
        return out

    def _announce_soon(self) -> Instructions:
        """Have `announce_news` called soon: one timer at a time, however many parts begin and end."""
        if self._will_announce:
            return []
        self._will_announce = True
        return [AnnounceSoon(timing.WORTH_TELLING)]

    def _announce(self, queue: str, batch: _Batch | None = None) -> Instructions:
        rows: list[tuple[bytes, int, str]] = []
        for job in self._of(queue):
            for execution in job.running.values():
                execution.is_listed = True
            if job.is_begun:
                # During a pause an agent without parts must not count as a worker of the job.
                nothing = [] if self._is_paused else [(job.id, -1, "")]
                rows += [(job.id, index, one.worker) for index, one in job.running.items()] or nothing
        return [Announce(queue, tuple(rows), None if batch is None else batch.id)] if rows else []

    def _of(self, queue: str) -> list[_Job]:
        return [job for job in self._jobs.values() if job.reply == queue]

    # What is due after some time.

    def look(self, now: float, can_hear: bool) -> Instructions:
        """Do what is due after some time; `can_hear`: messages of producers that live would have been received."""
        out: Instructions = []
        if now - self._announced_at >= timing.LIST_EVERY:
            out += self.announce_all(now)
            for job in list(self._jobs.values()):
                out += self._ask(job)
        for job in list(self._jobs.values()):
            if not can_hear:
                job.heard_at = max(job.heard_at, now)
            elif job.is_begun and now - job.heard_at > timing.PRODUCER_SILENT:
                out += self._suspend(job, now)
            if job.held and now - job.held_since > self._lease:
                out += self._hand_back_held(job)  # no answer, and the broker limits how long they are unacknowledged
            out += self._announce_old(job, now)
        if self._hand_back_at is not None and now > self._hand_back_at:
            out += self._hand_back_all(now)
        return out

    def _announce_old(self, job: _Job, now: float) -> Instructions:
        """Send heartbeats for parts that take long, so that their deliveries can be acknowledged early."""
        out: Instructions = []
        for execution in job.running.values():
            for batch in execution.batches if now - execution.since > self._lease else ():
                if not batch.is_announced and not batch.is_released and self._is_unacknowledged(batch.delivery):
                    batch.is_announced = True
                    out += self._announce(job.reply, batch)
        return out

    def _suspend(self, job: _Job, now: float) -> Instructions:
        """Stop the parts of a silent producer, which occupy no slot until it sends a message; then they begin again."""
        whose = protocol.producer_of(job.reply)
        log.warning(
            "job %s: nothing received from its producer, %s: its parts wait until it sends again", job.name, whose
        )
        self._forsaken.keep(job.id, None)
        job.is_begun = False
        out: Instructions = [End(job.id)]
        stopped = {index: execution for index, execution in job.running.items() if not execution.is_over}
        for index, execution in stopped.items():
            del job.running[index]
            del self._executions[execution.id]
            out.append(DropData(job.id, index))
        for batch in dict.fromkeys(batch for execution in stopped.values() for batch in execution.batches):
            if batch.is_released:  # it is in no heartbeat, so its producer sends it again
                out += self._finish(job, batch)
            elif self.is_draining:
                self._batches.pop(batch.id, None)
                out += self._handed_back(batch.delivery)
            elif self._is_unacknowledged(batch.delivery):
                # A heartbeat that is on its way says that it runs here, which is no longer true: it has another number.
                del self._batches[batch.id]
                batch.id, batch.is_announced = next(self._numbers), False
                self._batches[batch.id] = batch
                batch.rows = [row for row in batch.parts.batch if row[0] in stopped and row[0] in batch.left]
                self._hold(job, batch, now)
                out.append(Park(batch.delivery))
            else:
                self._batches.pop(batch.id, None)  # the broker delivers it again
        return out + self._ask(job) + self._leave_if_idle()

    # The end.

    def drain(self, now: float) -> Instructions:
        """Take no new parts; finish those that run, or return them once the grace is over."""
        if self.is_draining:
            return []
        log.info("asked to stop: finishing the parts that run, for %g s at most", self._grace)
        self._hand_back_at = now + self._grace
        out: Instructions = [StopConsuming()]
        for job in self._jobs.values():
            out += self._hand_back_held(job)
        return out + self._leave_if_idle()

    def _hand_back_all(self, now: float) -> Instructions:
        """Return the parts that run to their producers, since the grace is over; others compute them."""
        running = [execution for job in self._jobs.values() for execution in job.running.values()]
        out: Instructions = []
        if running and self._is_up:
            log.info("returning %d parts to their producers", len(running))
            self._hand_back_at = now + _LAST_MESSAGES
            for job in self._jobs.values():
                out.append(End(job.id))
                stopped = [execution for execution in job.running.values() if not execution.is_over]
                for execution in stopped:
                    execution.is_over = True
                if stopped:
                    returned = tuple(Returned(execution.index) for execution in stopped)
                    out.append(Reply(job.id, job.reply, returned, tuple(execution.id for execution in stopped)))
        if not self._is_up or all(execution.is_over for execution in running):
            out.append(EndSoon())
        return out

    def _leave_if_idle(self) -> Instructions:
        if not self.is_draining or self._has_left or self.running:
            return []
        self._has_left = True
        log.info("no parts run any more: ending")
        return [Goodbye(tuple(dict.fromkeys(job.reply for job in self._jobs.values())))]

    # Decisions of the agent: pauses, and the code that it serves.

    def paused(self) -> None:
        """Note that the agent takes no parts for a while."""
        self._is_paused = True

    def resumed(self) -> None:
        """The agent takes parts again: what could not be computed may work now."""
        self._is_paused = False
        self._refusals.clear()
        for job in self._jobs.values():
            job.refused = ""

    def serves(self, code: str) -> Instructions:
        """The agent serves other code from now on: hand back the batches that wait, which are for the former."""
        self._code = code
        self._definitions.clear()
        out: Instructions = []
        for job in self._jobs.values():
            out += self._hand_back_held(job)
        return out

    # Deliveries, and the end of jobs.

    def _ask(self, job: _Job) -> Instructions:
        return [] if job.is_begun or job.refused or job.id not in self._jobs else [Ask(job.id, job.reply)]

    def _hold(self, job: _Job, batch: _Batch, now: float) -> None:
        """Keep a batch until it is known what the job is."""
        if not job.held:
            job.held_since = now
        job.held.append(batch)

    def _forget_held(self, job: _Job) -> None:
        for batch in job.held:
            self._batches.pop(batch.id, None)
        job.held = []

    def _hand_back_held(self, job: _Job) -> Instructions:
        """Hand back the batches that wait until it is known what the job is."""
        held = job.held
        self._forget_held(job)
        return [one for batch in held for one in self._handed_back(batch.delivery)]

    def _is_unacknowledged(self, delivery: Delivery) -> bool:
        return (delivery.epoch, delivery.tag) in self._unacknowledged

    def _acknowledged(self, delivery: Delivery) -> Instructions:
        if not self._is_unacknowledged(delivery):
            return []
        self._unacknowledged.discard((delivery.epoch, delivery.tag))
        return [Acknowledge(delivery)]

    def _handed_back(self, delivery: Delivery) -> Instructions:
        if not self._is_unacknowledged(delivery):
            return []
        self._unacknowledged.discard((delivery.epoch, delivery.tag))
        return [HandBack(delivery)]

    def _settle(self, job: _Job, execution: _Execution) -> Instructions:
        """Forget an execution, since the broker has its reply, or nobody needs one."""
        out: Instructions = []
        index = execution.index
        self._executions.pop(execution.id, None)
        if job.running.get(index) is execution:  # else the next attempt runs already
            del job.running[index]
            out.append(DropData(job.id, index))
        batches, execution.batches = execution.batches, []
        for batch in batches:
            batch.left.discard(index)
            if not batch.left:
                out += self._finish(job, batch)
        return out

    def _finish(self, job: _Job, batch: _Batch) -> Instructions:
        """Acknowledge a batch of which no part is left."""
        self._batches.pop(batch.id, None)
        self._finished.keep((job.id, batch.parts.serial), None)
        out: Instructions = [FreeSlot(batch.delivery)] if batch.is_released else self._acknowledged(batch.delivery)
        return out + self._let_go_if_refused(job) + self._leave_if_idle()

    def _let_go_if_refused(self, job: _Job) -> Instructions:
        if job.refused and not job.running and self._jobs.get(job.id) is job:
            return self._let_go(job, is_over=False)
        return []

    def _let_go(self, job: _Job, is_over: bool) -> Instructions:
        """Drop a job: it is over; or its producer is gone, but may return (`is_over` is False)."""
        self._jobs.pop(job.id, None)
        (self._over if is_over else self._forsaken).keep(job.id, None)
        held = job.held
        self._forget_held(job)
        out: Instructions = [one for batch in held for one in self._acknowledged(batch.delivery)]
        # Also earlier attempts, whose failure is unconfirmed.
        for execution in [execution for owner, execution in self._executions.values() if owner is job]:
            out += self._settle(job, execution)
        out.append(End(job.id))
        return out + self._leave_if_idle()
