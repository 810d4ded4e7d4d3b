"""The messages between producers and agents, their queues, and the order in which they are acknowledged.

    producer --Parts, Probe--> [pymar.work.<pool>.<code>] --> agent, one a host --pipes--> slots
       ^--- Join, Running, Partial, Chunk, Failed, Lost, Returned, Refused, Printed, Fetch, FetchCode, .... -.
       |                                                                                                 |
    [pymar.job.<id>] <-- Tick (the producer's own)                              Echo, Leaving, Here      |
       |    ^--- Inquiry, EndJob <-- (exchange pymar.producers) <-- `pymar jobs`, `pymar cancel`          |
       |                            Jobs, Ended --> [pymar.asking.<id>: exclusive]                       |
       '- Welcome, Refusal, Cancel, Over, Piece, CodePiece, Alive -> [pymar.agent.<id>: exclusive, one a connection] -'
       '--- Hello; Over, at the end of a script ---> (exchange pymar.control) --^

One part:

    producer                 broker                  agent                                      slot
      Parts (persistent) ---> work queue, on disk ---> one delivery a slot (prefetch 1)
                                                       Join, if the job is new to it
      Welcome (the job) ----------------------------->
                                                       Running, once 0.2 s have passed -------- computes
                              job queue <------------- Partial (persistent)  <----------------- value
                              -- confirms -----------> acknowledges Parts
      keeps the value <------ Partial
      acknowledges it

A crash between any two of these steps repeats a part and never loses one: what is not acknowledged is delivered again;
what is not confirmed is sent again; what was lost with a queue is in no heartbeat (Running) when the Probe behind it
has come back, and is sent again. The producer counts each part once.

A job by value names the archive of its modules in Welcome. If its host does not have that yet, the agent requests it in
pieces (FetchCode, CodePiece), once for all jobs with these modules; until it is unpacked, the job's parts wait.

A producer sends Alive with each tick. An agent that has received nothing from a producer for timing.PRODUCER_SILENT
stops its parts, and keeps the messages that contained them. When the producer sends something again, these parts begin
again; if its job queue is gone, they are dropped.

Work queues are durable, and expire after timing.WORK_EXPIRES without use; the job queue is durable, and expires after
timing.JOB_EXPIRES, so that a dead producer leaves nothing behind. All of this needs only AMQP 0-9-1, publisher confirms
and x-expires (https://www.rabbitmq.com/docs/confirms, https://www.rabbitmq.com/docs/ttl).
"""

from __future__ import annotations

import sys
from hashlib import sha256
from typing import Any, NamedTuple

from pymar.version import __version__

#: Increased when messages change; messages of another version are refused.
VERSION = 4
#: The exchange that copies each message to the queues of all agents.
CONTROL = "pymar.control"
#: The exchange that copies each message to the job queues of all producers.
PRODUCERS = "pymar.producers"
#: Characters of a text about a failure: with it, the message must not be too large for the broker.
LONGEST_TEXT = 100_000
#: Characters of a line that user code prints; a longer one is cut. Lines in one message.
LONGEST_LINE, MOST_LINES = 2_000, 1_000
#: Seconds without a message of a producer, which sends one with each tick, that are worth a word.
SILENT = 7.0
#: Bytes of a piece of a large value. RabbitMQ 4 refuses messages of more than 16 MiB.
CHUNK = 4 << 20
#: Bytes of a piece of an archive of modules.
CODE_CHUNK = 1 << 20
#: Bytes of data that travel in the message of their part; larger data is fetched by the agent that computes it.
INLINE = 8 << 20


def python_version() -> str:
    """Return the minor version of this Python, as "3.12"; pickled code depends on it."""
    return "{}.{}".format(*sys.version_info)


def by_value_code(key_name: str) -> str:
    """Return the name for code that is sent with the job: only the same Python, Pymar and key can read it."""
    return f"py{python_version()}-{__version__}-{key_name}"


def work_queue(pool: str, code: str) -> str:
    """Return the name of the queue of parts for a pool that runs this code."""
    if len(pool.encode()) > 160:  # a queue's name has 255 bytes at most
        pool = sha256(pool.encode()).hexdigest()
    return f"pymar.work.{pool}.{code}"


def job_queue(host: str, process: int, name: str, user: str = "") -> str:
    """Return the name of a producer's queue of results; user, host and process id in it tell people whose it is."""
    return f"pymar.job.{_plain(host, 60)}.{process}.{name}.{_plain(user, 30)}"


def _plain(text: str, longest: int) -> str:
    return "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in text)[:longest]


class Whose(NamedTuple):
    """Whose a job is: what the name of its producer's queue says; for people."""

    user: str
    host: str
    pid: int

    def __str__(self) -> str:
        return f"{self.user or 'somebody'} at {self.host}, pid {self.pid}" if self.host else "an unknown producer"


def whose(queue: str) -> Whose:
    """Return whose such a queue is: no host and 0 as the process id, if it does not say."""
    _, _, host, process, _, user, *_ = (*queue.split("."), "", "", "", "", "", "")
    if not process.isascii() or not process.isdecimal() or len(process) > 10:
        return Whose("", "", 0)
    return Whose(user, host, int(process))


def held_text(row: list[Any]) -> str:
    """Return a row of `Here.holds` for people: which job, whose, and if its producer is silent."""
    job, name, queue, _, _, silent = row
    unheard = f"; its producer has not been heard for {silent:.0f} s" if silent > SILENT else ""
    return f"job {job.hex()[:8]} of {name or 'a producer'} ({whose(queue)}{unheard})"


def producer_of(queue: str) -> str:
    """Return host and process id of the producer of such a queue, for people."""
    _, host, pid = whose(queue)
    return f"{host} {pid}" if host else "an unknown producer"


class Agent(NamedTuple):
    """The sender of a message; it is in every message of an agent."""

    id: bytes
    name: str
    """Host and process id, for people."""
    queue: str
    """The queue for answers to it."""
    slots: int


class Parts(NamedTuple):
    """Parts to compute, in order, by one slot."""

    job: bytes
    definition: bytes
    """Digest of the job's definition."""
    reply: str
    """The job queue."""
    serial: int
    """A new number each time that parts are published."""
    is_copy: int
    """1 for backup tasks, which are computed even where the same parts are being computed already; else 0."""
    batch: list[list[Any]]
    """Rows [index, attempt, offset, limit, data]; data is None, encoded bytes, or [size, digest] of data to fetch."""


class Probe(NamedTuple):
    """Answered by Echo, which shows that all parts before it have left the work queue."""

    job: bytes
    reply: str
    serial: int


class Welcome(NamedTuple):
    """The answer to Join: what the job is, and its limits."""

    job: bytes
    definition: bytes
    part_timeout: float
    """Seconds; 0 for none."""
    memory_limit: int
    """Bytes; 0 for none."""
    modules: bytes
    """The reference to the archive of its modules (serialization.archive), or nothing."""
    name: str
    """Of the producer, for people."""
    fresh: list[Any]
    """[seconds since 1970, nonce]."""


class Refusal(NamedTuple):
    """The answer to Join if the agent must not compute the job, and why."""

    job: bytes
    text: str
    fresh: list[Any]


class Cancel(NamedTuple):
    """Stop computing these parts."""

    job: bytes
    indices: list[int]
    fresh: list[Any]


class Over(NamedTuple):
    """These jobs are over, or unknown to the sender."""

    jobs: list[bytes]
    fresh: list[Any]


class Alive(NamedTuple):
    """The producer of these jobs lives."""

    jobs: list[bytes]


class Piece(NamedTuple):
    """Bytes of a part's data, from `start`."""

    job: bytes
    index: int
    start: int
    data: bytes


class Inquiry(NamedTuple):
    """The question to all producers which jobs they run; answered by Jobs."""

    reply: str


class EndJob(NamedTuple):
    """End a job, with an error that says by whom; answered by Ended."""

    job: bytes
    who: str
    """User and host, for people."""
    reply: str
    fresh: list[Any]


class CodePiece(NamedTuple):
    """Bytes of the archive of a job's modules, from `start`."""

    job: bytes
    start: int
    data: bytes


class Hello(NamedTuple):
    """The question who serves this pool (any pool, if empty). Agents with other code check their file for changes."""

    pool: str
    code: str
    reply: str


class Join(NamedTuple):
    """The question what a job is, from an agent that received parts of it."""

    agent: Agent
    job: bytes
    python: str
    fresh: list[Any]


class Running(NamedTuple):
    """The heartbeat: all that an agent computes of the jobs of one producer."""

    agent: Agent
    parts: list[list[Any]]
    """Rows [job, index, worker]. A worker is a slot's name, with its host; "" while that is not known.

    A job of which nothing is computed has one row, with the index -1.
    """


class Partial(NamedTuple):
    """Values of parts."""

    agent: Agent
    job: bytes
    results: list[list[Any]]
    """Rows [index, encoded value, seconds]."""
    printed: int = 0
    """How many lines the job's parts have printed there, as in Printed: so the last count comes with the last value."""


class Chunk(NamedTuple):
    """Bytes of a large value, from `start`; `total` and `digest` are those of the whole."""

    agent: Agent
    job: bytes
    execution: bytes
    """A random id of the value, since several agents may send one for the same part."""
    index: int
    seconds: float
    start: int
    total: int
    digest: bytes
    data: bytes


class Failed(NamedTuple):
    """The user's code has raised an exception."""

    agent: Agent
    job: bytes
    index: int
    worker: str
    error: str
    traceback: str
    variables: str
    exception: bytes
    """Pickled, or empty; only with a key."""


class Lost(NamedTuple):
    """A part was lost, as when its worker process died or was killed; the kinds are those of pymar.parts.Cause."""

    agent: Agent
    job: bytes
    index: int
    kind: str
    text: str


class Returned(NamedTuple):
    """Parts that were not computed, and are to be sent again; this costs them no attempt."""

    agent: Agent
    job: bytes
    indices: list[int]


class Refused(NamedTuple):
    """An agent cannot compute a job, and returns its parts."""

    agent: Agent
    job: bytes
    indices: list[int]
    text: str


class Printed(NamedTuple):
    """Lines that user code has printed. Neither kept by the broker nor sent again: what is lost is counted."""

    agent: Agent
    job: bytes
    first: int
    """How many lines of the job this agent has sent before: a message that comes again shows nothing."""
    total: int
    """How many lines the job's parts have printed there: those that did not come were dropped."""
    lines: list[list[Any]]
    """Rows [index, text]; the index is -1 if the part is unknown."""


class Fetch(NamedTuple):
    """The request for a piece of a part's data, from `start`; answered by Piece."""

    agent: Agent
    job: bytes
    index: int
    start: int


class FetchCode(NamedTuple):
    """The request for a piece of the archive of a job's modules, from `start`; answered by CodePiece."""

    agent: Agent
    job: bytes
    start: int


class Echo(NamedTuple):
    """The answer to Probe, with its serial."""

    agent: Agent
    job: bytes
    serial: int


class Leaving(NamedTuple):
    """An agent ends, and takes no more parts."""

    agent: Agent


class Tick(NamedTuple):
    """A message of a producer to itself: when it arrives, so has everything that was in its job queue before it."""

    number: int


class Here(NamedTuple):
    """An agent's answer to Hello: what it serves, what it computes, and if it takes parts."""

    agent: Agent
    pool: str
    code: str
    path: str
    python: str
    running: int
    """How many parts it computes."""
    consumers: int
    """How many of its consumers take parts from its work queue."""
    holds: list[list[Any]]
    """The jobs whose parts it has: rows [job, name, job queue, parts that run, batches that wait, seconds since a
    message of the producer]."""
    clock: float
    """The time there, in seconds since 1970."""
    trouble: str = ""
    """Why it takes no parts at present."""
    lines: bytes = b""
    """Digests of the lines of its job file (why.py), if Hello asks for other code and there is a key."""


class Jobs(NamedTuple):
    """A producer's answer to Inquiry: its jobs, by their own numbers."""

    reply: str
    """Its job queue."""
    clock: float
    """The time there, in seconds since 1970."""
    rows: list[list[Any]]
    """Rows [job, name, pool, code, seconds since 1970 at its begin, parts done, running, failed, lost, set aside, in
    all (-1 if that is unknown), slots, parts a second, what it waits for ("" unless it waits)]."""
    workers: list[list[Any]]
    """Rows [job, worker's host and process id, its slots, parts that it computes]."""


class Ended(NamedTuple):
    """A producer's answer to EndJob: the job has ended, and its parts are being stopped."""

    job: bytes
    reply: str
    """Its job queue."""


_TO_AGENTS = (Parts, Probe, Welcome, Refusal, Cancel, Over, Alive, Piece, CodePiece, Hello)
_TO_PRODUCERS = (
    *(Join, Running, Partial, Chunk, Failed, Lost, Returned, Refused, Printed),
    *(Fetch, FetchCode, Echo, Leaving, Tick, Here),
)
_TO_ALL_PRODUCERS = (Inquiry, EndJob)
#: Those that may be sent to all agents at once.
TO_ALL_AGENTS: frozenset[str] = frozenset({"Hello", "Over"})
#: Those that may be sent to all producers at once.
TO_ALL_PRODUCERS: frozenset[str] = frozenset(kind.__name__ for kind in _TO_ALL_PRODUCERS)
#: The kinds that each side accepts, by name.
TO_AGENT = {kind.__name__: kind for kind in _TO_AGENTS}
TO_PRODUCER = {kind.__name__: kind for kind in (*_TO_PRODUCERS, *_TO_ALL_PRODUCERS)}
TO_ASKER = {kind.__name__: kind for kind in (Here, Jobs, Ended)}
#: Kinds that are accepted only once, and within timing.FRESH seconds.
EXPIRING = frozenset({"Welcome", "Refusal", "Cancel", "Over", "Join", "EndJob"})
