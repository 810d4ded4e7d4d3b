"""The jobs that run over a broker, as their producers say, and as agents do whose producers are silent; to end one.

Inquiry --(pymar.producers)--> producers --Jobs--.
Hello ---(pymar.control)-----> agents ----Here---+--> jobs_of
EndJob --(pymar.producers)--> the job's producer --Ended--> cancel; a silent one's parts: Over --> agents
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from pymar.amqp import protocol
from pymar.amqp.address import Address
from pymar.amqp.keys import Keys
from pymar.amqp.link.client import asking
from pymar.amqp.status import own_queue, utc
from pymar.amqp.wire import Reader, encode, fresh
from pymar.exceptions import UsageError

#: Seconds that producers and agents have to answer; and that a job has to end.
PATIENCE, END_PATIENCE = 1.0, 6.0


class Worker(NamedTuple):
    """A worker that takes part in a job."""

    name: str
    slots: int
    running: int
    """Parts of the job that it computes, by its latest heartbeat."""


class Job(NamedTuple):
    """A job. Of one whose producer has not answered, only whose it is and what workers have of it is known."""

    id: str
    """In hexadecimal digits; people need the first eight."""
    name: str
    whose: protocol.Whose
    answers: bool
    """True if its producer has answered."""
    unheard: float | None = None
    """Seconds since workers have received something from its producer; None if that has answered."""
    pool: str = ""
    code: str = ""
    since: float | None = None
    """Seconds since 1970, by the clock of its host."""
    seconds: float | None = None
    """How long it has run."""
    done: int | None = None
    running: int = 0
    failed: int = 0
    lost: int = 0
    set_aside: int = 0
    total: int | None = None
    """Parts in all; None while that is unknown."""
    rate: float = 0.0
    """Parts a second, in the last half minute."""
    slots: int = 0
    waits: str = ""
    """What it waits for; "" unless it waits."""
    workers: tuple[Worker, ...] = ()

    @property
    def short(self) -> str:
        """The start of its id, for people."""
        return self.id[:8]

    @property
    def left(self) -> int | None:
        """Parts that are neither computed nor set aside; None while that is unknown."""
        return None if self.total is None or self.done is None else self.total - self.done - self.set_aside

    @property
    def state(self) -> str:
        """ "runs", "waits" (no worker computes anything of it) or "silent" (its producer does not answer)."""
        return "silent" if not self.answers else "waits" if self.waits else "runs"

    def __str__(self) -> str:
        return f"job {self.short} of {self.name or 'a producer'} ({self.whose})"


def as_json(job: Job) -> dict[str, Any]:
    """Return a job as plain data whose names stay as they are."""
    parts = {
        "done": job.done,
        "running": job.running,
        "left": job.left,
        "failed": job.failed,
        "lost": job.lost,
        "set_aside": job.set_aside,
        "total": job.total,
    }
    return {
        "id": job.id,
        "name": job.name,
        "state": job.state,
        "user": job.whose.user,
        "host": job.whose.host,
        "pid": job.whose.pid,
        "pool": job.pool,
        "code": job.code,
        "since": utc(job.since),
        "since_seconds": job.since,
        "seconds": job.seconds,
        "parts": parts,
        "parts_a_second": job.rate,
        "slots": job.slots,
        "workers": [worker._asdict() for worker in job.workers],
        "waits_for": job.waits or None,
        "producer_unheard_seconds": job.unheard,
    }


class Found(NamedTuple):
    """What was found at a broker."""

    jobs: list[Job]
    refused: list[str]
    """The reasons for which answers were refused."""


def joined(answers: Sequence[protocol.Jobs], agents: Sequence[protocol.Here]) -> list[Job]:
    """Return the jobs in answers of producers and agents: those that began first come first, silent ones last."""
    found: dict[str, Job] = {}
    for answer in answers:
        for row in answer.rows:
            workers = tuple(Worker(*one[1:]) for one in answer.workers if one[0] == row[0])
            found[row[0].hex()] = _answered(answer, row, workers)
    silent: dict[str, Job] = {}
    for here in agents:
        for job, name, queue, running, _, unheard in here.holds:
            if (text := job.hex()) in found:
                continue
            before = silent.get(text, Job(text, name, protocol.whose(queue), False))
            silent[text] = before._replace(
                name=before.name or name,
                unheard=unheard if before.unheard is None else min(before.unheard, unheard),
                pool=here.pool,
                code=here.code,
                running=before.running + running,
                slots=before.slots + here.agent.slots,
                workers=(*before.workers, Worker(here.agent.name, here.agent.slots, running)),
            )
    return [*sorted(found.values(), key=lambda job: (job.since or 0.0, job.id)), *silent.values()]


def _answered(answer: protocol.Jobs, row: Sequence[Any], workers: tuple[Worker, ...]) -> Job:
    job, name, pool, code, since, done, running, failed, lost, aside, total, slots, rate, waits = row
    return Job(
        id=job.hex(),
        name=name,
        whose=protocol.whose(answer.reply),
        answers=True,
        pool=pool,
        code=code,
        since=since,
        seconds=max(0.0, answer.clock - since),
        done=done,
        running=running,
        failed=failed,
        lost=lost,
        set_aside=aside,
        total=None if total < 0 else total,
        rate=rate,
        slots=slots,
        waits=waits,
        workers=workers,
    )


class _Asker:
    """A connection that asks producers and agents, and reads their answers. It owns the queue for these."""

    def __init__(self, connection: Any, keys: Keys) -> None:
        self._keys = keys
        self._channel = connection.channel()
        self.queue = own_queue(self._channel)
        for exchange in (protocol.CONTROL, protocol.PRODUCERS):
            self._channel.exchange_declare(exchange, "fanout", durable=True)
        self.read = Reader(protocol.TO_ASKER, keys)

    def send(self, exchange: str, message: Any) -> None:
        """Send a message to all producers, or to all agents."""
        self._channel.basic_publish(exchange, "", encode(message, "", self._keys, exchange))

    def answers(self, patience: float) -> Iterator[Any]:
        """Yield the answers that come within so many seconds."""
        deadline = time.monotonic() + patience
        while (left := deadline - time.monotonic()) > 0:
            _, _, body = next(self._channel.consume(self.queue, auto_ack=True, inactivity_timeout=left))
            answer = None if body is None else self.read(body, self.queue)
            if answer is not None:
                yield answer[0]

    def ask(self, patience: float) -> list[Job]:
        """Return the jobs of all who answer within so many seconds."""
        self.send(protocol.PRODUCERS, protocol.Inquiry(self.queue))
        self.send(protocol.CONTROL, protocol.Hello("", "", self.queue))
        producers: dict[str, protocol.Jobs] = {}
        agents: dict[bytes, protocol.Here] = {}
        for answer in self.answers(patience):
            if isinstance(answer, protocol.Jobs):
                producers[answer.reply] = answer
            elif isinstance(answer, protocol.Here):
                agents[answer.agent.id] = answer
        return joined([*producers.values()], [*agents.values()])


@contextmanager
def _asker(address: Address, keys: Keys) -> Iterator[_Asker]:
    with asking(address) as connection:
        yield _Asker(connection, keys)


def jobs_of(address: Address, keys: Keys, patience: float = PATIENCE) -> Found:
    """Ask all producers and agents, wait `patience` seconds for their answers, and return the jobs.

    Raises:
        BrokerRefused: the broker cannot be reached.
    """
    with _asker(address, keys) as asker:
        jobs = asker.ask(patience)
        return Found(jobs, list(asker.read.junk))


def named(jobs: Sequence[Job], start: str) -> Job:
    """Return the job whose id begins so.

    Raises:
        UsageError: there is none, or several.
    """
    text = start.strip().lower()
    there = [job for job in jobs if text and job.id.startswith(text)]
    if len(there) == 1:
        return there[0]
    if there:
        raise UsageError(f"{start!r} is the start of {', '.join(map(str, there))}: give more of the id")
    known = ", ".join(map(str, jobs)) or "none: is it another broker, or another key?"
    raise UsageError(f"no job has an id that begins with {start!r}. There are: {known}")


class Outcome(NamedTuple):
    """What became of a job that was to end."""

    is_confirmed: bool
    text: str
    """What was done, or what to do now; for people."""


def cancel(
    address: Address,
    keys: Keys,
    start: str,
    who: str,
    patience: float = PATIENCE,
    end_patience: float = END_PATIENCE,
) -> Outcome:
    """End the job whose id begins so: its producer raises JobCancelled. A silent one's parts are dropped by agents.

    Args:
        who: user and host, for people.
        patience: seconds for producers and agents to answer.
        end_patience: seconds for the job to end.

    Raises:
        UsageError: there is no such job, or several.
        BrokerRefused: the broker cannot be reached.
    """
    with _asker(address, keys) as asker:
        job = named(asker.ask(patience), start)
        number = bytes.fromhex(job.id)
        # Also to a silent one: if it was only stopped or cut off, it gets this when it goes on.
        asker.send(protocol.PRODUCERS, protocol.EndJob(number, who, asker.queue, fresh()))
        if job.answers:
            return _ended(asker, job, number, end_patience)
        asker.send(protocol.CONTROL, protocol.Over([number], fresh()))
        return _dropped(asker, job, end_patience)


def _ended(asker: _Asker, job: Job, number: bytes, patience: float) -> Outcome:
    for answer in asker.answers(patience):
        if isinstance(answer, protocol.Ended) and answer.job == number:
            of = "" if job.total is None else f" of {job.total:,}"
            return Outcome(True, f"{job} is cancelled: {job.done:,} parts{of} were done when it was asked last")
    where = f"kill {job.whose.pid} on {job.whose.host}"
    return Outcome(
        False, f"{job} has not confirmed within {patience:g} s. Look at `pymar jobs`; if it is there: {where}"
    )


def _dropped(asker: _Asker, job: Job, patience: float) -> Outcome:
    """Wait until no agent has parts of a silent producer's job."""
    deadline = time.monotonic() + patience
    holders: Mapping[str, Job] = {job.id: job}
    while job.id in holders and time.monotonic() < deadline:
        holders = {one.id: one for one in asker.ask(min(PATIENCE, patience))}
    names = ", ".join(worker.name for worker in job.workers)
    if job.id not in holders:
        return Outcome(
            True, f"{job} is dropped: its producer does not answer, and no worker has parts of it now ({names})"
        )
    where = f"kill {job.whose.pid} on {job.whose.host}, if it is there"
    return Outcome(False, f"{job}: its producer does not answer, and workers still have parts of it ({names}): {where}")
