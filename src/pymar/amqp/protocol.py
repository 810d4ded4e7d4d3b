"""Who says what to whom over AMQP, and in which order it is acknowledged.

    producer --Parts, Probe--> [pymar.work.<pool>.<code>] --> agent, one a host --pipes--> slots
       ^--- Join, Running, Partial, Chunk, Failed, Lost, Returned, Refused, Fetch, Echo, Leaving, Here --.
       |                                                                                                 |
    [pymar.job.<id>] <-- Tick (the producer's own)                                                       |
       |                                                                                                 |
       '--- Welcome, Refusal, Cancel, Over, Piece, Alive ---> [pymar.agent.<id>: exclusive, one a connection] -'
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

A crash between any two of these steps repeats a part and never loses one: what is not acknowledged is delivered again,
what is not confirmed is sent again, and what was lost with a queue is missed (Running, Probe) and sent again. The
producer counts each part once.

A producer says with each tick that it lives (Alive). An agent that has not heard of one for timing.PRODUCER_SILENT
stops its parts, and keeps the messages that they came in: if it speaks again they are begun anew, and if its job queue
is gone they are dropped.

Work queues are durable and expire when nobody has used them for a day; the job queue is durable and expires after
timing.JOB_EXPIRES, so that a dead producer leaves nothing behind. Nothing is used but AMQP 0-9-1, publisher confirms
and x-expires (https://www.rabbitmq.com/docs/confirms, https://www.rabbitmq.com/docs/ttl).
"""

from __future__ import annotations

import sys
from hashlib import sha256
from typing import Any, NamedTuple

from pymar.version import __version__

#: Raised when messages change: others' are refused, with both numbers.
VERSION = 3
CONTROL = "pymar.control"
#: Characters of a text about a failure: the whole message has to be taken by the broker.
LONGEST_TEXT = 100_000
#: Bytes of a piece of a large value. RabbitMQ 4 refuses messages of more than 16 MiB.
CHUNK = 4 << 20
#: Bytes of data that travel with their part; more is fetched by the agent that computes it.
INLINE = 8 << 20


def python_version() -> str:
    """The minor version, which pickled code depends on."""
    return "{}.{}".format(*sys.version_info)


def by_value_code(key_name: str) -> str:
    """Return what stands for the code where that travels with the job: only the same Python, Pymar and key read it."""
    return f"py{python_version()}-{__version__}-{key_name}"


def work_queue(pool: str, code: str) -> str:
    """The queue of the parts of a pool that runs this code."""
    if len(pool.encode()) > 160:  # a queue's name has 255 bytes at most
        pool = sha256(pool.encode()).hexdigest()
    return f"pymar.work.{pool}.{code}"


def job_queue(host: str, process: int, name: str) -> str:
    """The queue of the results of a producer; it tells people whose it is."""
    host = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in host)[:60]
    return f"pymar.job.{host}.{process}.{name}"


def producer_of(queue: str) -> str:
    """Host and process id of the producer that such a queue belongs to, for people."""
    _, _, host, process, *_ = (*queue.split("."), "", "", "", "")
    return f"{host} {process}" if process.isdecimal() else "an unknown producer"


class Agent(NamedTuple):
    """Who speaks, in every message of an agent."""

    id: bytes
    name: str
    """Host and process id, for people."""
    queue: str
    """Where to answer."""
    slots: int


class Parts(NamedTuple):
    """Parts to compute, in order, by one slot."""

    job: bytes
    definition: bytes
    """Digest of the job's definition."""
    reply: str
    """The job queue."""
    serial: int
    """Another for every time that parts are published."""
    is_copy: int
    """1 if they are to be computed even where they are being computed already; else 0."""
    batch: list[list[Any]]
    """[index, attempt, offset, limit, data]: None, encoded bytes, or [size, digest] of what is to be fetched."""


class Probe(NamedTuple):
    """Comes back as Echo when all parts before it have left the queue."""

    job: bytes
    reply: str
    serial: int


class Welcome(NamedTuple):
    """What a job is."""

    job: bytes
    definition: bytes
    part_timeout: float
    """Seconds; 0 for none."""
    memory_limit: int
    """Bytes; 0 for none."""
    fresh: list[Any]
    """[seconds since 1970, nonce]."""


class Refusal(NamedTuple):
    """A job does not want an agent."""

    job: bytes
    text: str
    fresh: list[Any]


class Cancel(NamedTuple):
    """Stop computing these parts."""

    job: bytes
    indices: list[int]
    fresh: list[Any]


class Over(NamedTuple):
    """These jobs are over, or nobody knows them."""

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


class Hello(NamedTuple):
    """Who serves this pool (all of them, if it is empty)? Agents with other code look at their file again."""

    pool: str
    code: str
    reply: str


class Join(NamedTuple):
    agent: Agent
    job: bytes
    python: str
    fresh: list[Any]


class Running(NamedTuple):
    """The heartbeat: all that an agent computes of the jobs of one producer, [job, index, worker] each.

    A worker is a slot's name, with its host; "" while that is not known. The index is -1 where nothing is computed.
    """

    agent: Agent
    parts: list[list[Any]]


class Partial(NamedTuple):
    agent: Agent
    job: bytes
    results: list[list[Any]]
    """[index, encoded value, seconds]."""


class Chunk(NamedTuple):
    """Bytes of a large value, from `start`; `total` and `digest` are those of the whole."""

    agent: Agent
    job: bytes
    execution: bytes
    index: int
    seconds: float
    start: int
    total: int
    digest: bytes
    data: bytes


class Failed(NamedTuple):
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
    agent: Agent
    job: bytes
    index: int
    kind: str
    text: str


class Returned(NamedTuple):
    agent: Agent
    job: bytes
    indices: list[int]


class Refused(NamedTuple):
    """An agent cannot take part in a job, and hands back its parts."""

    agent: Agent
    job: bytes
    indices: list[int]
    text: str


class Fetch(NamedTuple):
    agent: Agent
    job: bytes
    index: int
    start: int


class Echo(NamedTuple):
    agent: Agent
    job: bytes
    serial: int


class Leaving(NamedTuple):
    agent: Agent


class Tick(NamedTuple):
    number: int


class Here(NamedTuple):
    """An agent's answer to Hello: what it serves and how it is."""

    agent: Agent
    pool: str
    code: str
    path: str
    python: str
    running: int
    """Parts."""
    consumers: int
    """Of its work queue."""
    jobs: list[str]
    """Those that it computes, each with its producer."""
    clock: float
    """Seconds since 1970."""
    trouble: str = ""
    """Why it takes no parts at present."""


_TO_AGENTS = (Parts, Probe, Welcome, Refusal, Cancel, Over, Alive, Piece, Hello)
_TO_PRODUCERS = (Join, Running, Partial, Chunk, Failed, Lost, Returned, Refused, Fetch, Echo, Leaving, Tick, Here)
#: The kinds that each side takes, by name.
TO_AGENT = {kind.__name__: kind for kind in _TO_AGENTS}
TO_PRODUCER = {kind.__name__: kind for kind in _TO_PRODUCERS}
#: Those that are good only for timing.FRESH seconds, and once.
EXPIRING = frozenset({"Welcome", "Refusal", "Cancel", "Over", "Join"})
