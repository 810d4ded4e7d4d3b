"""Relay: the lines that user code prints here, for the producers of their jobs. No I/O; the time is given.

    worker process --line--> Relay --all lines, up to OF_A_JOB--> the log of this host
                                 '---at most LINES_A_SECOND----> messages (protocol.Printed) to the producer

Lines are never worth a wait. What comes faster, or cannot be sent now, is dropped here and counted, before it costs
anybody anything; only of a part that fails, and of a process that dies, the last lines are sent in any case.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container
from typing import NamedTuple

from pymar.amqp.protocol import LONGEST_LINE
from pymar.serialization.redaction import plain_line, printable_line
from pymar.slots.quota import OF_A_JOB, Quota, Rate

#: Lines that an agent sends, on average and at once; how many of the latter are for failures alone.
LINES_A_SECOND, BURST, _SPARE = 50.0, 200, 60
#: Last lines of a worker process that are sent when its part fails, or when it dies.
LAST_LINES = 30
#: Seconds between two lines of one progress bar of the user's; and between two counts of lines that were dropped.
BAR_EVERY, COUNT_EVERY = 1.0, 1.0


class Lines(NamedTuple):
    """Lines to send: the fields of protocol.Printed."""

    first: int
    total: int
    lines: list[tuple[int, str]]


class _Bar:
    """A line of one worker process that ends with a carriage return: the next takes its place."""

    def __init__(self) -> None:
        #: Its part and its text; None once it was shown.
        self.line: tuple[int, str] | None = None
        self.may_show_at = 0.0


class _JobLines:
    """What the parts of one job have printed. It owns the lines that are to be sent."""

    def __init__(self) -> None:
        self.quota = Quota(OF_A_JOB)
        #: How many lines were printed, and how many of them were sent.
        self.total = self.sent = 0
        #: The total that was sent last, and when.
        self.counted, self.counted_at = 0, 0.0
        self.waiting: deque[tuple[int, str]] = deque()
        #: By worker process: its last lines, as long as they may not be sent; and its progress bar.
        self.held: dict[str, deque[tuple[int, str]]] = {}
        self.bars: dict[str, _Bar] = {}


class Relay:
    """Decides which lines of user code are sent, and counts the others. It owns those that wait. One thread only.

    Args:
        write: writes a line to the log of this host.
    """

    def __init__(self, write: Callable[[str], None], now: float) -> None:
        self._write = write
        self._rate = Rate(LINES_A_SECOND, BURST, now)
        self._jobs: dict[bytes, _JobLines] = {}

    def printed(self, job: bytes, worker: str, index: int, line: str, lines: int, now: float) -> None:
        """Take a line of a worker process; `lines`: how many lines it stands for, without being one of them."""
        its = self._jobs.setdefault(job, _JobLines())
        if lines > 1:
            its.total += lines
            self._log(its, worker, index, line)
            return
        if line[:1] == "\r" or line[-1:] == "\r":
            bar = its.bars.setdefault(worker, _Bar())
            bar.line = index, line
            if now >= bar.may_show_at:
                self._show_bar(its, worker, bar, now)
            return
        if worker in its.bars:
            self._show_bar(its, worker, its.bars.pop(worker), now)
            if not line:  # the end of that very line
                return
        self._add(its, worker, index, line, now)

    def finished(self, job: bytes, indices: Container[int], now: float) -> None:
        """Show the progress bars of parts that are over, as they are."""
        its = self._jobs.get(job)
        if its is not None and its.bars:
            for worker, bar in list(its.bars.items()):
                if bar.line is not None and bar.line[0] in indices:
                    self._show_bar(its, worker, bar, now)

    def failed(self, job: bytes, worker: str, now: float) -> None:
        """Send the last lines of a worker process in any case: its part has failed, or it has died."""
        its = self._jobs.get(job)
        if its is None:
            return
        if bar := its.bars.pop(worker, None):
            self._show_bar(its, worker, bar, now)
        self._pass_on(its, worker, now, BURST, 0)

    def forget(self, job: bytes) -> None:
        """Forget a job that is over."""
        its = self._jobs.pop(job, None)
        if its is not None and (dropped := its.quota.summary()):
            self._write(f"[all parts] {dropped}")

    def total(self, job: bytes) -> int:
        """Return how many lines the parts of a job have printed."""
        its = self._jobs.get(job)
        return 0 if its is None else its.total

    def has(self, job: bytes) -> bool:
        """True if lines of a job wait to be sent."""
        its = self._jobs.get(job)
        return its is not None and bool(its.waiting)

    def take(self, job: bytes, now: float) -> Lines:
        """Return the lines of a job that are to be sent now."""
        its = self._jobs[job]
        lines, its.waiting = list(its.waiting), deque()
        first = its.sent
        its.sent += len(lines)
        its.counted, its.counted_at = its.total, now
        return Lines(first, its.total, lines)

    def look(self, now: float) -> list[bytes]:
        """Show the progress bars that are due; return the jobs of which lines, or their count, are to be sent now."""
        due = []
        for job, its in self._jobs.items():
            for worker, bar in its.bars.items():
                if bar.line is not None and now >= bar.may_show_at:
                    self._show_bar(its, worker, bar, now)
            for worker in [*its.held]:
                self._pass_on(its, worker, now)
            if its.waiting or (its.counted < its.total and now - its.counted_at >= COUNT_EVERY):
                due.append(job)
        return due

    def is_idle(self) -> bool:
        """True if nothing will become due without another line."""
        return not any(
            its.waiting or its.held or its.counted < its.total or any(bar.line is not None for bar in its.bars.values())
            for its in self._jobs.values()
        )

    def _show_bar(self, its: _JobLines, worker: str, bar: _Bar, now: float) -> None:
        if bar.line is not None:
            (index, line), bar.line = bar.line, None
            bar.may_show_at = now + BAR_EVERY
            self._add(its, worker, index, line, now)

    def _add(self, its: _JobLines, worker: str, index: int, line: str, now: float) -> None:
        its.total += 1
        self._log(its, worker, index, line)
        if worker not in its.held:
            its.held[worker] = deque(maxlen=LAST_LINES)
        its.held[worker].append((index, line if len(line) <= LONGEST_LINE else plain_line(line, LONGEST_LINE)))
        self._pass_on(its, worker, now)

    def _pass_on(
        self, its: _JobLines, worker: str, now: float, most: int = BURST - _SPARE, spare: int = _SPARE
    ) -> None:
        """Have the lines of a worker process sent that may be, the oldest first."""
        held = its.held.get(worker) or deque()
        while held and len(its.waiting) < most and self._rate.may(now, spare):
            index, line = held.popleft()
            its.waiting.append((index, plain_line(line, LONGEST_LINE)))
        if not held:
            its.held.pop(worker, None)

    def _log(self, its: _JobLines, worker: str, index: int, line: str) -> None:
        if its.quota.has_room(line):
            self._write(f"[{f'part {index}' if index >= 0 else worker}] {printable_line(line)}")
