"""Replies: the messages for reports of slots; large values in pieces. No I/O."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from pymar.amqp import protocol
from pymar.amqp.agent.ledger import Reply
from pymar.amqp.chunks import digest_of
from pymar.parts import Done, Failed, Failure, Lost, Refused, Report, Returned
from pymar.serialization.plain import PLAIN_MARK
from pymar.serialization.redaction import printable

log: logging.Logger = logging.getLogger(__name__)

#: Bytes of values that are sent in one message.
_TOGETHER = 1 << 20


class Outgoing(NamedTuple):
    """Messages, `total` in number: once the broker has confirmed all of them, these executions are confirmed."""

    messages: Iterable[Any]
    executions: tuple[int, ...]
    total: int = 1


class Replies:
    """Makes messages of an agent's replies. It owns nothing but these settings. One thread only.

    Args:
        has_key: True if exceptions, and values that are not plain data, may be sent.
        max_result: bytes of the largest value that is sent.
    """

    def __init__(self, has_key: bool, max_result: int) -> None:
        self._has_key, self._max_result = has_key, max_result

    def messages(self, me: protocol.Agent, reply: Reply) -> Iterator[Outgoing]:
        """Yield the messages of a reply, one group after the other.

        Raises:
            ValueError: a value is not plain, and there is no key.
        """
        head = me, reply.job
        first: Report = reply.reports[0]
        match first:
            case Done():
                yield from self._results(head, reply)
            case Failed():
                yield Outgoing([self._failed(head, first)], reply.executions)
            case Lost(index, cause):
                log.warning("job %s: part %d was lost: %s", _name(reply.job), index, cause.text.partition("\n")[0])
                yield Outgoing([protocol.Lost(*head, index, cause.kind, shortened(cause.text))], reply.executions)
            case Returned():
                indices = [report.index for report in reply.reports if isinstance(report, Returned)]
                yield Outgoing([protocol.Returned(*head, indices)], reply.executions)
            case Refused(refused, text):
                text = shortened(text)
                log.warning("job %s: cannot be computed here: %s", _name(reply.job), text)
                yield Outgoing([protocol.Refused(*head, list(refused), text)], reply.executions)

    def _results(self, head: tuple[protocol.Agent, bytes], reply: Reply) -> Iterator[Outgoing]:
        """Yield the messages of values: small ones together, a large one in pieces."""
        rows: list[list[Any]] = []
        executions: list[int] = []
        size = 0
        for done, execution in zip(reply.reports, reply.executions, strict=True):
            assert isinstance(done, Done)
            if not self._has_key and done.value[:3] != PLAIN_MARK:
                raise ValueError("a worker process without a key has sent a value that is not plain data")
            if len(done.value) >= protocol.CHUNK:
                yield self._large(head, done, execution)
                continue
            rows.append([*done])
            executions.append(execution)
            size += len(done.value)
            if size > _TOGETHER:
                yield Outgoing([protocol.Partial(*head, rows)], tuple(executions))
                rows, executions, size = [], [], 0
        if rows:
            yield Outgoing([protocol.Partial(*head, rows)], tuple(executions))

    def _large(self, head: tuple[protocol.Agent, bytes], done: Done, execution: int) -> Outgoing:
        index, value, seconds = done
        if len(value) > self._max_result:
            text = (
                f"UsageError: the partial has {len(value):,} bytes, more than the {self._max_result:,} that this "
                "worker sends: make more and smaller parts, or start workers with a larger --max-result"
            )
            return Outgoing([self._failed(head, unsendable(index, text))], (execution,))
        name, digest = os.urandom(8), digest_of(value)
        starts = range(0, len(value), protocol.CHUNK)
        pieces = (
            protocol.Chunk(
                *(*head, name, index, seconds, start, len(value), digest), value[start : start + protocol.CHUNK]
            )
            for start in starts
        )  # made only when they are sent: together they are as large as the value
        return Outgoing(pieces, (execution,), len(starts))

    def _failed(self, head: tuple[protocol.Agent, bytes], report: Failed) -> protocol.Failed:
        index, worker, failure = report
        exception = (failure.exception or b"") if self._has_key else b""
        if len(exception) > _TOGETHER:
            exception = b""  # the text is sent in any case
        log.info("job %s: part %d failed: %s", _name(head[1]), index, printable(failure.error[:200]))
        texts = shortened(failure.error), shortened(failure.traceback), shortened(failure.variables)
        return protocol.Failed(*head, index, worker, *texts, exception)


def unsendable(index: int, text: str) -> Failed:
    """Return the report of a part whose data, or whose value, cannot be sent."""
    return Failed(index, "the agent", Failure(text))


def shortened(text: str) -> str:
    """Return the text, cut in the middle if it does not fit into a message."""
    most = protocol.LONGEST_TEXT
    return text if len(text) <= most else f"{text[: most // 2]}\n[...]\n{text[-most // 2 :]}"


def _name(job: bytes) -> str:
    return job.hex()[:8]
