"""A seat of the pool: one child, and what it is doing."""

from __future__ import annotations

import sys
from contextlib import suppress
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any

from pymar.child import Child
from pymar.frames import Frame
from pymar.loop import WRITE, Loop
from pymar.masks import printable, printable_line
from pymar.parts import Cause, Done, Failed, Failure, Lost, Part, Refused, Report, Returned, make

if TYPE_CHECKING:
    from pymar.slotrun import SlotRun

#: Seconds that user code gets to clean up once it was interrupted, before its process is killed.
GRACE = 1.0


class Seat:
    """Belongs to the pool's thread."""

    def __init__(self, child: Child, where: tuple[Any, ...], loop: Loop) -> None:
        self.child = child
        #: Paths, arguments, folder and environment that the child was told.
        self.where = where
        #: Keys of the runs whose definition it has.
        self.known: set[int] = set()
        #: Keys of runs that are over, which it has not been told.
        self.over: list[int] = []
        #: Whose batch it computes; None while it is idle.
        self.run: SlotRun | None = None
        #: The parts of the batch that it has not reported, in the order in which it computes them.
        self.unreported: dict[int, Part] = {}
        #: When it was given its batch, or last reported; infinity while it starts, or loads the job's code.
        self.since = 0.0
        #: When it will be killed; None as long as nobody wants its end.
        self.kill_at: float | None = None
        #: Why its end is wanted, if its parts are to be charged with that.
        self.cause: Cause | None = None
        #: Whether its interpreter is up: before that, an interrupt would only make it print a traceback.
        self.ready = False
        #: Whether its process has ended and its pipes are closed.
        self.gone = False
        #: Whether parts of its batch were given to others: then nobody knows which it was computing.
        self.shared = False
        #: Whether it has loaded code that nobody wants any more: it ends when its batch does.
        self.is_stale = False
        self._batch = 0
        #: The key of the run that the latest batch was of.
        self._job = -1
        self._loop = loop

    def is_idle(self) -> bool:
        return self.run is None and self.kill_at is None and not self.is_stale

    def can_share(self) -> bool:
        """Whether parts of its batch could be given to others."""
        run = self.run
        return run is not None and len(self.unreported) > 1 and self.kill_at is None and run.busy < run.slots

    def tell(self, where: tuple[Any, ...], run: SlotRun) -> None:
        """Have the child know its surroundings and the job; what it knows is not said again."""
        if self.where is not where:
            self.where = where
            self.child.put("hello", *where)
        if run.key not in self.known:
            self.known.add(run.key)
            self.child.put("job", run.key, run.work.definition, self.over)
            self.over = []

    def begin(self, run: SlotRun, parts: dict[int, Part], batch: list[tuple[Any, ...]], now: float) -> None:
        """Give the child a batch: the parts, as they are sent."""
        if run.key != self._job:  # what an earlier job has printed explains no death in this one
            self._job = run.key
            self.child.lines.clear()
        self.run, self.unreported = run, parts
        self.since = now if self.ready else inf
        self.shared = False
        self._batch += 1
        run.busy += 1
        self.child.put("batch", run.key, self._batch, batch)
        self.flush()

    def hear(self, frame: Frame) -> list[Report]:
        """What a frame of the child's says of the parts of its batch."""
        match frame:
            case ("done", _, results, last):
                return self._done(results, last)
            case ("failed", _, index, failure):
                return self._reported([index], Failed(index, self.child.name, Failure(*failure)))
            case ("lost", _, index, text):
                return self._reported([index], Lost(index, Cause("source", f"{self.child.name}: {printable(text)}")))
            case ("refused", _, indices, text):
                return self._reported(indices, Refused(tuple(indices), printable(text)))
            case ("print", index, line):
                self.show(index, line)
            case ("ready",):
                self.ready = True
                self.since = monotonic()
            case ("loading",):
                self.since = inf if self.unreported else monotonic()
            case ("loaded",):
                self.since = monotonic()
        return []

    def _reported(self, indices: list[int], *reports: Report) -> list[Report]:
        for index in indices:
            self.unreported.pop(index, None)
        return [*reports]

    def _done(self, results: list[tuple[int, bytes, float]], last: bool) -> list[Report]:
        self.since = monotonic()
        reports = self._reported([result[0] for result in results], *(make(Done, result) for result in results))
        if last:  # before anybody hears of the results: whoever does may close the run, and wants to know it idle
            reports += map(Returned, self.unreported)  # none, unless the child has skipped a part
            self.end()
        return reports

    def drop(self, parts: list[Part]) -> None:
        """Take parts away from the child, if it has not begun them."""
        for part in parts:
            del self.unreported[part.index]
        self.shared = True
        self.child.put("drop", self._batch, [part.index for part in parts])
        self.flush()

    def end(self) -> None:
        """The batch is over."""
        if self.run is not None:
            self.run.busy -= 1
        self.run, self.unreported = None, {}
        if self.is_stale:
            self.doom(None)

    def flush(self) -> None:
        """Send what was put, the rest when the pipe takes it."""
        if not self.child.flush():
            self._loop.watch(self.child.tasks, WRITE, self._writable)

    def _writable(self) -> None:
        if not self.gone and self.child.flush():
            self._loop.unwatch(self.child.tasks)

    def printed(self) -> None:
        """Show what came on the child's stderr: from C code, or from an interpreter that dies."""
        if self.gone:
            return
        lines = self.child.printed()
        if not lines and self.child.is_silent:
            self._loop.unwatch(self.child.stderr)
        for line in lines:
            self.show(next(iter(self.unreported), -1), line)

    def show(self, index: int, line: str) -> None:
        """A line of output, with its part (-1: none) in front."""
        self.child.lines.append(line)
        if self.run is None or self.run.prints.has_room(line):
            shown = printable_line(line) if self.run is not None and self.run.is_others else line
            say(f"part {index}" if index >= 0 else self.child.name, shown)

    def doom(self, cause: Cause | None) -> None:
        """Stop what the child computes: a word first, force after GRACE. Without a cause nobody asks for its parts."""
        if self.kill_at is None:
            self.cause = cause
            self.kill_at = monotonic() + GRACE
            if cause is None:
                self.unreported.clear()
            self.stop()

    def give_up(self) -> None:
        """Nobody wants what the child computes.

        One that is starting, or has reported all that it still had, is not ended: the next job would start another.
        """
        if self.unreported and self.ready:
            self.doom(None)
        elif self.unreported:
            self.drop(list(self.unreported.values()))

    def lingers(self, now: float) -> bool:
        """Whether the child goes on with what was taken from it: the word of that came too late."""
        return self.run is not None and not self.unreported and self.ready and now - self.since > GRACE

    def stop(self) -> None:
        """Have the child end: user code may clean up."""
        if self.ready and self.run is not None:
            self.child.interrupt()
        else:
            self.child.kill()

    def bereaved(self, how: str) -> list[Report]:
        """What the end of a child means for the parts that it had: only one that was alone there is charged."""
        lines = "".join(f"\n    | {printable(line)}" for line in self.child.lines)
        cause = self.cause or Cause("died", how)
        if len(self.unreported) == 1 and not self.shared:
            return [Lost(index, Cause(cause.kind, cause.text + lines)) for index in self.unreported]
        return [Returned(index) for index in self.unreported]

    def needs_watching(self) -> bool:
        """Whether the passing of time alone may call for something."""
        if self.kill_at is not None or (self.run is not None and (self.child.ended is None or not self.unreported)):
            return True
        work = self.run.work if self.run is not None else None
        return work is not None and (work.part_timeout is not None or work.memory_limit is not None)

    def overstepped(self, now: float) -> Cause | None:
        """The limit of its job that the child is over."""
        if self.run is None or self.kill_at is not None:
            return None
        work = self.run.work
        if work.part_timeout is not None and now - self.since > work.part_timeout:
            return Cause("timeout", f"stopped on {self.child.name} after PART_TIMEOUT, {work.part_timeout:g} s")
        if work.memory_limit is not None and (used := self.child.memory()) > work.memory_limit:
            limit = work.memory_limit
            return Cause("memory", f"stopped on {self.child.name}: {used:,} bytes, over MEMORY_LIMIT of {limit:,}")
        return None


def say(who: str, line: str) -> None:
    """Show a line of output on stderr."""
    if sys.stderr is not None:
        with suppress(Exception):  # Whatever stands for stderr here, it must not end the job.
            print(f"[{who}] {line}", file=sys.stderr)
