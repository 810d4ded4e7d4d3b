"""One job on agents, as its producer sees it: parts become messages, and messages of agents become reports."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from time import monotonic, time
from typing import Any

from pymar.amqp import protocol, timing
from pymar.amqp.address import Address
from pymar.amqp.chunks import Assemblies, digest_of
from pymar.amqp.producer.members import Membership
from pymar.amqp.producer.outstanding import Batch, Outstanding, Row, packed
from pymar.amqp.producer.pace import Pace
from pymar.amqp.producer.printed import PrintedLines
from pymar.amqp.producer.session import Session
from pymar.amqp.producer.waiting import Waiting
from pymar.amqp.protocol import by_value_code, python_version
from pymar.amqp.why import missing_module
from pymar.amqp.wire import fresh
from pymar.events import JobProgress
from pymar.exceptions import JobCancelled, PymarError, UsageError
from pymar.parts import Cause, Connection, Done, Failed, Failure, JobSpec, Lost, Part, Report, Returned
from pymar.serialization import plain
from pymar.serialization.archive import Archive, archive_of
from pymar.serialization.definition import check_as_loaded, code_that_runs, define, job_file
from pymar.serialization.package import pack
from pymar.serialization.plain import PLAIN_MARK
from pymar.serialization.script import with_lines_of_script
from pymar.serialization.shipped import MAIN
from pymar.serialization.values import dumps, dumps_to_script
from pymar.slots.output import wait_until_written, write_line
from pymar.slots.queue import Reports


def routing_of(spec: JobSpec, pool: str | None, key_name: str) -> tuple[str, str, str]:
    """Return the pool of a job, the code that its workers run, and the file of the code (empty if it is sent by value).

    Raises:
        UsageError: workers cannot find its classes.
    """
    if pool is None:
        path = job_file(spec)
        return spec.producer.routing_key(), code_that_runs(spec), path
    if not key_name:
        raise UsageError(
            f"classes are sent to the pool {pool!r} by value, and that needs a key on all hosts: "
            "pymar keygen > pymar.key; export PYMAR_KEY_FILE=$PWD/pymar.key"
        )
    return pool, by_value_code(key_name), ""


log: logging.Logger = logging.getLogger(__name__)

#: Seconds, or bytes: a limit that no part reaches, and which is not sent.
_NO_LIMIT = 1e12


class AmqpRun:
    """One job on agents. It owns the parts that are outstanding, the membership, and the reports for its owner.

    `submit`, `next`, `cancel` and `close` are called from the owner's thread, all else from the session's.
    """

    def __init__(self, through: Session, spec: JobSpec, address: Address) -> None:
        keys = through.keys
        self.id: bytes = os.urandom(16)
        self.pool: str
        self.code: str
        self.pool, self.code, path = routing_of(spec, address.pool, keys.name)
        self.queue: str = protocol.work_queue(self.pool, self.code)
        by_name = address.pool is None
        #: The modules that travel with it.
        self._archive: Archive | None = None
        self._modules = b""
        name = f"the job {spec.producer.__name__} (its classes and settings)"
        if by_name:
            self._definition = define(spec)
            self._encode: Callable[[Any, str], bytes]
            self._encode = plain.dumps if not keys else dumps_to_script if spec.producer.__module__ in MAIN else dumps
        else:
            job = pack(spec)
            self._definition, self._encode = job.definition, job.dumps
            self._archive = archive_of(job.modules)
            if self._archive is not None:
                check_as_loaded(spec, {name: path for name, path in job.modules.items() if self._archive.has(path)})
                self._modules = self._archive.reference(digest_of(self._archive.data)).encoded()
        # The version is part of it: an agent that knows a job of the same bytes may have another Python.
        self._digest = digest_of(python_version().encode() + self._definition + self._modules)
        if len(self._definition) > protocol.INLINE:
            raise UsageError(
                f"{name} has {len(self._definition):,} bytes, more than the {protocol.INLINE:,} that a job may have: "
                "give large data to the factory, or read it where it is used"
            )
        # A message cannot hold infinity, nor an int of any length: a limit that no part reaches is sent as none.
        timeout, memory = spec.part_timeout or 0, spec.memory_limit or 0
        self._limits = (float(timeout) if timeout < _NO_LIMIT else 0.0, memory if memory < _NO_LIMIT else 0)
        self._session = through
        self._name = spec.producer.__name__
        stage = "" if spec.sink is None else spec.sink.stage
        self._title = f"{self._name} ({stage})" if stage else self._name
        self._pace = Pace(monotonic(), time())
        self._is_over = False
        self._discovery = Waiting(
            *(self._name, self.pool, self.code, path, through.address),
            has_key=bool(keys),
            junk=through.read.junk,
            blocked=through.blocked,
        )
        self._reports = Reports()
        self._out = Outstanding()
        self._assemblies = Assemblies()
        #: Parts that have a backup task.
        self._copied: set[int] = set()
        self._members = Membership(self._out)
        self._progress_at = monotonic()
        is_silent = os.environ.get("PYMAR_OUTPUT") == "0"
        self._printed = PrintedLines(None if is_silent else write_line, through.printing)
        self._probe: int | None = None
        self._probed_at = 0.0
        self._patience = timing.PROBE_AFTER
        self._handlers: dict[type, Callable[[protocol.Agent, Any], None]] = {
            protocol.Join: self._on_join,
            protocol.Partial: self._on_partial,
            protocol.Chunk: self._on_chunk,
            protocol.Failed: self._on_failed,
            protocol.Lost: self._on_lost,
            protocol.Returned: self._on_returned,
            protocol.Refused: self._on_refused,
            protocol.Printed: self._on_printed,
            protocol.Fetch: self._on_fetch,
            protocol.FetchCode: self._on_fetch_code,
            protocol.Echo: self._on_echo,
        }
        through.loop.call_soon(through.add, self)

    # Calls of the owner.

    def submit(self, parts: Sequence[Part], /) -> None:
        batches, failed = packed(parts, self._encode)
        if failed:
            self._reports.put([*failed])
        for batch in batches:
            self._session.loop.call_soon(self._hand_out, batch)

    def next(self, timeout: float, /) -> list[Report]:
        found = self._reports.next(timeout)
        if not found and not self._session.loop.is_running():
            raise PymarError("the thread of the connection to the broker has ended while a job was running")
        if any(isinstance(report, Failed | Lost) for report in found):
            wait_until_written()  # what the part has printed is shown before its failure
        return found

    def cancel(self, index: int, /) -> None:
        self._session.loop.call_soon(self._cancel, index)

    def close(self) -> None:
        wait_until_written()  # what the parts have printed is shown before what the script prints next
        self._session.loop.call_soon(self._close)

    def note(self, progress: JobProgress, /) -> None:
        self._pace.note(progress, monotonic())

    # Calls of the session's thread.

    def joined_by(self, agents: Sequence[protocol.Agent]) -> None:
        """Report agents that are known to serve the work queue."""
        for agent in agents:
            self._report(self._members.heard(agent))

    def _hand_out(self, batch: Batch) -> None:
        if self._is_over:
            return
        self._out.keep(batch.large)
        copies = {row[0] for row in batch.rows if row[0] in self._out}
        self._copied |= copies
        self._publish(batch.rows, is_copy=bool(copies))

    def _publish(self, rows: list[Row], is_copy: bool = False) -> None:
        serial = self._session.next_serial()
        self._out.sent(rows, serial)
        parts = protocol.Parts(self.id, self._digest, self._session.queue, serial, int(is_copy), rows)
        self._session.to_work_queue(self, parts)

    def publish_again(self, indices: Iterable[int]) -> None:
        """Publish the outstanding ones of these parts again."""
        for rows in self._out.as_sent(indices):
            self._publish(rows)

    def publish_all_again(self) -> None:
        """Publish all outstanding parts again, since the queue of results was lost with the messages in it."""
        self.publish_again(self._out)

    def connected(self, again: bool) -> None:
        """Take note that the link is up; `again`: parts in the work queue may be lost, so a probe is sent."""
        self._members.reconnected()
        if again:
            self.probe()

    def disturbed(self, trouble: str) -> None:
        """Report what disturbs the way to the agents; "" for nothing any more."""
        self._reports.put([Connection(trouble)])

    def met(self, answer: protocol.Here) -> None:
        """Take a worker's answer to the question who serves the pool."""
        self._discovery.met(answer)

    def counted(self, consumers: int) -> None:
        """Take the number of consumers that the work queue has now."""
        self._discovery.counted(consumers)

    def members(self) -> list[protocol.Agent]:
        """Return the agents that take part."""
        return [member.agent for member in self._members.all()]

    def received(self, message: Any) -> None:
        """Handle a message of an agent about this job."""
        agent = message.agent
        if not isinstance(message, protocol.Refused):
            self._discovery.is_willing(agent)
            self._report(self._members.heard(agent))
        self._handlers[type(message)](agent, message)

    def _on_join(self, agent: protocol.Agent, message: protocol.Join) -> None:
        version = python_version()
        if message.python != version:
            text = f"Python {message.python} on {agent.name}, Python {version} at the producer: use one minor version"
            self._discovery.refused(agent, f"{text}, since another sums floats and pickles values in another way")
            self._report(self._members.gone(agent))
            self._session.to_agent(agent, self.pool, protocol.Refusal(self.id, text, fresh()))
        else:
            welcome = protocol.Welcome(self.id, self._definition, *self._limits, self._modules, self._title, fresh())
            self._session.to_agent(agent, self.pool, welcome)

    def listed(self, agent: protocol.Agent, workers: dict[int, str]) -> None:
        """Take an agent's heartbeat: the parts of this job that it computes, and the worker of each."""
        self._report(self._members.heard(agent))
        reports, unwanted = self._members.listed(agent, workers)
        self._report(reports)
        if unwanted:
            self._session.to_agent(agent, self.pool, protocol.Cancel(self.id, unwanted, fresh()))

    def _on_partial(self, agent: protocol.Agent, message: protocol.Partial) -> None:
        if not self._session.keys and not all(value[:3] == PLAIN_MARK for _, value, _ in message.results):
            self._session.refuse("a value is not plain data, and there is no key")
            return
        self._printed.counted(agent, message.printed)
        for index, _, _ in message.results:
            if index in self._copied:  # the other executions of it are useless now
                self._copied.discard(index)
                self._cancel_at([one for one in self._members.runners(index) if one.id != agent.id], index)
        self._report([Done(*result) for result in message.results])

    def _on_chunk(self, agent: protocol.Agent, message: protocol.Chunk) -> None:
        if message.index not in self._out:
            return
        sender, piece = (agent.id, message.execution), (message.start, message.data)
        try:
            value = self._assemblies.add(message.index, sender, message.total, message.digest, piece)
        except ValueError as problem:
            self._session.refuse(str(problem))
            return
        if value is not None:
            self._on_partial(agent, protocol.Partial(agent, self.id, [[message.index, value, message.seconds]]))

    def _on_failed(self, agent: protocol.Agent, message: protocol.Failed) -> None:
        exception = message.exception if self._session.keys and message.exception else None
        error = message.error + missing_module(message.error, self.pool)
        failure = Failure(error, with_lines_of_script(message.traceback), message.variables, exception)
        self._report([Failed(message.index, message.worker or agent.name, failure)])

    def _on_lost(self, agent: protocol.Agent, message: protocol.Lost) -> None:
        self._report([Lost(message.index, Cause(message.kind, f"{agent.name}: {_indented(message.text)}"))])

    def _on_returned(self, agent: protocol.Agent, message: protocol.Returned) -> None:
        self._report([Returned(index) for index in message.indices])

    def _on_refused(self, agent: protocol.Agent, message: protocol.Refused) -> None:
        self._discovery.refused(agent, message.text + missing_module(message.text, self.pool))
        self._report(self._members.gone(agent))
        self.publish_again(message.indices)

    def _on_printed(self, agent: protocol.Agent, message: protocol.Printed) -> None:
        self._printed.received(message, monotonic())

    def _on_fetch(self, agent: protocol.Agent, message: protocol.Fetch) -> None:
        piece = self._out.piece(message.index, message.start)
        if piece is None:
            self._session.to_agent(agent, self.pool, protocol.Cancel(self.id, [message.index], fresh()))
        elif piece:
            self._session.to_agent(agent, self.pool, protocol.Piece(self.id, message.index, message.start, piece))

    def _on_fetch_code(self, agent: protocol.Agent, message: protocol.FetchCode) -> None:
        data = b"" if self._archive is None else self._archive.data
        if piece := data[message.start : message.start + protocol.CODE_CHUNK]:
            self._session.to_agent(agent, self.pool, protocol.CodePiece(self.id, message.start, piece))
            self._progress_at = monotonic()  # parts that wait for it at an agent are not lost

    def _on_echo(self, agent: protocol.Agent, message: protocol.Echo) -> None:
        if message.serial == self._probe:
            self._session.loop.call_later(timing.PROBE_GRACE, self._probed, message.serial)

    def _probed(self, serial: int) -> None:
        """Publish parts again that are lost: published before the probe, which has left the queue, and not running."""
        if serial != self._probe:
            return
        self._probe = None
        lost = [index for index in self._out.before(serial) if not self._members.runners(index)]
        if lost:
            log.warning("%s: %d parts were lost from the queue: sent again", self._name, len(lost))
            self.publish_again(lost)

    def probe(self) -> None:
        """Send a probe behind the parts: its answer shows which of them were lost from the queue."""
        self._probed_at = monotonic()
        if self._out:
            self._probe = serial = self._session.next_serial()
            self._session.to_work_queue(self, protocol.Probe(self.id, self._session.queue, serial))

    def ticked(self) -> None:
        """Do what is due at a tick: report silent agents, send a probe, look for workers."""
        self._report(self._members.tick())
        now = monotonic()
        self._printed.look(now)
        if now - max(self._progress_at, self._probed_at) > self._patience:
            self._patience = min(self._patience * 2, timing.LONGEST_PROBE)
            self.probe()
        if not self._is_served(now):
            self._session.look_for_workers(self)

    def _is_served(self, now: float) -> bool:
        """True if agents take part, and compute something of this job or have just done so."""
        members = self._members.all()
        if not members or not self._out:
            return bool(members)
        return any(member.parts for member in members) or now - self._progress_at < timing.WORTH_ASKING

    def is_waiting(self) -> bool:
        """True if no agent computes anything of this job; logged once that has lasted."""
        now = monotonic()
        is_served = self._is_served(now)
        if is_served:
            self._discovery.found(now)
        else:
            self._discovery.log_waiting(now)
        return not is_served

    def probes(self) -> bool:
        """True if consumers of the work queue do not answer, and it is to be found out why."""
        return self._discovery.probes()

    def left(self, agent: protocol.Agent) -> None:
        """Report that an agent takes no more parts."""
        self._report(self._members.gone(agent))

    def end(self, error: PymarError) -> None:
        """End the job with an error, which the owner receives from `next`."""
        self._reports.put(error)

    def cancelled(self, who: str) -> None:
        """End the job, since somebody has said so: its parts stop, and its owner receives JobCancelled."""
        self._reports.put(JobCancelled(who))
        self._close()

    def row(self) -> list[Any]:
        """Return how far the job is, by its own numbers, as a row of `protocol.Jobs`."""
        pace, now = self._pace, monotonic()
        one = pace.progress
        total = -1 if one.total is None else one.total
        counts = [one.done, one.running, one.failed, one.lost, one.set_aside, total, one.slots]
        why = "" if self._is_served(now) else self._discovery.why()
        return [self.id, self._title, self.pool, self.code, pace.since, *counts, pace.rate(now), why]

    def workers(self) -> list[list[Any]]:
        """Return which agents take part, as rows of `protocol.Jobs`."""
        return [[self.id, one.agent.name, one.agent.slots, len(one.parts)] for one in self._members.all()]

    def _report(self, reports: Sequence[Report]) -> None:
        if not reports:
            return
        for report in reports:
            if isinstance(report, Done | Failed | Returned) or (isinstance(report, Lost) and report.again):
                self._forget(report.index)
        self._progress_at = monotonic()
        self._patience = timing.PROBE_AFTER
        self._reports.put([*reports])

    def _forget(self, index: int) -> None:
        if index not in self._out:
            return  # it is forgotten already
        self._out.forget(index)
        self._assemblies.forget(index)
        self._members.finished(index)

    def _cancel(self, index: int) -> None:
        self._cancel_at(self._members.runners(index), index)
        self._forget(index)

    def _cancel_at(self, agents: Sequence[protocol.Agent], index: int) -> None:
        for agent in agents:
            self._session.to_agent(agent, self.pool, protocol.Cancel(self.id, [index], fresh()))

    def _close(self) -> None:
        self._printed.end()
        self._is_over = True
        self._session.remove(self, self.members(), at_once=bool(self._out))
        self._out.clear()
        self._assemblies.clear()


def _indented(text: str) -> str:
    """Return a text with all lines but the first indented, so that none looks like another log entry."""
    first, *lines = text.split("\n")
    return "\n".join([first, *(line if line.startswith("    | ") else f"    | {line}" for line in lines)])
