"""SlotPool: the child processes of this process, shared by all runs, driven by one thread.

    submit() -> inbox -> waiting batches of each run -> a seat (one child, one batch at a time)
    next()   <- reports of each run <------------------ frames from the child

Only the pool's thread touches seats, children and waiting batches; the rest of the process talks to it through the
inbox, and hears from it through each run's queue.
"""

from __future__ import annotations

import atexit
import logging
import sys
from collections import deque
from collections.abc import Sequence
from itertools import count, islice
from time import monotonic
from typing import Any

from pymar.children import LAST_GRACE, Children
from pymar.encoded import encode, fields, is_raw
from pymar.loop import Loop
from pymar.output import say
from pymar.parts import Cause, Lost, Part, Refused, Returned, Running
from pymar.seats import Seat
from pymar.slotrun import Listening, SlotRun, Work

log = logging.getLogger(__name__)

#: A batch has overrun, and an idle child may take parts of it, after so many times the seconds that it was sized for.
OVERRUN = 2


class SlotPool:
    """Child processes, started when there is work for them and kept for the next run."""

    def __init__(self) -> None:
        self._runs: dict[int, SlotRun] = {}
        self._keys = count(1)
        self.loop = Loop("pymar-slots")
        self.children = Children(self.loop)
        self.loop.start(
            timeout=self._timeout, after_round=self._round, failed=self._failed, ended=self.children.end_all
        )
        atexit.register(self.shutdown)
        # A process of multiprocessing's runs finalizers at its end, and no exit handlers.
        util: Any = sys.modules.get("multiprocessing.util")
        self._finalizer = util and util.Finalize(None, self.shutdown, exitpriority=100)

    # What other threads call.

    def warm(self, slots: int, children: int) -> None:
        """Have so many children, if there is none too many of `slots`: they start while the caller goes on."""
        if len(self.children) < children:
            self.loop.tell(self._begin, None, slots, children)

    def start(self, work: Work, slots: int, children: int, reports: Listening) -> SlotRun:
        """A run of this job on at most `slots` children at a time, of which `children` are started at once."""
        run = SlotRun(self, next(self._keys), work, slots, reports)
        self.loop.leave(self._begin, run, slots, children)
        return run

    def shutdown(self) -> None:
        """End all children and wait for their end."""
        atexit.unregister(self.shutdown)
        if self._finalizer is not None:
            self._finalizer.cancel()
        self.loop.stop(sum(LAST_GRACE) + 1)

    # What the pool's thread does.

    def _round(self) -> None:
        now = monotonic()
        self._assign(now)
        self._share_overrun(now)
        self._encode_ahead()
        self.children.look(now)

    def _failed(self, error: BaseException) -> None:
        for run in list(self._runs.values()):
            run.reports.put(error)
        log.error("the pool's thread has failed", exc_info=error)

    def _timeout(self) -> float | None:
        if self.children.idle():
            sharing = [
                seat.run.work.batch_seconds for seat in self.children if seat.run is not None and seat.can_share()
            ]
            if sharing:
                return OVERRUN * min(sharing)
        return self.children.next_look(monotonic())

    def _begin(self, run: SlotRun | None, slots: int, children: int) -> None:
        self.children.look_around(slots)
        if run is not None and not self.children.living():
            self.children.starts.again()  # what was wrong for an earlier job may not be now
        self.children.open(children)
        if run is not None:
            self._runs[run.key] = run

    def enqueue(self, run: SlotRun, parts: Sequence[Part]) -> None:
        run.waiting.append(parts)
        run.enqueued += 1

    def cancel(self, run: SlotRun, index: int) -> None:
        run.waiting = deque(batch for parts in run.waiting if (batch := [p for p in parts if p.index != index]))
        for seat in self.children:
            if seat.run is run and list(seat.unreported) == [index]:
                seat.give_up()

    def recall(self, run: SlotRun, silent: float) -> None:
        rest: list[Part] = []
        now = monotonic()
        for seat in self.children:
            if seat.run is run and len(seat.unreported) > 1 and now - seat.since >= silent:
                behind = list(seat.unreported.values())[1:]
                seat.drop(behind)
                rest += behind
        if rest:
            run.reports.put([Returned(part.index, alone=False) for part in rest])

    def remove(self, run: SlotRun) -> None:
        self._runs.pop(run.key, None)
        run.waiting.clear()
        if told := run.prints.told():
            say(f"[all parts] {told}")
        for seat in self.children:
            if seat.run is run:
                seat.give_up()
            if run.key in seat.known:
                seat.known.discard(run.key)
                seat.over.append(run.key)

    def _assign(self, now: float) -> None:
        """Waiting batches to idle children: one batch a run in turn, so that no run waits for another's end."""
        turn = deque(run for run in self._runs.values() if run.waiting)
        while turn:
            run = turn.popleft()
            if run.busy >= run.slots:
                continue
            seat = self._idle(run, now)
            if seat is None:
                continue
            self._give(seat, run, run.waiting.popleft(), now)
            if run.waiting:
                turn.append(run)

    def _idle(self, run: SlotRun, now: float) -> Seat | None:
        may_load = run.starts.may(now)
        idle = self.children.idle()
        if not idle and may_load:
            self.children.open(min(self.children.living() + 1, max(other.slots for other in self._runs.values())))
            idle = self.children.idle()
        if not may_load:
            idle = [seat for seat in idle if run.key in seat.loaded]
        if not idle:
            self._refuse_if_hopeless(run, now)
            return None
        return min(idle, key=lambda seat: run.key not in seat.known)

    def _refuse_if_hopeless(self, run: SlotRun, now: float) -> None:
        """Give back what waits for children that do not come up, and charge one part with that."""
        children, loading = self.children.starts, run.starts
        if children.are_hopeless and not children.may(now) and not self.children.are_up():
            text = f"{children.failures} child processes in a row did not come up; the last: {children.why}"
        elif loading.are_hopeless and not loading.may(now) and not self.children.have_loaded(run.key):
            text = (
                f"{loading.failures} child processes in a row ended while they loaded the job; the last: {loading.why}"
            )
        else:
            return
        indices = [part.index for parts in run.waiting for part in parts]
        run.waiting.clear()
        episodes = children.episodes, loading.episodes
        if run.charged != episodes:
            run.charged = episodes
            run.reports.put([Lost(indices.pop(0), Cause("start", text))])
        run.reports.put([Refused(tuple(indices), text, is_passing=True)])

    def _give(self, seat: Seat, run: SlotRun, parts: Sequence[Part], now: float) -> None:
        parts = self._encoded(run, parts)
        if not parts:
            return
        seat.tell(self.children.where, run)
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
        encoded, failed = encode(parts, run.work.encode)
        if failed:
            run.reports.put([*failed])
        return encoded

    def _share_overrun(self, now: float) -> None:
        """A dear part never waits behind another while a child is idle."""
        for seat in self.children:
            run = seat.run
            if run is None or not seat.can_share() or now - seat.since < OVERRUN * run.work.batch_seconds:
                continue
            idle = self.children.idle()[: run.slots - run.busy]
            if not idle:
                continue
            rest = list(seat.unreported.values())[1:]
            for number, other in enumerate(idle):
                if share := rest[number :: len(idle)]:
                    self._give(other, run, share, now)
            seat.drop(rest)
