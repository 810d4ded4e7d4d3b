"""The children of a pool, each in its seat: started, heard, watched and ended."""

from __future__ import annotations

import errno
import logging
import select
import threading
from collections.abc import Iterator
from functools import partial
from itertools import count
from time import monotonic
from typing import Any

from pymar.child import Child, Leftover
from pymar.frames import Garbled
from pymar.loop import READ, Loop
from pymar.output import settle
from pymar.parts import Failed, Failure, Refused, Report, Returned
from pymar.seats import Seat
from pymar.slotrun import SlotRun
from pymar.starts import Starts
from pymar.surroundings import Surroundings, Where

log = logging.getLogger(__name__)

#: Seconds that idle children get for their exit handlers when the pool ends, and then what they have started.
LAST_GRACE = 2.0, 1.0
#: Definitions that were refused, and are remembered.
_REFUSED = 16
#: Seconds between two looks at time-outs, memory and children that were told to stop.
TICK = 0.1


#: What helps if the system refuses another process.
_REMEDIES = {
    errno.EMFILE: "raise the limit of this process (ulimit -n), or use fewer slots",
    errno.ENFILE: "the host has no more files: raise fs.file-max",
    errno.EAGAIN: "raise the limit of the user's processes (ulimit -u), or of the container, or use fewer slots",
    errno.ENOMEM: "the host has no memory for it: use fewer slots",
}


class Children:
    """Belongs to the loop's thread."""

    def __init__(self, loop: Loop) -> None:
        #: Path and code of the job file that each loads before there is a job; None: as jobs need it.
        self.preload: tuple[str, str] | None = None
        self._loop = loop
        self._seats: list[Seat] = []
        self._leftovers: list[Leftover] = []
        self._numbers = count(1)
        self._latest = 0
        #: By definitions that a child has refused: the number of the first that was started since.
        self._fresh_from: dict[Any, int] = {}
        self._around = Surroundings()
        self._next_tick = 0.0
        self.starts = Starts()
        #: Why a child could not be started, as it was last logged.
        self._said = ""

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
        return sum(seat.is_here_to_stay() for seat in self._seats)

    def idle(self) -> list[Seat]:
        """Those that could be given a batch."""
        return [seat for seat in self._seats if seat.is_idle()]

    def are_up(self) -> bool:
        """Whether any could compute."""
        return any(seat.is_up and seat.is_here_to_stay() for seat in self._seats)

    def have_loaded(self, key: int) -> bool:
        """Whether any has loaded the code of this run."""
        return any(key in seat.loaded and seat.is_here_to_stay() for seat in self._seats)

    def open(self, number: int) -> None:
        """Have so many, as far as they come up; they start while the caller goes on."""
        while self.living() < number and self.starts.may(now := monotonic()):
            try:
                self._latest = next(self._numbers)
                child = Child(self._latest, self.where[3])
            except Exception as error:  # the system has no more processes, files or memory; or the environment is odd
                why = f"no child process could be started: {_told(error)}"
                if why != self._said and self._seats:  # without any, more is said of it
                    self._said = why
                    log.warning("%s. There are %d, which go on", why, len(self._seats))
                self._failed(self.starts, why, now)
                return
            seat = Seat(child, self.where, self._loop, self.preload is not None)
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
            elif seat.has_hung_up(now):
                seat.condemn("closed the pipe it talks to us through: it was ended")
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
        if seat.gone or seat.deaf_since is not None:
            return
        try:
            for frame in seat.child.frames():
                run, is_starting = seat.run, seat.is_loading or not seat.is_up
                reports = seat.hear(frame)
                if is_starting and seat.is_up and not seat.is_loading:
                    self.starts.succeeded()
                    if run is not None and run.key in seat.loaded:
                        run.starts.succeeded()
                if run is not None and reports:
                    settle()  # what a part has printed is there before anybody hears that it is done
                    run.reports.put(self._judged(run, seat, reports))
        except Garbled as problem:
            seat.condemn(f"sent what is no frame ({problem}): something wrote into its results pipe")
        except OSError as error:
            self._loop.unwatch(seat.child.results)
            seat.child.disown(seat.child.results)
            seat.condemn(f"could not be heard ({error}): something in this process has closed its results pipe")
        if seat.child.hung_up:
            seat.hang_up(monotonic())
        if seat.deaf_since is not None and seat.child.results in seat.child.watched:
            self._loop.unwatch(seat.child.results)

    def _judged(self, run: SlotRun, seat: Seat, reports: list[Report]) -> list[Report]:
        """The reports; what a child refuses that may have loaded old code, others compute that are started now."""
        refused = [report for report in reports if isinstance(report, Refused)]
        if not refused:
            return reports
        others: list[Report] = [report for report in reports if not isinstance(report, Refused)]
        fresh_from = self._fresh_from.get(run.work.definition)
        if fresh_from is None:
            while len(self._fresh_from) >= _REFUSED:
                del self._fresh_from[next(iter(self._fresh_from))]
            fresh_from = self._fresh_from[run.work.definition] = self._latest + 1
            self.renew()
        for report in refused:
            if seat.child.number < fresh_from:
                others += [Returned(index, alone=False) for index in report.indices]
            elif run.work.refusals_fail:
                failure = Failure(report.text)
                others += [Failed(index, seat.child.name, failure) for index in report.indices]
            else:
                others.append(report)
        return others

    def _ended(self, seat: Seat) -> None:
        how = None if seat.gone else seat.child.wait()
        if how is None:
            return
        self._heard(seat)  # what it still said
        seat.printed()
        seat.gone = True
        self._seats.remove(seat)
        child = seat.child
        for end in child.watched:
            self._loop.unwatch(end)
        child.close()
        self._leftovers.append(Leftover(child.pid, monotonic() + LAST_GRACE[1]))
        run = seat.run
        if seat.has_failed_to_start():
            cause = seat.cause_of_end(how).text
            if run is not None and seat.is_up:
                self._failed(run.starts, cause, seat.given_at)
            else:
                self._failed(self.starts, cause, seat.began)
            if run is not None and seat.unreported:  # no part is to blame
                run.waiting.appendleft(list(seat.unreported.values()))
            seat.end()
        elif run is not None:
            reports = seat.bereaved(how)
            seat.end()
            run.reports.put(reports)

    def _failed(self, starts: Starts, why: str, began: float) -> None:
        now = monotonic()
        if starts.failed(why, began, now):
            log.warning("no child process is tried for %.0f s, after %d: %s", starts.wait(now), starts.failures, why)
        self._loop.later(starts.wait(now), _look_again)


def _told(error: Exception) -> str:
    if not isinstance(error, OSError):
        return repr(error)
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{error}: {remedy}" if remedy else str(error)


def _look_again() -> None:
    """What there is to do is done in the round of the loop that calls this."""
