"""PrintedLines: what the parts of one job print on other hosts, as lines for stderr here. No I/O; the time is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pymar.amqp.protocol import LONGEST_LINE, Agent, Printed
from pymar.slots.quota import Rate

#: Lines of all agents that a producer shows, on average and at once.
LINES_A_SECOND, BURST = 200.0, 1_000
#: Seconds between two lines about one host that say how many lines were dropped; how many hosts are named at the end.
SAY_EVERY, MOST_NAMED = 10.0, 100
#: Agents that lines are taken of, and characters of a host's name: without a key, anybody can invent some.
_MOST_SOURCES, _LONGEST_HOST = 10_000, 60
#: Characters of a line; escaped ones of a stranger's take more than one each.
_LONGEST_TEXT = LONGEST_LINE + 10


@dataclass
class _Source:
    """One agent that parts print on."""

    host: str
    #: How many lines it has sent, and were shown; how many were printed there, by its last count.
    sent: int = 0
    shown: int = 0
    total: int = 0
    #: How many it was said to have dropped, and when.
    said: int = 0
    said_at: float = 0.0

    @property
    def dropped(self) -> int:
        """How many lines are missing here."""
        return self.total - self.shown


class PrintedLines:
    """Shows the lines that a job's parts print on other hosts, each with its part and host, and counts those that are
    missing. One thread only.

    Args:
        write: shows a line; None to show nothing.
        rate: how many may be shown, shared by the jobs of a process.
    """

    def __init__(self, write: Callable[[str], None] | None, rate: Rate) -> None:
        self._write = write
        self._rate = rate
        self._sources: dict[bytes, _Source] = {}

    def received(self, message: Printed, now: float) -> None:
        """Show the lines of a message; those of one that was received before are not shown again."""
        if self._write is None:
            return
        source = self._counted(message.agent, message.total)
        if source is None or message.first < source.sent:
            return
        source.sent = message.first + len(message.lines)
        for index, text in message.lines:
            if not self._rate.may(now):
                break
            source.shown += 1
            where = f"part {index} @ {source.host}" if index >= 0 else source.host
            self._write(f"[{where}] {text[:_LONGEST_TEXT]}")

    def counted(self, agent: Agent, total: int) -> None:
        """Take the number of lines that were printed on an agent so far."""
        if total and self._write is not None:
            self._counted(agent, total)

    def look(self, now: float) -> None:
        """Say how many lines were dropped so far, not too often."""
        for source in self._sources.values():
            if source.dropped > source.said and now - source.said_at >= SAY_EVERY and self._rate.may(now):
                self._say(source, now, " so far")

    def end(self) -> None:
        """Say how many lines were dropped in all."""
        missing = [source for source in self._sources.values() if source.dropped > 0]
        missing.sort(key=lambda source: -source.dropped)
        for source in missing[:MOST_NAMED]:
            self._say(source, 0.0, "")
        if self._write is not None and (others := missing[MOST_NAMED:]):
            self._write(f"[{len(others):,} others] {sum(one.dropped for one in others):,} lines were dropped")
        self._sources.clear()

    def _say(self, source: _Source, now: float, so_far: str) -> None:
        assert self._write is not None
        source.said, source.said_at = source.dropped, now
        self._write(
            f"[{source.host}] {source.dropped:,} lines were dropped{so_far}: the log of the worker has more of them "
            f"(pymar logs {source.host})"
        )

    def _counted(self, agent: Agent, total: int) -> _Source | None:
        """Return the record of an agent, with the number of lines printed there; None if there are too many."""
        source = self._sources.get(agent.id)
        if source is None:
            if len(self._sources) >= _MOST_SOURCES:
                return None
            host = agent.name.rpartition(" ")[0] or agent.name
            source = self._sources[agent.id] = _Source(host[:_LONGEST_HOST])
        source.total = max(source.total, total)
        return source
