"""Compute parts on all cores of this host, in child processes: one pool a process, shared by all jobs."""

from __future__ import annotations

import os
import threading

from pymar.cores import usable_cores
from pymar.exceptions import UsageError
from pymar.pace import BATCH_SECONDS
from pymar.parts import JobSpec, Joined
from pymar.reports import Reports
from pymar.slotrun import SlotRun, work_by_value
from pymar.slots import SlotPool

_pool: SlotPool | None = None
_making = threading.Lock()


class ProcessesEngine:
    """`processes` for all the cores that this process may use, `processes://4` for four children."""

    name = "processes"
    batch_seconds = BATCH_SECONDS

    def __init__(self, address: str = "") -> None:
        if address and (not address.isdecimal() or int(address) < 1):
            raise UsageError(f"engine 'processes://{address}': after processes:// comes how many, 1 or more")
        self.slots = int(address) if address else usable_cores()

    def start(self, job: JobSpec, /) -> SlotRun:
        children = min(self.slots, job.parts or self.slots)
        slots = pool()
        slots.warm(self.slots, children)  # children start while the job is being encoded
        return slots.start(work_by_value(job), self.slots, children, Reports(Joined("this host", self.slots)))


def pool() -> SlotPool:
    """The pool of this process, made when it is first needed; a new one if that has ended."""
    global _pool
    with _making:
        if _pool is None or not _pool.loop.is_running():
            _pool = SlotPool()
        return _pool


def shutdown() -> None:
    """End the pool's children now; the next job starts new ones. At exit this happens by itself."""
    global _pool
    with _making:
        ended, _pool = _pool, None
    if ended is not None:
        ended.shutdown()


def _forget() -> None:
    """In a process that was forked from one with a pool: the children are the parent's, not ours."""
    global _pool, _making
    _pool, _making = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
