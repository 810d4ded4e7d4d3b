"""The children of a pool, each in its seat: started, heard, watched and ended."""

from __future__ import annotations

import logging
import select
import threading
from collections.abc import Iterator
from functools import partial
from itertools import count
from time import monotonic

from pymar.child import Child, Leftover
from pymar.loop import READ, Loop
from pymar.seats import Seat
from pymar.surroundings import Surroundings, Where

log = logging.getLogger(__name__)

#: Seconds that idle children get for their exit handlers when the pool ends, and then what they have started.
LAST_GRACE = 2.0, 1.0
#: Seconds between two looks at time-outs, memory and children that were told to stop.
TICK = 0.1


class Children:
    """Belongs to the loop's thread."""

    def __init__(self, loop: Loop) -> None:
        #: Path and code of the job file that each loads before there is a job; None: as jobs need it.
        self.preload: tuple[str, str] | None = None
        self._loop = loop
        self._seats: list[Seat] = []
        self._leftovers: list[Leftover] = []
        self._numbers = count(1)
        self._around = Surroundings()
        self._next_tick = 0.0

    def __iter__(self) -> Iterator[Seat]:
        return iter(self._seats)

    def __len__(self) -> int:
        return len(self._seats)

    @property
    def where(self) -> Where:
        """The surroundings that they are to be told."""
        return self._around.where

    def look_around(self, slots: int) -> None:
        """Notice what the user has changed of this process's surroundings; for so many children at a time."""
        self._around.look(slots)

    def living(self) -> int:
        """How many are there to stay."""
        return sum(seat.kill_at is None and not seat.is_stale for seat in self._seats)

    def idle(self) -> list[Seat]:
        """Those that could be given a batch."""
        return [seat for seat in self._seats if seat.is_idle()]

    def open(self, number: int) -> None:
        """Have so many; they start while the caller goes on."""
        while self.living() < number:
            try:
                seat = Seat(Child(next(self._numbers), self.where[3]), self.where, self._loop)
            except OSError as error:
                log.warning("no child process could be started: %s", error)
                return
            self._seats.append(seat)
            self._loop.watch(seat.child.results, READ, partial(self._heard, seat))
            self._loop.watch(seat.child.stderr, READ, seat.printed)
            if seat.child.ended is not None:
                self._loop.watch(seat.child.ended, READ, partial(self._ended, seat))
            seat.child.put("hello", *self.where)
            if self.preload is not None:
                seat.child.put("preload", *self.preload)
            seat.flush()

    def renew(self) -> None:
        """Compute with fresh ones from now on: the code that these have loaded has changed."""
        for seat in self._seats:
            seat.is_stale = True
            if seat.run is None:
                seat.doom(None)

    def next_look(self, now: float) -> float | None:
        """Seconds until they have to be looked at; None if nothing but what they say matters."""
        has_to = self._leftovers or any(seat.needs_watching() for seat in self._seats)
        return max(0.0, self._next_tick - now) if has_to else None

    def look(self, now: float) -> None:
        """See to what time alone calls for."""
        if now < self._next_tick:
            return
        self._next_tick = now + TICK
        for seat in list(self._seats):
            if seat.kill_at is not None and now >= seat.kill_at:
                seat.child.kill()
            elif (cause := seat.overstepped(now)) is not None:
                seat.doom(cause)
            elif seat.lingers(now):
                seat.doom(None)
            if seat.child.ended is None:
                self._ended(seat)
        self._leftovers = [one for one in self._leftovers if not one.is_over(now)]

    def end_all(self) -> None:
        """End all and wait for their end, and that of what they have started; the loop is over."""
        for seat in self._seats:
            if seat.kill_at is None:
                seat.stop()
        self._wait_for_ends(monotonic() + LAST_GRACE[0])
        until = monotonic() + LAST_GRACE[1]
        for seat in self._seats:
            seat.child.kill()
            seat.child.wait(block=True)
            seat.child.close()
            self._leftovers.append(Leftover(seat.child.pid, until))
        self._seats.clear()
        while left := [one for one in self._leftovers if not one.is_over(monotonic())]:
            self._leftovers = left
            threading.Event().wait(0.005)

    def _wait_for_ends(self, deadline: float) -> None:
        """Hear what children print at their end, which they could not do otherwise, until they or the time are over."""
        waiting = list(self._seats)
        while waiting and monotonic() < deadline:
            poll = select.poll()
            for seat in waiting:
                if seat.child.ended is not None:
                    poll.register(seat.child.ended, select.POLLIN)
            poll.poll(5)  # no longer: their pipes may fill, and not every system tells of the end of a process
            for seat in waiting:
                self._heard(seat)
                seat.printed()
            waiting = [seat for seat in waiting if seat.child.wait() is None]

    def _heard(self, seat: Seat) -> None:
        if seat.gone:
            return
        for frame in seat.child.frames():
            run = seat.run
            reports = seat.hear(frame)
            if run is not None and reports:
                run.reports.put(reports)
        if seat.child.hung_up:  # dead; or user code has closed its pipes, and nothing can be heard from it any more
            seat.child.kill()

    def _ended(self, seat: Seat) -> None:
        how = None if seat.gone else seat.child.wait()
        if how is None:
            return
        self._heard(seat)  # what it still said
        seat.printed()
        seat.gone = True
        self._seats.remove(seat)
        child = seat.child
        for end in (child.results, child.stderr, child.tasks, child.ended):
            self._loop.unwatch(end)
        child.close()
        self._leftovers.append(Leftover(child.pid, monotonic() + LAST_GRACE[1]))
        if (run := seat.run) is not None:
            reports = seat.bereaved(how)
            seat.end()
            run.reports.put(reports)
