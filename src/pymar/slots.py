"""SlotPool: the child processes of this process, shared by all runs, driven by one thread.

    submit() -> inbox -> waiting batches of each run -> a seat (one child, one batch at a time)
    next()   <- reports of each run <------------------ frames from the child

Only the pool's thread touches seats, children and waiting batches; the rest of the process talks to it through the
inbox, and hears from it through each run's queue.
"""

from __future__ import annotations

import atexit
import logging
import threading
from collections import deque
from collections.abc import Sequence
from functools import partial
from itertools import count, islice
from math import inf
from time import monotonic

from pymar.child import Child
from pymar.encoded import encode, fields, is_raw
from pymar.loop import READ, Loop
from pymar.parts import Cause, Done, Failed, Failure, Lost, Part, Refused, Report, Returned, Running, make
from pymar.seats import GRACE, Seat
from pymar.slotrun import Listening, SlotRun, Work
from pymar.surroundings import Surroundings

log = logging.getLogger(__name__)

#: Seconds between two looks at time-outs, memory and children that were told to stop.
TICK = 0.1
#: A batch has overrun, and an idle child may take parts of it, after so many times the seconds that it was sized for.
OVERRUN = 2


class SlotPool:
    """Child processes, started when there is work for them and kept for the next run."""

    def __init__(self) -> None:
        #: Path and code of the job file that each child loads before there is a job; None: as jobs need it.
        self.preload: tuple[str, str] | None = None
        self._seats: list[Seat] = []
        self._runs: dict[int, SlotRun] = {}
        self._keys = count(1)
        self._numbers = count(1)
        self._around = Surroundings()
        self._next_tick = 0.0
        self.loop = Loop("pymar-slots")
        self.loop.start(timeout=self._timeout, after_round=self._round, failed=self._failed, ended=self._end_all)
        atexit.register(self.shutdown)

    # What other threads call.

    def warm(self, slots: int, children: int) -> None:
        """Have so many children, if there is none too many of `slots`: they start while the caller goes on."""
        if len(self._seats) < children:
            self.loop.tell(self._begin, None, slots, children)

    def start(self, work: Work, slots: int, children: int, reports: Listening) -> SlotRun:
        """A run of this job on at most `slots` children at a time, of which `children` are started at once."""
        run = SlotRun(self, next(self._keys), work, slots, reports)
        self.loop.leave(self._begin, run, slots, children)
        return run

    def shutdown(self) -> None:
        """End all children and wait for their end."""
        atexit.unregister(self.shutdown)
        self.loop.stop(GRACE + 2)

    # What the pool's thread does.

    def _round(self) -> None:
        now = monotonic()
        self._assign(now)
        self._share_overrun(now)
        self._encode_ahead()
        if now >= self._next_tick:
            self._tick(now)

    def _failed(self, error: BaseException) -> None:
        for run in list(self._runs.values()):
            run.reports.put(error)
        log.error("the pool's thread has failed", exc_info=error)

    def _timeout(self) -> float | None:
        if any(map(Seat.is_idle, self._seats)):
            sharing = [seat.run.work.batch_seconds for seat in self._seats if seat.run is not None and seat.can_share()]
            if sharing:
                return OVERRUN * min(sharing)
        watched = any(seat.needs_watching() for seat in self._seats)
        return max(0.0, self._next_tick - monotonic()) if watched else None

    def _begin(self, run: SlotRun | None, slots: int, children: int) -> None:
        self._around.look(slots)
        self._open_seats(children)
        if run is not None:
            self._runs[run.key] = run

    def enqueue(self, run: SlotRun, parts: Sequence[Part]) -> None:
        run.waiting.append(parts)
        run.enqueued += 1

    def cancel(self, run: SlotRun, index: int) -> None:
        run.waiting = deque(batch for parts in run.waiting if (batch := [p for p in parts if p.index != index]))
        for seat in self._seats:
            if seat.run is run and list(seat.unreported) == [index]:
                seat.give_up()

    def recall(self, run: SlotRun, silent: float) -> None:
        rest: list[Part] = []
        now = monotonic()
        for seat in self._seats:
            if seat.run is run and len(seat.unreported) > 1 and now - seat.since >= silent:
                behind = list(seat.unreported.values())[1:]
                seat.drop(behind)
                rest += behind
        if rest:
            run.reports.put([Returned(part.index, alone=False) for part in rest])

    def remove(self, run: SlotRun) -> None:
        self._runs.pop(run.key, None)
        run.waiting.clear()
        for seat in self._seats:
            if seat.run is run:
                seat.give_up()
            if run.key in seat.known:
                seat.known.discard(run.key)
                seat.over.append(run.key)

    def renew(self) -> None:
        """Compute with fresh children from now on: the code that these have loaded has changed."""
        for seat in self._seats:
            seat.is_stale = True
            if seat.run is None:
                seat.doom(None)

    def _open_seats(self, slots: int) -> None:
        where = self._around.where
        while sum(seat.kill_at is None and not seat.is_stale for seat in self._seats) < slots:
            try:
                seat = Seat(Child(next(self._numbers), where[3]), where, self.loop)
            except OSError as error:
                log.warning("no child process could be started: %s", error)
                return
            self._seats.append(seat)
            self.loop.watch(seat.child.results, READ, partial(self._heard, seat))
            self.loop.watch(seat.child.stderr, READ, seat.printed)
            if seat.child.ended is not None:
                self.loop.watch(seat.child.ended, READ, partial(self._ended, seat))
            seat.child.put("hello", *where)
            if self.preload is not None:
                seat.child.put("preload", *self.preload)
            seat.flush()

    def _assign(self, now: float) -> None:
        """Waiting batches to idle children: one batch a run in turn, so that no run waits for another's end."""
        turn = deque(run for run in self._runs.values() if run.waiting)
        while turn:
            run = turn.popleft()
            if run.busy >= run.slots:
                continue
            seat = self._idle(run)
            if seat is None:
                return
            self._give(seat, run, run.waiting.popleft(), now)
            if run.waiting:
                turn.append(run)

    def _idle(self, run: SlotRun) -> Seat | None:
        idle = [seat for seat in self._seats if seat.is_idle()]
        if not idle:
            living = sum(seat.kill_at is None and not seat.is_stale for seat in self._seats)
            self._open_seats(min(living + 1, max(other.slots for other in self._runs.values())))
            idle = [seat for seat in self._seats if seat.is_idle()]
        idle.sort(key=lambda seat: run.key not in seat.known)
        if not self._seats:
            self._refuse(run, Cause("died", "no child process could be started: see the log"))
        return idle[0] if idle else None

    def _refuse(self, run: SlotRun, cause: Cause) -> None:
        run.reports.put([Lost(part.index, cause) for parts in run.waiting for part in parts])
        run.waiting.clear()

    def _give(self, seat: Seat, run: SlotRun, parts: Sequence[Part], now: float) -> None:
        parts = self._encoded(run, parts)
        if not parts:
            return
        seat.tell(self._around.where, run)
        seat.begin(run, {part.index: part for part in parts}, [fields(part) for part in parts], now)
        run.reports.whisper(Running(parts[0].index, seat.child.name))

    def _encode_ahead(self) -> None:
        """While all children compute, encode what they will be given next: one batch a round."""
        for run in self._runs.values():
            for place, parts in enumerate(islice(run.waiting, run.slots)):
                if is_raw(parts):
                    run.waiting[place] = self._encoded(run, parts)
                    return

    def _encoded(self, run: SlotRun, parts: Sequence[Part]) -> Sequence[Part]:
        if not is_raw(parts):
            return parts
        encoded, failed = encode(parts)
        if failed:
            run.reports.put([*failed])
        return encoded

    def _share_overrun(self, now: float) -> None:
        """A dear part never waits behind another while a child is idle."""
        for seat in self._seats:
            run = seat.run
            if run is None or not seat.can_share() or now - seat.since < OVERRUN * run.work.batch_seconds:
                continue
            idle = [other for other in self._seats if other.is_idle()][: run.slots - run.busy]
            if not idle:
                continue
            rest = list(seat.unreported.values())[1:]
            for number, other in enumerate(idle):
                if share := rest[number :: len(idle)]:
                    self._give(other, run, share, now)
            seat.drop(rest)

    def _heard(self, seat: Seat) -> None:
        if seat.gone:
            return
        for frame in seat.child.frames():
            run = seat.run
            match frame:
                case ("done", _, results, last):
                    if run is not None:
                        self._done(seat, run, results, last)
                case ("failed", _, index, failure):
                    seat.unreported.pop(index, None)
                    if run is not None:
                        run.reports.put([Failed(index, seat.child.name, Failure(*failure))])
                case ("lost", _, index, text):
                    seat.unreported.pop(index, None)
                    if run is not None:
                        run.reports.put([Lost(index, Cause("source", f"{seat.child.name}: {text}"))])
                case ("refused", _, indices, text):
                    for index in indices:
                        seat.unreported.pop(index, None)
                    if run is not None:
                        run.reports.put([Refused(tuple(indices), text)])
                case ("print", index, line):
                    seat.show(index, line)
                case ("ready",):
                    seat.ready = True
                    seat.since = monotonic()
                case ("loading",):
                    seat.since = inf
                case ("loaded",):
                    seat.since = monotonic()
        if seat.child.hung_up:  # dead; or user code has closed its pipes, and nothing can be heard from it any more
            seat.child.kill()

    def _done(self, seat: Seat, run: SlotRun, results: list[tuple[int, bytes, float]], last: bool) -> None:
        seat.since = monotonic()
        for index, _, _ in results:
            seat.unreported.pop(index, None)
        reports: list[Report] = [make(Done, result) for result in results]
        if last:  # before anybody hears of the results: whoever does may close the run, and wants to know it idle
            reports += map(Returned, seat.unreported)  # none, unless the child has skipped a part
            seat.end()
        if reports:
            run.reports.put(reports)

    def _tick(self, now: float) -> None:
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
            self.loop.unwatch(end)
        child.kill()  # what it has started
        child.close()
        if (run := seat.run) is not None:
            reports = seat.bereaved(how)
            seat.end()
            run.reports.put(reports)

    def _end_all(self) -> None:
        deadline = monotonic() + GRACE
        for seat in self._seats:
            seat.stop()
        for seat in self._seats:
            while seat.child.wait() is None and monotonic() < deadline:
                threading.Event().wait(0.005)
            seat.child.kill()
            seat.child.wait(block=True)
            seat.child.close()
        self._seats.clear()
