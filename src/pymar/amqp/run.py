"""One job on agents, as its producer sees it: parts go out, what agents say becomes reports."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Any

from pymar import plain
from pymar.amqp import protocol, times
from pymar.amqp.address import Address
from pymar.amqp.assembly import Assemblies, digest_of
from pymar.amqp.outstanding import Outstanding, Parcel, Row, packed
from pymar.amqp.place import place_of
from pymar.amqp.protocol import python_version
from pymar.amqp.roll import Roll
from pymar.amqp.search import Search
from pymar.amqp.session import Session
from pymar.amqp.wire import fresh
from pymar.definition import define
from pymar.exceptions import PymarError, UsageError
from pymar.package import pack
from pymar.parts import Cause, Done, Failed, Failure, JobSpec, Joined, Lost, Part, Report, Returned
from pymar.reports import Reports
from pymar.shipped import MAIN
from pymar.values import PLAIN_MARK, dumps, dumps_to_script

log = logging.getLogger(__name__)

#: Seconds and bytes.
_NO_LIMIT = 1e12


class AmqpRun:
    """One job. `submit`, `next`, `cancel` and `close` are called by its owner, all else by the session's thread."""

    def __init__(self, through: Session, spec: JobSpec, address: Address) -> None:
        keys = through.keys
        self.id = os.urandom(16)
        self.pool, self.code, self.path = place_of(spec, address.pool, keys.name)
        self.queue = protocol.work_queue(self.pool, self.code)
        by_name = address.pool is None
        name = f"the job {spec.producer.__name__} (its classes and settings)"
        if by_name:
            self._definition = define(spec)
            self._encode: Callable[[Any, str], bytes]
            self._encode = plain.dumps if not keys else dumps_to_script if spec.producer.__module__ in MAIN else dumps
        else:
            job = pack(spec)
            self._definition, self._encode = job.definition, job.dumps
        # With the version: an agent that knows a job of these very bytes need not be of our Python.
        self._digest = digest_of(python_version().encode() + self._definition)
        if len(self._definition) > protocol.INLINE:
            raise UsageError(
                f"{name} has {len(self._definition):,} bytes, more than the {protocol.INLINE:,} that a job may have: "
                "give large data to the factory, or read it where it is used"
            )
        # What is more than any part takes is no limit: a message holds neither infinity nor an endless int.
        timeout, memory = spec.part_timeout or 0, spec.memory_limit or 0
        self._limits = (float(timeout) if timeout < _NO_LIMIT else 0.0, memory if memory < _NO_LIMIT else 0)
        self._session = through
        self._name = spec.producer.__name__
        self.search = Search(self._name, self.pool, self.code, self.path, through.address)
        self._reports = Reports()
        self._out = Outstanding()
        self._assemblies = Assemblies()
        #: Parts that were given to a second agent while the first had them.
        self._copied: set[int] = set()
        self.roll = Roll(self._out)
        self._progress_at = monotonic()
        self._probe: int | None = None
        self._probed_at = 0.0
        self._patience = times.PROBE_AFTER
        through.loop.tell(through.add, self)

    # What the owner calls.

    def submit(self, parts: Sequence[Part], /) -> None:
        parcels, failed = packed(parts, self._encode)
        if failed:
            self._reports.put([*failed])
        for parcel in parcels:
            self._session.loop.tell(self._hand_out, parcel)

    def next(self, timeout: float, /) -> list[Report]:
        found = self._reports.next(timeout)
        if not found and not self._session.loop.is_running():
            raise PymarError("the thread that speaks to the broker has ended while a job was running")
        return found

    def cancel(self, index: int, /) -> None:
        self._session.loop.tell(self._cancel, index)

    def close(self) -> None:
        self._session.loop.tell(self._close)

    # What the session's thread does.

    def joined_by(self, agents: Sequence[protocol.Agent]) -> None:
        """Agents that are known to be there."""
        for agent in agents:
            self._report(self.roll.heard(agent))

    def _hand_out(self, parcel: Parcel) -> None:
        self._out.keep(parcel.large)
        copies = {row[0] for row in parcel.rows if row[0] in self._out}
        self._copied |= copies
        self._publish(parcel.rows, is_copy=bool(copies))

    def _publish(self, rows: list[Row], is_copy: bool = False) -> None:
        serial = self._session.next_serial()
        self._out.sent(rows, serial)
        parts = protocol.Parts(self.id, self._digest, self._session.queue, serial, int(is_copy), rows)
        self._session.to_work_queue(self, parts)

    def publish_again(self, indices: Iterable[int]) -> None:
        """Parts that are unfinished, as far as anybody knows."""
        for rows in self._out.as_sent(indices):
            self._publish(rows)

    def publish_all_again(self) -> None:
        """The queue of results is gone, and with it what was in it."""
        self.publish_again(self._out)

    def came(self, message: Any) -> None:
        """An agent has said something about this job."""
        agent = message.agent
        if not isinstance(message, protocol.Refused):
            self._report(self.roll.heard(agent))
        getattr(self, f"_on_{type(message).__name__.lower()}")(agent, message)

    def _on_join(self, agent: protocol.Agent, message: protocol.Join) -> None:
        ours = python_version()
        if message.python != ours:
            text = f"Python {message.python} on {agent.name}, Python {ours} at the producer: use one minor version"
            self.search.refused(agent, f"{text}, since floats are summed, and values pickled, in another way there")
            self._report(self.roll.gone(agent))
            self._session.to_agent(agent, self.pool, protocol.Refusal(self.id, text, fresh()))
        else:
            welcome = protocol.Welcome(self.id, self._definition, *self._limits, fresh())
            self._session.to_agent(agent, self.pool, welcome)

    def listed(self, agent: protocol.Agent, indices: list[int]) -> None:
        """An agent's list of what it computes of this job."""
        self._report(self.roll.heard(agent))
        reports, unwanted = self.roll.listed(agent, indices)
        self._report(reports)
        if unwanted:
            self._session.to_agent(agent, self.pool, protocol.Cancel(self.id, unwanted, fresh()))

    def _on_partial(self, agent: protocol.Agent, message: protocol.Partial) -> None:
        if not self._session.keys and not all(value[:3] == PLAIN_MARK for _, value, _ in message.results):
            self._session.read.refuse("a value that is not plain data, and there is no key")
            return
        for index, _, _ in message.results:
            if index in self._copied:  # what others compute of it, nobody wants any more
                self._copied.discard(index)
                self._cancel_at([one for one in self.roll.runners(index) if one.id != agent.id], index)
        self._report([Done(*result) for result in message.results])

    def _on_chunk(self, agent: protocol.Agent, message: protocol.Chunk) -> None:
        if message.index not in self._out:
            return
        sender, piece = (agent.id, message.execution), (message.start, message.data)
        try:
            value = self._assemblies.add(message.index, sender, message.total, message.digest, piece)
        except ValueError as problem:
            self._session.read.refuse(str(problem))
            return
        if value is not None:
            self._on_partial(agent, protocol.Partial(agent, self.id, [[message.index, value, message.seconds]]))

    def _on_failed(self, agent: protocol.Agent, message: protocol.Failed) -> None:
        exception = message.exception if self._session.keys and message.exception else None
        failure = Failure(message.error, message.traceback, message.variables, exception)
        self._report([Failed(message.index, f"{agent.name}, {message.worker}", failure)])

    def _on_lost(self, agent: protocol.Agent, message: protocol.Lost) -> None:
        self._report([Lost(message.index, Cause(message.kind, f"{agent.name}: {_indented(message.text)}"))])

    def _on_returned(self, agent: protocol.Agent, message: protocol.Returned) -> None:
        self._report([Returned(index) for index in message.indices])

    def _on_refused(self, agent: protocol.Agent, message: protocol.Refused) -> None:
        self.search.refused(agent, message.text)
        self._report(self.roll.gone(agent))
        self.publish_again(message.indices)

    def _on_fetch(self, agent: protocol.Agent, message: protocol.Fetch) -> None:
        piece = self._out.piece(message.index, message.start)
        if piece is None:
            self._session.to_agent(agent, self.pool, protocol.Cancel(self.id, [message.index], fresh()))
        elif piece:
            self._session.to_agent(agent, self.pool, protocol.Piece(self.id, message.index, message.start, piece))

    def _on_echo(self, agent: protocol.Agent, message: protocol.Echo) -> None:
        if message.serial == self._probe:
            self._session.loop.later(times.PROBE_GRACE, self._probed, message.serial)

    def _probed(self, serial: int) -> None:
        """All that was published before the probe has left the queue: what nobody runs, by now, is lost."""
        if serial != self._probe:
            return
        self._probe = None
        lost = [index for index in self._out.before(serial) if not self.roll.runners(index)]
        if lost:
            log.warning("%s: %d parts are not in the queue any more: sent again", self._name, len(lost))
            self.publish_again(lost)

    def probe(self) -> None:
        """Find out which parts have got lost in the queue."""
        self._probed_at = monotonic()
        if self._out:
            self._probe = serial = self._session.next_serial()
            self._session.to_work_queue(self, protocol.Probe(self.id, self._session.queue, serial))

    def tick(self) -> None:
        """A tick of the session has come back."""
        self._report(self.roll.tick())
        now = monotonic()
        if now - max(self._progress_at, self._probed_at) > self._patience:
            self._patience = min(self._patience * 2, times.LONGEST_PROBE)
            self.probe()
        if not self._is_served(now):
            self._session.look_for_workers(self)

    def _is_served(self, now: float) -> bool:
        """Whether agents take part, and compute something of this job or have just done so."""
        members = self.roll.members.values()
        if not members or not self._out:
            return bool(members)
        return any(member.parts for member in members) or now - self._progress_at < times.WORTH_ASKING

    def is_waiting(self) -> bool:
        """Whether nobody computes; said aloud once that has lasted."""
        now = monotonic()
        is_served = self._is_served(now)
        if is_served:
            self.search.found(now)
        else:
            self.search.say_waiting(now)
        return not is_served

    def left(self, agent: protocol.Agent) -> None:
        """An agent says that it takes no more."""
        self._report(self.roll.gone(agent))

    def end(self, error: PymarError) -> None:
        """Nothing more will be heard of this job."""
        self._reports.put(error)

    def _report(self, reports: Sequence[Report]) -> None:
        if not reports:
            return
        for report in reports:
            if isinstance(report, Joined):
                log.info("%s: %s has joined, with %d slots", self._name, report.worker, report.slots)
            elif isinstance(report, Done | Failed | Returned) or (isinstance(report, Lost) and report.again):
                self._forget(report.index)
        self._progress_at = monotonic()
        self._patience = times.PROBE_AFTER
        self._reports.put([*reports])

    def _forget(self, index: int) -> None:
        if index not in self._out:
            return  # so nobody computes it, as far as anybody knows
        self._out.forget(index)
        self._assemblies.forget(index)
        self.roll.finished(index)

    def _cancel(self, index: int) -> None:
        self._cancel_at(self.roll.runners(index), index)
        self._forget(index)

    def _cancel_at(self, agents: Sequence[protocol.Agent], index: int) -> None:
        for agent in agents:
            self._session.to_agent(agent, self.pool, protocol.Cancel(self.id, [index], fresh()))

    def _close(self) -> None:
        self._session.remove(self, [member.agent for member in self.roll.members.values()], at_once=bool(self._out))
        self._out.clear()
        self._assemblies.clear()


def _indented(text: str) -> str:
    """A text whose lines stand behind the first, so that none is taken for another message."""
    first, *lines = text.split("\n")
    return "\n".join([first, *(line if line.startswith("    | ") else f"    | {line}" for line in lines)])
